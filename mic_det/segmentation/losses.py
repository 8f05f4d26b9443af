"""Losses of pixels."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

IGNORED = 255
"""Label of pixels that no loss and no metric counts."""


def pixel_cross_entropy(logits: Tensor, labels: Tensor, weight: Tensor | None = None) -> Tensor:
    """Cross-entropy, weighted, averaged over the pixels that have a label.

    The sum of weight * cross-entropy is divided by the number of labelled pixels, not by the sum
    of weights: labels that are little trusted shall have little to say (DACS: Tranheden et al.,
    WACV 2021; DAFormer: Hoyer et al., CVPR 2022, eq. 3). 0 if no pixel has a label.

    Args:
        logits: (N, K, H, W) floating.
        labels: (N, H, W) int64 in [0, K), or `IGNORED`.
        weight: (N, H, W) floating, at least 0; None: 1.

    Returns a scalar.
    """
    losses = F.cross_entropy(logits.float(), labels, ignore_index=IGNORED, reduction="none")
    if weight is not None:
        losses = losses * weight
    return losses.sum() / (labels != IGNORED).sum().clamp_min(1)


def resize_labels(labels: Tensor, size: tuple[int, int]) -> Tensor:
    """Labels (N, H, W) int64 at another size (h, w), by nearest neighbour."""
    return F.interpolate(labels[:, None].float(), size=size, mode="nearest")[:, 0].long()
