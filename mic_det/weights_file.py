"""Files of weights from anywhere, read so that nothing in them is ever called.

A pickle is a program. `_Interpreter` runs the few instructions that weights need, and knows what a
global means by its name alone: it imports none and calls none. Arrays, dtypes and tensors are made
here, of plain numeric types, after their sizes have been compared with the bytes that are there.
``torch.load(weights_only=True)`` is not used: it ends the process on nested tuples as keys, and
returns tensors of 1e12 elements over one number.
"""

from __future__ import annotations

import codecs
import contextlib
import io
import math
import pickletools
import re
import struct
import sys
import zipfile
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mic_det.errors import UserError

# All arrays and tensors of a file together may take so many times the file's size: tied weights
# are counted once for each name.
GROWTH = 8
DEPTH = 64


class CheckpointError(UserError, RuntimeError):
    """A checkpoint cannot be read, written or used; the message names the file and a way out."""


class DamagedFileError(CheckpointError):
    """A file is truncated or its content is not what was written."""


class UnsafeFileError(CheckpointError):
    """A file asks for code to be run. None was."""


def load_pickle(path: Path | str) -> Any:
    """Numpy arrays, numbers, strings and plain containers of a pickle; of Python 2 as well.

    Raises UnsafeFileError if it holds anything else, DamagedFileError if it cannot be read.
    """
    with _naming(path):
        content = Path(path).read_bytes()
        return _Interpreter(io.BytesIO(content), len(content)).load()


def load_tensors(path: Path | str) -> Any:
    """Tensors, numpy arrays and plain containers of a file of ``torch.save``, on the CPU.

    Raises UnsafeFileError if it holds anything else, DamagedFileError if it cannot be read.
    """
    with _naming(path), Path(path).open("rb") as file:
        if file.read(4) == b"PK\x03\x04":
            return _from_zip(file)
        file.seek(0)
        return _from_legacy(file.read())


@contextlib.contextmanager
def _naming(path: Path | str) -> Iterator[None]:
    """Errors that a file's content can cause, as CheckpointErrors that name the file."""
    try:
        yield
    except UnsafeFileError as error:
        raise UnsafeFileError(
            f"{path}: {error}. Only tensors, numpy arrays and plain containers are read; nothing "
            "was run from the file. If you trust its origin, convert it: save its state dict alone."
        ) from None
    except (
        DamagedFileError,
        ValueError,
        LookupError,
        EOFError,
        OverflowError,
        MemoryError,
        NotImplementedError,  # of zipfile, for kinds of archives that it cannot open
        struct.error,
        zipfile.BadZipFile,
    ) as error:
        reason = str(error).split("\n")[0].split(". ")[0][:200] or type(error).__name__
        raise DamagedFileError(
            f"{path}: cannot be read, it is truncated or damaged ({reason})"
        ) from None


@dataclass(frozen=True)
class _Name:
    """A global of a pickle. Only its name is ever looked at."""

    path: str


@dataclass
class _Pending:
    """An array or a dtype whose BUILD is still to come; ``value`` is there after it."""

    dtype: np.dtype | None = None
    value: Any = None


@dataclass(frozen=True)
class _Storage:
    """Bytes that tensors are views of; ``dtype`` None if only the tensors say it."""

    dtype: torch.dtype | None
    content: Tensor


_DTYPES = {
    f"torch.{name}": getattr(torch, name)
    for name in (
        *("bool", "uint8", "int8", "int16", "int32", "int64", "uint16", "uint32", "uint64"),
        *("float16", "bfloat16", "float32", "float64", "float8_e4m3fn", "float8_e5m2"),
    )
}
_STORAGES = {
    "torch.BoolStorage": torch.bool,
    "torch.ByteStorage": torch.uint8,
    "torch.CharStorage": torch.int8,
    "torch.ShortStorage": torch.int16,
    "torch.IntStorage": torch.int32,
    "torch.LongStorage": torch.int64,
    "torch.HalfStorage": torch.float16,
    "torch.BFloat16Storage": torch.bfloat16,
    "torch.FloatStorage": torch.float32,
    "torch.DoubleStorage": torch.float64,
    "torch.storage.UntypedStorage": None,
}
_NAMES = {
    *("numpy.ndarray", "numpy.dtype"),
    *(f"numpy.core.{name}" for name in ("multiarray._reconstruct", "multiarray.scalar")),
    "numpy.core.numeric._frombuffer",
    *("collections.OrderedDict", "collections.Counter", "_codecs.encode"),
    *("__builtin__.bytes", "builtins.bytes"),  # how protocols up to 2 write b""
    *("torch._utils._rebuild_tensor", "torch._utils._rebuild_tensor_v2"),
    *("torch._utils._rebuild_tensor_v3", "torch._utils._rebuild_parameter", "torch.Size"),
    *_STORAGES,
}
# Of numpy: booleans, integers and floating point numbers.
_PLAIN_DTYPE = re.compile(r"b1|[iu][1248]|f[248]")
# Hashing a tuple recurses as deep as it is nested.
_KEYS = (str, int, float, bool, bytes, type(None))
_VALUES = (*_KEYS, bytearray, np.ndarray, Tensor, torch.dtype)

