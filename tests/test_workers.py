"""Worker processes of loaders that hang, are killed, or get a signal meant for the whole job."""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import distributed_runs
import pytest
import seg_domains
import torch
from class_trees import register_trees, tiny_config
from processes import REPOSITORY, draw_tiny_cityscapes, environment, training

from mic_det.classification.mapper import SquareMapper
from mic_det.config import ConfigError
from mic_det.data.loader import SampleStream, WorkerError, stream_loader
from mic_det.data.mapper import DomainMapper
from mic_det.data.segmentation.mapper import SegmentationMapper
from mic_det.engine import build_trainer
from mic_det.engine.evaluation import evaluate

TASKS = {
    "detection": DomainMapper,
    "segmentation": SegmentationMapper,
    "classification": SquareMapper,
}
WORKERS = ("DATALOADER.NUM_WORKERS", "1", "DATALOADER.TIMEOUT", "2", "SOLVER.WARMUP_ITERS", "0")


@pytest.fixture(params=TASKS)
def cfg(request, tmp_path, monkeypatch, clean_catalogs):
    """A small run of each task whose loaders have a worker."""
    if request.param == "detection":
        monkeypatch.setenv("DETECTRON2_DATASETS", str(draw_tiny_cityscapes(tmp_path / "data")))
        return distributed_runs.small_config(tmp_path / "run", *WORKERS)
    if request.param == "segmentation":
        domains = seg_domains.write_domains(tmp_path / "data")
        return seg_domains.small_config("mic", domains, tmp_path / "run", *WORKERS)
    register_trees(tmp_path / "data")
    return tiny_config(tmp_path / "run", "mic", *WORKERS)


def in_workers(monkeypatch, cfg, act) -> None:
    """Let the task's mapper do something else in worker processes."""
    mapper = TASKS[cfg.MODEL.TASK]
    usual = mapper.__call__

    def call(self, record):
        if torch.utils.data.get_worker_info() is not None:
            act()
        return usual(self, record)

    monkeypatch.setattr(mapper, "__call__", call)


def hang() -> None:
    time.sleep(60)


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize("part", ["training", "evaluation"])
@pytest.mark.parametrize(
    ("act", "reason"), [(hang, "timed out after 2 s"), (die, "Killed|exited")], ids=["hang", "die"]
)
def test_a_loader_that_gives_nothing_ends_with_what_to_do(cfg, act, reason, part, monkeypatch):
    trainer = build_trainer(cfg, writers=list)
    in_workers(monkeypatch, cfg, act)
    begin = time.monotonic()
    with pytest.raises(WorkerError, match=reason) as error:
        if part == "training":
            trainer.train()
        else:
            evaluate(cfg, trainer.student, trainer.teacher)
    assert time.monotonic() - begin < 50
    for words in ("/dev/shm", "--shm-size", "SIGKILL", "DATALOADER.NUM_WORKERS 0", "TIMEOUT"):
        assert words in str(error.value)


def test_a_full_dev_shm_ends_a_run(tmp_path):
    """In a mount namespace of its own, for root alone."""
    mount = "mount -t tmpfs -o size=1m tmpfs /dev/shm && "
    inside = ("unshare", "-m", "sh", "-c", f'{mount}exec "$@"', "sh")
    if shutil.which("unshare") is None or subprocess.run([*inside, "true"]).returncode:
        pytest.skip("no mount namespaces here")
    data = draw_tiny_cityscapes(tmp_path / "data")
    large = ("INPUT.MIN_SIZE_TRAIN", "(300,)", "INPUT.MAX_SIZE_TRAIN", "800")
    settings = training(tmp_path / "run", *WORKERS, *large, "DATASETS.TEST", "()")
    command = [*inside, sys.executable, "tools/train_net.py", *settings, "DATALOADER.TIMEOUT", "10"]
    ended = subprocess.run(
        command, cwd=REPOSITORY, env=environment(data), capture_output=True, text=True, timeout=120
    )
    assert ended.returncode == 2
    assert ended.stderr.count("error: The worker processes that load images give nothing") == 1
    assert " of 1 MB are free now" in ended.stderr and "--shm-size" in ended.stderr


def test_a_timeout_below_zero_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"DATALOADER\.TIMEOUT is in seconds"):
        distributed_runs.small_config(tmp_path, "DATALOADER.TIMEOUT", "-1")


def slow_pid(record) -> dict:
    time.sleep(0.2)
    return {"image": os.getpid()}


def test_workers_go_on_after_a_sigterm_to_all_processes_but_end_with_the_main_one():
    """In processes of several threads, any of which may get the signal."""
    command = [sys.executable, "-c", "import test_workers; test_workers.get_sigterm()"]
    several = environment(REPOSITORY)
    done = subprocess.run(command, env=several, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-3000:]


def get_sigterm() -> None:
    """A worker goes on after a SIGTERM of another process than its own main one."""

    def start_thread() -> None:  # as libraries of linear algebra do
        threading.Thread(target=time.sleep, args=(60,), daemon=True).start()

    os.register_at_fork(after_in_child=start_thread)
    stream = SampleStream([{"file_name": "x"}], slow_pid, 0, 0)
    batches = iter(stream_loader(stream, 1, 0, 1, timeout=10))
    pid = next(batches)[0]["image"]
    # The sender is another process than the one that has started the worker.
    subprocess.run(["kill", "-TERM", str(pid)], check=True)
    for batch in itertools.islice(batches, 5):
        assert batch[0]["image"] == pid
    os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + 10
    while Path(f"/proc/{pid}").exists() and "Z" not in Path(f"/proc/{pid}/stat").read_text():
        assert time.monotonic() < deadline
        time.sleep(0.05)
