"""The meta-architecture: a classifier that adapts from a source to a target domain."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY
from detectron2.utils.events import get_event_storage
from torch import Tensor, nn
from torch.nn import functional as F

from mic_det.core import QUALITY_MODES, RunningMeans, softmax_quality, untracked
from mic_det.tasks import Classifier

from .alignment import DomainAlignment
from .backbone import build_backbone, compare_normalisation
from .losses import class_confusion, masked_loss

Batch = Sequence[dict[str, Any]]
# What sharpness-aware minimisation follows: all but the domain loss (SDAT).
TASK_LOSSES = ("loss_cls", "loss_mcc", "loss_mic_cls")


@dataclass(frozen=True)
class PseudoLabels:
    """Classes (N,) int64 of N images, and ``quality`` (N,), the teacher's probability of them."""

    classes: Tensor
    quality: Tensor

    def __len__(self) -> int:
        return len(self.classes)


@META_ARCH_REGISTRY.register()
class AdaptiveClassifier(nn.Module):
    """Backbone, bottleneck and linear classifier, with the losses of CDAN, MCC and MIC.

    Args:
        backbone: from normalised images (N, 3, H, W) to vectors (N, ``features``).
        features: length of the backbone's vectors.
        num_classes: K.
        bottleneck: width of the linear layer with BatchNorm and ReLU before the classifier, which
            is what is aligned; 0: none.
        pixel_mean, pixel_std: of the three channels, in 0..255.
        alignment: of source and target features, or None.
        alignment_weight, confusion_weight, masked_weight: of the losses; 0 leaves one out.
        temperature: of `class_confusion`.
        quality: whose confidence weighs the masked loss, one of `QUALITY_MODES`.
        backbone_lr_factor: see `lr_factor`.
    """

    classifier = Classifier("head.weight", "MODEL.CLASSIFIER.NUM_CLASSES")

    @configurable
    def __init__(
        self,
        *,
        backbone: nn.Module,
        features: int,
        num_classes: int,
        bottleneck: int = 256,
        pixel_mean: Sequence[float] = (123.675, 116.28, 103.53),
        pixel_std: Sequence[float] = (58.395, 57.12, 57.375),
        alignment: DomainAlignment | None = None,
        alignment_weight: float = 1.0,
        confusion_weight: float = 0.0,
        temperature: float = 2.0,
        masked_weight: float = 0.0,
        quality: str = "teacher",
        backbone_lr_factor: float = 1.0,
    ) -> None:
        super().__init__()
        if quality not in QUALITY_MODES:
            raise ValueError(f"quality must be one of {QUALITY_MODES}, got {quality!r}")
        self.backbone = backbone
        self.bottleneck = _bottleneck(features, bottleneck)
        self.head = nn.Linear(bottleneck or features, num_classes)
        nn.init.normal_(self.head.weight, 0.0, 0.01)
        nn.init.zeros_(self.head.bias)
        self.alignment = alignment
        self.alignment_weight = alignment_weight
        self.confusion_weight = confusion_weight
        self.temperature = temperature
        self.masked_weight = masked_weight
        self.quality = quality
        self.backbone_lr_factor = backbone_lr_factor
        for name, values in (("pixel_mean", pixel_mean), ("pixel_std", pixel_std)):
            self.register_buffer(name, torch.tensor(values).view(-1, 1, 1), persistent=False)
        # Of pseudo labels, for the curves of `engine.health_curves`.
        self.health = RunningMeans()

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        settings, align, mic = cfg.MODEL.CLASSIFIER, cfg.MODEL.CLASSIFIER.ALIGN, cfg.MODEL.MIC
        pretrained = settings.PRETRAINED and not cfg.MODEL.WEIGHTS
        backbone, features = build_backbone(
            settings.BACKBONE, pretrained, settings.POOL, cfg.INPUT.SQUARE.SIZE
        )
        if pretrained:
            compare_normalisation(backbone, cfg.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_STD)
        alignment = None
        if align.METHOD != "none" and align.WEIGHT > 0:
            alignment = DomainAlignment(
                settings.BOTTLENECK or features,
                settings.NUM_CLASSES,
                conditional=align.METHOD == "CDAN",
                entropy=align.ENTROPY,
                exact_up_to=align.EXACT_UP_TO,
                random_dim=align.RANDOM_DIM,
                hidden=align.HIDDEN,
                warmup=align.WARMUP_ITERS,
            )
        return {
            "backbone": backbone,
            "features": features,
            "num_classes": settings.NUM_CLASSES,
            "bottleneck": settings.BOTTLENECK,
            "pixel_mean": cfg.MODEL.PIXEL_MEAN,
            "pixel_std": cfg.MODEL.PIXEL_STD,
            "alignment": alignment,
            "alignment_weight": align.WEIGHT,
            "confusion_weight": settings.MCC.WEIGHT,
            "temperature": settings.MCC.TEMPERATURE,
            "masked_weight": mic.WEIGHT if mic.ENABLED else 0.0,
            "quality": mic.QUALITY,
            "backbone_lr_factor": settings.BACKBONE_LR_FACTOR,
        }

    @property
    def device(self) -> torch.device:
        return self.pixel_mean.device

    def lr_factor(self, name: str) -> float:
        """The backbone, which may be pretrained, learns more slowly than what is new."""
        return self.backbone_lr_factor if name.startswith("backbone.") else 1.0

    def forward(
        self,
        source: Batch,
        target: Batch | None = None,
        masked: Batch | None = None,
        pseudo: PseudoLabels | None = None,
    ) -> Any:
        """Losses in training, class probabilities otherwise.

        Args:
            source: dicts with ``image`` (3, H, W) in 0..255, of one size; in training ``label``.
            target: the same without labels; used by alignment and class confusion.
            masked: the target images as the student sees them.
            pseudo: labels of the target images, from `pseudo_label` of a teacher.

        Returns in training a dict of weighted losses; else for each image a dict with
        ``probabilities`` (K,), float32 on the CPU.
        """
        if not self.training:
            found = self.logits(source).float().softmax(-1).cpu()
            return [{"probabilities": each} for each in found]
        target = target if self.uses_target else None
        labels = torch.tensor([each["label"] for each in source], device=self.device)
        # Source and target in one batch: BatchNorm then has one view of both.
        features = self.features([*source, *(target or ())])
        logits = self.head(features)
        on_source, on_target = logits[: len(source)], logits[len(source) :]
        losses = {"loss_cls": F.cross_entropy(on_source.float(), labels)}
        if self.confusion_weight:
            confusion = class_confusion(on_target, self.temperature)
            losses["loss_mcc"] = self.confusion_weight * confusion
        if self.alignment is not None:
            parts = features[: len(source)], features[len(source) :]
            iteration = get_event_storage().iter
            loss = self.alignment(*parts, on_source, on_target, iteration)
            losses["loss_domain"] = self.alignment_weight * loss
        if self.masked_weight and masked:
            losses["loss_mic_cls"] = self.masked_weight * self.masked(masked, pseudo)
        return losses

    @property
    def uses_target(self) -> bool:
        """Whether a loss looks at complete target images."""
        return self.alignment is not None or self.confusion_weight > 0

    def masked(self, masked: Batch, pseudo: PseudoLabels) -> Tensor:
        """MIC's loss on masked target images against the teacher's labels.

        Masked images have other statistics than those that the model is used on: they are left
        out of BatchNorm's running ones.
        """
        with untracked(self):
            logits = self.logits(masked)
        quality = pseudo.quality
        if self.quality == "student":
            quality = softmax_quality(logits)
        elif self.quality == "none":
            quality = torch.ones_like(quality)
        self.health.add("teacher_score", pseudo.quality.sum(), len(pseudo))
        right = (logits.detach().argmax(-1) == pseudo.classes).sum()
        self.health.add("masked_agreement", right, len(pseudo))
        return masked_loss(logits, pseudo.classes, quality)

    @torch.no_grad()
    def pseudo_label(self, target: Batch) -> PseudoLabels:
        """The most probable class of each complete target image, and its probability."""
        quality, classes = self.logits(target).float().softmax(-1).max(-1)
        return PseudoLabels(classes, quality)

    def teacher_copy(self) -> AdaptiveClassifier:
        """A copy for an EMA teacher, without the domain classifier."""
        alignment, self.alignment = self.alignment, None
        try:
            return copy.deepcopy(self)
        finally:
            self.alignment = alignment

    def features(self, batch: Batch) -> Tensor:
        """(N, D), what is classified and aligned."""
        images = torch.stack([each["image"].to(self.device).float() for each in batch])
        return self.bottleneck(self.backbone((images - self.pixel_mean) / self.pixel_std))

    def logits(self, batch: Batch) -> Tensor:
        """(N, K)."""
        return self.head(self.features(batch))


def _bottleneck(features: int, width: int) -> nn.Module:
    if not width:
        return nn.Identity()
    linear = nn.Linear(features, width)
    nn.init.normal_(linear.weight, 0.0, 0.005)
    nn.init.constant_(linear.bias, 0.1)
    return nn.Sequential(linear, nn.BatchNorm1d(width), nn.ReLU())