_OPCODES = {opcode.code.encode("latin1"): opcode for opcode in pickletools.opcodes}
_LITERALS = {
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "FLOAT", "BINFLOAT"),
    *("STRING", "BINSTRING", "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8"),
    *("BYTEARRAY8", "UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8"),
}


class _Interpreter:
    """Runs one pickle after another of a file, instruction by instruction.

    What is not one of the cases of `_run`, `_make` and `_build` does not happen: there is no
    import, no call of anything that a pickle names, and no attribute that it sets. Objects that
    instructions act on are lists and dicts made here, and `_Pending` arrays and dtypes.

    Args:
        file: in memory, so that no more is read, or made room for, than there is.
        size: of the whole file, in bytes; bounds what can be made of it.
        storage: from a persistent id to its `_Storage`; None where there are none.
    """

    def __init__(
        self, file: io.BytesIO, size: int, storage: Callable[[Any], _Storage] | None = None
    ) -> None:
        self._file = file
        self._left = GROWTH * size
        self._storage = storage

    def load(self) -> Any:
        """The value that the next pickle of the file makes."""
        self._stack: list[Any] = []
        self._marks: list[int] = []
        self._memo: dict[int, Any] = {}
        count = 0
        while True:
            count += 1
            opcode = _OPCODES.get(self._file.read(1))
            if opcode is None:
                raise DamagedFileError("it ends, or is no pickle, where an instruction should be")
            if opcode.name == "STOP":
                return self._checked(self._pop(), GROWTH * count)
            self._run(opcode.name, self._argument(opcode))

    def _argument(self, opcode: pickletools.OpcodeInfo) -> Any:
        if opcode.name == "STRING":  # pickletools reads ASCII only
            raw = pickletools.read_stringnl(self._file, decode=False)
            return codecs.escape_decode(raw)[0].decode("latin1")
        return opcode.arg.reader(self._file) if opcode.arg else None

    def _run(self, name: str, argument: Any) -> None:
        push = self._stack.append
        match name:
            case "PROTO" | "FRAME":
                pass
            case _ if name in _LITERALS:
                push(argument)
            case "NONE" | "NEWTRUE" | "NEWFALSE":
                push({"NONE": None, "NEWTRUE": True, "NEWFALSE": False}[name])
            case "EMPTY_LIST":
                push([])
            case "EMPTY_DICT":
                push({})
            case "EMPTY_TUPLE":
                push(())
            case "MARK":
                self._marks.append(len(self._stack))
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                push(tuple([self._pop() for _ in range(int(name[-1]))][::-1]))
            case "TUPLE":
                items = self._since_mark()
                push(tuple(items))
            case "LIST":
                items = self._since_mark()
                push(items)
            case "DICT":
                items = self._since_mark()
                push({})
                self._set_items(items)
            case "APPEND":
                item = self._pop()
                self._top(list).append(item)
            case "APPENDS":
                items = self._since_mark()
                self._top(list).extend(items)
            case "SETITEM":
                value, key = self._pop(), self._pop()
                self._set_items([key, value])
            case "SETITEMS":
                self._set_items(self._since_mark())
            case "PUT" | "BINPUT" | "LONG_BINPUT":
                self._memo[argument] = self._stack[-1]
            case "MEMOIZE":
                self._memo[len(self._memo)] = self._stack[-1]
            case "GET" | "BINGET" | "LONG_BINGET":
                value = self._memo[argument]
                built = isinstance(value, _Pending) and value.value is not None
                push(value.value if built else value)
            case "GLOBAL":
                push(_named(*argument.split(" ", 1)))
            case "STACK_GLOBAL":
                attribute, module = self._pop(), self._pop()
                if type(module) is not str or type(attribute) is not str:
                    raise DamagedFileError("a global's name is no text")
                push(_named(module, attribute))
            case "REDUCE":
                arguments, called = self._pop(), self._pop()
                if type(called) is not _Name or type(arguments) is not tuple:
                    raise UnsafeFileError("calls what is no global")
                push(self._make(called.path, arguments))
            case "BUILD":
                self._build(self._pop())
            case "BINPERSID" if self._storage:
                push(self._storage(self._pop()))
            case "PERSID" | "BINPERSID":
                raise UnsafeFileError("asks for an object from outside the file")
            case _:
                raise UnsafeFileError(f"uses the instruction {name} of pickles")

    def _pop(self) -> Any:
        if len(self._stack) <= (self._marks[-1] if self._marks else 0):
            raise DamagedFileError("an instruction has nothing to act on")
        value = self._stack.pop()
        if type(value) is _Pending:
            raise DamagedFileError("an array without its content")
        return value

    def _since_mark(self) -> list[Any]:
        items = [self._pop() for _ in range(len(self._stack) - self._marks[-1])]
        self._marks.pop()
        return items[::-1]

    def _top(self, *types: type) -> Any:
        if type(self._stack[-1]) not in types:
            raise UnsafeFileError("puts items into what is no list or dict")
        return self._stack[-1]

    def _set_items(self, items: list[Any]) -> None:
        target = self._top(dict, OrderedDict, Counter)
        for key, value in zip(items[::2], items[1::2], strict=True):
            if type(key) not in _KEYS:
                raise UnsafeFileError("has a dict's key that is no text and no number")
            target[key] = value

    def _make(self, path: str, arguments: tuple[Any, ...]) -> Any:
        """What a global, had it been called, would have returned."""
        match path, arguments:
            case "collections.OrderedDict", ():
                return OrderedDict()
            case "collections.OrderedDict", (list() as pairs,):
                self._stack.append(OrderedDict())
                if not all(type(pair) in (list, tuple) and len(pair) == 2 for pair in pairs):
                    raise DamagedFileError("an OrderedDict of what are no pairs")
                self._set_items([item for pair in pairs for item in pair])
                return self._pop()
            case "collections.Counter", (dict() as counts,):
                return Counter(counts)
            case "__builtin__.bytes" | "builtins.bytes", ():
                return b""
            case "_codecs.encode", (str() as text, "latin1" | "latin-1"):
                self._take(len(text))
                return text.encode("latin1")
            case "_codecs.encode", (_, codec):
                raise UnsafeFileError(f"asks for the codec {str(codec)[:30]!r}")
            case "numpy.core.multiarray._reconstruct", (_Name(path="numpy.ndarray"), (0,), _):
                return _Pending()
            case "numpy.dtype", (str() as code, *_):
                if not _PLAIN_DTYPE.fullmatch(code):
                    raise UnsafeFileError(f"has an array of the type {code[:30]!r}")
                return _Pending(np.dtype(code))
            case "numpy.core.multiarray.scalar", (dtype, raw):
                return self._array(raw, dtype, ())[()]
            case "numpy.core.numeric._frombuffer", (raw, dtype, shape, "C" | "F" as order):
                return self._array(raw, dtype, shape, order)
            case "numpy.core.numeric._frombuffer", (raw, dtype, shape, "K", tuple() as axes):
                return self._array(raw, dtype, shape).transpose(_sizes(axes))
            case "torch.Size", (tuple() as sizes,):
                return _sizes(sizes)
            case "torch._utils._rebuild_parameter", (Tensor() as tensor, _, _):
                return tensor
            case "torch._utils._rebuild_tensor", (_Storage() as storage, *view):
                return _tensor(storage, storage.dtype, *view)
            case "torch._utils._rebuild_tensor_v2", (_Storage() as storage, at, size, stride, *_):
                return _tensor(storage, storage.dtype, at, size, stride)
            case (
                "torch._utils._rebuild_tensor_v3",
                (_Storage() as storage, at, size, stride, _, _, torch.dtype() as dtype, *_),
            ):
                return _tensor(storage, dtype, at, size, stride)
        raise UnsafeFileError(f"calls {path} with arguments that are not for weights")

    def _build(self, state: Any) -> None:
        target = self._stack[-1]
        if type(target) is OrderedDict and type(state) is dict:
            # Of a module's state dict: versions, by which modules read files of older ones.
            versions = state.get("_metadata")
            if isinstance(versions, dict):
                target._metadata = {
                    name: {"version": entry["version"]}
                    for name, entry in versions.items()
                    if isinstance(entry, dict) and type(entry.get("version")) is int
                }
            return
        if type(target) is not _Pending or target.value is not None or type(state) is not tuple:
            raise UnsafeFileError("sets attributes")
        if target.dtype is None:
            *_, shape, dtype, fortran, raw = state
            target.value = self._array(raw, dtype, shape, "F" if fortran is True else "C")
        else:
            _version, order, *rest = state
            if order not in ("<", ">", "|", "=") or any(part not in (None, -1, 0) for part in rest):
                raise UnsafeFileError("has an array of a type that is no plain number")
            target.value = target.dtype.newbyteorder(order)
        self._stack[-1] = target.value

    def _array(self, raw: Any, dtype: Any, shape: Any, order: str = "C") -> np.ndarray:
        if isinstance(raw, str):  # of Python 2
            self._take(len(raw))
            raw = raw.encode("latin1")
        if type(raw) not in (bytes, bytearray) or not isinstance(dtype, np.dtype):
            raise UnsafeFileError("has an array that is not of plain numbers")
        if math.prod(_sizes(shape)) * dtype.itemsize != len(raw):
            raise DamagedFileError(f"an array of {len(raw)} bytes has another size")
        self._take(len(raw))
        array = np.ndarray(shape, dtype, buffer=raw, order=order)
        return array.astype(dtype.newbyteorder("="), copy=True)

    def _take(self, size: int) -> None:
        self._left -= size
        if self._left < 0:
            raise DamagedFileError(f"its content is more than {GROWTH} times its size")

    def _checked(self, result: Any, most: int) -> Any:
        """``result`` if it is plain values in a tree of at most ``most`` nodes."""
        todo = [(result, 0)]
        while todo:
            value, depth = todo.pop()
            items = value
            if type(value) in (dict, OrderedDict, Counter):
                items = list(value.values())
            if type(items) in (list, tuple):
                most -= len(items)
                if most < 0 or depth > DEPTH:
                    raise DamagedFileError("its containers are nested too deep or without end")
                todo += [(item, depth + 1) for item in items]
            elif isinstance(value, (Tensor, np.ndarray)):
                self._take(value.nbytes)
            elif type(value) not in _VALUES and not isinstance(value, np.generic):
                name = value.path if type(value) is _Name else type(value).__name__
                raise UnsafeFileError(f"holds {name}")
        return result


