"""How the command lines end."""

from __future__ import annotations

import sys
from collections.abc import Callable

from mic_det.config import ConfigError
from mic_det.data.coco import DataError
from mic_det.engine.health import DivergedError
from mic_det.engine.runs import RunError
from mic_det.engine.safe_load import CheckpointError

# Errors that a user can mend: their messages say how.
USER_ERRORS = (ConfigError, DataError, RunError, CheckpointError, DivergedError)


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
