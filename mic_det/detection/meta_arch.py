"""The meta-architecture: Faster R-CNN that adapts from a source to a target domain."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY, GeneralizedRCNN
from detectron2.modeling.poolers import assign_boxes_to_levels
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import get_event_storage
from torch import Tensor

from mic_det.core import confident

from .batch import FeatureBatch, propose, run_rpn
from .divergence import nan_loss_on_divergence
from .domain_heads import SADAHeads
from .masked_loss import MaskedDetectionLoss
from .pooling import pool_in_one_dtype
from .pseudo_labels import as_pseudo_labels

Batch = Sequence[dict[str, Any]]


@META_ARCH_REGISTRY.register()
class AdaptiveRCNN(GeneralizedRCNN):
    """`GeneralizedRCNN` whose training forward takes source, target and masked target together.

    In eval mode, and in training with source images alone, it is `GeneralizedRCNN` to the bit.

    Args:
        domain_heads: adversarial alignment of source and target features, or None.
        masked_loss: MIC's consistency loss, or None.
        pseudo_threshold: score from which on `pseudo_label` keeps a detection; the masked loss has
            a threshold of its own, from which on such a detection is a label.
        **rcnn: see `GeneralizedRCNN`; with ``domain_heads`` or ``masked_loss`` the proposal
            generator must be an `RPN` and the ROI heads `StandardROIHeads`.
    """

    @configurable
    def __init__(
        self,
        *,
        domain_heads: SADAHeads | None = None,
        masked_loss: MaskedDetectionLoss | None = None,
        pseudo_threshold: float = 0.8,
        **rcnn: Any,
    ) -> None:
        super().__init__(**rcnn)
        self.domain_heads = domain_heads
        self.masked_loss = masked_loss
        self.pseudo_threshold = pseudo_threshold
        pool_in_one_dtype(self)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        parts = super().from_config(cfg)
        mic = cfg.MODEL.MIC
        parts["pseudo_threshold"] = min(mic.SCORE_THRESH, mic.DOUBT_THRESH)
        if cfg.MODEL.SADA.ENABLED:
            parts["domain_heads"] = _domain_heads(cfg, parts)
        if mic.ENABLED:
            parts["masked_loss"] = MaskedDetectionLoss(mic.WEIGHT, mic.QUALITY, mic.SCORE_THRESH)
        return parts

    @nan_loss_on_divergence
    def forward(
        self,
        source: Batch,
        target: Batch | None = None,
        masked: Batch | None = None,
        pseudo: Sequence[Instances] | None = None,
    ) -> Any:
        """Losses in training, detections otherwise.

        Args:
            source: Detectron2's input dicts; in training with ``instances``.
            target: the same without labels; used by the domain heads.
            masked: the target images as the student sees them, augmented and masked.
            pseudo: labels of the target images, from `pseudo_label` of a teacher.

        Returns in training a dict of weighted losses, else what `GeneralizedRCNN.inference` does.
        """
        if not self.training:
            return self.inference(source)
        on_source = self.extract(source)
        losses, proposals = self.source_losses(source, on_source)
        if self.domain_heads is not None and target:
            losses |= self.domain_losses(on_source, proposals, self.extract(target))
        if self.masked_loss is not None and masked:
            losses |= self.masked_losses(masked, pseudo)
        return losses

    @torch.no_grad()
    def pseudo_label(self, target: Batch) -> list[Instances]:
        """Confident detections on complete target images, as labels; see `as_pseudo_labels`."""
        return as_pseudo_labels(self.inference(target, do_postprocess=False), self.pseudo_threshold)

    def teacher_copy(self) -> AdaptiveRCNN:
        """A copy for an EMA teacher: the detector alone, without domain heads and losses."""
        heads, self.domain_heads = self.domain_heads, None
        try:
            return copy.deepcopy(self)
        finally:
            self.domain_heads = heads

    def extract(self, batch: Batch) -> FeatureBatch:
        """Normalise, pad and run the backbone."""
        images = self.preprocess_image(batch)
        return FeatureBatch(images, self.backbone(images.tensor))

    def source_losses(
        self, source: Batch, on_source: FeatureBatch
    ) -> tuple[dict[str, Tensor], list[Instances]]:
        """Detectron2's own RPN and ROI losses, and the RPN's proposals."""
        labels = [each["instances"].to(self.device) for each in source]
        images, features = on_source.images, on_source.features
        proposals, rpn_losses = self.proposal_generator(images, features, labels)
        _, roi_losses = self.roi_heads(images, features, proposals, labels)
        if self.vis_period > 0 and get_event_storage().iter % self.vis_period == 0:
            self.visualize_training(source, proposals)
        return roi_losses | rpn_losses, proposals

    def domain_losses(
        self,
        on_source: FeatureBatch,
        source_proposals: Sequence[Instances],
        on_target: FeatureBatch,
    ) -> dict[str, Tensor]:
        """Losses of the domain heads on the features and random proposals of both domains."""
        rpn = self.proposal_generator
        target_proposals = propose(rpn, on_target, run_rpn(rpn, on_target))
        return self.domain_heads(
            self._domain_inputs(on_source, source_proposals),
            self._domain_inputs(on_target, target_proposals),
        )

    def _domain_inputs(self, batch: FeatureBatch, proposals: Sequence[Instances]) -> dict[str, Any]:
        roi_heads = self.roi_heads
        inputs: dict[str, Any] = {
            "features": [batch.features[name] for name in self.proposal_generator.in_features],
            "image_sizes": batch.images.image_sizes,
            "boxes": [
                _random_boxes(each.proposal_boxes, roi_heads.batch_size_per_image)
                for each in proposals
            ],
            "box_features": None,
            "levels": None,
        }
        if self.domain_heads.uses_instances:
            features = [batch.features[name] for name in roi_heads.box_in_features]
            pooler = roi_heads.box_pooler
            inputs["box_features"] = roi_heads.box_head(pooler(features, inputs["boxes"]))
            inputs["levels"] = assign_boxes_to_levels(
                inputs["boxes"],
                pooler.min_level,
                pooler.max_level,
                pooler.canonical_box_size,
                pooler.canonical_level,
            )
        return inputs

    def masked_losses(self, masked: Batch, pseudo: Sequence[Instances]) -> dict[str, Tensor]:
        """MIC's loss on those masked images that have labels; nothing if none has."""
        threshold = self.masked_loss.threshold
        counts = [int(confident(each.gt_scores, threshold).sum()) for each in pseudo]
        _log_pseudo_labels(counts)
        kept = [i for i, count in enumerate(counts) if count]
        if not kept:
            return {}
        return self.masked_loss(
            self.proposal_generator,
            self.roi_heads,
            self.extract([masked[i] for i in kept]),
            [pseudo[i] for i in kept],
            num_images=len(masked),
        )


