#!/usr/bin/env python
"""Class centre distance, and share and accuracy of pseudo labels, on labelled test data.

    python tools/inspect_host.py --config configs/seg/streets_spcl.yaml \\
        --weights output/seg/streets_{adversarial,spcl}/model_final.pth

A row for each file, so that before and after a method can be compared; further settings as
KEY VALUE at the end. Nothing here is used in training.
"""

from __future__ import annotations

import argparse
import math

from tabulate import tabulate

from mic_det.cli import run_tool
from mic_det.config import ConfigError, load_config
from mic_det.data.errors import DataError
from mic_det.engine import load_for_evaluation
from mic_det.segmentation.inspection import class_separation, pseudo_label_quality
from mic_det.segmentation.preparation import labelled_pass
from mic_det.tasks import task_of


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", required=True, help="of a segmentation task")
    parser.add_argument("--weights", nargs="+", required=True, metavar="FILE")
    parser.add_argument("--model", choices=("student", "teacher"), default="student")
    parser.add_argument("overrides", nargs="*", metavar="KEY VALUE", help="after --")
    arguments = parser.parse_args()
    cfg = load_config(arguments.config, arguments.overrides)
    if cfg.MODEL.TASK != "segmentation":
        raise ConfigError(f"{arguments.config}: MODEL.TASK is not segmentation")
    if not cfg.DATASETS.TEST:
        raise ConfigError(f"{arguments.config}: DATASETS.TEST names no labelled data to look at")
    task = task_of(cfg)
    message = task.missing_data_message(cfg, False)
    if message:
        raise DataError(message)
    classes = task.check(cfg, training=False)
    found = [measure(cfg, path, arguments.model) for path in arguments.weights]
    headers = ["", "class centre distance", "pixels kept %", "of them right %", "all right %"]
    rows = [
        [path, each["distance"], each["kept"], each["accuracy"], each["unfiltered"]]
        for path, each in zip(arguments.weights, found, strict=True)
    ]
    print(tabulate(rows, headers=headers, floatfmt=("", ".3f", ".1f", ".1f", ".1f")))
    print("\nClass centre distance (within over between, smaller is better) by class:")
    by_class = [
        [name, *(each["by_class"][k] for each in found)]
        for k, name in enumerate(classes)
        if not all(math.isnan(each["by_class"][k]) for each in found)
    ]
    print(tabulate(by_class, headers=["", *arguments.weights], floatfmt=".3f"))


def measure(cfg, path: str, which: str) -> dict:
    """Both looks at the ``which`` ("student" or "teacher") of a file."""
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.WEIGHTS = path
    cfg.freeze()
    student, teacher = load_for_evaluation(cfg)
    student.eval()
    network = student.network if which == "student" else teacher.model.network
    by_class, mean = class_separation(network, labelled_pass(cfg, cfg.DATASETS.TEST, student))
    data = labelled_pass(cfg, cfg.DATASETS.TEST, student)
    quality = pseudo_label_quality(student.host, network, data)
    return {
        "distance": mean,
        "by_class": by_class,
        "kept": 100.0 * quality.kept,
        "accuracy": 100.0 * quality.accuracy if quality.kept else float("nan"),
        "unfiltered": 100.0 * quality.unfiltered,
    }


if __name__ == "__main__":
    run_tool(main)
