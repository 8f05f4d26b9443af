"""Reading files of weights without running code from them.

A pickle can call anything. Files of torch are read with ``weights_only=True``; old ``.pkl`` files
of the model zoo through an unpickler that knows numpy arrays and plain containers, nothing else.
"""

from __future__ import annotations

import collections
import pickle
import re
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mic_det.errors import UserError


class CheckpointError(UserError, RuntimeError):
    """A checkpoint cannot be read, written or used; the message names the file and a way out."""


class DamagedFileError(CheckpointError):
    """A file is truncated or its content is not what was written."""


class UnsafeFileError(CheckpointError):
    """A file asks for code to be run. None was."""


def _latin1(text: str, encoding: str = "latin1") -> bytes:
    """How pickles of protocol 2 hold bytes; ``_codecs.encode`` proper would take any codec."""
    if encoding not in ("latin1", "latin-1"):
        raise UnsafeFileError(f"asks for the codec {encoding!r}")
    return text.encode("latin1")


def _numpy_parts() -> dict[tuple[str, str], Any]:
    reconstruct = np.empty(0).__reduce__()[0]
    scalar = np.float64(0).__reduce__()[0]
    parts = {("numpy", "ndarray"): np.ndarray, ("numpy", "dtype"): np.dtype}
    for package in ("numpy.core", "numpy._core"):
        parts[f"{package}.multiarray", "_reconstruct"] = reconstruct
        parts[f"{package}.multiarray", "scalar"] = scalar
        frombuffer = np.empty(1).__reduce_ex__(5)[0]
        parts[f"{package}.numeric", "_frombuffer"] = frombuffer
    return parts


_ADMITTED = _numpy_parts() | {
    ("collections", "OrderedDict"): collections.OrderedDict,
    ("_codecs", "encode"): _latin1,
    ("__builtin__", "bytes"): bytes,  # how protocols up to 2 write b""
}


class _ArraysOnly(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        try:
            return _ADMITTED[module, name]
        except KeyError:
            raise UnsafeFileError(f"asks for {module}.{name}") from None

    def persistent_load(self, pid: Any) -> Any:
        raise UnsafeFileError("asks for an object from outside the file")


def load_pickle(path: Path | str) -> Any:
    """A pickle of numpy arrays, numbers, strings and plain containers; of Python 2 as well.

    Raises UnsafeFileError if it holds anything else, DamagedFileError if it cannot be read.
    """
    try:
        with Path(path).open("rb") as file:
            return _ArraysOnly(file, encoding="latin1").load()
    except UnsafeFileError as error:
        raise UnsafeFileError(_unsafe(path, str(error))) from None
    except (FileNotFoundError, PermissionError):
        raise
    except Exception as error:
        raise DamagedFileError(_damaged(path, error)) from None


def load_tensors(path: Path | str) -> Any:
    """A file of ``torch.save`` with tensors, numpy arrays and plain containers, onto the CPU.

    Raises UnsafeFileError if it holds anything else, DamagedFileError if it cannot be read.
    """
    types = [np.ndarray, np.dtype, *(type(np.dtype(code)) for code in "?bBhHiIlLfd")]
    calls = [(_ADMITTED[key], ".".join(key)) for key in _numpy_parts() if "multiarray" in key[0]]
    try:
        with torch.serialization.safe_globals([*types, *calls]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except (FileNotFoundError, PermissionError):
        raise
    except pickle.UnpicklingError as error:
        # torch names what it did not let through; the pickle of a damaged file has no such name.
        refused = _REFUSED.search(str(error))
        if refused:
            raise UnsafeFileError(_unsafe(path, f"asks for {refused[1]}")) from None
        raise DamagedFileError(_damaged(path, error)) from None
    except Exception as error:
        raise DamagedFileError(_damaged(path, error)) from None


_REFUSED = re.compile(r"(?:GLOBAL|Unsupported class|find_class) ([\w.]+)")


def _damaged(path: Path | str, error: Exception) -> str:
    reason = str(error).split("\n")[0].split(". ")[0] or type(error).__name__
    return f"{path}: cannot be read, it is truncated or damaged ({reason})"


def _unsafe(path: Path | str, what: str) -> str:
    return (
        f"{path}: {what}. Only tensors, numpy arrays and plain containers are read; nothing was "
        "run from the file. If you trust its origin, convert it: save its state dict alone."
    )
