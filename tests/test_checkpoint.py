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
from mic_det.errors import DivergedError
from mic_det.weights_file import CheckpointError


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


def fill(saver, value: float, which: str, key: str = "0.weight") -> None:
    model = saver._teacher.model if which == "teacher" else saver.model
    with torch.no_grad():
        model.state_dict()[key].flatten()[0] = value


@pytest.mark.parametrize("which", ["model", "teacher"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("name", ["model_0000008", "model_best", "model_final"])
def test_what_is_not_finite_is_not_saved_and_costs_no_good_checkpoint(tmp_path, which, value, name):
    saver = save_iterations(tmp_path, 2, 5, keep=1)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    fill(saver, value, which)
    with pytest.raises(DivergedError) as error:
        saver.save(name, iteration=8)
    for words in (f"{name}.pth", f"{which}.0.weight", "model_0000005.pth; --resume", "BASE_LR"):
        assert words in str(error.value)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    resumed = checkpointer(tmp_path)
    assert resumed.resume() and resumed.checkpointables["trainer"].iteration == 5


def test_statistics_and_the_optimizer_count_as_well(tmp_path):
    network = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.BatchNorm1d(2))
    saver = AdaptationCheckpointer(network, EMATeacher(network), str(tmp_path))
    saver.save("model_0000001")
    network[1].running_var[1] = float("nan")
    with pytest.raises(DivergedError, match=r"model\.1\.running_var is NaN"):
        saver.save("model_0000002")
    network[1].running_var[1] = 3e38
    network[0].weight.data.fill_(3e38)  # their sum is infinite, they are not
    saver.save("model_0000002")
    moments = {"state": {0: {"exp_avg": torch.full((2,), float("inf"))}}}
    with pytest.raises(DivergedError, match=r"optimizer\.state\.0\.exp_avg"):
        saver.save("model_0000003", optimizer=moments)


def test_a_last_checkpoint_of_former_versions_that_is_not_finite_gives_way(tmp_path, caplog):
    save_iterations(tmp_path, 2, 5)
    path = tmp_path / "model_0000005.pth"
    saved = torch.load(path, weights_only=True)
    saved["teacher"]["1.bias"][0] = float("nan")
    del saved["digest"]
    torch.save(saved, path)
    resumed = checkpointer(tmp_path)
    with caplog.at_level(logging.WARNING):
        assert resumed.resume()
    assert resumed.checkpointables["trainer"].iteration == 2
    assert "model_0000005.pth: teacher: 1.bias is NaN or infinite" in caplog.text


def weights_of(kind: torch.dtype = torch.float32) -> dict[str, torch.Tensor]:
    return {
        name: torch.full_like(tensor, 3).to(kind)
        for name, tensor in checkpointer(Path("unused")).model.state_dict().items()
    }


@pytest.mark.parametrize("suffix", ["pth", "pkl", "pyth"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e300])
def test_weights_that_are_not_finite_are_refused(tmp_path, suffix, value):
    state = weights_of(torch.float64)
    state["1.weight"][0, 0] = value  # 1e300 is infinite as float32
    path = tmp_path / f"w.{suffix}"
    if suffix == "pkl":
        arrays = {name: tensor.numpy() for name, tensor in state.items()}
        path.write_bytes(pickle.dumps({"model": arrays, "__author__": "zoo"}))
    else:
        torch.save({"model_state" if suffix == "pyth" else "model": state}, path)
    with pytest.raises(CheckpointError, match=rf"w\.{suffix}: model: 1\.weight is NaN or infinite"):
        checkpointer(tmp_path).start_from(str(path))


@pytest.mark.parametrize("kind", [torch.int8, torch.uint8, torch.int64, torch.bool])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_integer_weights_are_refused(tmp_path, kind, prefix):
    path = tmp_path / "w.pth"
    state = {prefix + name: tensor for name, tensor in weights_of().items()}
    torch.save({"model": state | {f"{prefix}1.weight": torch.ones(2, 3).to(kind)}}, path)
    name = str(kind).removeprefix("torch.")
    with pytest.raises(CheckpointError, match=rf"w\.pth: model: {prefix}1\.weight is {name}"):
        checkpointer(tmp_path).start_from(str(path))


def test_integer_weights_by_other_names_are_refused(tmp_path):
    path = tmp_path / "w.pkl"
    path.write_bytes(pickle.dumps({"blobs": {"conv1_w": np.ones((3, 4), np.int8)}}))
    with pytest.raises(CheckpointError, match=r"w\.pkl: model: conv1_w is int8"):
        checkpointer(tmp_path).start_from(str(path))


@pytest.mark.parametrize("kind", [torch.half, torch.bfloat16, torch.double, torch.float8_e5m2])
def test_other_floating_point_numbers_and_counters_are_taken(tmp_path, kind):
    network = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.BatchNorm1d(2))
    saver = AdaptationCheckpointer(network, EMATeacher(network))
    state = {
        name: torch.full_like(tensor, 3).to(kind if tensor.is_floating_point() else tensor.dtype)
        for name, tensor in network.state_dict().items()
    }
    torch.save(state, tmp_path / "w.pth")
    saver.start_from(str(tmp_path / "w.pth"), refused=("missing", "unexpected", "mis-shaped"))
    assert all((tensor == 3).all() for tensor in saver._teacher.model.state_dict().values())
    assert network[0].weight.dtype == torch.float32