def _named(module: str, attribute: str) -> Any:
    if module == "numpy._core" or module.startswith("numpy._core."):
        module = module.replace("_core", "core", 1)
    path = f"{module}.{attribute}"
    if path in _DTYPES:
        return _DTYPES[path]
    if path not in _NAMES:
        raise UnsafeFileError(f"asks for {path[:100]}")
    return _Name(path)


def _sizes(shape: Any) -> tuple[int, ...]:
    if type(shape) is not tuple or len(shape) > DEPTH:
        raise DamagedFileError("a shape is no tuple of numbers")
    if not all(type(size) is int and 0 <= size < 2**63 for size in shape):
        raise DamagedFileError("a shape is no tuple of numbers")
    return shape


def _tensor(
    storage: _Storage, dtype: torch.dtype | None, offset: Any, shape: Any, stride: Any
) -> Tensor:
    """A view of a storage, after a check that it lies within."""
    (offset,) = _sizes((offset,))
    if dtype is None or len(_sizes(shape)) != len(_sizes(stride)):
        raise DamagedFileError("a tensor's sizes and strides do not fit together")
    last = offset + sum((n - 1) * step for n, step in zip(shape, stride, strict=True))
    room = storage.content.numel() // dtype.itemsize
    if (math.prod(shape) and last >= room) or offset > room:
        raise DamagedFileError("a tensor is larger than what is stored of it")
    if math.prod(shape) >= 2**63 // dtype.itemsize:
        raise DamagedFileError("a tensor is larger than any memory")
    whole = storage.content[: room * dtype.itemsize].view(dtype)
    return whole.as_strided(shape, stride, offset)


