"""Writing files so that nobody sees half of one, and the folder of what can be made again."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from mic_det.data.errors import DataError


def cache_folder() -> Path:
    """``$MIC_DET_CACHE`` or ``~/.cache/mic_det``."""
    return Path(os.environ.get("MIC_DET_CACHE") or "~/.cache/mic_det").expanduser().absolute()


@contextmanager
def cache_errors() -> Iterator[None]:
    """Raise a DataError where something cannot be put into the cache; also a decorator."""
    try:
        yield
    except OSError as error:
        raise DataError(
            f"{error.filename or cache_folder()}: cannot be written ({error.strerror or error}). "
            "Set MIC_DET_CACHE to a folder that you may write to and that has room."
        ) from error


@cache_errors()
def keep_text(name: str, text: str) -> Path:
    """Path of a file in the cache that holds ``text``; it is written unless it does.

    Raises:
        DataError: if it cannot be written.
    """
    path = cache_folder() / name
    if not path.is_file() or path.read_bytes() != text.encode():
        write_text_atomically(path, text)
    return path


def write_atomically(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Call ``write(file)`` on a temporary file beside ``path``, flush it to disk, and rename it.

    A process that is killed meanwhile, or a full disk, leaves the former ``path`` as it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


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
