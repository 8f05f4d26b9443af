"""Endless, reproducible batches of labelled source and unlabelled target images."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from detectron2.config import CfgNode

Batch = list[dict[str, Any]]


def segmentation_batches(
    cfg: CfgNode, seed: int, start: int = 0, *, use_target: bool = True
) -> Iterator[tuple[Batch, Batch | None]]:
    """Endless (source batch, target batch) from iteration ``start`` on.

    Samples are `SegmentationMapper`'s and have ``sample_seed`` (int) as well. A target sample has
    no ``sem_seg``, and label images of the target are never opened.

    Args:
        cfg: ``DATASETS.TRAIN`` and ``TARGET``, ``SOLVER.IMS_PER_BATCH`` and
            ``TARGET_IMS_PER_BATCH``, ``INPUT``, ``DATALOADER``.
        seed: of order, rare classes and augmentation.
        start: iteration of the first batch.
        use_target: whether the method uses target images; else they are not read, and the second
            of each pair is None.
    """
    raise NotImplementedError
