"""Runs that are killed, repeated, and fed with images that cannot be read."""

from __future__ import annotations

import errno
import json
import os
import random
import shutil
import signal
import socket
import time
from pathlib import Path

import distributed_runs
import pytest
import torch
from processes import draw_tiny_cityscapes, run, start, training

from mic_det.config import ConfigError
from mic_det.data.formats.coco import DataError
from mic_det.data.loader import SampleStream, domain_batches
from mic_det.engine import build_trainer
from mic_det.engine.output_folder import sole_run

ITERATIONS = 16


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return draw_tiny_cityscapes(tmp_path_factory.mktemp("data"))


@pytest.fixture(autouse=True)
def _environment(data, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(data))


def final(folder: Path) -> dict[str, torch.Tensor]:
    saved = torch.load(folder / "model_final.pth", weights_only=True)
    momentum = saved["trainer"]["optimizer"]["state"]
    return {
        **{f"model.{name}": tensor for name, tensor in saved["model"].items()},
        **{f"teacher.{name}": tensor for name, tensor in saved["teacher"].items()},
        **{f"{i}.{name}": each for i, s in momentum.items() for name, each in s.items()},
    }


def assert_same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> None:
    assert first.keys() == second.keys()
    assert [name for name in first if not torch.equal(first[name], second[name])] == []


@pytest.fixture(scope="module")
def straight(data, tmp_path_factory) -> Path:
    """A run that nothing happened to."""
    folder = tmp_path_factory.mktemp("straight")
    overrides = ("SOLVER.MAX_ITER", str(ITERATIONS), "DATASETS.TEST", "()")
    code, output = run(data, *training(folder, *overrides))
    assert code == 0, output[-3000:]
    return folder


def test_killed_three_times_and_resumed_with_workers_ends_the_same(data, straight, tmp_path):
    random.seed(7)
    overrides = ("SOLVER.MAX_ITER", str(ITERATIONS), "DATASETS.TEST", "()")
    overrides += ("SOLVER.CHECKPOINT_PERIOD", "2", "DATALOADER.NUM_WORKERS", "2")
    arguments = training(tmp_path, *overrides, flags=("--resume",))
    tag = tmp_path / "last_checkpoint"
    starts = []
    for _ in range(3):
        seen = tag.read_text() if tag.is_file() else ""
        process = start(data, *arguments)
        deadline = time.monotonic() + 300
        while not tag.is_file() or tag.read_text() == seen:
            assert process.poll() is None, process.stdout.read()[-3000:]
            assert time.monotonic() < deadline
            time.sleep(0.01)
        time.sleep(random.uniform(0.0, 0.3))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert process.returncode == -signal.SIGKILL, "it must not have been finished"
        starts.append(tag.read_text())
    code, output = run(data, *arguments)
    assert code == 0, output[-3000:]
    assert len(set(starts)) == 3
    assert_same(final(straight), final(tmp_path))


ENDLESS = ("SOLVER.MAX_ITER", "100000", "SOLVER.CHECKPOINT_PERIOD", "2", "DATASETS.TEST", "()")


def begun(data: Path, folder: Path, *settings: str, **keywords):
    """A run without an end that has written its first checkpoint."""
    process = start(data, *training(folder, *ENDLESS, *settings), **keywords)
    deadline = time.monotonic() + 300
    while not (folder / "last_checkpoint").is_file():
        assert process.poll() is None, process.stdout.read()[-3000:]
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return process


def test_sigterm_to_all_processes_saves_and_a_resumed_run_ends_the_same(data, straight, tmp_path):
    overrides = ("SOLVER.MAX_ITER", str(ITERATIONS), "DATASETS.TEST", "()")
    overrides += ("SOLVER.CHECKPOINT_PERIOD", "1000", "DATALOADER.NUM_WORKERS", "2")
    arguments = training(tmp_path, *overrides, flags=("--resume",))
    process = start(data, *arguments, start_new_session=True)
    deadline = time.monotonic() + 300
    while "Starting training" not in (process.stdout.readline() or "Starting training"):
        assert time.monotonic() < deadline
    time.sleep(0.5)
    os.killpg(process.pid, signal.SIGTERM)  # the workers of its loaders too
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM, output[-3000:]
    assert "Stopped by SIGTERM after" in output and "--resume" in output
    assert "Traceback" not in output, output[-3000:]
    assert (tmp_path / "last_checkpoint").read_text() != "model_final.pth"
    code, output = run(data, *arguments)
    assert code == 0, output[-3000:]
    assert_same(final(straight), final(tmp_path))


