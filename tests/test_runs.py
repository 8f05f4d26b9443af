"""Runs side by side: finished ones are kept, changed ones repeated, failures told."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from pathlib import Path

import pytest
from tiny_streets import CLEAR

from mic_det.engine import runs as module
from mic_det.engine.runs import ProgressPrinter, Run, RunError, run_all

REPOSITORY = Path(__file__).parents[1]

# Stands in for the training tool: writes what it writes, in no time.
TOOL = """
import json, os, sys, time
folder = sys.argv[sys.argv.index("OUTPUT_DIR") + 1]
if "fail" in folder:
    sys.exit("it broke")
if "slow" in folder:
    with open(os.path.join(folder, "pid"), "w") as file:
        file.write(str(os.getpid()))
    time.sleep(60)
with open(os.path.join(folder, "metrics.json"), "a") as file:
    file.write(json.dumps({"iteration": 899}) + "\\n")
with open(os.path.join(folder, "results.json"), "w") as file:
    json.dump({"threads": os.environ["OMP_NUM_THREADS"]}, file)
with open(os.path.join(folder, "starts"), "a") as file:
    file.write("x")
"""


@pytest.fixture(autouse=True)
def tool(tmp_path, monkeypatch):
    path = tmp_path / "tool.py"
    path.write_text(TOOL)
    monkeypatch.setattr(module, "TRAIN_TOOL", path)


def make(folder: Path, *overrides: str, needs: Path | None = None) -> Run:
    config = REPOSITORY / "configs/streets_source.yaml"
    data = ["DATASETS.TRAIN", f"('{CLEAR}',)", *overrides]
    return Run(folder.name, config, folder, data, needs=needs)


def starts(run: Run) -> int:
    return len((run.folder / "starts").read_text())


def test_finished_run_is_kept_and_a_changed_one_repeated(tmp_path):
    for _ in range(2):
        run = make(tmp_path / "a")
        run_all([run], jobs=1, threads=3, poll_seconds=0.01)
        assert run.finished() and starts(run) == 1
        assert run.results() == {"threads": "3"}
        assert run.iteration() == run.max_iter
    changed = make(tmp_path / "a", "SOLVER.BASE_LR", "0.1")
    assert not changed.finished()
    run_all([changed], jobs=1, poll_seconds=0.01)
    assert starts(changed) == 1, "files of the former settings were left"


def test_a_run_waits_for_what_it_needs(tmp_path):
    second = make(tmp_path / "b", needs=tmp_path / "a" / "results.json")
    first = make(tmp_path / "a")
    run_all([second, first], jobs=2, poll_seconds=0.01)
    assert first.finished() and second.finished()
    begun = [(run.folder / "starts").stat().st_mtime_ns for run in (first, second)]
    assert begun[0] <= begun[1]


def test_a_need_that_nobody_meets_is_told(tmp_path):
    with pytest.raises(RunError, match=r"needs .*nothing.pth"):
        run_all([make(tmp_path / "b", needs=tmp_path / "nothing.pth")], jobs=1, poll_seconds=0.01)


def test_a_run_is_repeated_when_what_it_starts_from_has_changed(tmp_path):
    def both(*overrides: str) -> list[Run]:
        first = make(tmp_path / "a", *overrides)
        needs = first.folder / "results.json"
        second = make(tmp_path / "b", needs=needs)
        second.after = first
        third = make(tmp_path / "c", needs=second.folder / "results.json")
        third.after = second
        return [third, second, first]

    run_all(both(), jobs=3, poll_seconds=0.01)
    assert all(run.finished() and starts(run) == 1 for run in both())
    before = {run.name: (run.folder / "starts").stat().st_mtime_ns for run in both()}
    changed = both("SOLVER.BASE_LR", "0.1")
    assert not any(run.finished() or (run.after and run.can_start()) for run in changed)
    run_all(changed, jobs=3, poll_seconds=0.01)
    after = {run.name: (run.folder / "starts").stat().st_mtime_ns for run in changed}
    assert all(run.finished() and starts(run) == 1 for run in changed)
    assert max(before.values()) < after["a"] <= after["b"] <= after["c"]
    assert not any(run.finished() for run in both())


def test_runs_of_before_origins_were_written_down_are_kept(tmp_path):
    first = make(tmp_path / "a")
    second = make(tmp_path / "b", needs=first.folder / "results.json")
    second.after = first
    run_all([first, second], jobs=1, poll_seconds=0.01)
    path = second.folder / "run.json"
    state = json.loads(path.read_text())
    assert state.pop("origin")
    path.write_text(json.dumps(state))
    assert second.finished()


@pytest.mark.parametrize(("jobs", "threads"), [(0, 1), (1, 0), (-1, 1)])
def test_no_job_at_all_is_an_error_and_no_endless_wait(tmp_path, jobs, threads):
    with pytest.raises(RunError, match="at least 1"):
        run_all([make(tmp_path / "a")], jobs=jobs, threads=threads)


def test_two_runs_of_one_name_are_an_error(tmp_path):
    with pytest.raises(RunError, match="more than once: a"):
        run_all([make(tmp_path / "a"), make(tmp_path / "a")], jobs=2)


def test_failure_shows_the_end_of_the_log_and_is_not_taken_for_finished(tmp_path):
    run = make(tmp_path / "fail")
    with pytest.raises(RunError, match=r"(?s)run fail failed.*it broke"):
        run_all([run], jobs=1, poll_seconds=0.01)
    assert not run.finished()


def test_sigterm_ends_what_was_started_too(tmp_path):
    run = make(tmp_path / "slow")

    def stop_when_started() -> None:
        while not (run.folder / "pid").is_file() or not (run.folder / "pid").read_text():
            time.sleep(0.01)
        time.sleep(0.2)  # run.json counts in tenths of a second
        os.kill(os.getpid(), signal.SIGTERM)

    stopper = threading.Thread(target=stop_when_started, daemon=True)
    stopper.start()
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as end:
        run_all([run], jobs=1, poll_seconds=0.01)
    assert end.value.code == 128 + signal.SIGTERM
    assert run.process.returncode == -signal.SIGTERM
    assert not run.finished() and run.seconds() > 0
    assert signal.getsignal(signal.SIGTERM) is before


def test_progress_line_has_shares_and_eta(tmp_path, capsys):
    run = make(tmp_path / "a", "SOLVER.MAX_ITER", "100")
    printer = ProgressPrinter(every=0.0)
    run.folder.mkdir()
    for iteration, elapsed in ((0, 0.0), (24, 30.0)):
        (run.folder / "metrics.json").write_text(json.dumps({"iteration": iteration}))
        printer([run], elapsed)
    lines = capsys.readouterr().out.splitlines()
    assert "a 1/100" in lines[0]
    # 24 iterations in 30 s leave 75 for 93.75 s.
    assert lines[1] == "[ 25 %] a 25/100  | 0:30 gone, ETA 1:34"
