"""Image classification, as the engine sees it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode
from detectron2.engine import HookBase
from detectron2.utils import comm
from torch import nn

from mic_det.config import ConfigError
from mic_det.core import PatchMask, SharpnessAscent
from mic_det.data.catalog import missing_data_message, require_domain, unlabelled_dicts
from mic_det.data.classification.folders import class_names_of, labelled_images
from mic_det.data.errors import DataError
from mic_det.data.loader import SOURCE_STREAM, TARGET_STREAM, SampleStream, paired_batches
from mic_det.data.register import register_from_config
from mic_det.data.shared_images import warn_of_shared_images
from mic_det.tasks import Batch, Metrics, Predictions, PredictOptions, Task

from .evaluation import PREDICTIONS, TEST_SET, evaluate_model
from .label_free import masking_stability
from .mapper import SquareMapper
from .meta_arch import TASK_LOSSES
from .pictures import FOLDER, ClassPictures, spread_targets
from .prediction import ClassPredictions

logger = logging.getLogger(__name__)


class ClassificationTask(Task):
    """One class an image."""

    headline = "accuracy"
    title = "accuracy"
    columns = ("accuracy", "image_accuracy", "class_accuracy")
    per_class = "accuracy"
    files = (PREDICTIONS, TEST_SET)
    statistics_images = 32
    network = (
        *("MODEL.META_ARCHITECTURE", "MODEL.CLASSIFIER.BACKBONE", "MODEL.CLASSIFIER.POOL"),
        "MODEL.CLASSIFIER.BOTTLENECK",
    )

    def register(self, cfg: CfgNode) -> None:
        register_from_config(cfg)

    def missing_data_message(self, cfg: CfgNode, training: bool) -> str | None:
        register_from_config(cfg)
        data = cfg.DATASETS
        names = (*data.TRAIN, *data.TARGET, *data.TEST) if training else data.TEST
        return missing_data_message((), names)

    def check(self, cfg: CfgNode, *, training: bool = True) -> list[str]:
        register_from_config(cfg)
        sources, tests = tuple(cfg.DATASETS.TRAIN), tuple(cfg.DATASETS.TEST)
        if training:
            check_batches(cfg)
        for name in (*sources, *cfg.DATASETS.TARGET) if training else ():
            require_domain(name, labelled=False)
        classes = _classes(cfg, training)
        if not classes:
            return []
        expected = cfg.MODEL.CLASSIFIER.NUM_CLASSES
        if len(classes) != expected:
            shown = ", ".join(classes[:12]) + (", …" if len(classes) > 12 else "")
            raise ConfigError(
                f"{(sources or tests)[0]} has {len(classes)} classes ({shown}), but "
                f"MODEL.CLASSIFIER.NUM_CLASSES is {expected}. Set it to {len(classes)}, or restore "
                "the folders of classes."
            )
        needed = (*sources, *tests) if training else tests
        records = {name: labelled_images(name, classes) for name in needed}
        warn_of_shared_images(records, sources, tests)
        return classes

    def class_names(self, cfg: CfgNode, datasets: Sequence[str]) -> list[str]:
        for name in datasets:
            try:
                names = class_names_of(name)
            except DataError:
                continue
            if len(names) == cfg.MODEL.CLASSIFIER.NUM_CLASSES:
                return names
        return []

    def labelled(self, name: str, classes: Sequence[str]) -> list[dict[str, Any]]:
        return labelled_images(name, classes)

    def batches(self, cfg: CfgNode, seed: int, start: int) -> Iterator[tuple[Batch, Batch | None]]:
        classes = _classes(cfg, training=True)
        mapper = SquareMapper.from_config(cfg, is_train=True)
        labelled = [each for name in cfg.DATASETS.TRAIN for each in labelled_images(name, classes)]
        source = SampleStream(labelled, mapper, seed, SOURCE_STREAM)
        target = None
        if uses_target(cfg):
            unlabelled = [each for name in cfg.DATASETS.TARGET for each in unlabelled_dicts(name)]
            target = SampleStream(unlabelled, mapper, seed, TARGET_STREAM)
        return paired_batches(cfg, source, target, start)

    def evaluate(self, cfg: CfgNode, model: nn.Module, folder: Path | None) -> dict[str, Metrics]:
        return evaluate_model(cfg, model, _classes(cfg, training=False), folder)

    def predictions(self, cfg: CfgNode, model: nn.Module, options: PredictOptions) -> Predictions:
        return ClassPredictions(cfg, model, options)

    def stability(self, cfg: CfgNode) -> Callable[[nn.Module], float] | None:
        """`masking_stability` on ``TEST.LABEL_FREE_IMAGES`` images of the target."""
        count = cfg.TEST.LABEL_FREE_IMAGES
        if not count or not cfg.DATASETS.TARGET:
            return None
        ratio, mean = cfg.TEST.LABEL_FREE_RATIO, list(cfg.MODEL.PIXEL_MEAN)
        mask = PatchMask(cfg.MODEL.MIC.BLOCK_SIZE, ratio, mean)
        return partial(masking_stability, batch=spread_targets(cfg, count), mask=mask)

    def hooks(self, cfg: CfgNode, student: nn.Module) -> list[HookBase]:
        if not cfg.VIS_PERIOD or not cfg.DATASETS.TARGET or not comm.is_main_process():
            return []
        return [
            ClassPictures(
                student,
                lambda: spread_targets(cfg, cfg.VIS_IMAGES),
                self.masked_view(cfg),
                names=self.class_names(cfg, cfg.DATASETS.TRAIN),
                folder=Path(cfg.OUTPUT_DIR) / FOLDER,
                period=cfg.VIS_PERIOD,
                channels=cfg.INPUT.FORMAT,
            )
        ]

    def ascent(self, cfg: CfgNode) -> SharpnessAscent | None:
        rho = cfg.MODEL.CLASSIFIER.SAM_RHO
        return SharpnessAscent(rho, TASK_LOSSES) if rho else None


def uses_target(cfg: CfgNode) -> bool:
    """Whether a part of the method looks at target images."""
    return cfg.MODEL.MIC.ENABLED or sees_complete_target(cfg)


def sees_complete_target(cfg: CfgNode) -> bool:
    """Whether the student is shown complete target images beside the source's."""
    settings = cfg.MODEL.CLASSIFIER
    aligns = settings.ALIGN.METHOD != "none" and settings.ALIGN.WEIGHT > 0
    return aligns or settings.MCC.WEIGHT > 0