def test_a_folder_is_one_runs_alone(data, tmp_path):
    """Nothing else trains or evaluates in it, nor begins anew where a run has been."""
    first = begun(data, tmp_path)
    try:
        leftover = tmp_path / f".model_0000001.pth.{first.pid}.tmp"
        leftover.touch()
        weights = ("MODEL.WEIGHTS", str(tmp_path / (tmp_path / "last_checkpoint").read_text()))
        for flag, more in (("--resume", ENDLESS), ("--eval-only", weights)):
            before = (tmp_path / "config.yaml").read_bytes()
            code, output = run(data, *training(tmp_path, *more, flags=(flag,)))
            assert code == 2, output[-3000:]
            assert f"in use by process {first.pid} on {socket.gethostname()} since 20" in output
            assert "Traceback" not in output
            assert (tmp_path / "config.yaml").read_bytes() == before
        assert leftover.exists() and first.poll() is None
    finally:
        first.kill()
        first.communicate()
    code, output = run(data, *training(tmp_path))
    assert code == 2 and "Traceback" not in output
    assert "has a run that was begun (last checkpoint: " in output and "--resume" in output


def test_a_finished_run_is_not_begun_again(data, straight):
    code, output = run(data, *training(straight))
    assert code == 2 and "has a run that is finished" in output


def test_without_locks_a_run_begins_with_a_warning(tmp_path, monkeypatch, caplog):
    def no_locks(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("mic_det.engine.output_folder.fcntl.lockf", no_locks)
    with sole_run(str(tmp_path / "run")):
        assert "has no locks" in caplog.text and "start none" in caplog.text


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").touch()
    with (
        pytest.raises(ConfigError, match=r"OUTPUT_DIR .*file/run cannot be written"),
        sole_run(str(tmp_path / "file" / "run")),
    ):
        pass


def test_the_console_gets_few_lines_before_the_training_and_the_log_all(data, tmp_path):
    few = ("SOLVER.MAX_ITER", "1", "SOLVER.WARMUP_ITERS", "0", "DATASETS.TEST", "()")
    code, output = run(data, *training(tmp_path, *few))
    assert code == 0, output[-3000:]
    before = output.partition("Starting training")[0]
    assert before.count("\n") < 25
    for words in (
        *("Task       detection", "Config     configs/streets_mic.yaml", f"Output     {tmp_path}"),
        *("Device     cpu", "Weights    random", "Source     cityscapes_det_train"),
        *("Target     foggy_cityscapes_train", "Test       none", "Seed       1"),
        *("1 iterations of 2 source and 2 target images", "SOLVER.WARMUP_ITERS 0"),
    ):
        assert words in before
    log = (tmp_path / "log.txt").read_text()
    assert "\x1b" not in output + log
    for words in ("Environment info", "Running with full config", "Installation: {", "Seed  "):
        assert words in log


def test_reproduce_repeats_a_run_to_the_bit(data, straight, tmp_path):
    original = shutil.copytree(straight, tmp_path / "run")
    code, output = run(data, "--reproduce", str(original))
    assert code == 0, output[-3000:]
    assert_same(final(straight), final(tmp_path / "run_again"))
    start = json.loads((original / "run_record.json").read_text())["starts"][0]
    assert start["seed"] == 1 and start["processes"] == 1
    assert "train_net.py" in start["command"] and "SOLVER.MAX_ITER 16" in start["command"]
    assert len(start["git"].removesuffix("+changes")) == 40 or start["git"] == "unknown"
    assert {"python", "torch", "detectron2", "gpu"} <= start["installation"].keys()
    assert start["hardware"]["cores"] >= 1 and start["hardware"]["memory_gib"] > 0
    assert "SEED: 1" in (original / "run_config.yaml").read_text()


def test_reproduce_without_a_record(data, tmp_path):
    code, output = run(data, "--reproduce", str(tmp_path))
    assert code == 2
    assert "there is no run_record.json" in output and "Traceback" not in output


def test_a_trainer_knows_where_to_begin_and_to_end(tmp_path):
    few = ("SOLVER.MAX_ITER", "4", "SOLVER.CHECKPOINT_PERIOD", "2", "DATASETS.TEST", "()")
    cfg = distributed_runs.small_config(tmp_path, *few)
    build_trainer(cfg, writers=list).train(0, 2)
    trainer = build_trainer(cfg, resume=True, writers=list)
    trainer.train()
    assert (trainer.start_iter, trainer.storage.iter) == (2, 4)


@pytest.mark.parametrize(("source", "target"), [(2, 2), (4, 2), (1, 3)])
def test_batch_sizes(source, target, tmp_path):
    sizes = ("SOLVER.IMS_PER_BATCH", str(source), "SOLVER.TARGET_IMS_PER_BATCH", str(target))
    cfg = distributed_runs.small_config(tmp_path, *sizes, "DATASETS.TEST", "()")
    trainer = build_trainer(cfg, writers=list)
    trainer.train(0, 2)
    assert [len(batch) for batch in trainer.batch] == [source, target]
    latest = trainer.storage.latest()
    for name in ("loss_cls", "loss_da_image", "loss_da_consistency", "loss_mic_roi_cls"):
        assert latest[name][0] > 0, name


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_mixed_precision_trains(dtype, tmp_path):
    amp = ("SOLVER.AMP.ENABLED", "True", "SOLVER.AMP.DTYPE", dtype, "DATASETS.TEST", "()")
    trainer = build_trainer(distributed_runs.small_config(tmp_path, *amp), writers=list)
    trainer.train(0, 2)
    assert trainer.guard.skipped == 0
    assert trainer.storage.latest()["loss_mic_roi_cls"][0] > 0


@pytest.mark.parametrize(("dtype", "warnings"), [("bfloat16", 0), ("float16", 1)])
def test_float16_on_a_cpu_is_warned_of_once(dtype, warnings, tmp_path, caplog):
    amp = ("SOLVER.AMP.ENABLED", "True", "SOLVER.AMP.DTYPE", dtype, "DATASETS.TEST", "()")
    build_trainer(distributed_runs.small_config(tmp_path, *amp), writers=list)
    assert caplog.text.count("SOLVER.AMP.DTYPE float16 on a CPU") == warnings


SOURCES, TARGETS = "cityscapes/leftImg8bit/train", "cityscapes/leftImg8bit_foggy/train"


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:200])


