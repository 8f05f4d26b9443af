"""Files of weights: damaged, not fitting, and no room for them."""

from __future__ import annotations

import contextlib
import logging
import pickle
import resource
from pathlib import Path

import numpy as np
import pytest
import torch
from checkpoints import checkpointer, save_iterations
from detector import tiny_model

from mic_det.config import ConfigError
from mic_det.core import EMATeacher
from mic_det.engine.checkpoint import AdaptationCheckpointer, content_digest
from mic_det.engine.keep_best import BestCheckpoints
from mic_det.engine.key_report import key_report
from mic_det.engine.safe_load import (
    CheckpointError,
)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def flip_a_bit(path: Path) -> None:
    """In a weight: torch alone reads such a file without a word."""
    content = bytearray(path.read_bytes())
    position = content.find(np.full(4, 8, np.float32).tobytes())
    assert position > 0
    content[position + 2] ^= 1
    path.write_bytes(bytes(content))
    torch.load(path, weights_only=True)


def overwrite(path: Path) -> None:
    path.write_text("not a checkpoint\n" * 50)


def delete(path: Path) -> None:
    path.unlink()


@pytest.mark.parametrize("harm", [truncate, empty, flip_a_bit, overwrite, delete])
def test_damaged_last_checkpoint_gives_way_to_the_one_before(tmp_path, harm, caplog):
    save_iterations(tmp_path, 2, 5, 8)
    harm(tmp_path / "model_0000008.pth")
    resumed = checkpointer(tmp_path)
    with caplog.at_level(logging.WARNING):
        assert resumed.resume()
    assert resumed.checkpointables["trainer"].iteration == 5
    assert all((tensor == 5).all() for tensor in resumed.model.state_dict().values())
    assert all((tensor == 5).all() for tensor in resumed._teacher.model.state_dict().values())
    assert "model_0000008.pth" in caplog.text
    assert "Resuming from" in caplog.text and "model_0000005.pth" in caplog.text


def test_two_damaged_checkpoints(tmp_path):
    save_iterations(tmp_path, 2, 5, 8)
    truncate(tmp_path / "model_0000008.pth")
    empty(tmp_path / "model_0000005.pth")
    resumed = checkpointer(tmp_path)
    assert resumed.resume()
    assert resumed.checkpointables["trainer"].iteration == 2


def test_all_damaged(tmp_path):
    save_iterations(tmp_path, 2, 5)
    for path in tmp_path.glob("*.pth"):
        truncate(path)
    with pytest.raises(CheckpointError, match=r"none of its checkpoints.*model_0000005\.pth"):
        checkpointer(tmp_path).resume()


def test_nothing_to_resume(tmp_path):
    assert not checkpointer(tmp_path).resume()
    assert not checkpointer(tmp_path / "nowhere").resume()


def test_the_last_ones_and_the_best_are_kept(tmp_path):
    saver = save_iterations(tmp_path, 1, 2)
    saver.save("model_best", iteration=2)
    save_iterations(tmp_path, 3, 4, 5)  # after a resume, with nothing remembered
    names = {path.name for path in tmp_path.glob("*.pth")}
    assert names == {f"model_000000{i}.pth" for i in (3, 4, 5)} | {"model_best.pth"}


def test_later_checkpoints_of_a_former_run_are_left_alone(tmp_path):
    save_iterations(tmp_path, 70, 80, 90)
    save_iterations(tmp_path, 1, 2, 3, 4)
    names = sorted(path.name for path in tmp_path.glob("*.pth"))
    assert names == [f"model_{i:07d}.pth" for i in (2, 3, 4, 70, 80, 90)]
    truncate(tmp_path / "model_0000004.pth")
    resumed = checkpointer(tmp_path)
    assert resumed.resume()
    assert resumed.checkpointables["trainer"].iteration == 3


