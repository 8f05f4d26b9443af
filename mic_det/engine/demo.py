"""What the demos have in common: arguments, finished parts kept, progress, where results lie."""

from __future__ import annotations

import argparse
import json
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mic_det.data.files import write_text_atomically

from .runs import REPOSITORY, ProgressPrinter, Run, run_all

Rows = dict[str, dict[str, Any]]


def forget(folder: Path, runs: Sequence[Run]) -> None:
    """Delete what earlier calls left in the folder, and nothing else that may lie there."""
    (folder / "results.json").unlink(missing_ok=True)
    for run in runs:
        shutil.rmtree(run.folder, ignore_errors=True)


@dataclass(frozen=True)
class Demo:
    """One task's demo.

    Args:
        domains: which, in a line.
        folder: of runs and results, below ``output``.
        data: makes the data set if it is not there; returns its folder.
        runs: of a folder, with settings for all of them; ``burn_in`` is what others start from.
        titles: of the runs that are shown, by name, in their order.
        costs: of an iteration of a run, by name, for the time that is left.
        row: what ``results.json`` says of a run.
        table: of the rows by name; with the line above it.
        files: writes pictures and pages into the folder; returns them by what they are.
    """

    domains: str
    folder: str
    data: Callable[[], Path]
    runs: Callable[[Path, Sequence[str]], list[Run]]
    titles: Mapping[str, str]
    row: Callable[[Run], dict[str, Any]]
    table: Callable[[Rows], str]
    files: Callable[[Path, dict[str, Run]], dict[str, Path]]
    costs: dict[str, float] = field(default_factory=dict)

    def main(self, description: str) -> None:
        """The tool: run what is not finished, then show everything."""
        parser = argparse.ArgumentParser(description=description)
        parser.add_argument("--output", type=Path, default=REPOSITORY / "output" / self.folder)
        parser.add_argument("--fresh", action="store_true", help="forget what is finished")
        parser.add_argument("overrides", nargs="*", help="KEY VALUE for all runs, after --")
        arguments = parser.parse_args()
        begin = time.monotonic()
        folder = arguments.output.resolve()
        folder.mkdir(parents=True, exist_ok=True)
        print(f"mic_det demo: {self.domains}", flush=True)
        print(f"Data set: {self.data()}", flush=True)
        runs = self.runs(folder, arguments.overrides)
        if arguments.fresh:
            forget(folder, runs)
        for run in runs:
            state = "finished before, reused" if run.finished() else f"{run.max_iter} iterations"
            title = self.titles.get(run.name, run.name.replace("_", "-"))
            print(f"  {title:12} {state}; log: {run.folder / 'train.log'}", flush=True)
        # Two processes of one thread each use two cores better than one of two.
        run_all(runs, jobs=2, threads=1, report=ProgressPrinter(self.costs))
        self.show(folder, {run.name: run for run in runs})
        print(f"Total: {time.monotonic() - begin:.0f} s")

    def show(self, folder: Path, runs: dict[str, Run]) -> None:
        """Write ``results.json`` and the files; print the table and where they are."""
        rows = self.rows(runs)
        results = folder / "results.json"
        write_text_atomically(results, json.dumps(rows, indent=2) + "\n")
        files = {"Results": results} | self.files(folder, runs)
        print(f"\n{self.table(rows)}\n")
        for what, path in files.items():
            print(f"{what}: {path}")

    def rows(self, runs: dict[str, Run]) -> Rows:
        """What is said of each run that is shown; ``seconds`` include the burn-in's."""
        rows = {}
        for name in self.titles:
            before = runs["burn_in"].seconds() if runs[name].needs else 0.0
            seconds = round(before + runs[name].seconds(), 1)
            rows[name] = self.row(runs[name]) | {"seconds": seconds}
        return rows
