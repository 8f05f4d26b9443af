"""Semantic segmentation, as the engine sees it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode
from detectron2.engine import HookBase
from detectron2.utils import comm
from torch import nn

from mic_det.core import PatchMask
from mic_det.data.class_names import numbered
from mic_det.data.errors import DataError
from mic_det.data.register import register_from_config
from mic_det.data.segmentation import check_segmentation, class_colours, segmentation_batches
from mic_det.data.segmentation.config_check import missing_segmentation_data
from mic_det.data.segmentation.records import labelled_seg_dicts, model_classes
from mic_det.tasks import Batch, Metrics, Predictions, PredictOptions, Task

from .evaluation import OVERALL, PER_CLASS, TEST_SET, evaluate_model
from .hosts import host_class
from .label_free import masking_stability
from .pictures import FOLDER, LabelMapPictures, spread_targets
from .prediction import LabelMapPredictions
from .preparation import HostPreparation
from .separation import ClassDistances


def no_view(target: Batch) -> None:
    """For hosts that need pseudo labels where there is no MIC to show masked images."""


class SegmentationTask(Task):
    """Label maps, by an `AdaptiveSegmentor`."""

    headline = "mIoU"
    title = "mIoU"
    columns = OVERALL
    per_class = PER_CLASS
    files = (TEST_SET,)
    statistics_images = 2
    network = (
        *("MODEL.META_ARCHITECTURE", "MODEL.RESNETS", "MODEL.SEG.ENCODER", "MODEL.SEG.MIT_VARIANT"),
        *("MODEL.SEG.DECODER", "MODEL.SEG.ASPP_DILATIONS", "MODEL.SEG.CHANNELS", "MODEL.SEG.NORM"),
        *("MODEL.SEG.HRDA.ENABLED", "MODEL.SEG.HRDA.SCALE", "MODEL.SEG.HRDA.DETAIL_CROP"),
        "MODEL.SEG.HRDA.CONTEXT_WINDOW",
    )

    def register(self, cfg: CfgNode) -> None:
        register_from_config(cfg)

    def missing_data_message(self, cfg: CfgNode, training: bool) -> str | None:
        return missing_segmentation_data(cfg, training)

    def check(self, cfg: CfgNode, *, training: bool = True) -> list[str]:
        return check_segmentation(cfg, training)

    def class_names(self, cfg: CfgNode, datasets: Sequence[str]) -> list[str]:
        for name in datasets:
            try:
                names = list(model_classes(name))
            except DataError:
                continue
            if len(names) == cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES:
                return names
        return []

    def labelled(self, name: str, classes: Sequence[str]) -> list[dict[str, Any]]:
        return labelled_seg_dicts(name)

    def batches(self, cfg: CfgNode, seed: int, start: int) -> Iterator[tuple[Batch, Batch | None]]:
        host = host_class(cfg)
        uses_target = host.uses_target or host.uses_pseudo_labels or masks_target(cfg)
        return segmentation_batches(cfg, seed, start, use_target=uses_target)

    def evaluate(self, cfg: CfgNode, model: nn.Module, folder: Path | None) -> dict[str, Metrics]:
        return evaluate_model(cfg, model, folder)

    def predictions(self, cfg: CfgNode, model: nn.Module, options: PredictOptions) -> Predictions:
        names = list(options.classes) or numbered(cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES)
        classes = list(zip(names, class_colours(names), strict=True))
        return LabelMapPredictions(cfg, model, options, classes)

    def stability(self, cfg: CfgNode) -> Callable[[nn.Module], float] | None:
        """`masking_stability` on ``TEST.LABEL_FREE_IMAGES`` images of the target."""
        count = cfg.TEST.LABEL_FREE_IMAGES
        if not count or not cfg.DATASETS.TARGET:
            return None
        ratio, mean = cfg.TEST.LABEL_FREE_RATIO, list(cfg.MODEL.PIXEL_MEAN)
        mask = PatchMask(cfg.MODEL.MIC.BLOCK_SIZE, ratio, mean)
        return partial(masking_stability, batch=spread_targets(cfg, count), mask=mask)

    def masked_view(self, cfg: CfgNode) -> Callable[[Batch], Batch] | None:
        if masks_target(cfg):
            return super().masked_view(cfg)
        return no_view if host_class(cfg).uses_pseudo_labels else None

    def hooks(self, cfg: CfgNode, student: nn.Module) -> list[HookBase]:
        built: list[HookBase] = [HostPreparation(cfg, student)]
        if student.host.reports_class_distance:
            classes = [name for name, _ in class_table(cfg)]
            built.append(ClassDistances(cfg, student, classes))
        if cfg.VIS_PERIOD and cfg.DATASETS.TARGET and comm.is_main_process():
            names, colours = zip(*class_table(cfg), strict=True)
            built.append(
                LabelMapPictures(
                    student,
                    lambda: spread_targets(cfg, cfg.VIS_IMAGES),
                    super().masked_view(cfg) if masks_target(cfg) else None,
                    names=names,
                    colours=colours,
                    folder=Path(cfg.OUTPUT_DIR) / FOLDER,
                    period=cfg.VIS_PERIOD,
                    channels=cfg.INPUT.FORMAT,
                )
            )
        return built


def masks_target(cfg: CfgNode) -> bool:
    """Whether MIC shows masked target images."""
    return cfg.MODEL.MIC.ENABLED and cfg.MODEL.SEG.MIC_DOMAINS != "source"


def class_table(cfg: CfgNode) -> list[tuple[str, tuple[int, int, int]]]:
    """Name and RGB colour of each class of the model, by id."""
    names = list(model_classes((*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST)[0]))
    return list(zip(names, class_colours(names), strict=True))


TASK = SegmentationTask()
