"""Object detection, as the engine sees it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode
from detectron2.engine import HookBase
from torch import nn

from mic_det.core import PatchMask
from mic_det.data.catalog import labelled_dicts, missing_data_message, unlabelled_dicts
from mic_det.data.class_names import class_names
from mic_det.data.loader import domain_batches
from mic_det.data.mapper import DomainMapper
from mic_det.data.register import register_from_config
from mic_det.tasks import Batch, Metrics, Predictions, PredictOptions, Task

from .checks import check_classes
from .evaluation import DETECTIONS, TEST_SET, evaluate_model
from .label_free import masking_stability
from .pictures import picture_hooks
from .prediction import DetectionPredictions
from .watchdog import PseudoLabelWatchdog


class DetectionTask(Task):
    """Boxes, by a Faster R-CNN."""

    headline = "AP50"
    title = "mAP50"
    columns = ("AP50", "AP")
    per_class = "AP50"
    files = (DETECTIONS, TEST_SET)
    network = (
        *("MODEL.META_ARCHITECTURE", "MODEL.BACKBONE.NAME", "MODEL.RESNETS", "MODEL.FPN"),
        *("MODEL.ANCHOR_GENERATOR", "MODEL.RPN.IN_FEATURES", "MODEL.RPN.BBOX_REG_WEIGHTS"),
        *("MODEL.ROI_HEADS.IN_FEATURES", "MODEL.ROI_BOX_HEAD"),
    )

    def register(self, cfg: CfgNode) -> None:
        register_from_config(cfg)

    def missing_data_message(self, cfg: CfgNode, training: bool) -> str | None:
        register_from_config(cfg)
        if not training:
            return missing_data_message(cfg.DATASETS.TEST)
        return missing_data_message((*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST), cfg.DATASETS.TARGET)

    def check(self, cfg: CfgNode, *, training: bool = True) -> list[str]:
        return check_classes(cfg, training=training)

    def class_names(self, cfg: CfgNode, datasets: Sequence[str]) -> list[str]:
        return class_names(datasets, cfg.MODEL.ROI_HEADS.NUM_CLASSES)

    def labelled(self, name: str, classes: Sequence[str]) -> list[dict[str, Any]]:
        return labelled_dicts(name)

    def batches(self, cfg: CfgNode, seed: int, start: int) -> Iterator[tuple[Batch, Batch | None]]:
        return domain_batches(cfg, seed, start)

    def evaluate(self, cfg: CfgNode, model: nn.Module, folder: Path | None) -> dict[str, Metrics]:
        return evaluate_model(cfg, model, folder)

    def predictions(self, cfg: CfgNode, model: nn.Module, options: PredictOptions) -> Predictions:
        return DetectionPredictions(cfg, model, options)

    def stability(self, cfg: CfgNode) -> Callable[[nn.Module], float] | None:
        """`masking_stability` on ``TEST.LABEL_FREE_IMAGES`` images of the target."""
        batch = _unlabelled_sample(cfg)
        if not batch:
            return None
        ratio, mean = cfg.TEST.LABEL_FREE_RATIO, list(cfg.MODEL.PIXEL_MEAN)
        mask = PatchMask(cfg.MODEL.MIC.BLOCK_SIZE, ratio, mean)
        return partial(masking_stability, batch=batch, mask=mask)

    def hooks(self, cfg: CfgNode, student: nn.Module) -> list[HookBase]:
        built = picture_hooks(cfg, student)
        if cfg.MODEL.MIC.ENABLED and cfg.MODEL.MIC.WATCHDOG.ENABLED:
            watchdog = cfg.MODEL.MIC.WATCHDOG
            limits = (watchdog.COLLAPSE_ITERS, watchdog.EXPLOSION_FACTOR)
            built.append(PseudoLabelWatchdog(*limits, watchdog.ACTION))
        return built


def _unlabelled_sample(cfg: CfgNode) -> list[dict[str, Any]]:
    """Evenly spread images of ``DATASETS.TARGET``, at test size."""
    if not cfg.TEST.LABEL_FREE_IMAGES or not cfg.DATASETS.TARGET:
        return []
    dicts = [record for name in cfg.DATASETS.TARGET for record in unlabelled_dicts(name)]
    step = math.ceil(len(dicts) / cfg.TEST.LABEL_FREE_IMAGES)
    mapper = DomainMapper(cfg, is_train=False)
    return [mapper(record) for record in dicts[::step]]


TASK = DetectionTask()
