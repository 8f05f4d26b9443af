"""What a host sees of whole data sets before a stage of training."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
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

# Images of one size go through the network so many at a time, which takes less time than one by
# one; without gradients they need less memory than a training batch.
AT_ONCE = 4


class HostPreparation(HookBase):
    """Calls `Host.prepare` before the iterations that `Host.stage_starts` names.

    All processes go through all data, each for itself, and so come to the same state.

    Args:
        cfg: whose ``DATASETS.TRAIN`` and ``DATASETS.TARGET`` are looked at, at test size; at
            ``MODEL.SEG.INIT_IMAGES`` of each if that is above 0.
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
        count = self.cfg.MODEL.SEG.INIT_IMAGES
        items = labelled_pass(self.cfg, self.cfg.DATASETS.TRAIN, self.student, count)
        for pairs in in_batches(told(items, "source"), AT_ONCE, lambda pair: pair[0].shape):
            images, labels = zip(*pairs, strict=True)
            yield torch.cat(images), torch.cat(labels)

    def _target(self) -> Iterator[Tensor]:
        mapper = SegmentationMapper(self.cfg, is_train=False)
        records = [each for name in self.cfg.DATASETS.TARGET for each in unlabelled_dicts(name)]
        items = map(mapper, evenly_spread(records, self.cfg.MODEL.SEG.INIT_IMAGES))
        for batch in in_batches(told(items, "target"), AT_ONCE, lambda each: each["image"].shape):
            yield self.student.images(batch)


def evenly_spread(items: Sequence[Item], count: int) -> list[Item]:
    """``count`` of the items at equal distances, the first among them; all if 0 or not so many."""
    if not 0 < count < len(items):
        return list(items)
    return [items[i * len(items) // count] for i in range(count)]


def in_batches(
    items: Iterable[Item], size: int, key: Callable[[Item], object]
) -> Iterator[list[Item]]:
    """Items in their order, up to ``size`` that follow one another and have the same ``key``."""
    batch: list[Item] = []
    for each in items:
        if batch and (len(batch) == size or key(each) != key(batch[0])):
            yield batch
            batch = []
        batch.append(each)
    if batch:
        yield batch


def told(items: Iterable[Item], what: str, seconds: float = 30.0) -> Iterator[Item]:
    """The same items; the log says every so many ``seconds`` how many there were."""
    last = time.monotonic()
    for count, each in enumerate(items, 1):
        yield each
        if time.monotonic() - last >= seconds:
            last = time.monotonic()
            logger.info("%d %s images so far", count, what)


def labelled_pass(
    cfg: CfgNode, names: Sequence[str], student: AdaptiveSegmentor, count: int = 0
) -> Iterator[tuple[Tensor, Tensor]]:
    """Images of labelled domains, one by one at test size, as a network takes them.

    All of them, or ``count`` if that is above 0 (`evenly_spread`).

    Gives images (1, 3, H, W) and labels (1, H, W) int64 of the model's classes, brought to the
    images' size by nearest neighbour.
    """
    mapper = SegmentationMapper(cfg, is_train=False)
    loaders = {name: label_loader(name) for name in names}
    records = [(name, record) for name in names for record in labelled_seg_dicts(name)]
    for name, record in evenly_spread(records, count):
        images = student.images([mapper(record)])
        labels = loaders[name](record["sem_seg_file_name"], dtype=np.int64)
        labels = torch.as_tensor(np.array(labels))[None].to(images.device)
        yield images, resize_labels(labels, images.shape[-2:])