def _domain_heads(cfg: CfgNode, parts: dict[str, Any]) -> SADAHeads:
    sada = cfg.MODEL.SADA
    shapes = parts["backbone"].output_shape()
    levels = [shapes[name] for name in cfg.MODEL.RPN.IN_FEATURES]
    box_shape = parts["roi_heads"].box_head.output_shape
    return SADAHeads(
        image_channels=[shape.channels for shape in levels],
        strides=[shape.stride for shape in levels],
        instance_channels=box_shape.channels,
        instance_levels=len(cfg.MODEL.ROI_HEADS.IN_FEATURES),
        image_hidden=sada.IMAGE_CHANNELS,
        instance_hidden=sada.INSTANCE_CHANNELS,
        dropout=sada.DROPOUT,
        image_reversal=sada.IMAGE_REVERSAL,
        instance_reversal=sada.INSTANCE_REVERSAL,
        consistency_scale=sada.CONSISTENCY_SCALE,
        image_weight=sada.IMAGE_WEIGHT,
        instance_weight=sada.INSTANCE_WEIGHT,
        consistency_weight=sada.CONSISTENCY_WEIGHT,
    )


def _random_boxes(boxes: Boxes, count: int) -> Boxes:
    """Up to ``count`` of ``boxes``, drawn without regard to class or score."""
    order = torch.randperm(len(boxes), device=boxes.device)[:count]
    return Boxes(boxes.tensor[order].detach())


def _log_pseudo_labels(counts: Sequence[int]) -> None:
    storage = get_event_storage()
    storage.put_scalar("mic/pseudo_boxes_per_image", sum(counts) / len(counts))
    storage.put_scalar(
        "mic/images_with_pseudo_boxes", sum(count > 0 for count in counts) / len(counts)
    )
