"""Prototype contrast: each position towards its own class's prototype, away from the others."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .centres import ClassCentres
from .losses import IGNORED, resize_labels


def prototype_contrast(
    features: Tensor, labels: Tensor, centres: ClassCentres, temperature: float
) -> Tensor:
    """Cross-entropy over the dot products with all prototypes (Xie et al., SPCL, 2021, eq. 5-6).

    For a position with feature f (of length 1) and class k it is
    -log(exp(f . mu_k / T) / sum_j exp(f . mu_j / T)), the mean over the labelled positions.

    Args:
        features: (N, D, h, w).
        labels: (N, H, W), brought to (h, w) by nearest neighbour; positions whose label is outside
            [0, K), or a class that has no prototype yet, do not count.
        centres: the K prototypes; those never seen are no candidates. No gradient reaches them.
        temperature: T > 0. A dot product of two vectors of length 1 is in [-1, 1]: with the
            authors' T = 100 the loss never leaves ln K -+ 0.02, with T = 0.1 it can be all but 0.

    Returns a scalar; 0, with a gradient of 0, if no position counts. Raises ValueError for T <= 0.
    """
    if temperature <= 0:
        raise ValueError(f"temperature must be above 0, got {temperature}")
    labels = resize_labels(labels, features.shape[-2:])
    with torch.autocast(features.device.type, enabled=False):
        means = centres.means.detach()
        logits = torch.einsum("ndhw,kd->nkhw", centres.prepare(features), means) / temperature
        unseen = ~centres.seen[None, :, None, None]
        logits = logits.masked_fill(unseen, torch.finfo(logits.dtype).min)
        inside = (labels >= 0) & (labels < centres.num_classes)
        counted = inside & centres.seen[labels.clamp(0, centres.num_classes - 1)]
        target = torch.where(counted, labels, IGNORED)
        total = F.cross_entropy(logits, target, ignore_index=IGNORED, reduction="sum")
        return total / counted.sum().clamp_min(1)
