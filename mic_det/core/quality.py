"""How far a pseudo label is trusted."""

from __future__ import annotations

import torch
from torch import Tensor

QUALITY_MODES = ("teacher", "student", "none")
"""Whose confidence weights the masked loss: the teacher's as in the MIC paper (CVPR 2023, eq. 7),
the student's own as in its authors' detection code, or nobody's."""


def confident(scores: Tensor, threshold: float) -> Tensor:
    """Bool mask of the ``scores`` (any shape, in [0, 1]) that are at least ``threshold``."""
    return scores >= threshold


def softmax_quality(logits: Tensor) -> Tensor:
    """Largest softmax probability over the last axis, in [1/K, 1], without gradient."""
    return logits.detach().float().softmax(-1).amax(-1)


def objectness_quality(logits: Tensor) -> Tensor:
    """Sigmoid of ``logits`` (any shape), in [0, 1], without gradient."""
    return torch.sigmoid(logits.detach().float())
