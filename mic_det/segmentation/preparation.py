"""What a host sees of whole data sets before a stage of training."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.engine import HookBase
from torch import Tensor

from mic_det.core import eval_mode
from mic_det.data.errors import DataError
from mic_det.data.segmentation import SegmentationMapper, labelled_seg_dicts, unlabelled_dicts
from mic_det.data.segmentation.records import LabelReaders, check_sizes
from mic_det.data.unreadable import UnreadableImages

from .hosts import Preparation
from .losses import resize_labels
from .meta_arch import AdaptiveSegmentor

logger = logging.getLogger(__name__)

Item = TypeVar("Item")
Record = dict[str, Any]

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
        with eval_mode(self.student), self.trainer.teacher.labelling():
            host.prepare(preparation)

    def _source(self) -> Iterator[tuple[Tensor, Tensor]]:
        names = self.cfg.DATASETS.TRAIN
        records = [each for name in names for each in labelled_seg_dicts(name)]
        items = self._items("DATASETS.TRAIN", records, labelled_reader(self.cfg, self.student))
        for pairs in in_batches(items, AT_ONCE, lambda pair: pair[0].shape):
            images, labels = zip(*pairs, strict=True)
            yield torch.cat(images), torch.cat(labels)

    def _target(self) -> Iterator[Tensor]:
        records = [each for name in self.cfg.DATASETS.TARGET for each in unlabelled_dicts(name)]
        items = self._items(
            "DATASETS.TARGET", records, SegmentationMapper(self.cfg, is_train=False)
        )
        for batch in in_batches(items, AT_ONCE, lambda each: each["image"].shape):
            yield self.student.images(batch)

    def _items(self, key: str, records: list[Record], read: Callable[[Record], Item]) -> Iterator:
        """What ``read`` makes of the images that are looked at; see `readable`."""
        chosen = evenly_spread(records, self.cfg.MODEL.SEG.INIT_IMAGES)
        faults = UnreadableImages(key, len(chosen), self.cfg.DATALOADER.MAX_UNREADABLE)
        return told(readable(chosen, read, faults), key)


def readable(
    records: Iterable[Record], read: Callable[[Record], Item], faults: UnreadableImages
) -> Iterator[Item]:
    """Records as ``read``; what cannot be read is left out, as far as ``faults`` allows."""
    for record in records:
        try:
            item = read(record)
        except DataError as error:
            name = record["file_name"]
            reason = " ".join(str(error).removeprefix(f"{name}: ").split())
            faults.check([{"image": None, "unreadable": [(name, reason)]}])
        else:
            yield item


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
            logger.info("%d images of %s so far", count, what)


def labelled_pass(
    cfg: CfgNode, names: Sequence[str], student: AdaptiveSegmentor
) -> Iterator[tuple[Tensor, Tensor]]:
    """All images of labelled domains, one by one, as `labelled_reader` gives them."""
    read = labelled_reader(cfg, student)
    return (read(record) for name in names for record in labelled_seg_dicts(name))


def labelled_reader(
    cfg: CfgNode, student: AdaptiveSegmentor
) -> Callable[[Record], tuple[Tensor, Tensor]]:
    """A function of a labelled dict, to what networks take of it at test size.

    It gives images (1, 3, H, W) and labels (1, H, W) int64 of the model's classes, brought to the
    images' size by nearest neighbour, and raises DataError if a file cannot be read or the two
    differ in size.
    """
    mapper, read_labels = SegmentationMapper(cfg, is_train=False), LabelReaders()

    def read(record: Record) -> tuple[Tensor, Tensor]:
        mapped, labels = mapper(record), read_labels(record)
        check_sizes(record, (mapped["width"], mapped["height"]), labels.shape[::-1])
        images = student.images([mapped])
        labels = torch.from_numpy(labels.astype(np.int64))[None].to(images.device)
        return images, resize_labels(labels, images.shape[-2:])

    return read
