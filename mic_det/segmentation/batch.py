"""From Detectron2's input dicts to batches of pixels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .losses import IGNORED

Batch = Sequence[dict[str, Any]]


def stack_images(batch: Batch, fill: Tensor) -> Tensor:
    """The images of a batch, (N, 3, H, W) float32 on the device of ``fill``.

    Args:
        batch: input dicts with ``image`` (3, h, w), uint8 or floating, in [0, 255].
        fill: (1, 3, 1, 1), colour of what is added at the right of and below smaller images.
    """
    # Bytes travel as bytes, become numbers where they arrive, and nobody waits for them.
    images = [each["image"].to(fill.device, non_blocking=True) for each in batch]
    height, width = _largest(images)
    result = fill.expand(len(images), -1, height, width).clone()
    for row, image in zip(result, images, strict=True):
        row[:, : image.shape[-2], : image.shape[-1]] = image
    return result


def stack_labels(batch: Batch, device: torch.device) -> Tensor:
    """The labels of a batch, (N, H, W) int64 with `IGNORED` beyond smaller ones.

    Args:
        batch: input dicts with ``sem_seg`` (h, w) of integers.
    """
    labels = [each["sem_seg"] for each in batch]
    result = torch.full((len(labels), *_largest(labels)), IGNORED, device=device)
    for row, each in zip(result, labels, strict=True):
        row[: each.shape[0], : each.shape[1]] = each.to(device, non_blocking=True)
    return result


def _largest(pixels: Sequence[Tensor]) -> tuple[int, int]:
    height, width = (max(each.shape[side] for each in pixels) for side in (-2, -1))
    return height, width
