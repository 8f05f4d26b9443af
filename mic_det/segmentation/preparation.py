"""What a host sees of whole data sets before a stage of training."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import TypeVar

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.engine import HookBase
from torch import Tensor

from mic_det.data.segmentation import (
    SegmentationMapper,
    label_loader,
    labelled_seg_dicts,
    unlabelled_dicts,
)

from .hosts import Preparation
from .losses import resize_labels
from .meta_arch import AdaptiveSegmentor

logger = logging.getLogger(__name__)

Item = TypeVar("Item")


class HostPreparation(HookBase):
    """Calls `Host.prepare` before the iterations that `Host.stage_starts` names.

    All processes go through all data, each for itself, and so come to the same state.

    Args:
        cfg: whose ``DATASETS.TRAIN`` and ``DATASETS.TARGET`` are looked at, at test size.
        student: the module without DistributedDataParallel.
    """

    def __init__(self, cfg: CfgNode, student: AdaptiveSegmentor) -> None:
        self.cfg = cfg
        self.student = student

    def before_step(self) -> None:
        host, iteration = self.student.host, self.trainer.iter
        if iteration not in host.stage_starts():
            return
        logger.info("Iteration %d: %s looks at the data.", iteration, type(host).__name__)
        preparation = Preparation(
            student=self.student.network,
            teacher=self.trainer.teacher.model.network,
            source=self._source,
            target=self._target,
            iteration=iteration,
        )
        self.student.eval()
        try:
            with torch.no_grad():
                host.prepare(preparation)
        finally:
            self.student.train()

    def _source(self) -> Iterator[tuple[Tensor, Tensor]]:
        return told(labelled_pass(self.cfg, self.cfg.DATASETS.TRAIN, self.student), "source")

    def _target(self) -> Iterator[Tensor]:
        mapper = SegmentationMapper(self.cfg, is_train=False)
        records = (each for name in self.cfg.DATASETS.TARGET for each in unlabelled_dicts(name))
        return told((self.student.images([mapper(each)]) for each in records), "target")


def told(items: Iterable[Item], what: str, seconds: float = 30.0) -> Iterator[Item]:
    """The same items; the log says every so many ``seconds`` how many there were."""
    last = time.monotonic()
    for count, each in enumerate(items, 1):
        yield each
        if time.monotonic() - last >= seconds:
            last = time.monotonic()
            logger.info("%d %s images so far", count, what)


def labelled_pass(
    cfg: CfgNode, names: Sequence[str], student: AdaptiveSegmentor
) -> Iterator[tuple[Tensor, Tensor]]:
    """All images of labelled domains, one by one at test size, as a network takes them.

    Gives images (1, 3, H, W) and labels (1, H, W) int64 of the model's classes, brought to the
    images' size by nearest neighbour.
    """
    mapper = SegmentationMapper(cfg, is_train=False)
    for name in names:
        load = label_loader(name)
        for record in labelled_seg_dicts(name):
            images = student.images([mapper(record)])
            labels = load(record["sem_seg_file_name"], dtype=np.int64)
            labels = torch.as_tensor(np.array(labels))[None].to(images.device)
            yield images, resize_labels(labels, images.shape[-2:])
