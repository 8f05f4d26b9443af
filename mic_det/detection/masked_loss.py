"""MIC's consistency loss for a two-stage detector."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from detectron2.modeling.proposal_generator import RPN
from detectron2.modeling.roi_heads import StandardROIHeads
from detectron2.modeling.sampling import subsample_labels
from detectron2.structures import Boxes, Instances, pairwise_iou
from detectron2.utils.events import get_event_storage
from torch import Tensor, nn

from mic_det.core import QUALITY_MODES, confident, objectness_quality, softmax_quality

from .batch import FeatureBatch, RPNOutput, propose, run_rpn


class MaskedDetectionLoss(nn.Module):
    """Objectness and classification of the student on masked images, against pseudo boxes.

    L_M of MIC (CVPR 2023, eq. 5 with the weight of eq. 7) for Faster R-CNN: Detectron2's own anchor
    and proposal sampling, binary cross-entropy of the objectness and cross-entropy of the class,
    each sample weighted by a quality. Box regression has no part in it and is not computed.

    A loss is a sum over images divided by the number of all target images, those without pseudo
    boxes included: such an image adds exactly nothing, and processes that share a batch out among
    them average to what one process would compute.

    Args:
        weight: lambda_M.
        quality: "teacher": a positive sample weighs as much as its pseudo box's score, a negative
            one as the mean score of the image's pseudo boxes; "student": the student's own largest
            class probability (ROIs) or objectness (anchors), detached; "none": 1.
        threshold: pseudo boxes with a lower score are no labels but doubtful: what overlaps them
            and no label is left out of the loss instead of being taught as background.
    """

    def __init__(
        self, weight: float = 1.0, quality: str = "teacher", threshold: float = 0.0
    ) -> None:
        super().__init__()
        if quality not in QUALITY_MODES:
            raise ValueError(f"quality is one of {', '.join(QUALITY_MODES)}, not {quality!r}")
        self.weight = weight
        self.quality = quality
        self.threshold = threshold

    def forward(
        self,
        rpn: RPN,
        roi_heads: StandardROIHeads,
        masked: FeatureBatch,
        pseudo: Sequence[Instances],
        num_images: int,
    ) -> dict[str, Tensor]:
        """Weighted losses ``loss_mic_rpn_cls`` and ``loss_mic_roi_cls``.

        Args:
            rpn, roi_heads: the student's.
            masked: masked images that have pseudo boxes, with the student's features.
            pseudo: for each of them ``gt_boxes``, ``gt_classes``, ``gt_scores``, with at least one
                label, that is a score of at least ``threshold``.
            num_images: number of target images in the batch, with pseudo boxes or without.
        """
        output = run_rpn(rpn, masked)
        proposals = propose(rpn, masked, output)
        scale = self.weight / num_images
        sure = [confident(each.gt_scores, self.threshold) for each in pseudo]
        labels = [each[rows] for each, rows in zip(pseudo, sure, strict=True)]
        doubtful = [each[~rows].gt_boxes for each, rows in zip(pseudo, sure, strict=True)]
        proposals = [
            each[~in_doubt(each.proposal_boxes, boxes, known.gt_boxes)]
            for each, boxes, known in zip(proposals, doubtful, labels, strict=True)
        ]
        objectness = self.objectness_loss(rpn, output, labels, doubtful)
        return {
            "loss_mic_rpn_cls": scale * objectness,
            "loss_mic_roi_cls": scale * self.class_loss(roi_heads, masked, proposals, labels),
        }

    def objectness_loss(
        self,
        rpn: RPN,
        output: RPNOutput,
        pseudo: Sequence[Instances],
        doubtful: Sequence[Boxes] | None = None,
    ) -> Tensor:
        """Sum over images of the weighted loss of sampled anchors, scaled as the RPN's own."""
        anchors = Boxes.cat(output.anchors)
        logits = torch.cat(output.logits, dim=1).float()
        total = logits.new_zeros(())
        nothing = [each.gt_boxes[:0] for each in pseudo]
        rows = zip(logits, pseudo, doubtful or nothing, strict=True)
        for image_logits, labels, doubts in rows:
            with torch.no_grad():
                matched, kinds = rpn.anchor_matcher(pairwise_iou(labels.gt_boxes, anchors))
                if len(doubts):
                    kinds[(kinds == 0) & in_doubt(anchors, doubts, labels.gt_boxes)] = -1
                positive, negative = subsample_labels(
                    kinds, rpn.batch_size_per_image, rpn.positive_fraction, 0
                )
                sampled = torch.cat([positive, negative])
                goal = torch.zeros_like(sampled, dtype=logits.dtype)
                goal[: len(positive)] = 1.0
            chosen = image_logits[sampled]
            if self.quality == "teacher":
                weights = _teacher_quality(labels.gt_scores, matched[sampled], goal == 1.0)
            elif self.quality == "student":
                weights = objectness_quality(chosen)
            else:
                weights = None
            total = total + F.binary_cross_entropy_with_logits(
                chosen, goal, weight=weights, reduction="sum"
            )
        return total / rpn.batch_size_per_image * rpn.loss_weight.get("loss_rpn_cls", 1.0)

    def class_loss(
        self,
        roi_heads: StandardROIHeads,
        masked: FeatureBatch,
        proposals: list[Instances],
        pseudo: Sequence[Instances],
    ) -> Tensor:
        """Sum over images of the weighted mean over sampled proposals."""
        with get_event_storage().name_scope("mic"):
            sampled = roi_heads.label_and_sample_proposals(proposals, list(pseudo))
        features = [masked.features[name] for name in roi_heads.box_in_features]
        pooled = roi_heads.box_pooler(features, [each.proposal_boxes for each in sampled])
        logits = roi_heads.box_predictor.cls_score(roi_heads.box_head(pooled)).float()
        classes = torch.cat([each.gt_classes for each in sampled])
        losses = F.cross_entropy(logits, classes, reduction="none")
        if self.quality == "teacher":
            losses = losses * torch.cat(
                [
                    _positive_or_mean(
                        each.gt_scores, labels.gt_scores, each.gt_classes < roi_heads.num_classes
                    )
                    for each, labels in zip(sampled, pseudo, strict=True)
                ]
            )
        elif self.quality == "student":
            losses = losses * softmax_quality(logits)
        parts = losses.split([len(each) for each in sampled])
        return torch.stack([part.mean() for part in parts]).sum()


def in_doubt(boxes: Boxes, doubtful: Boxes, labels: Boxes) -> Tensor:
    """Bool mask of the ``boxes`` that overlap a doubtful box and no label (IoU from 0.5 on)."""
    return (_best_overlap(boxes, doubtful) >= 0.5) & (_best_overlap(boxes, labels) < 0.5)


def _best_overlap(boxes: Boxes, others: Boxes) -> Tensor:
    if not len(others):
        return boxes.tensor.new_zeros(len(boxes))
    return pairwise_iou(boxes, others).amax(1)


def _teacher_quality(scores: Tensor, matched: Tensor, positive: Tensor) -> Tensor:
    return _positive_or_mean(scores[matched], scores, positive)


def _positive_or_mean(matched_scores: Tensor, scores: Tensor, positive: Tensor) -> Tensor:
    """A positive sample's matched score; for negatives, matched to nothing, the image's mean."""
    return torch.where(positive, matched_scores, scores.mean())
