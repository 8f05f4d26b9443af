#!/usr/bin/env python
"""The main job on the embedded data set: source-only, MIC and oracle, a table and a picture.

``make demo`` runs this. Finished parts are reused; ``--fresh`` starts anew.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from tabulate import tabulate

from mic_det.cli import SAME_COMMAND, run_tool
from mic_det.data.builtin import register_builtin
from mic_det.data.streets import ensure_streets
from mic_det.drawing import grid, titled, write_png
from mic_det.engine.demo import Demo
from mic_det.engine.runs import REPOSITORY, Run

CONFIGS = REPOSITORY / "configs"
# Shorter than the configs' own, to end within a quarter of an hour on two cores; as many iterations
# for the oracle as for burn-in and adaptation together.
ADAPTATION = ["SOLVER.MAX_ITER", "800", "SOLVER.STEPS", "(670,)"]
ORACLE = ["SOLVER.MAX_ITER", "2300", "SOLVER.STEPS", "(1900,)"]
TITLES = {"source_only": "source-only", "mic": "MIC", "oracle": "oracle"}


def streets() -> Path:
    """The data set, drawn and registered."""
    folder = ensure_streets()
    register_builtin()
    return folder


def demo_runs(output: Path, overrides: Sequence[str]) -> list[Run]:
    """Burn-in on the source; from there source-only and MIC; oracle."""
    # One model of each run, at its end, is enough for the table.
    brief = ["TEST.MODELS", "('student',)", "TEST.LABEL_FREE_IMAGES", "0", "TEST.EVAL_PERIOD", "0"]
    untested = [*brief, "DATASETS.TEST", "()", *overrides]
    supervised = [*brief, *ORACLE, *overrides]
    runs = [
        Run("burn_in", CONFIGS / "streets_burn_in.yaml", output / "burn_in", untested),
        Run("oracle", CONFIGS / "streets_oracle.yaml", output / "oracle", supervised),
    ]
    burn_in = output / "burn_in" / "model_final.pth"
    for name, config in (("mic", "streets_mic.yaml"), ("source_only", "streets_source.yaml")):
        start = [*brief, *ADAPTATION, *overrides, "MODEL.WEIGHTS", str(burn_in)]
        runs.append(Run(name, CONFIGS / config, output / name, start, needs=burn_in, after=runs[0]))
    return runs


def row(run: Run) -> dict[str, Any]:
    """AP50 of the served model on the target's validation set."""
    (name,) = run.cfg.DATASETS.TEST
    metrics = run.results()[run.cfg.TEST.SERVE][name]
    per_class = {
        key.removeprefix("AP50-"): round(value, 2)
        for key, value in metrics.items()
        if key.startswith("AP50-")
    }
    return {"AP50": round(metrics["AP50"], 2), "per_class": per_class}


def table(results: dict[str, dict]) -> str:
    """The results as a table, in percent."""
    classes = list(results["mic"]["per_class"])
    rows = [
        [TITLES[name], row["AP50"], *(row["per_class"][c] for c in classes), row["seconds"]]
        for name, row in results.items()
    ]
    text = tabulate(rows, headers=["", "mAP50", *classes, "seconds"], floatfmt=".1f")
    return f"AP50 in percent on the fog's validation images:\n\n{text}"


def picture(runs: list[Run], count: int, threshold: float) -> np.ndarray:
    """The same target images as source-only and as MIC see them, beside the ground truth."""
    from detectron2.data import MetadataCatalog

    from mic_det.data.catalog import labelled_dicts
    from mic_det.data.mapper import DomainMapper
    from mic_det.detection.visualise import detect, draw_boxes
    from mic_det.engine import load_for_evaluation

    (name,) = runs[0].cfg.DATASETS.TEST
    dicts = labelled_dicts(name)
    chosen = dicts[:: max(1, len(dicts) // count)][:count]
    names = MetadataCatalog.get(name).thing_classes
    columns = []
    for run in runs:
        cfg = run.cfg.clone()
        cfg.defrost()
        cfg.MODEL.WEIGHTS = str(run.folder / "model_final.pth")
        student, teacher = load_for_evaluation(cfg)
        model = (student if cfg.TEST.SERVE == "student" else teacher.model).eval()
        mapper = DomainMapper(cfg, is_train=False)
        column = []
        for record in chosen:
            found = detect(model, mapper(dict(record)), threshold)
            image = cv2.imread(record["file_name"])[:, :, ::-1]
            boxes = found.pred_boxes.tensor.numpy()
            drawn = draw_boxes(
                image, boxes, found.pred_classes.tolist(), names, found.scores.tolist()
            )
            column.append(titled(drawn, f"{TITLES[run.name]}: {len(found)} objects"))
        columns.append(column)
    truth = []
    for record in chosen:
        image = cv2.imread(record["file_name"])[:, :, ::-1]
        corners = [
            (x, y, x + w, y + h) for x, y, w, h in (a["bbox"] for a in record["annotations"])
        ]
        classes = [each["category_id"] for each in record["annotations"]]
        drawn = draw_boxes(image, corners, classes, names)
        truth.append(titled(drawn, f"labels: {len(classes)} objects"))
    return grid(list(zip(*columns, truth, strict=True)))


def files(folder: Path, runs: dict[str, Run]) -> dict[str, Path]:
    path = folder / "detections.png"
    write_png(path, picture([runs["source_only"], runs["mic"]], count=6, threshold=0.5))
    return {"Picture": path}


DEMO = Demo(
    domains="streets in clear weather (labelled) -> fog (images only).",
    folder="demo",
    data=streets,
    runs=demo_runs,
    titles=TITLES,
    row=row,
    table=table,
    files=files,
    # Measured: a MIC iteration has a teacher and a masked branch besides.
    costs={"mic": 2.2},
)

if __name__ == "__main__":
    run_tool(lambda: DEMO.main(__doc__.splitlines()[0]), SAME_COMMAND)
