#!/usr/bin/env python
"""Classification: digits drawn from fonts (labelled) -> digits that people wrote (images only).

``make demo TASK=classification`` runs this: source-only, CDAN, + MCC + SDAT, + MIC and the oracle,
a table and a report. Finished parts are reused; ``--fresh`` starts anew.
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
from pathlib import Path

from tabulate import tabulate

from mic_det.cli import run_tool
from mic_det.data.digits import ensure_digits
from mic_det.engine.runs import REPOSITORY, ProgressPrinter, Run, run_all
from mic_det.report import find_runs, write_report

CONFIGS = REPOSITORY / "configs" / "cls"
TITLES = {
    "source": "source-only",
    "cdan": "CDAN",
    "sdat": "CDAN + MCC + SDAT",
    "mic": "CDAN + MCC + SDAT + MIC",
    "oracle": "oracle",
}
# Relative cost of an iteration: SDAT takes two passes, MIC has a masked branch besides.
COSTS = {"cdan": 2.0, "sdat": 4.0, "mic": 6.0}


def demo_runs(output: Path) -> list[Run]:
    """Burn-in on the source; what starts from it, the dearest first; oracle."""
    burn_in = output / "burn_in" / "model_final.pth"
    untested = ["DATASETS.TEST", "()"]
    runs = [
        Run("burn_in", CONFIGS / "digits_burn_in.yaml", output / "burn_in", untested),
        Run("oracle", CONFIGS / "digits_oracle.yaml", output / "oracle"),
    ]
    for name in ("mic", "sdat", "cdan", "source"):
        start = ["MODEL.WEIGHTS", str(burn_in)]
        config = CONFIGS / f"digits_{name}.yaml"
        runs.append(Run(name, config, output / name, start, needs=burn_in))
    return runs


def summary(runs: list[Run]) -> dict[str, dict]:
    """Accuracies on the target's test images, in percent; seconds include the burn-in's."""
    by_name = {run.name: run for run in runs}
    rows = {}
    for run in (by_name[name] for name in TITLES):
        (name,) = run.cfg.DATASETS.TEST
        found = run.results()
        rows[run.name] = {which: round(found[which][name]["accuracy"], 2) for which in found}
        before = by_name["burn_in"].seconds() if run.needs else 0.0
        rows[run.name]["seconds"] = round(before + run.seconds(), 1)
    return rows


def table(results: dict[str, dict]) -> str:
    rows = [[TITLES[name], *row.values()] for name, row in results.items()]
    headers = ["accuracy", *next(iter(results.values()))]
    return tabulate(rows, headers=headers, floatfmt=".1f")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    default = REPOSITORY / "output" / "demo_classification"
    parser.add_argument("--output", type=Path, default=default)
    parser.add_argument("--fresh", action="store_true", help="forget what is finished")
    arguments = parser.parse_args()
    begin = time.monotonic()
    if arguments.fresh:
        shutil.rmtree(arguments.output, ignore_errors=True)
    arguments.output.mkdir(parents=True, exist_ok=True)
    print("mic_det demo: printed digits (labelled) -> handwritten digits (images only).")
    print(f"Data set: {ensure_digits()}", flush=True)
    runs = demo_runs(arguments.output)
    for run in runs:
        state = "finished before, reused" if run.finished() else f"{run.max_iter} iterations"
        print(
            f"  {TITLES.get(run.name, 'burn-in'):24} {state}; log: {run.folder / 'train.log'}",
            flush=True,
        )
    run_all(runs, jobs=2, threads=1, report=ProgressPrinter(COSTS))

    results = summary(runs)
    path = arguments.output / "results.json"
    path.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    page = arguments.output / "report.html"
    write_report(find_runs([run.folder for run in runs if run.name in TITLES]), page, images=8)
    print(f"\nAccuracy in percent on handwritten test images:\n\n{table(results)}\n")
    print(f"Results: {path}")
    print(f"Report: {page}")
    print(f"Total: {time.monotonic() - begin:.0f} s")


if __name__ == "__main__":
    run_tool(main)
