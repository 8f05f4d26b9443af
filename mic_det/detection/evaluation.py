"""COCO-style evaluation of student and teacher on target validation data."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.evaluation import COCOEvaluator, inference_on_dataset
from detectron2.utils import comm
from torch import nn

from mic_det.data.catalog import evaluation_json, labelled_dicts
from mic_det.data.files import write_atomically
from mic_det.data.loader import evaluation_loader
from mic_det.data.mapper import DomainMapper

DETECTIONS = "coco_instances_results.json"
TEST_SET = "test_set.json"


class AP50Evaluator(COCOEvaluator):
    """`COCOEvaluator` that reports AP50 of each class as well: ``AP50-<class>``, in percent."""

    def _derive_coco_results(
        self, coco_eval: Any, iou_type: str, class_names: list[str] | None = None
    ) -> dict[str, float]:
        results = super()._derive_coco_results(coco_eval, iou_type, class_names)
        if coco_eval is None:
            # No detection at all: Detectron2 says NaN, but what was found of the objects is 0 %.
            zeros = {f"AP50-{name}": 0.0 for name in class_names or ()}
            return dict.fromkeys(results, 0.0) | zeros
        if class_names is None:
            return results
        # precision: IoU thresholds (0.50 first) x recalls x classes x areas (all first) x max dets.
        precision = coco_eval.eval["precision"][0, :, :, 0, -1]
        for k, name in enumerate(class_names):
            valid = precision[:, k][precision[:, k] > -1]
            results[f"AP50-{name}"] = float(100.0 * np.mean(valid)) if valid.size else float("nan")
        return results


def inference_folder(output_dir: str | Path, which: str) -> Path:
    """Where the detections of "student" or "teacher" lie, a folder for each test set."""
    return Path(output_dir) / "inference" / which


def evaluate_model(
    cfg: CfgNode, model: nn.Module, output_dir: str | Path | None = None
) -> dict[str, Any]:
    """Evaluate a detector on each of ``DATASETS.TEST``.

    With ``output_dir`` all detections are left there for `mic_det.report` and others: for each test
    set a folder of its name with Detectron2's ``coco_instances_results.json`` and a
    ``test_set.json`` that says which annotations and images they belong to.

    Returns ``{dataset: {"AP", "AP50", "AP75", "AP50-<class>", …}}`` in percent; NaN for a class
    that the data set does not hold. On processes other than the first the values are empty.
    """
    results = {}
    for name in cfg.DATASETS.TEST:
        json_file = evaluation_json(name)
        MetadataCatalog.get(name).json_file = json_file
        loader = evaluation_loader(cfg, labelled_dicts(name), DomainMapper(cfg, is_train=False))
        folder = None if output_dir is None else Path(output_dir) / name
        evaluator = AP50Evaluator(
            name,
            tasks=("bbox",),
            output_dir=None if folder is None else str(folder),
            use_fast_impl=False,
            allow_cached_coco=True,
        )
        results[name] = inference_on_dataset(model, loader, evaluator).get("bbox", {})
        if folder is not None and comm.is_main_process():
            _write_test_set(name, json_file, folder)
    return results


def _write_test_set(name: str, json_file: str, folder: Path) -> None:
    metadata = MetadataCatalog.get(name)
    image_root = metadata.get("image_root")
    described = {
        "name": name,
        "annotations": str(Path(json_file).absolute()),
        "images": None if image_root is None else str(Path(image_root).absolute()),
        "classes": list(metadata.thing_classes),
    }
    text = json.dumps(described, indent=2) + "\n"
    write_atomically(folder / TEST_SET, lambda file: file.write(text.encode()))