def damaged_copy(data: Path, tmp_path: Path, monkeypatch, *names: str) -> None:
    """Data sets in which these images of the target are cut off."""
    root = shutil.copytree(data, tmp_path / "data")
    for name in names:
        truncate(root / TARGETS / name)
    monkeypatch.setenv("DETECTRON2_DATASETS", str(root))


BAD = "03_foggy_beta_0.02.png"


def batches(cfg, count: int, start: int = 0) -> list[list[str]]:
    stream = domain_batches(cfg, seed=3, start=start)
    return [[Path(each["file_name"]).name for each in next(stream)[1]] for _ in range(count)]


def test_an_unreadable_image_is_replaced_alike_by_any_worker(data, tmp_path, monkeypatch, caplog):
    damaged_copy(data, tmp_path, monkeypatch, BAD)
    allow = ("DATALOADER.MAX_UNREADABLE", "0.2")
    cfg = distributed_runs.small_config(tmp_path, *allow)
    alone = batches(cfg, 14)
    assert BAD not in {name for batch in alone for name in batch}
    assert caplog.text.count(BAD) == 1, "it is said once"
    helped = distributed_runs.small_config(tmp_path, *allow, "DATALOADER.NUM_WORKERS", "2")
    assert batches(helped, 14) == alone
    assert batches(cfg, 7, start=7) == alone[7:]


def test_too_many_unreadable_images_stop_the_run(data, tmp_path, monkeypatch):
    bad = [BAD, "05_foggy_beta_0.02.png"]
    damaged_copy(data, tmp_path, monkeypatch, *bad)
    share = ("DATALOADER.MAX_UNREADABLE", "0.2")
    cfg = distributed_runs.small_config(tmp_path, *share, "DATALOADER.NUM_WORKERS", "1")
    with pytest.raises(DataError) as error:
        batches(cfg, 14)
    for words in ("DATASETS.TARGET: 2 of its 7 images", "DATALOADER.MAX_UNREADABLE", *bad):
        assert words in str(error.value)


def test_one_percent_is_the_default(data, tmp_path, monkeypatch):
    damaged_copy(data, tmp_path, monkeypatch, BAD)
    with pytest.raises(DataError, match=BAD):
        batches(distributed_runs.small_config(tmp_path), 14)


def test_no_image_can_be_read(data, tmp_path, monkeypatch):
    names = [path.name for path in (data / TARGETS).iterdir()]
    damaged_copy(data, tmp_path, monkeypatch, *names)
    cfg = distributed_runs.small_config(tmp_path, "DATALOADER.MAX_UNREADABLE", "1.0")
    with pytest.raises(DataError, match="images cannot be read"):
        batches(cfg, 3)


def test_an_error_that_is_not_the_images_is_raised(data):
    path = next((data / SOURCES).iterdir())

    def broken(record):
        raise OSError("not the image's fault")

    with pytest.raises(OSError, match="not the image's fault"):
        SampleStream([{"file_name": str(path)}], broken, 0, 0)[0]
