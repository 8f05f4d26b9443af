#!/usr/bin/env python
"""Segmentation: drawn streets in clear weather (labelled) -> fog (images only).

``make demo TASK=segmentation`` runs this: source-only, MIC on self-training and the oracle, a
table, a picture and a report. Finished parts are reused; ``--fresh`` starts anew.
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
from pathlib import Path

import cv2
import numpy as np
from tabulate import tabulate

from mic_det.cli import run_tool
from mic_det.data.streets import ensure_streets
from mic_det.drawing import grid, titled, write_png
from mic_det.engine.evaluation import inference_folder
from mic_det.engine.runs import REPOSITORY, ProgressPrinter, Run, run_all
from mic_det.report import find_runs, write_report
from mic_det.segmentation.drawing import legend, overlay, read_labels
from mic_det.segmentation.evaluation import TEST_SET

CONFIGS = REPOSITORY / "configs" / "seg"
TITLES = {"source": "source-only", "mic": "MIC", "oracle": "oracle"}
# An iteration of MIC has a teacher, a mixed and a masked image besides.
COSTS = {"mic": 3.4}


def demo_runs(output: Path, overrides: list[str]) -> list[Run]:
    """Burn-in on the source; from there source-only and MIC; oracle."""
    # One model of each run is enough for the table.
    brief = ["TEST.MODELS", "('student',)", "TEST.LABEL_FREE_IMAGES", "0", *overrides]
    untested = ["DATASETS.TEST", "()", *overrides]
    runs = [
        Run("burn_in", CONFIGS / "streets_burn_in.yaml", output / "burn_in", untested),
        Run("oracle", CONFIGS / "streets_oracle.yaml", output / "oracle", brief),
    ]
    weights = output / "burn_in" / "model_final.pth"
    for name in ("mic", "source"):
        start = [*brief, "MODEL.WEIGHTS", str(weights)]
        config = CONFIGS / f"streets_{name}.yaml"
        runs.append(Run(name, config, output / name, start, needs=weights))
    return runs


def summary(runs: dict[str, Run]) -> dict[str, dict]:
    """Metrics on the target's validation set; seconds include the burn-in's."""
    rows = {}
    for name in TITLES:
        run = runs[name]
        (dataset,) = run.cfg.DATASETS.TEST
        metrics = run.results()[run.cfg.TEST.SERVE][dataset]
        before = runs["burn_in"].seconds() if run.needs else 0.0
        rows[name] = {key: round(value, 2) for key, value in metrics.items() if value == value}
        rows[name]["seconds"] = round(before + run.seconds(), 1)
    return rows


def table(rows: dict[str, dict]) -> str:
    """The results as a table, in percent."""
    keys = [key for key in rows["mic"] if key.startswith("IoU-")]
    heads = ["", "mIoU", *(key.removeprefix("IoU-") for key in keys), "seconds"]
    body = [
        [TITLES[name], row["mIoU"], *(row.get(key) for key in keys), row["seconds"]]
        for name, row in rows.items()
    ]
    return tabulate(body, headers=heads, floatfmt=".1f")


def picture(runs: list[Run], count: int) -> np.ndarray:
    """The same target images as each run labels them, beside the true labels."""
    folders = [
        inference_folder(run.folder, run.cfg.TEST.SERVE) / run.cfg.DATASETS.TEST[0] for run in runs
    ]
    described = json.loads((folders[0] / TEST_SET).read_text(encoding="utf-8"))
    colours = [tuple(colour) for colour in described["colours"]]
    images = described["images"]
    rows = []
    for each in images[:: max(1, len(images) // count)][:count]:
        image = cv2.imread(each["file_name"])[:, :, ::-1]
        row = [titled(image, "fog")]
        for run, folder in zip(runs, folders, strict=True):
            labels = read_labels(folder / each["predicted"])
            row.append(titled(overlay(image, labels, colours), TITLES[run.name]))
        truth = read_labels(folders[0] / each["truth"])
        rows.append([*row, titled(overlay(image, truth, colours), "labels")])
    sheet = grid(rows)
    return np.concatenate([sheet, legend(described["classes"], colours, sheet.shape[1])])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    output = REPOSITORY / "output" / "demo_segmentation"
    parser.add_argument("--output", type=Path, default=output)
    parser.add_argument("--fresh", action="store_true", help="forget what is finished")
    parser.add_argument("overrides", nargs="*", help="KEY VALUE for all runs, after --")
    arguments = parser.parse_args()
    begin = time.monotonic()
    folder = arguments.output.resolve()
    if arguments.fresh:
        shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)

    print("mic_det demo: streets in clear weather (label maps) -> fog (images only).", flush=True)
    print(f"Data set: {ensure_streets()}", flush=True)
    runs = {run.name: run for run in demo_runs(folder, arguments.overrides)}
    for run in runs.values():
        state = "finished before, reused" if run.finished() else f"{run.max_iter} iterations"
        print(f"  {TITLES.get(run.name, 'burn-in'):12} {state}; log: {run.folder / 'train.log'}")
    # Two processes of one thread each use two cores better than one of two.
    run_all(list(runs.values()), jobs=2, threads=1, report=ProgressPrinter(COSTS))

    results = summary(runs)
    (folder / "results.json").write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    compared = [runs[name] for name in TITLES]
    write_png(folder / "maps.png", picture(compared[:2], count=6))
    write_report(find_runs([run.folder for run in compared]), folder / "report.html")
    print(f"\nIntersection over union in percent in fog:\n\n{table(results)}\n")
    for name in ("results.json", "maps.png", "report.html"):
        print(f"{name.split('.')[0].capitalize():8} {folder / name}")
    print(f"Total: {time.monotonic() - begin:.0f} s")


if __name__ == "__main__":
    run_tool(main)
