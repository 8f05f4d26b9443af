"""From a teacher's detections to labels for the student."""

from __future__ import annotations

from collections.abc import Sequence

from detectron2.structures import Instances

from mic_det.core import confident


def as_pseudo_labels(detections: Sequence[Instances], threshold: float) -> list[Instances]:
    """Keep the confident detections and name them as Detectron2 names ground truth.

    Args:
        detections: one for each image, with ``pred_boxes``, ``pred_classes`` and ``scores``, after
            NMS, in the coordinates of the network's input.
        threshold: detections with a score of at least this are kept.

    Returns:
        One `Instances` for each image, with ``gt_boxes``, ``gt_classes`` (int64) and ``gt_scores``
        (the quality, float32 in [threshold, 1]); empty where nothing is confident.
    """
    labels = []
    for found in detections:
        kept = found[confident(found.scores, threshold)]
        labels.append(
            Instances(
                kept.image_size,
                gt_boxes=kept.pred_boxes,
                gt_classes=kept.pred_classes,
                gt_scores=kept.scores,
            )
        )
    return labels
