"""MIC's consistency loss for a two-stage detector."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

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
from .regions import Regions, run_box_head


@dataclass
class MaskedRegions(Regions):
    """Sampled proposals of masked images.

    ``sampled``: with the label each is matched to. ``labels``: the pseudo labels of each image.
    ``scale``: what the sum over images is multiplied by.
    """

    sampled: list[Instances]
    labels: list[Instances]
    scale: float


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
        """Weighted losses ``loss_mic_rpn_cls`` and ``loss_mic_roi_cls``; arguments of `regions`."""
        regions, losses = self.regions(rpn, roi_heads, masked, pseudo, num_images)
        run_box_head(roi_heads, [regions])
        return losses | self.roi_losses(roi_heads, regions)

    def regions(
        self,
        rpn: RPN,
        roi_heads: StandardROIHeads,
        masked: FeatureBatch,
        pseudo: Sequence[Instances],
        num_images: int,
    ) -> tuple[MaskedRegions, dict[str, Tensor]]:
        """The sampled proposals, which `roi_losses` wants next, and ``loss_mic_rpn_cls``.

        Args:
            rpn, roi_heads: the student's.
            masked: masked images that have pseudo boxes, with the student's features.
            pseudo: for each of them ``gt_boxes``, ``gt_classes``, ``gt_scores``, with at least one
                label, that is a score of at least ``threshold``.
            num_images: number of target images in the batch, with pseudo boxes or without.
        """
        output = run_rpn(rpn, masked)
        sure = [confident(each.gt_scores, self.threshold) for each in pseudo]
        labels = [each[rows] for each, rows in zip(pseudo, sure, strict=True)]
        doubtful = [each[~rows].gt_boxes for each, rows in zip(pseudo, sure, strict=True)]
        proposals = [
            each[~in_doubt(each.proposal_boxes, boxes, known.gt_boxes)]
            for each, boxes, known in zip(
                propose(rpn, masked, output), doubtful, labels, strict=True
            )
        ]
        scale = self.weight / num_images
        objectness = self.objectness_loss(rpn, output, labels, doubtful)
        with get_event_storage().name_scope("mic"):
            sampled = roi_heads.label_and_sample_proposals(proposals, labels)
        boxes = [each.proposal_boxes for each in sampled]
        regions = MaskedRegions(masked, boxes, sampled, labels, scale)
        return regions, {"loss_mic_rpn_cls": scale * objectness}

    def roi_losses(self, roi_heads: StandardROIHeads, regions: MaskedRegions) -> dict[str, Tensor]:
        """``loss_mic_roi_cls``, once the box head has run on ``regions``."""
        logits = roi_heads.box_predictor.cls_score(regions.features).float()
        loss = self.class_loss(logits, regions.sampled, regions.labels, roi_heads.num_classes)
        return {"loss_mic_roi_cls": regions.scale * loss}

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
        logits: Tensor,
        sampled: Sequence[Instances],
        pseudo: Sequence[Instances],
        num_classes: int,
    ) -> Tensor:
        """Sum over images of the weighted mean over sampled proposals.

        Args:
            logits: (R, K + 1) of the sampled proposals, image by image.
            sampled: proposals with ``gt_classes`` and ``gt_scores``; an image with none adds 0.
            pseudo: the labels that they were matched to.
            num_classes: K, which is also the number of the background.
        """
        classes = torch.cat([each.gt_classes for each in sampled])
        losses = F.cross_entropy(logits, classes, reduction="none")
        if self.quality == "teacher":
            losses = losses * torch.cat(
                [
                    _positive_or_mean(
                        each.gt_scores, labels.gt_scores, each.gt_classes < num_classes
                    )
                    for each, labels in zip(sampled, pseudo, strict=True)
                ]
            )
        elif self.quality == "student":
            losses = losses * softmax_quality(logits)
        parts = losses.split([len(each) for each in sampled])
        return torch.stack([part.sum() / max(len(part), 1) for part in parts]).sum()


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
