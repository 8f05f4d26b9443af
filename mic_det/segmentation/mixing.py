"""ClassMix (Olsson et al., WACV 2021): classes of a source image pasted onto a target image."""

from __future__ import annotations

import torch
from torch import Tensor

from .losses import IGNORED
from .pseudo_labels import PixelLabels


def class_mask(labels: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Pixels of a random half of each image's classes.

    Of n classes present ceil(n / 2) are drawn, as DACS does. Ignored pixels are never taken.

    Args:
        labels: (N, H, W) int64 in [0, 255].

    Returns bool (N, H, W).
    """
    flat = labels.flatten(1)
    present = torch.zeros(len(labels), IGNORED + 1, dtype=torch.bool, device=labels.device)
    present.scatter_(1, flat, True)
    # A GPU is waited for here, once a batch: how many classes there are decides what is drawn.
    chosen = torch.zeros(present.shape, dtype=torch.bool)
    for row, taken in zip(present.cpu(), chosen, strict=True):
        classes = row[:IGNORED].nonzero().flatten()
        order = torch.randperm(len(classes), generator=generator)
        taken[classes[order[: (len(classes) + 1) // 2]]] = True
    chosen = chosen.to(labels.device, non_blocking=True)
    return chosen.gather(1, flat).view_as(labels)


def paste(mask: Tensor, source: Tensor, target: Tensor) -> Tensor:
    """``source`` where ``mask`` (N, H, W), ``target`` elsewhere; both (N, H, W) or (N, C, H, W)."""
    return torch.where(mask if source.dim() == 3 else mask[:, None], source, target)


def mix(
    mask: Tensor,
    source_images: Tensor,
    source_labels: Tensor,
    target_images: Tensor,
    pseudo: PixelLabels,
) -> tuple[Tensor, PixelLabels]:
    """Mixed images (N, 3, H, W) and their labels; pasted pixels have their true label, weight 1."""
    labels = paste(mask, source_labels, pseudo.labels)
    weight = paste(mask, torch.ones_like(pseudo.weight), pseudo.weight)
    return paste(mask, source_images, target_images), PixelLabels(labels, weight)
