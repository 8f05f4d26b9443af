"""Choosing a checkpoint without target labels: how stable label maps are under masking."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from mic_det.core import PatchMask, eval_mode, masked_pairs


def overlap_counts(first: Tensor, second: Tensor, num_classes: int) -> tuple[Tensor, Tensor]:
    """Of two label maps of one shape: pixels that both, and that at least one, give each class."""
    both = first[first == second].bincount(minlength=num_classes)
    either = sum(each.flatten().bincount(minlength=num_classes) for each in (first, second)) - both
    return both, either


def masking_stability(
    model: nn.Module,
    batch: Sequence[dict[str, Any]],
    mask: PatchMask,
    seed: int = 0,
) -> float:
    """Agreement of a segmentor with itself when patches of the image are hidden, in [0, 1].

    The intersection over union of the label maps of complete and masked images, for each class over
    all images, averaged over all classes of the model. A class in neither map counts as 0: a model
    that sees one thing everywhere scores 1/K. The masks depend on ``seed`` alone, so checkpoints
    are compared on the same ones.

    Args:
        model: a segmentor in Detectron2's form; put into eval mode meanwhile.
        batch: input dicts with ``image``; no labels are used.
        mask: whose ``fill`` is the model's mean colour.
    """
    both, either = 0, 0
    with eval_mode(model):
        for pair in masked_pairs(batch, mask, seed):
            logits = [model([{"image": image}])[0]["sem_seg"] for image in pair]
            maps = [each.argmax(0).cpu() for each in logits]
            counts = overlap_counts(*maps, num_classes=len(logits[0]))
            both, either = both + counts[0], either + counts[1]
    return float((both / either.clamp_min(1)).mean()) if len(batch) else 0.0
