"""Several training runs side by side, each a process of its own; finished ones are kept.

What the demo and the study are made of. A run that was interrupted is resumed, one that is finished
is not repeated, and one whose settings have changed since is started anew.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mic_det.config import load_config
from mic_det.errors import UserError

REPOSITORY = Path(__file__).resolve().parents[2]
TRAIN_TOOL = REPOSITORY / "tools" / "train_net.py"


class RunError(UserError, RuntimeError):
    """A training process failed; the message says where its log is and how it ends."""


@dataclass
class Run:
    """One training run.

    Args:
        name: unique among the runs.
        config: YAML file.
        folder: ``OUTPUT_DIR``.
        overrides: KEY VALUE pairs.
        needs: a file that must be there before the run can start, written by another run.
        after: that other run, if it is one of the same list: it has to be finished first, and where
            its settings have changed, this run is started anew as well.
    """

    name: str
    config: Path
    folder: Path
    overrides: Sequence[str] = ()
    needs: Path | None = None
    after: Run | None = None
    process: subprocess.Popen | None = field(default=None, repr=False)
    started: float = 0.0
    fingerprint: str = field(default="", init=False)

    def __post_init__(self) -> None:
        self.cfg = load_config(self.config, [*self.overrides, "OUTPUT_DIR", str(self.folder)])
        # Of all settings; made once, for a launcher asks every second, beside what it launches.
        self.fingerprint = hashlib.sha256(self.cfg.dump().encode()).hexdigest()

    @property
    def max_iter(self) -> int:
        return self.cfg.SOLVER.MAX_ITER

    def origin(self) -> str:
        """Hash of all settings of what this run starts from; "" if that is no other run."""
        if self.after is None:
            return ""
        settings = self.after.fingerprint + self.after.origin()
        return hashlib.sha256(settings.encode()).hexdigest()

    def finished(self) -> bool:
        """Whether results of exactly these settings, and this origin, are there."""
        return self._is_this_run() and self._state().get("finished", False)

    def can_start(self) -> bool:
        """Whether what it needs is there, by the run that is to write it."""
        if self.after is not None and not self.after.finished():
            return False
        return self.needs is None or self.needs.is_file()

    def results(self) -> dict[str, Any]:
        """What ``train_net.py`` measured at the end."""
        return json.loads((self.folder / "results.json").read_text(encoding="utf-8"))

    def seconds(self) -> float:
        """Wall-clock time the run has taken, over all its starts."""
        return self._state().get("seconds", 0.0)

    def iteration(self) -> int:
        """Iterations done so far, as far as they are written down."""
        if self.finished():
            return self.max_iter
        try:
            lines = (self.folder / "metrics.json").read_text(encoding="utf-8").splitlines()
            # The last evaluation is written down as one iteration further.
            return min(json.loads(lines[-1])["iteration"] + 1, self.max_iter)
        except (OSError, IndexError, ValueError, KeyError):
            return 0

    def _is_this_run(self) -> bool:
        """Whether what lies in the folder was begun with these settings and this origin."""
        state, origin = self._state(), self.origin()
        return state.get("settings") == self.fingerprint and state.get("origin", origin) == origin

    def _state(self) -> dict[str, Any]:
        try:
            return json.loads((self.folder / "run.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}

    def _write_state(self, finished: bool, seconds: float) -> None:
        state = {
            "settings": self.fingerprint,
            "origin": self.origin(),
            "finished": finished,
            "seconds": round(seconds, 1),
        }
        temporary = self.folder / "run.json.tmp"
        temporary.write_text(json.dumps(state), encoding="utf-8")
        temporary.replace(self.folder / "run.json")

    def start(self, threads: int) -> None:
        """Start or resume the training process."""
        if not self._is_this_run():
            shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True, exist_ok=True)
        self._write_state(False, self.seconds())
        command = [sys.executable, str(TRAIN_TOOL), "--config", str(self.config), "--resume"]
        command += ["--num-gpus", str(int(self.cfg.MODEL.DEVICE.startswith("cuda")))]
        environment = os.environ | {"OMP_NUM_THREADS": str(threads), "PYTHONWARNINGS": "ignore"}
        with (self.folder / "train.log").open("a", encoding="utf-8") as log:
            self.process = subprocess.Popen(
                [*command, *self.overrides, "OUTPUT_DIR", str(self.folder)],
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment,
                cwd=REPOSITORY,
            )
        self.started = time.monotonic()

    def poll(self) -> bool:
        """Whether the process has ended; raises RunError if it failed."""
        code = self.process.poll()
        if code is None:
            return False
        self._write_state(code == 0, self.seconds() + time.monotonic() - self.started)
        if code:
            log = self.folder / "train.log"
            tail = "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-15:])
            raise RunError(
                f"run {self.name} failed with exit code {code}; {log} ends with:\n{tail}"
            )
        return True


def run_all(
    runs: Sequence[Run],
    jobs: int,
    threads: int = 1,
    report: Callable[[Sequence[Run], float], None] | None = None,
    poll_seconds: float = 1.0,
) -> None:
    """Run all that are not finished, at most ``jobs`` at a time, in order as far as needs allow.

    Args:
        threads: CPU threads of each process.
        report: called every ``poll_seconds`` with the runs and the seconds since the beginning.

    Raises RunError as soon as a run fails, after ending the others (they resume the next time),
    when what a run needs is written by none of them, when two have one name, and for less than one
    job or thread.
    """
    if jobs < 1 or threads < 1:
        raise RunError(f"jobs and threads are at least 1, not {jobs} and {threads}")
    twice = [name for name, count in Counter(run.name for run in runs).items() if count > 1]
    if twice:
        raise RunError(f"asked for more than once: {', '.join(twice)}")
    waiting = [run for run in runs if not run.finished()]
    active: list[Run] = []
    begin = time.monotonic()
    with contextlib.ExitStack() as afterwards:
        afterwards.callback(_end, active)
        afterwards.enter_context(exit_on_sigterm())
        while waiting or active:
            active[:] = [run for run in active if not run.poll()]
            ready = [run for run in waiting if run.can_start()]
            if waiting and not active and not ready:
                raise RunError(
                    f"run {waiting[0].name} needs {waiting[0].needs}, which is not there"
                )
            for run in ready[: max(0, jobs - len(active))]:
                run.start(threads)
                active.append(run)
                waiting.remove(run)
            if report is not None:
                report(runs, time.monotonic() - begin)
            time.sleep(poll_seconds)


def _end(active: Sequence[Run]) -> None:
    """End the processes that are still there; their runs resume the next time."""
    left = [run for run in active if run.process.poll() is None]
    for run in left:
        run.process.terminate()
    for run in left:  # each finishes its iteration, and writes a checkpoint
        run.process.wait()
        run._write_state(False, run.seconds() + time.monotonic() - run.started)


@contextlib.contextmanager
def exit_on_sigterm() -> Iterator[None]:
    """Let SIGTERM end this process as Ctrl-C does, so that it can end those that it has started."""

    def leave(number: int, _frame: Any) -> None:
        sys.exit(128 + number)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


class ProgressPrinter:
    """A line on all runs every so often: iterations done, time elapsed and time to go.

    Args:
        costs: relative cost of an iteration of each run, by name; 1 if not given.
        every: seconds between lines.
    """

    def __init__(self, costs: dict[str, float] | None = None, every: float = 10.0) -> None:
        self.costs = costs or {}
        self.every = every
        self._next = 0.0
        self._done_before: float | None = None

    def __call__(self, runs: Sequence[Run], elapsed: float) -> None:
        if elapsed < self._next:
            return
        self._next = elapsed + self.every
        weights = {run.name: self.costs.get(run.name, 1.0) for run in runs}
        done = sum(run.iteration() * weights[run.name] for run in runs)
        total = sum(run.max_iter * weights[run.name] for run in runs)
        if self._done_before is None:
            self._done_before = done
        gained = done - self._done_before
        left = _clock(elapsed * (total - done) / gained) if gained > 0 else "soon known"
        parts = "  ".join(f"{run.name} {run.iteration()}/{run.max_iter}" for run in runs)
        share = 100.0 * done / total
        print(f"[{share:3.0f} %] {parts}  | {_clock(elapsed)} gone, ETA {left}", flush=True)


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    return f"{minutes}:{seconds:02d}"
