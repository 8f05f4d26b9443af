#!/usr/bin/env python
"""One self-contained HTML page that compares training runs.

    python tools/report.py output/streets_source output/streets_mic --output report.html
    python tools/report.py output/demo          # all runs in a folder

Results, learning curves, precision and recall, detections side by side, confusions, settings.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from mic_det.cli import run_tool
from mic_det.report import find_runs, write_report
from mic_det.report.rerun import evaluate_again


def main() -> None:
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=form)
    parser.add_argument("folders", nargs="+", type=Path, metavar="OUTPUT_DIR")
    parser.add_argument("--output", type=Path, default=Path("report.html"))
    parser.add_argument("--images", type=int, default=8, help="examples (default: %(default)s)")
    parser.add_argument(
        "--evaluate",
        action="store_true",
        help="run the models of those runs that kept no detections; they are kept from then on",
    )
    arguments = parser.parse_args()
    runs = find_runs(arguments.folders)
    if arguments.evaluate:
        for run in runs:
            datasets = run.setting("DATASETS.TEST") or ()
            if not all(run.has_predictions(name) for name in datasets):
                print(f"Evaluating {run.folder}", flush=True)
                evaluate_again(run)
    write_report(runs, arguments.output, arguments.images)
    for run in runs:
        for problem in run.problems:
            print(f"note: {run.folder}: {problem}")
    size = arguments.output.stat().st_size / 1e6
    print(f"{len(runs)} runs: {arguments.output} ({size:.1f} MB)")


if __name__ == "__main__":
    run_tool(main)