def _identified(pid: Any) -> tuple[torch.dtype | None, str, int]:
    """Dtype, key and size in bytes of the storage that a persistent id of torch names."""
    match pid:
        case ("storage", _Name(path=kind), str() as key, str(), int() as count):
            view = None
        case ("storage", _Name(path=kind), str() as key, str(), int() as count, view):
            pass
        case _:
            raise UnsafeFileError("asks for an object from outside the file")
    if kind not in _STORAGES or view is not None or count < 0:
        raise UnsafeFileError("asks for an object from outside the file")
    dtype = _STORAGES[kind]
    return dtype, key, count * (dtype.itemsize if dtype else 1)


def _from_zip(file: Any) -> Any:
    """A file of ``torch.save`` as it is since torch 1.6: a zip archive, nothing compressed."""
    size = file.seek(0, io.SEEK_END)
    with zipfile.ZipFile(file) as archive:
        programs = [name for name in archive.namelist() if re.fullmatch(r"[^/]*/data\.pkl", name)]
        if len(programs) != 1:
            raise DamagedFileError("an archive without one data.pkl")
        folder = programs[0].removesuffix("data.pkl")
        left = size

        def read(name: str) -> bytes:
            nonlocal left
            record = archive.getinfo(folder + name)
            left -= record.file_size
            if record.compress_type != zipfile.ZIP_STORED or record.flag_bits & 1 or left < 0:
                raise DamagedFileError(f"{name} is compressed, or larger than the file")
            return archive.read(record)

        if f"{folder}byteorder" in archive.namelist() and read("byteorder") != _native():
            raise DamagedFileError("written on a machine of another byte order")
        storages: dict[str, _Storage] = {}

        def storage(pid: Any) -> _Storage:
            dtype, key, expected = _identified(pid)
            if key not in storages:
                storages[key] = _Storage(dtype, _bytes(read(f"data/{key}")))
            known = storages[key]
            if known.dtype != dtype or known.content.numel() != expected:
                raise DamagedFileError(f"storage {key} has another size or type")
            return known

        return _Interpreter(io.BytesIO(read("data.pkl")), size, storage).load()


