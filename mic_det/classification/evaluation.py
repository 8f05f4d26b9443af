"""Accuracy of a classifier, and its predictions as a table."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.config import CfgNode
from detectron2.evaluation import DatasetEvaluator, inference_on_dataset
from detectron2.utils import comm
from torch import nn

from mic_det.data.catalog import get_domain
from mic_det.data.classification.folders import labelled_images
from mic_det.data.files import write_text_atomically
from mic_det.data.loader import evaluation_loader

from .mapper import SquareMapper

PREDICTIONS = "predictions.csv"
TEST_SET = "test_set.json"
COLUMNS = ("file", "label", "predicted", "confidence")


def accuracies(
    labels: np.ndarray, predicted: np.ndarray, names: Sequence[str], of: str = "images"
) -> dict[str, float]:
    """Accuracies in percent of (N,) predicted classes.

    ``image_accuracy`` is of all images, ``class_accuracy`` the mean of the classes', which are
    ``accuracy-<class>``, NaN without images; ``accuracy`` is the one that ``of`` ("images" or
    "classes") says.
    """
    right = labels == predicted
    by_class = {}
    for k, name in enumerate(names):
        mine = right[labels == k]
        by_class[name] = float(100 * mine.mean()) if len(mine) else float("nan")
    images = float(100 * right.mean()) if len(right) else float("nan")
    classes = float(np.nanmean(list(by_class.values()))) if len(right) else float("nan")
    found = {"accuracy": classes if of == "classes" else images}
    found |= {"image_accuracy": images, "class_accuracy": classes}
    return found | {f"accuracy-{name}": value for name, value in by_class.items()}


class AccuracyEvaluator(DatasetEvaluator):
    """Gathers predictions of all processes; see `accuracies`.

    Args:
        names: of the classes.
        of: see `accuracies`.
        folder: where `PREDICTIONS` is written, None: nowhere.
    """

    def __init__(self, names: Sequence[str], of: str, folder: Path | None) -> None:
        self.names, self.of, self.folder = names, of, folder
        self.reset()

    def reset(self) -> None:
        self.rows: list[tuple[str, int, int, float]] = []

    def process(self, inputs: list[dict[str, Any]], outputs: list[dict[str, Any]]) -> None:
        for record, output in zip(inputs, outputs, strict=True):
            confidence, predicted = output["probabilities"].max(-1)
            row = (record["image_id"], record["label"], int(predicted), float(confidence))
            self.rows.append(row)

    def evaluate(self) -> dict[str, float]:
        gathered = comm.gather(self.rows)
        if not comm.is_main_process():
            return {}
        rows = sorted(row for part in gathered for row in part)
        if self.folder is not None:
            write_text_atomically(self.folder / PREDICTIONS, predictions_csv(rows, self.names))
        labels, predicted = (np.array([row[i] for row in rows], dtype=int) for i in (1, 2))
        return accuracies(labels, predicted, self.names, self.of)


def predictions_csv(rows: Sequence[tuple[str, int, int, float]], names: Sequence[str]) -> str:
    """`COLUMNS` of (file, label, predicted class, confidence), classes by name."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for file, label, predicted, confidence in rows:
        writer.writerow([file, names[label], names[predicted], f"{confidence:.4f}"])
    return text.getvalue()


def evaluate_model(
    cfg: CfgNode, model: nn.Module, classes: Sequence[str], output_dir: Path | None = None
) -> dict[str, dict[str, float]]:
    """`accuracies` on each of ``DATASETS.TEST``.

    With ``output_dir`` a folder for each data set gets `PREDICTIONS` and `TEST_SET`, which says
    where its images are.
    """
    results = {}
    for name in cfg.DATASETS.TEST:
        records = labelled_images(name, classes)
        mapper = SquareMapper.from_config(cfg, is_train=False)
        batch = max(1, cfg.SOLVER.IMS_PER_BATCH // comm.get_world_size())
        loader = evaluation_loader(cfg, records, mapper, batch)
        folder = None if output_dir is None else Path(output_dir) / name
        evaluator = AccuracyEvaluator(classes, cfg.TEST.ACCURACY_OF, folder)
        results[name] = inference_on_dataset(model, loader, evaluator)
        if folder is not None and comm.is_main_process():
            images = str(get_domain(name).folder())
            described = {"name": name, "images": images, "classes": list(classes)}
            write_text_atomically(folder / TEST_SET, json.dumps(described, indent=2) + "\n")
    return results
