"""How the command lines end."""

from __future__ import annotations

import sys
from collections.abc import Callable

from mic_det.errors import UserError


def own_words(error: Exception) -> str:
    """The message of an error; without the traceback that a worker of a data loader adds to it."""
    text = str(error)
    if text.startswith("Caught "):
        return text.rpartition(f"{type(error).__name__}: ")[2].strip()
    return text


def run_tool(main: Callable[[], None]) -> None:
    """Call ``main``; an error that a user can mend ends in its message and exit code 2."""
    try:
        main()
    except UserError as error:
        print(f"error: {own_words(error)}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("\nStopped; the same command goes on from here.", file=sys.stderr)
        sys.exit(130)