def check_batches(cfg: CfgNode) -> None:
    """Raise ConfigError if a process would normalise over a batch of one image."""
    if not cfg.MODEL.CLASSIFIER.BOTTLENECK:
        return
    solver, world = cfg.SOLVER, comm.get_world_size()
    source = solver.IMS_PER_BATCH // world
    target = (solver.TARGET_IMS_PER_BATCH or solver.IMS_PER_BATCH) // world
    together = source + target if sees_complete_target(cfg) else source
    for key, count in (
        ("IMS_PER_BATCH", together),
        ("TARGET_IMS_PER_BATCH" if solver.TARGET_IMS_PER_BATCH else "IMS_PER_BATCH", target),
    )[: 2 if cfg.MODEL.MIC.ENABLED else 1]:
        if count < 2:
            raise ConfigError(
                f"SOLVER.{key} is {solver[key]} over {world} processes: the bottleneck's BatchNorm "
                "needs at least 2 images a process in each batch. Raise it, or set "
                "MODEL.CLASSIFIER.BOTTLENECK to 0."
            )


def _classes(cfg: CfgNode, training: bool) -> list[str]:
    """Those of the first source; for evaluation alone, where it is not here, of the first test."""
    sources, tests = tuple(cfg.DATASETS.TRAIN), tuple(cfg.DATASETS.TEST)
    if sources and (training or not missing_data_message((), [sources[0]])):
        return class_names_of(sources[0])
    if not tests:
        return []
    logger.warning("No source data here: the model's classes are taken to be %s's.", tests[0])
    return class_names_of(tests[0])


TASK = ClassificationTask()
