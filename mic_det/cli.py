"""How the command lines end."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable

from mic_det.data.loader import worker_failure
from mic_det.engine.launch import lost_contact
from mic_det.errors import UserError

# Errors that a user can mend: their messages say how.
USER_ERRORS = (UserError,)
SAME_COMMAND = "The same command goes on from here."


def own_words(error: Exception) -> str:
    """The message of an error; without the traceback that a worker of a data loader adds to it."""
    text = str(error)
    if text.startswith("Caught "):
        return text.rpartition(f"{type(error).__name__}: ")[2].strip()
    return text


def run_tool(main: Callable[[], None], on_interrupt: str = "") -> None:
    """Call ``main``; an error that a user can mend ends in its message and exit code 2.

    ``on_interrupt``: how to go on after Ctrl-C.
    """
    try:
        main()
    except UserError as error:
        print(f"error: {own_words(error)}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print(f"\nStopped. {on_interrupt}".rstrip(), file=sys.stderr)
        sys.exit(130)


def without_tracebacks() -> None:
    """Let Detectron2's training loop log errors that a user can mend without their traceback."""
    logging.getLogger("detectron2.engine.train_loop").addFilter(_shorten)


def _shorten(record: logging.LogRecord) -> bool:
    error = record.exc_info[1] if record.exc_info else None
    error = (error is not None and worker_failure(error)) or error
    if isinstance(error, USER_ERRORS) or (error is not None and lost_contact(error)):
        record.msg, record.args = f"Training ends: {own_words(error).splitlines()[0]}", ()
        record.exc_info = record.exc_text = None
    return True
