"""Endless, reproducible batches of labelled source and unlabelled target images."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from functools import partial
from typing import Any

import numpy as np
from detectron2.config import CfgNode
from tqdm import tqdm

from mic_det.data.catalog import unlabelled_dicts
from mic_det.data.errors import DataError, listed
from mic_det.data.loader import SOURCE_STREAM, TARGET_STREAM, SampleStream, paired_batches
from mic_det.data.segmentation.mapper import SegmentationMapper
from mic_det.data.segmentation.pixel_counts import PixelCounts, pixel_counts
from mic_det.data.segmentation.rare_classes import RareClassStream
from mic_det.data.segmentation.records import labelled_seg_dicts, model_classes

logger = logging.getLogger(__name__)

Batch = list[dict[str, Any]]


def segmentation_batches(
    cfg: CfgNode, seed: int, start: int = 0, *, use_target: bool = True
) -> Iterator[tuple[Batch, Batch | None]]:
    """Endless (source batch, target batch) from iteration ``start`` on.

    Samples are `SegmentationMapper`'s and have ``sample_seed`` (int) as well. A target sample has
    no ``sem_seg``, and label images of the target are never opened.

    Args:
        cfg: ``DATASETS.TRAIN`` and ``TARGET``, ``SOLVER.IMS_PER_BATCH`` and
            ``TARGET_IMS_PER_BATCH``, ``INPUT``, ``DATALOADER``; ``DATASETS.TEST`` if labels are to
            be checked.
        seed: of order, rare classes and augmentation.
        start: iteration of the first batch.
        use_target: whether the method uses target images; else they are not read, and the second
            of each pair is None.

    Raises:
        DataError: if label images cannot be used (DATALOADER.CHECK_LABELS).
    """
    if cfg.DATALOADER.CHECK_LABELS:
        check_test_labels(cfg)
    target = target_stream(cfg, seed) if use_target else None
    return paired_batches(cfg, source_stream(cfg, seed), target, start)


def source_stream(cfg: CfgNode, seed: int) -> SampleStream:
    """Labelled images of ``DATASETS.TRAIN``, by the rarity of their classes if so configured."""
    dicts = [record for name in cfg.DATASETS.TRAIN for record in labelled_seg_dicts(name)]
    mapper = SegmentationMapper(cfg)
    make = partial(SampleStream, why_unreadable=mapper.why_unreadable)
    rare = cfg.DATALOADER.RARE_CLASSES
    if rare.ENABLED or cfg.DATALOADER.CHECK_LABELS:
        classes = model_classes(cfg.DATASETS.TRAIN[0])
        found = pixel_counts(dicts, classes, _bar)
        _judge("DATASETS.TRAIN", found, cfg.DATALOADER.MAX_UNREADABLE)
        _warn_of_absent(classes, found)
    if not rare.ENABLED:
        return make(dicts, mapper, seed, SOURCE_STREAM)
    stream = RareClassStream(
        dicts,
        mapper,
        seed,
        SOURCE_STREAM,
        counts=found.counts,
        temperature=rare.TEMPERATURE,
        min_pixels=rare.MIN_PIXELS,
        why_unreadable=mapper.why_unreadable,
    )
    _log_rarity(classes, found.counts.sum(axis=0), stream.probabilities)
    return stream


def target_stream(cfg: CfgNode, seed: int) -> SampleStream:
    """Images of ``DATASETS.TARGET``; label images of these domains, if any, stay unread."""
    dicts = [record for name in cfg.DATASETS.TARGET for record in unlabelled_dicts(name)]
    mapper = SegmentationMapper(cfg, target=True)
    return SampleStream(dicts, mapper, seed, TARGET_STREAM, mapper.why_unreadable)


def check_test_labels(cfg: CfgNode) -> None:
    """Raise DataError if the evaluation would fail for a label image of ``DATASETS.TEST``."""
    for name in cfg.DATASETS.TEST:
        found = pixel_counts(labelled_seg_dicts(name), model_classes(name), _bar)
        _judge(f"DATASETS.TEST ({name})", found, 0.0)


def _bar(results: Iterable, total: int, title: str) -> Iterable:
    """A bar that is gone when it is done, and only where somebody looks."""
    return tqdm(results, total=total, desc=title, unit="image", leave=False, disable=None)


def _judge(what: str, found: PixelCounts, share: float) -> None:
    """Raise DataError if too many label images cannot be used, or nothing is labelled."""
    total = len(found.counts)
    if len(found.faults) > share * total:
        allowed = f", more than DATALOADER.MAX_UNREADABLE ({share:.2%}) allows" if share else ""
        raise DataError(
            f"{what}: {len(found.faults)} of {total} label images cannot be used{allowed}:\n"
            f"{listed(list(found.faults.values()))}"
        )
    for fault in found.faults.values():
        logger.warning("%s: not used: %s", what, fault)
    if not found.counts.any():
        raise DataError(
            f"{what}: no pixel of any label image has a class of the model. Check label_map "
            "and classes (python tools/datasets.py check)."
        )


def _warn_of_absent(classes: tuple[str, ...], found: PixelCounts) -> None:
    pixels = found.counts.sum(axis=0)
    absent = [name for name, count in zip(classes, pixels, strict=True) if not count]
    if absent:
        logger.warning(
            "DATASETS.TRAIN: no pixel of class %s: the model cannot learn it. Is it called "
            "otherwise (label_map, aliases)?",
            ", ".join(map(repr, absent)),
        )


def _log_rarity(classes: tuple[str, ...], pixels: np.ndarray, probabilities: np.ndarray) -> None:
    shares = 100 * pixels / pixels.sum()
    rows = zip(classes, shares, 100 * probabilities, strict=True)
    table = ", ".join(f"{name} {share:.2g} % -> {drawn:.2g} %" for name, share, drawn in rows)
    logger.info("Rare class sampling; share of pixels -> of draws: %s", table)