@contextlib.contextmanager
def file_size_limit(size: int):
    """The system refuses to write beyond ``size`` bytes of a file, as a full disk does."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("room", [0, 100, 2000])
def test_no_room_loses_nothing_and_says_what_to_do(tmp_path, room):
    save_iterations(tmp_path, 2)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    saver = checkpointer(tmp_path)
    with file_size_limit(room), pytest.raises(CheckpointError) as error:
        saver.save("model_0000005", iteration=5)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    for words in ("model_0000005.pth", "no room", "model_0000002.pth is untouched", "--resume"):
        assert words in str(error.value)
    saver.save("model_0000005", iteration=5)
    assert checkpointer(tmp_path).last().endswith("model_0000005.pth")


def test_leftovers_of_a_killed_save_are_removed(tmp_path):
    save_iterations(tmp_path, 2)
    leftover = tmp_path / ".model_0000005.pth.123.tmp"
    leftover.write_bytes(b"half")
    checkpointer(tmp_path).remove_leftovers()
    assert not leftover.exists()
    assert (tmp_path / "model_0000002.pth").is_file()


def test_digest_sees_every_part():
    base = {"a": torch.ones(2, 3), "b": [1, 2.0, "x", None], "c": {"d": True}}
    others = [
        base | {"a": torch.ones(3, 2)},
        base | {"a": torch.ones(2, 3, dtype=torch.float64)},
        base | {"a": torch.tensor([[1, 1, 1], [1, 1, 1.0000001]])},
        base | {"b": [1, 2.0, "x", 0]},
        base | {"c": {"e": True}},
        base | {"z": 0},
    ]
    digests = {content_digest(each) for each in [base, *others]}
    assert len(digests) == 7
    again = {"a": torch.ones(3, 2).t(), "b": (1, 2.0, "x", None), "c": {"d": True}}
    assert content_digest(again) == content_digest(base)
    assert content_digest(torch.ones(2, dtype=torch.bfloat16)) != content_digest(torch.ones(2))


def test_weights_by_caffe2_names_and_pycls(tmp_path):
    model = checkpointer(tmp_path)
    names = {name: np.full(tensor.shape, 7.0) for name, tensor in model.model.state_dict().items()}
    path = tmp_path / "zoo.pkl"
    path.write_bytes(pickle.dumps({"model": names, "__author__": "zoo"}))
    model.start_from(str(path))
    assert all((tensor == 7).all() for tensor in model._teacher.model.state_dict().values())


@pytest.mark.parametrize("content", [[1, 2], "text", 3])
@pytest.mark.parametrize("suffix", ["pkl", "pth"])
def test_files_without_weights(tmp_path, content, suffix):
    path = tmp_path / f"w.{suffix}"
    if suffix == "pkl":
        path.write_bytes(pickle.dumps(content))
    else:
        torch.save(content, path)
    with pytest.raises(CheckpointError, match="holds no dict"):
        checkpointer(tmp_path).start_from(str(path))


def test_resume_demands_that_everything_fits(tmp_path):
    save_iterations(tmp_path, 2)
    with pytest.raises(CheckpointError) as error:
        checkpointer(tmp_path, width=5).resume()
    message = str(error.value)
    assert "model_0000002.pth: cannot be resumed" in message
    assert "3x4 in the file, 5x4 in the model" in message
    assert "missing" not in message, "what is mis-shaped is not missing as well"


def test_a_file_that_has_nothing_for_the_model(tmp_path):
    path = tmp_path / "w.pth"
    torch.save({"backbone.conv": torch.ones(2)}, path)
    with pytest.raises(CheckpointError, match="no tensor for this model"):
        checkpointer(tmp_path).start_from(str(path))


def test_class_counts_name_both_and_the_key(tmp_path, caplog):
    eight = tiny_model()
    path = tmp_path / "eight.pth"
    torch.save({"model": eight.state_dict()}, path)
    three = tiny_model({"MODEL.ROI_HEADS.NUM_CLASSES": 3})
    saver = AdaptationCheckpointer(three, EMATeacher(three, model=three.teacher_copy()))
    with caplog.at_level(logging.WARNING):
        saver.start_from(str(path))
    words = "has 8 classes, the model has 3 (MODEL.ROI_HEADS.NUM_CLASSES)"
    assert words in caplog.text
    assert "cls_score.weight" in caplog.text and "9x32 in the file, 4x32" in caplog.text
    with pytest.raises(CheckpointError, match="8 classes, the model has 3"):
        saver.start_from(str(path), refused=("mis-shaped",))


def test_report_is_short():
    missing = [f"domain_heads.level{i}.weight" for i in range(30)]
    report = key_report(missing, ["a.b.c.weight", "a.b.c.bias"], [("x.y", (2, 3), (4, 3))])
    assert len(report.splitlines()) <= 16
    assert "2x3 in the file, 4x3 in the model" in report
    assert "20 more rows" in report or "more rows" in report


def test_missing_file(tmp_path):
    with pytest.raises(ConfigError, match="no such file"):
        checkpointer(tmp_path).start_from(str(tmp_path / "none.pth"))


def test_best_survives_a_resume(tmp_path):
    class Storage:
        def latest(self):
            return {"student/AP50": (self.value, self.iteration)}

    class Trainer:
        storage, max_iter, iter = Storage(), 100, 0

    saved = []

    class Saver:
        def save(self, name, iteration):
            saved.append((name, iteration))

    def measure(hook, iteration, value):
        hook.trainer = Trainer()
        hook.trainer.iter = hook.trainer.storage.iteration = iteration
        hook.trainer.storage.value = value
        hook.after_step()

    first = BestCheckpoints(Saver(), {"model_best": "student/AP50"})
    for iteration, value in ((9, 30.0), (19, float("nan")), (29, 20.0), (39, 31.0)):
        measure(first, iteration, value)
    second = BestCheckpoints(Saver(), {"model_best": "student/AP50"})
    second.load_state_dict(first.state_dict())
    measure(second, 49, 30.5)
    measure(second, 59, 32.0)
    second.trainer.iter = 60  # nothing measured here
    second.after_step()
    assert saved == [("model_best", 9), ("model_best", 39), ("model_best", 59)]