@pytest.mark.parametrize("content", [{"model": 3}, {"model": {"0.weight": 1.5}}, {"epoch": 3}])
def test_what_is_no_state_dict_is_named(tmp_path, content):
    torch.save(content, tmp_path / "w.pth")
    with pytest.raises(CheckpointError, match=r"w\.pth: .*no dict of tensors|is no tensor but"):
        checkpointer(tmp_path).start_from(str(tmp_path / "w.pth"))


@pytest.mark.parametrize("name", ["model_best", "model_final"])
def test_a_damaged_best_or_final_one_gives_way_to_this_runs_last(tmp_path, name):
    """Not to another run's, whatever its iterations: a former run has left files there."""
    save_iterations(tmp_path, 1, 3, 9, 40, keep=4)
    saver = save_iterations(tmp_path, 2, 5, keep=9)
    saver.save(name, iteration=5)
    truncate(tmp_path / f"{name}.pth")
    resumed = checkpointer(tmp_path, keep=9)
    assert resumed.resume() and resumed.checkpointables["trainer"].iteration == 5
    truncate(tmp_path / "model_0000005.pth")
    truncate(tmp_path / "model_0000002.pth")
    with pytest.raises(CheckpointError, match=r"model_0000001\.pth, .*40.* is of this run, write"):
        checkpointer(tmp_path).resume()
    # What the resumed run writes comes after what it went on from.
    (tmp_path / "last_checkpoint").write_text("model_0000009.pth")
    resumed.save("model_0000006", iteration=6)
    truncate(tmp_path / "model_0000006.pth")
    with pytest.raises(CheckpointError, match=r"\(model_0000006\.pth, model_0000005\.pth"):
        checkpointer(tmp_path).resume()


def test_a_damaged_best_one_of_former_versions_is_not_guessed_for(tmp_path):
    saver = save_iterations(tmp_path, 2, 5)
    saver.save("model_best", iteration=5)
    (tmp_path / "checkpoint_history").unlink()
    truncate(tmp_path / "model_best.pth")
    with pytest.raises(CheckpointError, match=r"model_0000005\.pth is of this run, write its name"):
        checkpointer(tmp_path).resume()
    (tmp_path / "last_checkpoint").write_text("model_0000005.pth")
    truncate(tmp_path / "model_0000005.pth")
    resumed = checkpointer(tmp_path)
    assert resumed.resume() and resumed.checkpointables["trainer"].iteration == 2


def test_nothing_is_deleted_for_a_checkpoint_while_steps_are_skipped(tmp_path):
    saver = save_iterations(tmp_path, 1, 2, keep=2)
    trainer = saver.checkpointables["trainer"]
    for skipped, kept in ((1, 3), (0, 2)):
        health = {"skipped_in_a_row": skipped}
        trainer.state_dict = lambda health=health: {"iteration": 3, "health": health}
        saver.save(f"model_{4 - skipped:07d}", iteration=3)
        assert len(list(tmp_path.glob("*.pth"))) == kept
