#!/usr/bin/env python
"""The main job on the embedded data set: source-only, MIC and oracle, a table and a picture.

``make demo`` runs this. Finished parts are reused; ``--fresh`` starts anew.
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
from pathlib import Path

import cv2
from tabulate import tabulate

from mic_det.cli import run_tool
from mic_det.data.builtin import register_builtin
from mic_det.data.streets import ensure_streets
from mic_det.engine.runs import REPOSITORY, ProgressPrinter, Run, run_all

CONFIGS = REPOSITORY / "configs"
TITLES = {"source_only": "source-only", "mic": "MIC", "oracle": "oracle"}
BURN_IN = "burn-in"
# Measured: a MIC iteration has a teacher and a masked branch besides.
COSTS = {"mic": 2.2}


def demo_runs(output: Path) -> list[Run]:
    """Burn-in on the source; from there source-only and MIC; oracle."""
    # One model of each run is enough for the table.
    brief = ["TEST.MODELS", "('student',)", "TEST.LABEL_FREE_IMAGES", "0"]
    untested = ["DATASETS.TEST", "()"]
    runs = [
        Run("burn_in", CONFIGS / "streets_burn_in.yaml", output / "burn_in", untested),
        Run("oracle", CONFIGS / "streets_oracle.yaml", output / "oracle", brief),
    ]
    burn_in = output / "burn_in" / "model_final.pth"
    for name, config in (("mic", "streets_mic.yaml"), ("source_only", "streets_source.yaml")):
        overrides = [*brief, "MODEL.WEIGHTS", str(burn_in)]
        runs.append(Run(name, CONFIGS / config, output / name, overrides, needs=burn_in))
    return runs


def summary(runs: list[Run]) -> dict[str, dict]:
    """AP50 of the served model on the target's validation set; seconds include the burn-in's."""
    rows = {}
    by_name = {run.name: run for run in runs}
    for run in (by_name[name] for name in TITLES):
        (name,) = run.cfg.DATASETS.TEST
        before = by_name["burn_in"].seconds() if run.needs else 0.0
        metrics = run.results()[run.cfg.TEST.SERVE][name]
        rows[run.name] = {
            "AP50": round(metrics["AP50"], 2),
            "per_class": {
                key.removeprefix("AP50-"): round(value, 2)
                for key, value in metrics.items()
                if key.startswith("AP50-")
            },
            "seconds": round(before + run.seconds(), 1),
        }
    return rows


def table(results: dict[str, dict]) -> str:
    """The results as a table, in percent."""
    classes = list(results["mic"]["per_class"])
    rows = [
        [TITLES[name], row["AP50"], *(row["per_class"][c] for c in classes), row["seconds"]]
        for name, row in results.items()
    ]
    return tabulate(rows, headers=["", "mAP50", *classes, "seconds"], floatfmt=".1f")


def picture(runs: list[Run], count: int, threshold: float):
    """The same target images as source-only and as MIC see them, beside the ground truth."""
    from detectron2.data import MetadataCatalog

    from mic_det.data.catalog import labelled_dicts
    from mic_det.data.mapper import DomainMapper
    from mic_det.detection.visualise import detect, draw_boxes
    from mic_det.drawing import grid, titled
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=REPOSITORY / "output" / "demo")
    parser.add_argument("--fresh", action="store_true", help="forget what is finished")
    arguments = parser.parse_args()
    begin = time.monotonic()
    if arguments.fresh:
        shutil.rmtree(arguments.output, ignore_errors=True)
    arguments.output.mkdir(parents=True, exist_ok=True)

    print("mic_det demo: streets in clear weather (labelled) -> fog (images only).", flush=True)
    print(f"Data set: {ensure_streets()}", flush=True)
    register_builtin()
    runs = demo_runs(arguments.output)
    for run in runs:
        state = "finished before, reused" if run.finished() else f"{run.max_iter} iterations"
        print(
            f"  {TITLES.get(run.name, BURN_IN):12} {state}; log: {run.folder / 'train.log'}",
            flush=True,
        )
    # Two processes of one thread each use two cores better than one of two.
    run_all(runs, jobs=2, threads=1, report=ProgressPrinter(COSTS))

    results = summary(runs)
    (arguments.output / "results.json").write_text(
        json.dumps(results, indent=2) + "\n", encoding="utf-8"
    )
    by_name = {run.name: run for run in runs}
    sheet = picture([by_name["source_only"], by_name["mic"]], count=6, threshold=0.5)
    path = arguments.output / "detections.png"
    cv2.imwrite(str(path), sheet[:, :, ::-1])
    print(f"\nAP50 in percent on the fog's validation images:\n\n{table(results)}\n")
    print(f"Results: {arguments.output / 'results.json'}")
    print(f"Picture: {path}")
    print(f"Total: {time.monotonic() - begin:.0f} s")


if __name__ == "__main__":
    run_tool(main)
