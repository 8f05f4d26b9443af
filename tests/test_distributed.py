"""Two processes on the CPU, with gloo, against one."""

from __future__ import annotations

import json
import os
import re
import signal
import sys
import threading
import time
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import distributed_runs
import pytest
import torch
from detectron2.utils import comm
from processes import TOOL, draw_tiny_cityscapes, run, start, training

from mic_det.config import ConfigError
from mic_det.engine.build import check_batches
from mic_det.engine.launch import ProcessError, _join, _raise_for, launch

ITERATIONS = 20


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return draw_tiny_cityscapes(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def runs(data, tmp_path_factory) -> tuple[Path, Path]:
    """Folders of what one process and what two have done."""
    one, two = tmp_path_factory.mktemp("one"), tmp_path_factory.mktemp("two")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DETECTRON2_DATASETS", str(data))
        patch.setenv("OMP_NUM_THREADS", "1")
        launch(distributed_runs.scenarios, 2, args=(two, ITERATIONS))
        torch.manual_seed(0)
        distributed_runs.scenarios(one, ITERATIONS)
    return one, two


def load(folder: Path, scenario: str, rank: int = 0) -> dict:
    return torch.load(folder / scenario / f"rank{rank}.pth", weights_only=True)


def distance(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> float:
    assert first.keys() == second.keys()
    return sum(float((first[n].double() - second[n].double()).square().sum()) for n in first) ** 0.5


def test_gradients_equal_those_of_one_process(runs):
    one, two = (load(folder, "same")["gradients"] for folder in runs)
    for name, gradient in one.items():
        torch.testing.assert_close(
            two[name], gradient, rtol=1e-3, atol=1e-6, msg=lambda m, n=name: f"{n}: {m}"
        )
    nothing = {name: torch.zeros_like(gradient) for name, gradient in one.items()}
    assert distance(one, two) < 1e-5 * distance(one, nothing)


def test_weights_after_20_iterations_equal_those_of_one_process(runs):
    """To a small part of the way they went: rounding turns a ReLU or a matched anchor at times."""
    one, two = (load(folder, "same") for folder in runs)
    assert distance(one["start"], two["start"]) == 0.0
    for kind in ("student", "teacher"):
        for name, tensor in one[kind].items():
            torch.testing.assert_close(
                two[kind][name], tensor, rtol=0, atol=1e-4, msg=lambda m, n=name: f"{n}: {m}"
            )
    way = distance(one["student"], one["start"])
    assert distance(one["student"], two["student"]) < 0.01 * way


def test_that_was_a_run_worth_comparing(runs):
    one, two = runs
    first = load(two, "same", 0)["counts"]
    second = load(two, "same", 1)["counts"]
    assert load(one, "same")["counts"] == [a + b for a, b in zip(first, second, strict=True)]
    alone = [(sum(a) > 0) != (sum(b) > 0) for a, b in zip(first, second, strict=True)]
    assert any(alone), "there must be steps in which one process has no pseudo label"
    assert any(sum(a) and sum(b) for a, b in zip(first, second, strict=True))


def test_students_and_teachers_are_the_same_everywhere(runs):
    first, second = (load(runs[1], "same", rank) for rank in (0, 1))
    for kind in ("student", "teacher", "gradients"):
        for name, tensor in first[kind].items():
            assert torch.equal(tensor, second[kind][name]), name


def test_evaluation_gathers_an_uneven_number_of_images(runs, data, tmp_path, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(data))
    together = runs[1] / "predictions"
    distributed_runs.predict(tmp_path, runs[1] / "fault" / "model_final.pth")
    (detections,) = tmp_path.glob("*/coco_instances_results.json")
    for path in (tmp_path / "metrics.json", detections):
        alone = json.loads(path.read_text())
        found = json.loads((together / path.relative_to(tmp_path)).read_text())
        # This process may have more threads than those had, and sum in another order.
        assert_near(found, alone)
    assert {each["image_id"] for each in alone} == set(range(5)), "each image has detections"


def assert_near(found, expected) -> None:
    """The same content, numbers but for float32's rounding through some thirty layers."""
    if isinstance(expected, dict):
        assert found.keys() == expected.keys()
        for key, value in expected.items():
            assert_near(found[key], value)
    elif isinstance(expected, list):
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            assert_near(one, other)
    elif isinstance(expected, float):
        assert found == pytest.approx(expected, rel=1e-5, abs=1e-5)
    else:
        assert found == expected


def test_nan_in_one_process_skips_the_step_in_all(runs):
    first, second = (load(runs[1], "fault", rank) for rank in (0, 1))
    assert first["skipped"] == second["skipped"] == 1
    for name, tensor in first["student"].items():
        assert torch.isfinite(tensor).all() and torch.equal(tensor, second["student"][name]), name


def wait_for(process, path: Path, seconds: float = 240.0) -> None:
    deadline = time.monotonic() + seconds
    while not path.is_file():
        assert process.poll() is None, process.stdout.read()
        assert time.monotonic() < deadline, f"no {path}"
        time.sleep(0.1)


def ranks_of(parent: int) -> list[int]:
    """Process ids of the ranks, in the order in which they were started."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            stat = (entry / "stat").read_text().rsplit(")", 1)[1].split()
            command = (entry / "cmdline").read_bytes().decode()
        except (OSError, IndexError):
            continue
        if int(stat[1]) == parent and "spawn_main" in command:
            found.append(int(entry.name))
    return sorted(found)


def test_a_killed_process_ends_the_run_with_a_message(data, tmp_path):
    overrides = ("SOLVER.MAX_ITER", "100000", "SOLVER.CHECKPOINT_PERIOD", "2")
    process = start(data, *training(tmp_path, *overrides, flags=("--num-gpus", "2")))
    wait_for(process, tmp_path / "last_checkpoint")
    ranks = ranks_of(process.pid)
    assert len(ranks) == 2
    os.kill(ranks[1], signal.SIGKILL)
    killed = time.monotonic()
    output, _ = process.communicate(timeout=60)
    assert time.monotonic() - killed < 60
    assert process.returncode == 2
    assert "Process 1 was killed by SIGKILL" in output
    assert "--resume goes on from the last checkpoint" in output
    assert "Traceback" not in output, output[-3000:]
    assert not any(Path(f"/proc/{rank}").exists() for rank in ranks)


@pytest.mark.parametrize("receiver", ["launcher", "rank 1"])
def test_sigterm_to_one_process_ends_all_after_the_same_iteration(receiver, data, tmp_path):
    overrides = ("SOLVER.MAX_ITER", "100000", "SOLVER.CHECKPOINT_PERIOD", "2")
    process = start(data, *training(tmp_path, *overrides, flags=("--num-gpus", "2")))
    wait_for(process, tmp_path / "last_checkpoint")
    ranks = ranks_of(process.pid)
    os.kill(process.pid if receiver == "launcher" else ranks[1], signal.SIGTERM)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM, output[-3000:]
    (stopped,) = re.findall(r"Stopped by SIGTERM after (\d+) of 100000 iterations", output)
    assert "Traceback" not in output, output[-3000:]
    assert (tmp_path / "last_checkpoint").read_text() == f"model_{int(stopped) - 1:07d}.pth"
    saved = torch.load(tmp_path / f"model_{int(stopped) - 1:07d}.pth", weights_only=True)
    assert saved["iteration"] == int(stopped) - 1
    assert not any(Path(f"/proc/{rank}").exists() for rank in ranks)


def test_torchrun_and_num_gpus_train_the_same_weights(data, tmp_path):
    short = ("SOLVER.MAX_ITER", "2", "DATASETS.TEST", "()")
    code, output = run(data, *training(tmp_path / "a", *short, flags=("--num-gpus", "2")))
    assert code == 0, output[-3000:]
    torchrun = (sys.executable, "-m", "torch.distributed.run", "--standalone")
    command = (*torchrun, "--nproc-per-node", "2", str(TOOL))
    code, output = run(data, *training(tmp_path / "b", *short), command=command)
    assert code == 0, output[-3000:]
    states = [
        torch.load(tmp_path / which / "model_final.pth", weights_only=True)["teacher"]
        for which in "ab"
    ]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    record = json.loads((tmp_path / "b" / "run_record.json").read_text())
    assert record["starts"][0]["processes"] == 2


@pytest.mark.parametrize(("key", "size"), [("IMS_PER_BATCH", 3), ("TARGET_IMS_PER_BATCH", 1)])
def test_batches_that_cannot_be_shared_out(key, size, monkeypatch, tmp_path):
    monkeypatch.setattr("mic_det.engine.build.comm.get_world_size", lambda: 2)
    cfg = distributed_runs.small_config(tmp_path, f"SOLVER.{key}", str(size))
    with pytest.raises(ConfigError, match=rf"SOLVER.{key} is {size}.*multiple.*2"):
        check_batches(cfg)


def fail(marker: Path) -> None:
    """One process ends badly; the other one waits for it."""
    if comm.get_rank() == 1:
        marker.touch()
        raise ConfigError("only process 1 knows this")
    comm.synchronize()


def test_one_failing_process_ends_the_others(tmp_path):
    marker = tmp_path / "failing"
    with pytest.raises(ProcessError, match=r"^only process 1 knows this$"):
        launch(fail, 2, args=(marker,), expected=(ConfigError,))
    assert time.time() - marker.stat().st_mtime < 60


@pytest.mark.parametrize(
    ("codes", "told", "message"),
    [
        ([0, 0], [], None),
        ([2, 2], ["SEED is no number", "SEED is no number"], "^SEED is no number$"),
        ([0, 7], [], "Process 5 failed with exit code 7; its traceback is above"),
        ([3, -9], [], "Process 5 was killed by SIGKILL .*memory"),
        ([3, 0], [], "Process 4 lost contact with a process on another machine"),
        ([-15, 1], [], "(?s)Process 4 was killed by SIGTERM.*Process 5 failed"),
    ],
)
def test_what_is_said_of_failed_processes(codes, told, message, tmp_path):
    for number, text in enumerate(told):
        (tmp_path / str(number)).write_text(text)
    processes = [SimpleNamespace(exitcode=code) for code in codes]
    expected = pytest.raises(ProcessError, match=message) if message else nullcontext()
    with expected as error:
        _raise_for(processes, 4, tmp_path)
    if error is not None and 3 in codes and -9 in codes:
        assert "Process 4" not in str(error.value), "it failed because of the other"


class EndsWhenAskedAgain:
    """A process that ends between two looks at it."""

    exitcode = 0

    def __init__(self) -> None:
        self.looks = 0
        ended, writer = os.pipe()
        os.close(writer)
        self.sentinel = ended

    def is_alive(self) -> bool:
        self.looks += 1
        return self.looks == 1


def test_processes_that_end_while_they_are_looked_at_are_not_waited_for():
    waiting = threading.Thread(target=_join, args=([EndsWhenAskedAgain()],), daemon=True)
    waiting.start()
    waiting.join(10.0)
    assert not waiting.is_alive()
