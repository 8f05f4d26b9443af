"""COCO-style evaluation of student and teacher on target validation data."""

from __future__ import annotations

from typing import Any

import numpy as np
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog, build_detection_test_loader
from detectron2.evaluation import COCOEvaluator, inference_on_dataset
from torch import nn

from mic_det.data.catalog import evaluation_json, labelled_dicts
from mic_det.data.mapper import DomainMapper


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


def evaluate_model(cfg: CfgNode, model: nn.Module, output_dir: str | None = None) -> dict[str, Any]:
    """Evaluate a detector on each of ``DATASETS.TEST``.

    Returns ``{dataset: {"AP", "AP50", "AP75", "AP50-<class>", …}}`` in percent; NaN for a class
    that the data set does not hold. On processes other than the first the values are empty.
    """
    results = {}
    for name in cfg.DATASETS.TEST:
        json_file = evaluation_json(name)
        MetadataCatalog.get(name).json_file = json_file
        loader = build_detection_test_loader(
            cfg,
            name,
            dataset=labelled_dicts(name),
            mapper=DomainMapper(cfg, is_train=False),
            num_workers=cfg.DATALOADER.NUM_WORKERS,
        )
        evaluator = AP50Evaluator(
            name,
            tasks=("bbox",),
            output_dir=output_dir,
            use_fast_impl=False,
            allow_cached_coco=True,
        )
        results[name] = inference_on_dataset(model, loader, evaluator).get("bbox", {})
    return results
