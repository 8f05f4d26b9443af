"""Files of weights from anywhere: none of them runs anything, and all that is meant is read."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from checkpoints import checkpointer, save_iterations

from mic_det.engine.safe_load import DamagedFileError, UnsafeFileError, load_pickle, load_tensors


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
    ("w.pkl", evil_pickle),
    ("w.pkl", evil_object_array),
    ("w.pth", evil_pth),
    ("w.pth", evil_old_pth),
    ("w.pyth", evil_pth),
]


@pytest.mark.parametrize(("name", "write"), EVIL)
def test_malicious_weights_run_nothing(tmp_path, name, write):
    path, marker = tmp_path / name, tmp_path / "executed"
    write(path, marker)
    with pytest.raises(UnsafeFileError, match=r"posix\.system.*nothing was run"):
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
