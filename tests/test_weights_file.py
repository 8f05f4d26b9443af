"""Files of weights from anywhere: none of them runs anything, and all that is meant is read."""

from __future__ import annotations

import collections
import io
import os
import pickle
import pickletools
import resource
import struct
import sys
import types
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from checkpoints import checkpointer, save_iterations
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from mic_det.weights_file import (
    CheckpointError,
    DamagedFileError,
    UnsafeFileError,
    load_pickle,
    load_tensors,
)


class Payload:
    """A pickle of this runs a command when it is loaded the usual way."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self):
        return os.system, (f"touch {self.marker}",)


def evil_pickle(path: Path, marker: Path) -> None:
    weights = {"0.weight": np.ones((3, 4)), "x": Payload(marker)}
    path.write_bytes(pickle.dumps({"model": weights, "__author__": "somebody"}))


def evil_pth(path: Path, marker: Path) -> None:
    torch.save({"model": {"0.weight": torch.ones(3, 4)}, "trainer": Payload(marker)}, path)


def evil_old_pth(path: Path, marker: Path) -> None:
    data = {"model": {"0.weight": torch.ones(3, 4)}, "trainer": Payload(marker)}
    torch.save(data, path, _use_new_zipfile_serialization=False)


def evil_object_array(path: Path, marker: Path) -> None:
    path.write_bytes(pickle.dumps({"a": np.array([Payload(marker)], dtype=object)}))


EVIL = [
    ("w.pkl", evil_pickle, r"posix\.system"),
    ("w.pkl", evil_object_array, "type 'O8'"),
    ("w.pth", evil_pth, r"posix\.system"),
    ("w.pth", evil_old_pth, r"posix\.system"),
    ("w.pyth", evil_pth, r"posix\.system"),
]


@pytest.mark.parametrize(("name", "write", "named"), EVIL)
def test_malicious_weights_run_nothing(tmp_path, name, write, named):
    path, marker = tmp_path / name, tmp_path / "executed"
    write(path, marker)
    with pytest.raises(UnsafeFileError, match=f"{named}.*nothing was run"):
        checkpointer(tmp_path / "out").start_from(str(path))
    assert not marker.exists()
    # The file is what it seems to be.
    if name.endswith(".pkl"):
        pickle.loads(path.read_bytes())
    else:
        torch.load(path, weights_only=False)
    assert marker.exists()


def test_malicious_checkpoint_is_not_resumed(tmp_path):
    save_iterations(tmp_path, 2, 5)
    marker = tmp_path / "executed"
    evil_pth(tmp_path / "model_0000005.pth", marker)
    with pytest.raises(UnsafeFileError, match="model_0000005"):
        checkpointer(tmp_path).resume()
    assert not marker.exists()


@pytest.mark.parametrize("code", ["builtins.eval", "numpy.load", "functools.partial", "os.path"])
def test_only_what_is_listed_is_admitted(tmp_path, code):
    module, _, name = code.rpartition(".")
    path = tmp_path / "w.pkl"
    path.write_bytes(f"c{module}\n{name}\n.".encode())
    with pytest.raises(UnsafeFileError, match=code.replace(".", r"\.")):
        load_pickle(path)


def test_codecs_other_than_latin1_are_refused(tmp_path):
    path = tmp_path / "w.pkl"
    path.write_bytes(b"c_codecs\nencode\n(Vabc\nVrot13\ntR.")
    with pytest.raises(UnsafeFileError, match="rot13"):
        load_pickle(path)


@pytest.mark.parametrize("protocol", range(6))
def test_arrays_are_read_as_written(tmp_path, protocol):
    data = {
        "a": np.arange(12, dtype=np.float32).reshape(3, 4),
        "f": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        "n": [1, 2.5, "text", None, True, b"\x00\xff", np.float32(2)],
        "t": (np.int64(3), {"deep": {1: np.zeros(0)}}),
    }
    path = tmp_path / "w.pkl"
    path.write_bytes(pickle.dumps(data, protocol=protocol))
    read = load_pickle(path)
    np.testing.assert_array_equal(read["a"], data["a"])
    np.testing.assert_array_equal(read["f"], data["f"])
    assert read["n"] == data["n"]
    assert read["t"][0] == 3 and read["t"][1]["deep"][1].shape == (0,)


def test_numpy_in_a_file_of_torch(tmp_path):
    path = tmp_path / "w.pth"
    torch.save({"model": {"0.weight": np.ones((3, 4), np.float32)}, "lr": np.float64(0.1)}, path)
    assert load_tensors(path)["lr"] == 0.1


@pytest.mark.parametrize("content", [b"", b"garbage", b"\x80\x02]q\x01"])
@pytest.mark.parametrize(("name", "load"), [("w.pkl", load_pickle), ("w.pth", load_tensors)])
def test_broken_files_are_named(tmp_path, name, load, content):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(DamagedFileError, match=name):
        load(path)


ENCODED = b"c_codecs\nencode\n(V%s\nVlatin1\ntR"
NDARRAY = b"cnumpy\nndarray\n"
EMPTY = b"cnumpy.core.multiarray\n_reconstruct\n(" + NDARRAY + b"(I0\ntVb\ntR"
FLOATS = b"cnumpy\ndtype\n(Vf8\nI0\nI1\ntR(I3\nV<\nNNNI-1\nI-1\nI0\ntb"
STATE = b"(I1\n(%st" + FLOATS + b"I00\n%st"
ARRAY = EMPTY + STATE % (b"I1\n", ENCODED % b"abcdefgh") + b"b"


@pytest.mark.parametrize(
    "program",
    [
        NDARRAY + b"(I1\ntR.",  # an array of whatever lies in memory
        NDARRAY + b"((I1\ntVO\n" + ENCODED % b"AAAAAAAA" + b"tR.",  # of pointers
        NDARRAY + b")\x81.",
        NDARRAY + b")}\x92.",
        NDARRAY + b"}V__new__\nN}b.",
        NDARRAY + b"N}Vx\nI1\ns\x86b.",
        b"c_codecs\nencode\nN}V__defaults__\n(Vrot13\nts\x86b.",
        b"c_codecs\nencode\nI1\na.",
        b"c_codecs\nencode\n(I1\ne.",
        b"c_codecs\nencode\n(I1\n\x90.",
        b"c_codecs\nencode\nI0\nI1\ns.",
        b"c_codecs\nencode\n(I0\nI1\nu.",
        ARRAY + b"I0\nI1\ns.",
        ARRAY + b"(I0\nI1\nu.",
        ARRAY + b"I1\na.",
        ARRAY + STATE % (b"I1\n", ENCODED % b"abcdefgh") + b"b.",
        ARRAY + b"N}Vdtype\nVO\ns\x86b.",
        EMPTY + STATE % (b"I1\n", b"(lI1\na") + b"b.",  # a list of objects
        ARRAY + b"(tR.",
        b"](tR.",
        b"Vos\nVsystem\n\x93.",
        b"cnumpy\nload\n.",
        b"cnumpy.core.multiarray\nscalar\n.",
        b"(" + NDARRAY + b"t.",
        b"]}Vx\nI1\nsb.",
        b"}}Vx\nI1\nsb.",
        b"I1\n}Vx\nI1\nsb.",
        b"cnumpy\ndtype\n(VO8\nI0\nI1\ntR.",
        b"cnumpy\ndtype\n(VV8\nI0\nI1\ntR.",
        b"cnumpy\ndtype\n(Vf4,f4\nI0\nI1\ntR.",
        b"cnumpy\ndtype\n((lVf4\naI0\nI1\ntR.",
        b"cnumpy\ndtype\n(Vf8\nI0\nI1\ntR(I3\nV|\nN(Va\nt}I-1\nI-1\nI0\ntb.",
        b"}" + b")" + b"\x85" * 1_000_000 + b"K\x01s.",  # hashing this ends the process
        b"}]I1\ns.",
        b"Vx\nP.",
    ],
)
def test_a_pickle_can_call_and_change_nothing(tmp_path, program):
    path = tmp_path / "w.pkl"
    path.write_bytes(program)
    with pytest.raises(CheckpointError, match=r"w\.pkl"):
        load_pickle(path)


ADMITTED = [
    "INT",
    "BININT",
    "BININT1",
    "BININT2",
    "LONG",
    "LONG1",
    "STRING",
    "BINSTRING",
    "SHORT_BINSTRING",
    "BINBYTES",
    "SHORT_BINBYTES",
    "BINBYTES8",
    "BYTEARRAY8",
    "NONE",
    "NEWTRUE",
    "NEWFALSE",
    "UNICODE",
    "SHORT_BINUNICODE",
    "BINUNICODE",
    "BINUNICODE8",
    "FLOAT",
    "BINFLOAT",
    "EMPTY_LIST",
    "APPEND",
    "APPENDS",
    "LIST",
    "EMPTY_TUPLE",
    "TUPLE",
    "TUPLE1",
    "TUPLE2",
    "TUPLE3",
    "EMPTY_DICT",
    "DICT",
    "SETITEM",
    "SETITEMS",
    "MARK",
    "GET",
    "BINGET",
    "LONG_BINGET",
    "PUT",
    "BINPUT",
    "LONG_BINPUT",
    "MEMOIZE",
    "GLOBAL",
    "STACK_GLOBAL",
    "REDUCE",
    "BUILD",
    "PROTO",
    "STOP",
    "FRAME",
]


@pytest.mark.parametrize(
    "opcode",
    [opcode for opcode in pickletools.opcodes if opcode.name not in ADMITTED],
    ids=lambda opcode: opcode.name,
)
def test_instructions_that_weights_do_not_need_are_refused(tmp_path, opcode):
    path = tmp_path / "w.pkl"
    argument = {"INST": b"os\nsystem\n", "LONG4": bytes(4)}.get(opcode.name, b"\x00\n" + bytes(8))
    path.write_bytes(b"(" + NDARRAY + b"))" + opcode.code.encode("latin1") + argument + b".")
    with pytest.raises(UnsafeFileError, match=f"{opcode.name}|outside the file"):
        load_pickle(path)


@pytest.mark.parametrize(
    ("program", "error"),
    [
        (EMPTY + STATE % (b"I2\n", ENCODED % b"abcdefgh") + b"b.", DamagedFileError),
        (EMPTY + STATE % (b"I1000000000000\n", ENCODED % b"abcdefgh") + b"b.", DamagedFileError),
        (EMPTY + STATE % (b"I-1\nI-1\n", ENCODED % b"abcdefgh") + b"b.", DamagedFileError),
        (EMPTY + STATE % (b"I0\nL" + b"9" * 40 + b"L\n", b"V\n") + b"b.", DamagedFileError),
        (EMPTY + STATE % (b"I0\n" * 65, b"V\n") + b"b.", DamagedFileError),
        (EMPTY + STATE % (b"VX\n", b"V\n") + b"b.", DamagedFileError),
        (EMPTY + b".", DamagedFileError),
        (b"]" + EMPTY + b"a.", DamagedFileError),
        (b"r\xff\xff\xff\x7f]r\xff\xff\xff\x7f.", DamagedFileError),
        (b"\x8e" + struct.pack("<Q", 2**40) + b"x.", DamagedFileError),
        (b"\x8d" + struct.pack("<Q", 2**40) + b"x.", DamagedFileError),
        (b"\x96" + struct.pack("<Q", 2**40) + b"x.", DamagedFileError),
        (b"B\xff\xff\xff\x7fx.", DamagedFileError),
        (b"T\xff\xff\xff\x7fx.", DamagedFileError),
        (b"X\xff\xff\xff\x7fx.", DamagedFileError),
        (b"\x8b\xff\xff\xff\x7fx.", DamagedFileError),
        (b"L" + b"9" * 100_000 + b"L\n.", DamagedFileError),
        # One long text as bytes, a thousand times.
        (
            b"c_codecs\nencode\np0\n"
            + b"V"
            + b"x" * 100_000
            + b"\np1\n("
            + b"g0\n(g1\nVlatin1\ntR" * 1000
            + b"t.",
            DamagedFileError,
        ),
        # The same list in itself, and lists of ten lists of ten lists.
        (b"]q\x00h\x00a.", DamagedFileError),
        (
            b"]" + b"".join(b"q%c(" % i + b"h%c" % i * 10 + b"t" for i in range(30)) + b".",
            DamagedFileError,
        ),
        (b"]" * 100 + b"a" * 99 + b".", DamagedFileError),
    ],
)
def test_no_more_is_made_than_the_file_has(tmp_path, program, error):
    path = tmp_path / "w.pkl"
    path.write_bytes(program)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(error, match=r"w\.pkl"):
        load_pickle(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < before + 200_000  # kB


def test_places_in_the_memo_take_no_room(tmp_path):
    """The unpickler of CPython makes room for all up to the largest: 17 GB for these 7 bytes."""
    path = tmp_path / "w.pkl"
    path.write_bytes(b"]r\xff\xff\xff\x3f.")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert load_pickle(path) == []
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < before + 200_000


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize(
    "array",
    [
        np.array([{}], dtype=object),
        np.zeros(2, dtype=[("a", "f4"), ("b", "O")]),
        np.zeros(2, dtype=[("a", "f4")]),
        np.array(["text"]),
        np.array([b"bytes"]),
        np.zeros(2, "M8[s]"),
        np.zeros(2, "V8"),
        np.zeros(2, np.longdouble),
        np.ma.masked_array([1.0]),
        np.float64,
        np.random.default_rng(0),
    ],
    ids=lambda each: str(getattr(each, "dtype", each)),
)
def test_arrays_of_anything_but_plain_numbers_are_refused(tmp_path, array, protocol):
    path = tmp_path / "w.pkl"
    path.write_bytes(pickle.dumps({"a": array}, protocol=protocol))
    with pytest.raises(UnsafeFileError):
        load_pickle(path)
    if protocol > 1 and isinstance(array, np.ndarray):
        torch.save({"a": array}, tmp_path / "w.pth", pickle_protocol=protocol)
        with pytest.raises(UnsafeFileError):
            load_tensors(tmp_path / "w.pth")


@pytest.mark.parametrize("protocol", range(6))
def test_all_plain_dtypes_and_orders(tmp_path, protocol):
    base = np.arange(24).reshape(2, 3, 4)
    arrays = [base.astype(code) for code in ("?", *"bBhHiIlL", "f2", "f4", "f8", ">f4", ">i8")]
    arrays += [each.reshape(-1)[5] for each in arrays]
    arrays += [base.T, base.transpose(1, 0, 2), base[:, ::2], np.zeros((0, 5)), np.array(3.0)]
    ordered = collections.OrderedDict([("b", 1), ("a", arrays[0])])
    path = tmp_path / "w.pkl"
    path.write_bytes(pickle.dumps([arrays, ordered], protocol=protocol))
    read, mapping = load_pickle(path)
    for mine, theirs in zip(read, arrays, strict=True):
        assert type(mine) is type(theirs) and mine.dtype == theirs.dtype.newbyteorder("=")
        np.testing.assert_array_equal(mine, theirs)
        assert np.ndim(mine) == 0 or mine.flags.writeable
    assert list(mapping) == ["b", "a"]


PYTHON2 = [
    # Protocol 0 and 2 of Python 2 with numpy 1.x: {'w': array([1., 2.], float32)}
    b"(dp0\nS'w'\np1\ncnumpy.core.multiarray\n_reconstruct\np2\n(cnumpy\nndarray\np3\n(I0\ntp4\n"
    b"S'b'\np5\ntp6\nRp7\n(I1\n(I2\ntp8\ncnumpy\ndtype\np9\n(S'f4'\np10\nI0\nI1\ntp11\nRp12\n(I3\n"
    b"S'<'\np13\nNNNI-1\nI-1\nI0\ntp14\nbI00\nS'\\x00\\x00\\x80?\\x00\\x00\\x00@'\np15\ntp16\nbs.",
    b"\x80\x02}q\x00U\x01wq\x01cnumpy.core.multiarray\n_reconstruct\nq\x02cnumpy\nndarray\nq\x03K\x00"
    b"\x85q\x04U\x01bq\x05\x87q\x06Rq\x07(K\x01K\x02\x85q\x08cnumpy\ndtype\nq\tU\x02f4q\nK\x00K\x01\x87"
    b"q\x0bRq\x0c(K\x03U\x01<q\rNNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tq\x0eb\x89U\x08\x00\x00"
    b"\x80?\x00\x00\x00@q\x0ftq\x10bs.",
]


@pytest.mark.parametrize("content", PYTHON2)
def test_pickles_of_python_2(tmp_path, content):
    theirs = pickle.loads(content, encoding="latin1")
    path = tmp_path / "w.pkl"
    path.write_bytes(content)
    assert load_pickle(path)["w"].tolist() == theirs["w"].tolist() == [1.0, 2.0]


@pytest.mark.parametrize("zipped", [True, False])
def test_files_of_torch_are_read_as_torch_reads_them(tmp_path, zipped):
    base = torch.arange(24.0)
    network = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    data = {
        "model": network.state_dict(),
        "views": [base, base[3:9], base.view(4, 6).t(), base.view(4, 6)[:, ::2]],
        "kinds": [torch.ones(3).to(kind) for kind in (torch.bfloat16, torch.half, torch.double)],
        "integers": [torch.ones(3, dtype=kind) for kind in (torch.bool, torch.uint8, torch.int64)],
        "small": [torch.tensor(3), torch.zeros(0, 4), torch.zeros(2, 0), nn.Parameter(base)],
        "expanded": torch.ones(1, 3).expand(4, 3),
        "channels_last": torch.ones(2, 3, 4, 5).to(memory_format=torch.channels_last),
        "size": base.shape,
        "dtype": torch.float32,
        "rest": [1, -7, 2.5, "text", None, True, (1, (2,)), b"\x00\xff", 2**70],
        "counter": collections.Counter({3: 1}),
        "numpy": [np.float64(0.5), np.arange(3)],
    }
    if zipped:
        data["new"] = torch.tensor([1, 65535], dtype=torch.uint16)
    path = tmp_path / "w.pth"
    torch.save(data, path, _use_new_zipfile_serialization=zipped)
    ours, theirs = load_tensors(path), torch.load(path, weights_only=False)
    assert ours["model"]._metadata == theirs["model"]._metadata
    assert ours["views"][0].untyped_storage().data_ptr() == (
        ours["views"][1].untyped_storage().data_ptr()
    )
    assert_same(ours, theirs)


def assert_same(ours, theirs):
    if isinstance(theirs, torch.Tensor):
        assert torch.equal(ours, theirs) and ours.stride() == theirs.stride()
        assert ours.dtype == theirs.dtype
    elif isinstance(theirs, dict):
        assert list(ours) == list(theirs)
        assert_same(list(ours.values()), list(theirs.values()))
    elif isinstance(theirs, (list, tuple)):
        assert len(ours) == len(theirs)
        for mine, other in zip(ours, theirs, strict=True):
            assert_same(mine, other)
    elif isinstance(theirs, np.ndarray):
        np.testing.assert_array_equal(ours, theirs)
    else:
        assert ours == theirs and type(ours) is type(theirs)


def with_program(path: Path, change) -> None:
    """Change data.pkl in an archive of torch."""
    with zipfile.ZipFile(path) as archive:
        records = {each.filename: archive.read(each) for each in archive.infolist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in records.items():
            archive.writestr(name, change(content) if name.endswith("data.pkl") else content)


LEGACY = b"".join(
    pickle.dumps(value, protocol=2)
    for value in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": sys.byteorder == "little"})
)


def tensor_program(count: int, offset: int, size: str, stride: str, kind: str = "Float") -> bytes:
    """A pickle with one tensor over storage "0"."""
    sizes, strides = (
        "(" + "".join(f"I{n}\n" for n in values.split()) + "t" for values in (size, stride)
    )
    return (
        f"ctorch._utils\n_rebuild_tensor_v2\n((Vstorage\nctorch\n{kind}Storage\nV0\nVcpu\nI{count}\n"
        f"tQI{offset}\n{sizes}{strides}I00\nccollections\nOrderedDict\n(tRtR."
    ).encode()


SIZES = [
    (4, 0, "5", "1"),
    (4, 1, "4", "1"),
    (4, 0, "4", "2"),
    (4, 9, "0", "1"),
    (4, 0, "1000000000000", "0"),
    (4, 0, "1000000 1000000", "0 0"),
    (4, 0, "4000000000 4000000000 4000000000", "0 0 0"),
    (4, 0, "2", "-1"),
    (4, -1, "2", "1"),
    (4, 0, "2", "1 1"),
    (1000, 0, "4", "1"),
    (10**12, 0, "4", "1"),
    (-4, 0, "4", "1"),
    (2, 0, "2", "1", "Double"),
    (4, 0, "4", "1", "QInt8"),
]


@pytest.mark.parametrize("tensor", SIZES[:-2])
@pytest.mark.parametrize("zipped", [True, False])
def test_tensors_larger_than_what_is_stored_are_refused(tmp_path, tensor, zipped):
    path, data = tmp_path / "w.pth", torch.ones(4)
    torch.save(data, path)
    legacy = pickle.dumps(["0"], protocol=2) + struct.pack("<q4f", 4, 1, 1, 1, 1)

    def write(program):
        if zipped:
            with_program(path, lambda _: program)
        else:
            path.write_bytes(LEGACY + program + legacy)

    write(tensor_program(4, 0, "4", "1"))
    assert torch.equal(load_tensors(path), data), "the program is what it is meant to be"
    write(tensor_program(*tensor))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(CheckpointError, match=r"w\.pth"):
        load_tensors(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < before + 200_000


def test_archives_that_are_not_as_torch_writes_them(tmp_path):
    path = tmp_path / "w.pth"
    torch.save({"a": torch.zeros(1_000_000)}, path)
    with zipfile.ZipFile(path) as archive:
        records = {each.filename: archive.read(each) for each in archive.infolist()}

    def written(records, **options):
        with zipfile.ZipFile(path, "w", **options) as archive:
            for name, content in records.items():
                archive.writestr(name, content)

    written(records)
    assert load_tensors(path)["a"].shape == (1_000_000,)
    program = next(name for name in records if name.endswith("data.pkl"))
    other = {"other/data.pkl": records[program]}
    without = {name: content for name, content in records.items() if name != program}
    for changed, options in (
        (records, {"compression": zipfile.ZIP_DEFLATED}),
        (records | other, {}),
        (without, {}),
        ({program: records[program]}, {}),
        (records | {program.replace("data.pkl", "byteorder"): b"big"}, {}),
    ):
        written(changed, **options)
        with pytest.raises(DamagedFileError, match=r"w\.pth"):
            load_tensors(path)


def test_deep_keys_do_not_end_the_process(tmp_path):
    """As they do in ``torch.load(weights_only=True)``."""
    path = tmp_path / "w.pth"
    torch.save({}, path)
    with_program(path, lambda _: b"\x80\x02})" + b"\x85" * 1_000_000 + b"K\x01s.")
    with pytest.raises(UnsafeFileError, match="key"):
        load_tensors(path)


# What a pickle could reach; `canary` is a module whose every use is noticed.
POOL = [
    *("canary call", "canary Class", "canary Class.method", "os system", "builtins eval"),
    *(
        "builtins getattr",
        "builtins exec",
        "builtins bytearray",
        "builtins set",
        "copyreg __newobj__",
    ),
    *("numpy ndarray", "numpy dtype", "numpy load", "numpy.core.multiarray _reconstruct"),
    *(
        "numpy._core.multiarray scalar",
        "numpy._core.numeric _frombuffer",
        "numpy.core.numeric fromfile",
    ),
    *("collections OrderedDict", "collections Counter", "_codecs encode", "__builtin__ bytes"),
    *("torch._utils _rebuild_tensor_v2", "torch._utils _rebuild_parameter", "torch FloatStorage"),
    *(
        "torch._utils _rebuild_tensor_v3",
        "torch.storage UntypedStorage",
        "torch Size",
        "torch load",
    ),
    *("torch float32", "torch.storage _load_from_bytes", "mic_det.weights_file _Name"),
    *("mic_det.weights_file _Pending", "mic_det.weights_file load_pickle", "functools partial"),
]
PIECES = [
    *(opcode.code.encode("latin1") for opcode in pickletools.opcodes if opcode.arg is None),
    *(f"c{module}\n{name}\n".encode() for module, name in map(str.split, POOL)),
    *(f"V{module}\nV{name}\n\x93".encode() for module, name in map(str.split, POOL[:4])),
    *(f"i{module}\n{name}\n".encode() for module, name in map(str.split, POOL[:4])),
    *(b"h%c" % i for i in range(4)),
    *(b"q%c" % i for i in range(4)),
    *(b"Vlatin1\n", b"Vf4\n", b"VO\n", b"V0\n", b"Vcpu\n", b"V<\n", b"V__setstate__\n", b"VABCD\n"),
    *(b"I0\n", b"I1\n", b"I2\n", b"I-1\n", b"I00\n", b"U\x04ABCD", b"C\x04ABCD", b"G" + bytes(8)),
    *(b"(Vstorage\nctorch\nFloatStorage\nV0\nVcpu\nI4\ntQ", b"P0\n", b"\x82\x01", b"\x97", b"\x98"),
    *(b"(I0\nt", b"(I1\nt", b")", b"]", b"}", b"N", FLOATS, EMPTY, ARRAY),
]
AUDITED = (
    "import",
    "exec",
    "compile",
    "pickle.find_class",
    "os.",
    "subprocess.",
    "ctypes.",
    "code.",
)
seen: list[str] | None = None


def _audit(event, arguments):
    if seen is not None and event.startswith(AUDITED):
        seen.append(event)


@pytest.fixture(scope="module")
def canary():
    class Class:
        def method(self, *_):
            seen.append("method")

        __init__ = __call__ = __setstate__ = __setitem__ = append = extend = add = update = method

    module = types.ModuleType("canary")
    module.call, module.Class = (lambda *_: seen.append("call")), Class
    sys.modules["canary"] = module
    sys.addaudithook(_audit)
    yield
    del sys.modules["canary"]


def plain(value, depth=0):
    """Nothing but data of Python, numpy and torch."""
    if isinstance(value, dict):
        assert type(value) in (dict, collections.OrderedDict, collections.Counter)
        value = [*value.keys(), *value.values()]
    if isinstance(value, (list, tuple)):
        return all(plain(each, depth + 1) for each in value)
    data = (int, float, str, bytes, bytearray, np.generic, torch.Tensor, torch.dtype, type(None))
    assert isinstance(value, data) or (isinstance(value, np.ndarray) and value.dtype.kind in "biuf")
    return True


def nothing_is_run(path: Path, load) -> None:
    global seen
    seen = []
    try:
        assert plain(load(path))
    except CheckpointError:
        pass
    finally:
        noticed, seen = seen, None
    assert not noticed


programs = st.one_of(
    st.lists(st.sampled_from(PIECES), max_size=30).map(lambda parts: b"".join(parts) + b"."),
    st.tuples(
        st.sampled_from([ARRAY + b".", *PYTHON2, tensor_program(4, 0, "4", "1")]),
        st.lists(st.tuples(st.integers(0, 400), st.sampled_from(PIECES)), max_size=4),
    ).map(lambda given: spliced(*given)),
    st.tuples(
        st.sampled_from([ARRAY + b".", *PYTHON2, tensor_program(4, 0, "4", "1")]),
        st.lists(st.tuples(st.integers(0, 400), st.binary(max_size=2)), min_size=1, max_size=4),
    ).map(lambda given: spliced(*given)),
)


def spliced(program: bytes, changes) -> bytes:
    for place, piece in changes:
        program = program[:place] + piece + program[place + len(piece) % 2 :]
    return program


@settings(
    max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(program=programs)
def test_no_program_reaches_anything(program, canary, tmp_path_factory):
    folder = tmp_path_factory.getbasetemp()
    (folder / "p.pkl").write_bytes(program)
    path = folder / "p.pth"
    legacy = pickle.dumps(["0"], protocol=2) + struct.pack("<q4f", 4, 1, 1, 1, 1)
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("a/data.pkl", program)
        file.writestr("a/data/0", bytes(16))
    nothing_is_run(folder / "p.pkl", load_pickle)
    for content in (archive.getvalue(), LEGACY + program + legacy):
        path.write_bytes(content)
        nothing_is_run(path, load_tensors)