def _from_legacy(content: bytes) -> Any:
    """A file of ``torch.save`` as it was before: pickles, then the bytes of all storages."""
    file = io.BytesIO(content)
    storages: dict[str, _Storage] = {}
    left = len(content)

    def storage(pid: Any) -> _Storage:
        nonlocal left
        dtype, key, size = _identified(pid)
        if key not in storages:
            left -= size
            if left < 0:
                raise DamagedFileError("its tensors are larger than the file")
            storages[key] = _Storage(dtype, torch.zeros(size, dtype=torch.uint8))
        known = storages[key]
        if known.dtype != dtype or known.content.numel() != size:
            raise DamagedFileError(f"storage {key} has another size or type")
        return known

    plain = _Interpreter(file, len(content))
    if plain.load() != torch.serialization.MAGIC_NUMBER or type(plain.load()) is not int:
        raise DamagedFileError("not a file of torch.save")
    about = plain.load()
    if not isinstance(about, dict) or about.get("little_endian") is not (_native() == b"little"):
        raise DamagedFileError("written on a machine of another byte order")
    result = _Interpreter(file, len(content), storage).load()
    keys = plain.load()
    if type(keys) is not list or sorted(map(str, keys)) != sorted(storages):
        raise DamagedFileError("its storages are not those of its tensors")
    for key in keys:
        known = storages[key]
        (count,) = struct.unpack("<q", file.read(8))
        size = known.content.numel()
        raw = file.read(size)
        if count * (known.dtype.itemsize if known.dtype else 1) != size or len(raw) != size:
            raise DamagedFileError(f"storage {key} is truncated")
        known.content.copy_(_bytes(raw))
    return result


def _native() -> bytes:
    return sys.byteorder.encode()


def _bytes(raw: bytes) -> Tensor:
    if not raw:  # torch.frombuffer takes no empty buffer
        return torch.zeros(0, dtype=torch.uint8)
    return torch.frombuffer(bytearray(raw), dtype=torch.uint8)
