"""From a teacher's detections to labels for the student."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from detectron2.modeling import GeneralizedRCNN
from detectron2.modeling.roi_heads.fast_rcnn import fast_rcnn_inference
from detectron2.structures import Instances
from torch import Tensor

from mic_det.core import confident

from .sparse_pooling import pool_regions


def detect_confident(
    model: GeneralizedRCNN,
    batch: Sequence[dict[str, Any]],
    threshold: float,
    correct: Callable[[Tensor], Tensor] | None = None,
) -> list[Instances]:
    """The model's detections with a score of ``threshold`` or more, in the network's coordinates.

    What has a lower score is left out before non-maximum suppression, not after it. That changes
    nothing, since a box is only ever suppressed by one with a higher score, and saves most of it.

    Args:
        model: with an `RPN` and `StandardROIHeads`, in eval mode.
        batch: Detectron2's input dicts.
        correct: from class probabilities (R, K) without the background's to better ones; that of
            the background stays.
    """
    images = model.preprocess_image(batch)
    features = model.backbone(images.tensor)
    proposals, _ = model.proposal_generator(images, features, None)
    heads = model.roi_heads
    predictor = heads.box_predictor
    maps = [features[name] for name in heads.box_in_features]
    pooled = pool_regions(heads.box_pooler, [(maps, [each.proposal_boxes for each in proposals])])
    predictions = predictor(heads.box_head(pooled))
    probabilities = predictor.predict_probs(predictions, proposals)
    if correct is not None:
        probabilities = [torch.cat([correct(p[:, :-1]), p[:, -1:]], dim=1) for p in probabilities]
    detections, _ = fast_rcnn_inference(
        predictor.predict_boxes(predictions, proposals),
        probabilities,
        images.image_sizes,
        # Detectron2 keeps what exceeds its threshold, and never less than the model's own.
        max(predictor.test_score_thresh, threshold - 1e-6),
        predictor.test_nms_thresh,
        predictor.test_topk_per_image,
    )
    return detections


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
