"""Choosing a checkpoint without target labels: how stable classes are under masking."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from mic_det.core import PatchMask, eval_mode, masked_pairs


def masking_stability(
    model: nn.Module, batch: Sequence[dict[str, Any]], mask: PatchMask, seed: int = 0
) -> float:
    """Agreement of a classifier with itself when patches are hidden, in [0, 1].

    The mean over the images of sum_k min(p_k, q_k), where p and q are the probabilities on the
    complete and on the masked image: 1 minus their total variation distance. The masks depend on
    ``seed`` alone, so checkpoints are compared on the same ones. It tells nothing of a model that
    calls everything by one name: look at the predictions too.

    Args:
        model: returns ``probabilities`` (K,); put into eval mode meanwhile.
        batch: input dicts with ``image``; no labels are used.
        mask: whose ``fill`` is the model's mean colour.
    """
    shared = 0.0
    with eval_mode(model):
        for pair in masked_pairs(batch, mask, seed):
            found = model([{"image": image} for image in pair])
            complete, masked = (each["probabilities"] for each in found)
            shared += float(torch.minimum(complete, masked).sum())
    return shared / len(batch)
