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
        labels: (N, H, W) int64.

    Returns bool (N, H, W).
    """
    masks = []
    for each in labels:
        present = each.unique()
        present = present[present != IGNORED]
        order = torch.randperm(len(present), generator=generator).to(present.device)
        chosen = present[order[: (len(present) + 1) // 2]]
        masks.append(torch.isin(each, chosen))
    return torch.stack(masks)


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
