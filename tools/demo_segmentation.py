#!/usr/bin/env python
"""Segmentation: drawn streets in clear weather (labelled) -> fog (images only).

``make demo TASK=segmentation`` runs this: source-only, MIC on self-training and the oracle, a
table, a picture and a report. Finished parts are reused; ``--fresh`` starts anew.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from tabulate import tabulate

from mic_det.cli import SAME_COMMAND, run_tool
from mic_det.data.streets import ensure_streets
from mic_det.drawing import grid, titled, write_png
from mic_det.engine.demo import Demo
from mic_det.engine.evaluation import inference_folder
from mic_det.engine.runs import REPOSITORY, Run
from mic_det.report import find_runs, write_report
from mic_det.segmentation.drawing import legend, overlay, read_labels
from mic_det.segmentation.evaluation import TEST_SET

CONFIGS = REPOSITORY / "configs" / "seg"
TITLES = {"source": "source-only", "mic": "MIC", "oracle": "oracle"}


def demo_runs(output: Path, overrides: Sequence[str]) -> list[Run]:
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
        runs.append(Run(name, config, output / name, start, needs=weights, after=runs[0]))
    return runs


def row(run: Run) -> dict[str, Any]:
    """Metrics of the served model on the target's validation set."""
    (name,) = run.cfg.DATASETS.TEST
    metrics = run.results()[run.cfg.TEST.SERVE][name]
    return {key: round(value, 2) for key, value in metrics.items() if value == value}


def table(rows: dict[str, dict]) -> str:
    """The results as a table, in percent."""
    keys = [key for key in rows["mic"] if key.startswith("IoU-")]
    heads = ["", "mIoU", *(key.removeprefix("IoU-") for key in keys), "seconds"]
    body = [
        [TITLES[name], row["mIoU"], *(row.get(key) for key in keys), row["seconds"]]
        for name, row in rows.items()
    ]
    text = tabulate(body, headers=heads, floatfmt=".1f")
    return f"Intersection over union in percent in fog:\n\n{text}"


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


def files(folder: Path, runs: dict[str, Run]) -> dict[str, Path]:
    compared = [runs[name] for name in TITLES]
    maps, page = folder / "maps.png", folder / "report.html"
    write_png(maps, picture(compared[:2], count=6))
    write_report(find_runs([run.folder for run in compared]), page)
    return {"Maps": maps, "Report": page}


DEMO = Demo(
    domains="streets in clear weather (label maps) -> fog (images only).",
    folder="demo_segmentation",
    data=ensure_streets,
    runs=demo_runs,
    titles=TITLES,
    row=row,
    table=table,
    files=files,
    # An iteration of MIC has a teacher, a mixed and a masked image besides.
    costs={"mic": 3.4},
)

if __name__ == "__main__":
    run_tool(lambda: DEMO.main(__doc__.splitlines()[0]), SAME_COMMAND)
