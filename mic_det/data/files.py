"""Writing files so that nobody sees half of one, and the folder of what can be made again."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path


def cache_folder() -> Path:
    """``$MIC_DET_CACHE`` or ``~/.cache/mic_det``."""
    return Path(os.environ.get("MIC_DET_CACHE") or "~/.cache/mic_det").expanduser().absolute()


def write_text_atomically(path: Path, text: str) -> None:
    """Write ``text``, so that nobody ever sees half a file under this name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    temporary = Path(name)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)  # mkstemp's 0600 would shut out the other users
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
