"""How the command lines end."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable

from mic_det.config import ConfigError
from mic_det.data.coco import DataError
from mic_det.engine.health import DivergedError
from mic_det.engine.launch import ProcessError, lost_contact
from mic_det.engine.runs import RunError
from mic_det.engine.safe_load import CheckpointError

# Errors that a user can mend: their messages say how.
USER_ERRORS = (ConfigError, DataError, RunError, CheckpointError, DivergedError, ProcessError)


def run_tool(main: Callable[[], None]) -> None:
    """Call ``main``; an error that a user can mend ends in its message and exit code 2."""
    try:
        main()
    except USER_ERRORS as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("\nStopped; the same command goes on from here.", file=sys.stderr)
        sys.exit(130)


def without_tracebacks() -> None:
    """Let Detectron2's training loop log errors that a user can mend without their traceback."""
    logging.getLogger("detectron2.engine.train_loop").addFilter(_shorten)


def _shorten(record: logging.LogRecord) -> bool:
    error = record.exc_info[1] if record.exc_info else None
    if isinstance(error, USER_ERRORS) or (error is not None and lost_contact(error)):
        record.msg, record.args = f"Training ends: {str(error).splitlines()[0]}", ()
        record.exc_info = record.exc_text = None
    return True
