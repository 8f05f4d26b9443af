"""Pseudo labels of pixels."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .losses import IGNORED


@dataclass
class PixelLabels:
    """What a teacher says of target images.

    ``labels``: (N, H, W) int64, `IGNORED` (255) where there is none. ``weight``: (N, H, W) float32
    in [0, 1], how far each is trusted. ``none``: it is known without a look at them that there is
    not one label, and nothing has to be computed for a loss that is 0.
    """

    labels: Tensor
    weight: Tensor
    none: bool = False

    def __len__(self) -> int:
        return len(self.labels)


@torch.no_grad()
def confident_share_labels(
    logits: Tensor,
    threshold: float = 0.968,
    ignore_top: int = 0,
    ignore_bottom: int = 0,
) -> PixelLabels:
    """The likeliest class of each pixel, weighted by how sure the teacher is of the whole image.

    The weight of all pixels of an image is the share of its pixels with a largest probability above
    ``threshold`` (DACS, WACV 2021; MIC, CVPR 2023, eq. 7).

    Args:
        logits: (N, K, H, W).
        ignore_top, ignore_bottom: rows whose weight is 0: rectified sky, the own car's bonnet.
    """
    confidence, labels = logits.float().softmax(1).max(1)
    share = (confidence > threshold).float().mean((1, 2), keepdim=True)
    weight = share.expand(confidence.shape).clone()
    if ignore_top:
        weight[:, :ignore_top] = 0.0
    if ignore_bottom:
        weight[:, -ignore_bottom:] = 0.0
    return PixelLabels(labels, weight)


def kept_share(pseudo: PixelLabels) -> Tensor:
    """Share of pixels that have a label and a weight above 0, a scalar."""
    return ((pseudo.labels != IGNORED) & (pseudo.weight > 0)).float().mean()
