"""Losses on class probabilities: tensors in, a scalar out."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

# Rows of class confusions that sum to less have no gradient that float32 could hold.
SMALLEST_ROW = 1e-20


def entropy(probabilities: Tensor) -> Tensor:
    """Shannon entropy in nats over the last axis of probabilities."""
    return -torch.xlogy(probabilities, probabilities).sum(-1)


def certainty_weights(probabilities: Tensor) -> Tensor:
    """1 + exp(-H) of each row of (N, K) probabilities, scaled to mean 1; (N,), no gradient.

    H is the row's entropy: what the classifier is sure of counts up to twice as much (CDAN+E: Long
    et al., NeurIPS 2018, eq. 9; MCC: Jin et al., ECCV 2020, eq. 4).
    """
    weights = 1.0 + torch.exp(-entropy(probabilities.detach()))
    return weights / weights.mean()


def class_confusion(logits: Tensor, temperature: float = 2.0) -> Tensor:
    """Minimum class confusion (Jin et al., ECCV 2020, eq. 2-6) of target logits (N, K).

    With probabilities P at ``temperature`` and certainty weights w, the confusions are
    C = P' diag(w) P, each row divided by its sum; the loss is the mean over classes of what lies
    off the diagonal, in [0, 1]. A class that no image has any probability of counts 0.
    """
    # In float32, under autocast too: a row's sum is tiny where a class is hardly ever predicted.
    with torch.autocast(logits.device.type, enabled=False):
        probabilities = F.softmax(logits.float() / temperature, dim=-1)
        weighted = probabilities * certainty_weights(probabilities)[:, None]
        confusion = weighted.T @ probabilities
        confusion = confusion / confusion.sum(1, keepdim=True).clamp_min(SMALLEST_ROW)
        return (confusion.sum() - confusion.trace()) / len(confusion)


def masked_loss(logits: Tensor, labels: Tensor, quality: Tensor) -> Tensor:
    """MIC's consistency loss (Hoyer et al., CVPR 2023, eq. 6): mean of quality * cross-entropy.

    Args:
        logits: (N, K) of the student on masked target images.
        labels: (N,) int64, the teacher's classes on the complete images.
        quality: (N,) in [0, 1], how far they are trusted.
    """
    return (quality * F.cross_entropy(logits.float(), labels, reduction="none")).mean()
