"""Choosing a checkpoint without target labels: how stable detections are under masking."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from detectron2.structures import Instances, pairwise_iou
from torch import nn

from mic_det.core import PatchMask, eval_mode, masked_pairs


def matched_overlap(first: Instances, second: Instances) -> float:
    """Sum of the overlaps of one-to-one matches between two sets of detections of an image.

    Boxes match within a class, the largest overlap first, from an IoU of 0.5 on.
    """
    iou = pairwise_iou(first.pred_boxes, second.pred_boxes)
    iou = iou * (first.pred_classes[:, None] == second.pred_classes[None, :])
    total = 0.0
    while iou.numel() and (best := float(iou.max())) >= 0.5:
        row, column = divmod(int(iou.argmax()), iou.shape[1])
        total += best
        iou[row, :] = 0.0
        iou[:, column] = 0.0
    return total


def masking_stability(
    model: nn.Module,
    batch: Sequence[dict[str, Any]],
    mask: PatchMask,
    score_threshold: float = 0.5,
    seed: int = 0,
) -> float:
    """Agreement of a detector with itself when patches of the image are hidden, in [0, 1].

    Detections on the complete and on the masked image are matched; the result is
    2 * (sum of matched overlaps) / (number of detections in both), over all images: a Dice score
    that counts each match by how well its boxes agree. A model that sees nothing scores 0. The
    masks depend on ``seed`` alone, so checkpoints are compared on the same ones.

    Args:
        model: a detector in Detectron2's form; put into eval mode meanwhile.
        batch: input dicts with ``image``; no labels are used.
        mask: whose ``fill`` is the model's mean colour.
        score_threshold: detections below this score do not count.
    """
    matched, count = 0.0, 0
    with eval_mode(model):
        for pair in masked_pairs(batch, mask, seed):
            sides = []
            for image in pair:
                found = model([{"image": image}])[0]["instances"].to("cpu")
                sides.append(found[found.scores >= score_threshold])
            matched += matched_overlap(*sides)
            count += len(sides[0]) + len(sides[1])
    return 2.0 * matched / count if count else 0.0
