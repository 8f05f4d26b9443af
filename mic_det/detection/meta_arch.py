"""The meta-architecture: Faster R-CNN that adapts from a source to a target domain."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY, GeneralizedRCNN
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import get_event_storage
from torch import Tensor

from mic_det.core import ClassShares, RunningMeans, confident
from mic_det.tasks import Classifier

from .batch import FeatureBatch, extract_features, propose, run_rpn
from .divergence import nan_loss_on_divergence
from .domain_heads import SADAHeads
from .masked_loss import MaskedDetectionLoss
from .pooling import pool_in_one_dtype
from .pseudo_labels import as_pseudo_labels, detect_confident
from .regions import (
    Regions,
    SourceRegions,
    pooler_levels,
    random_boxes,
    run_box_head,
    sample_source_regions,
)

Batch = Sequence[dict[str, Any]]


@META_ARCH_REGISTRY.register()
class AdaptiveRCNN(GeneralizedRCNN):
    """`GeneralizedRCNN` whose training forward takes source, target and masked target together.

    In eval mode, and in training with source images alone, it is `GeneralizedRCNN` to the bit.

    Args:
        domain_heads: adversarial alignment of source and target features, or None.
        domain_levels: names of the feature maps that the image-level domain heads look at.
        masked_loss: MIC's consistency loss, or None.
        class_shares: brings the classes of pseudo labels to the shares of the source's labels, or
            None. It counts what the student is trained on; the teacher uses it.
        pseudo_threshold: score from which on `pseudo_label` keeps a detection; the masked loss has
            a threshold of its own, from which on such a detection is a label.
        **rcnn: see `GeneralizedRCNN`; with ``domain_heads`` or ``masked_loss`` the proposal
            generator must be an `RPN` and the ROI heads `StandardROIHeads`.
    """

    classifier = Classifier(
        "roi_heads.box_predictor.cls_score.weight", "MODEL.ROI_HEADS.NUM_CLASSES", background=1
    )

    @configurable
    def __init__(
        self,
        *,
        domain_heads: SADAHeads | None = None,
        domain_levels: Sequence[str] = (),
        masked_loss: MaskedDetectionLoss | None = None,
        class_shares: ClassShares | None = None,
        pseudo_threshold: float = 0.8,
        **rcnn: Any,
    ) -> None:
        super().__init__(**rcnn)
        self.domain_heads = domain_heads
        self.domain_levels = tuple(domain_levels)
        self.masked_loss = masked_loss
        self.class_shares = class_shares
        # A teacher's: its student's class_shares.
        self.correct_classes: Callable[[Tensor], Tensor] | None = None
        self.pseudo_threshold = pseudo_threshold
        # Of pseudo labels, for the curves of `engine.health_curves`.
        self.health = RunningMeans()
        pool_in_one_dtype(self)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        parts = super().from_config(cfg)
        mic = cfg.MODEL.MIC
        parts["pseudo_threshold"] = min(mic.SCORE_THRESH, mic.DOUBT_THRESH)
        if cfg.MODEL.SADA.ENABLED:
            levels = tuple(cfg.MODEL.SADA.IMAGE_LEVELS or cfg.MODEL.RPN.IN_FEATURES)
            parts["domain_levels"] = levels
            parts["domain_heads"] = _domain_heads(cfg, parts, levels)
        if mic.ENABLED:
            parts["masked_loss"] = MaskedDetectionLoss(mic.WEIGHT, mic.QUALITY, mic.SCORE_THRESH)
            if mic.CLASS_SHARES:
                parts["class_shares"] = ClassShares(cfg.MODEL.ROI_HEADS.NUM_CLASSES)
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
        if self.domain_heads is None:
            target = None
        if self.class_shares is not None and pseudo is not None:
            self._count_classes(source, pseudo)
        labelled = self._labelled(pseudo) if self.masked_loss is not None and masked else []
        if not target and not labelled:
            return super().forward(source)
        on_source, on_target, on_masked = self.extract_all(
            source, target or [], [masked[i] for i in labelled]
        )
        if target:
            # Before the regions, so that in the backward pass large gradients into all maps come
            # after them, when memory is no longer at its fullest.
            for each in (on_source, on_target):
                each.domain_logits = self.domain_heads.image_logits(self._aligned_maps(each))
        detection, losses = self.source_regions(source, on_source)
        alignment = self.target_regions(on_target) if target else None
        consistency = None
        if labelled:
            consistency, rpn_losses = self.masked_loss.regions(
                self.proposal_generator,
                self.roi_heads,
                on_masked,
                [pseudo[i] for i in labelled],
                num_images=len(masked),
            )
            losses |= rpn_losses
        parts = [detection, alignment, consistency]
        run_box_head(self.roi_heads, [each for each in parts if each is not None and each.boxes])
        losses |= self.roi_losses(detection)
        if alignment is not None:
            losses |= self.domain_losses(detection, alignment)
        if consistency is not None:
            losses |= self.masked_loss.roi_losses(self.roi_heads, consistency)
        return losses

    @torch.no_grad()
    def pseudo_label(self, target: Batch) -> list[Instances]:
        """Confident detections on complete target images, as labels; see `as_pseudo_labels`."""
        detections = detect_confident(self, target, self.pseudo_threshold, self.correct_classes)
        return as_pseudo_labels(detections, self.pseudo_threshold)

    def _count_classes(self, source: Batch, pseudo: Sequence[Instances]) -> None:
        labels = torch.cat([each["instances"].gt_classes for each in source]).to(self.device)
        self.class_shares.observe(
            labels,
            torch.cat([each.gt_classes for each in pseudo]),
            torch.cat([each.gt_scores for each in pseudo]),
        )

    def teacher_copy(self) -> AdaptiveRCNN:
        """A copy for an EMA teacher: the detector alone, without domain heads and losses."""
        heads, self.domain_heads = self.domain_heads, None
        shares, self.class_shares = self.class_shares, None
        try:
            teacher = copy.deepcopy(self)
        finally:
            self.domain_heads, self.class_shares = heads, shares
        teacher.correct_classes = None if shares is None else shares.forward
        return teacher

    def extract(self, batch: Batch) -> FeatureBatch:
        """Normalise, pad and run the backbone."""
        images = self.preprocess_image(batch)
        return FeatureBatch(images, self.backbone(images.tensor))

    def extract_all(self, *batches: Batch) -> list[FeatureBatch | None]:
        """`extract` of each batch, None for an empty one; in one pass where that is faster."""
        images = [self.preprocess_image(each) if each else None for each in batches]
        return extract_features(self.backbone, images)

    def source_regions(
        self, source: Batch, on_source: FeatureBatch
    ) -> tuple[SourceRegions, dict[str, Tensor]]:
        """Detectron2's RPN losses, and the regions that detection and alignment look at."""
        labels = [each["instances"].to(self.device) for each in source]
        proposals, losses = self.proposal_generator(on_source.images, on_source.features, labels)
        if self.vis_period > 0 and get_event_storage().iter % self.vis_period == 0:
            self.visualize_training(source, proposals)
        aligned = self._aligned_per_image()
        return sample_source_regions(self.roi_heads, on_source, proposals, labels, aligned), losses

    def target_regions(self, on_target: FeatureBatch) -> Regions:
        """Random proposals of target images."""
        aligned = self._aligned_per_image()
        if not aligned:
            return Regions(on_target, [])
        rpn = self.proposal_generator
        with torch.no_grad():
            proposals = propose(rpn, on_target, run_rpn(rpn, on_target))
        return Regions(on_target, random_boxes(proposals, aligned))

    def _aligned_per_image(self) -> int:
        heads = self.domain_heads
        uses = heads is not None and heads.uses_instances
        return self.roi_heads.batch_size_per_image if uses else 0

    def roi_losses(self, regions: SourceRegions) -> dict[str, Tensor]:
        """Detectron2's own losses of the ROI heads, as `StandardROIHeads.forward` makes them."""
        heads, sampled = self.roi_heads, regions.sampled
        predictions = heads.box_predictor(regions.features[regions.detection_rows])
        losses = heads.box_predictor.losses(predictions, sampled)
        if heads.train_on_pred_boxes:
            with torch.no_grad():
                found = heads.box_predictor.predict_boxes_for_gt_classes(predictions, sampled)
            for each, boxes in zip(sampled, found, strict=True):
                each.proposal_boxes = Boxes(boxes)
        features = regions.batch.features
        losses.update(heads._forward_mask(features, sampled))
        losses.update(heads._forward_keypoint(features, sampled))
        return losses

    def domain_losses(self, source: SourceRegions, target: Regions) -> dict[str, Tensor]:
        """Losses of the domain heads on the features and random proposals of both domains."""
        of_source, of_target = self._domain_inputs(source), self._domain_inputs(target)
        if self.domain_heads.uses_instances:
            of_source["boxes"] = source.alignment_boxes
            of_source["levels"] = pooler_levels(self.roi_heads, source.alignment_boxes)
            of_source["box_features"] = source.features[source.alignment_rows]
        return self.domain_heads(of_source, of_target)

    def _aligned_maps(self, batch: FeatureBatch) -> list[Tensor]:
        return [batch.features[name] for name in self.domain_levels]

    def _domain_inputs(self, regions: Regions) -> dict[str, Any]:
        batch = regions.batch
        return {
            "features": self._aligned_maps(batch),
            "image_logits": batch.domain_logits,
            "image_sizes": batch.images.image_sizes,
            "boxes": regions.boxes,
            "box_features": regions.features,
            "levels": pooler_levels(self.roi_heads, regions.boxes) if regions.boxes else None,
        }

    def _labelled(self, pseudo: Sequence[Instances]) -> list[int]:
        """Which target images have a label; the others add nothing to MIC's loss."""
        threshold = self.masked_loss.threshold
        labels = [confident(each.gt_scores, threshold) for each in pseudo]
        counts = torch.stack([each.sum() for each in labels])
        scores = torch.stack(
            [(each.gt_scores * sure).sum() for each, sure in zip(pseudo, labels, strict=True)]
        )
        self.health.add("pseudo_boxes_per_image", counts.sum(), len(labels))
        self.health.add("images_with_pseudo_boxes", (counts > 0).sum(), len(labels))
        self.health.add("teacher_score", scores.sum(), counts.sum())
        counts = counts.tolist()
        _log_pseudo_labels(counts)
        return [i for i, count in enumerate(counts) if count]


def _domain_heads(cfg: CfgNode, parts: dict[str, Any], names: Sequence[str]) -> SADAHeads:
    sada = cfg.MODEL.SADA
    shapes = parts["backbone"].output_shape()
    levels = [shapes[name] for name in names]
    box_shape = parts["roi_heads"].box_head.output_shape
    return SADAHeads(
        image_channels=[shape.channels for shape in levels],
        strides=[shape.stride for shape in levels],
        instance_channels=box_shape.channels,
        pooled_levels=len(cfg.MODEL.ROI_HEADS.IN_FEATURES),
        per_level=sada.INSTANCE_PER_LEVEL,
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


def _log_pseudo_labels(counts: Sequence[int]) -> None:
    storage = get_event_storage()
    storage.put_scalar("mic/pseudo_boxes_per_image", sum(counts) / len(counts))
    storage.put_scalar(
        "mic/images_with_pseudo_boxes", sum(count > 0 for count in counts) / len(counts)
    )
