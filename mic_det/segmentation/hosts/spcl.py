"""SPCL: semantic prototype-based contrastive learning (Xie et al., arXiv 2111.12358)."""

from __future__ import annotations

import logging
from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from torch import Tensor

from ..centres import ClassCentres
from ..contrast import prototype_contrast
from ..losses import IGNORED
from ..networks.base import SegmentationNetwork
from ..pseudo_labels import PixelLabels
from ..thresholds import ClassThresholds, ConfidenceHistograms, predicted
from .base import HOST_REGISTRY, Host, Preparation, Step

logger = logging.getLogger(__name__)


@HOST_REGISTRY.register("spcl")
class SPCL(Host):
    """Cross-entropy on the source; features of both domains drawn to the source's prototypes.

    It starts from a model that was warmed up, usually adversarially (MODEL.WEIGHTS). Before the
    first iteration the prototypes are made of the whole source set, and each class's confidence
    threshold of the whole target set. From ``self_training_from`` on the student also learns the
    pseudo labels themselves; they are chosen anew by the same rule then, and, with
    ``renew_labeller``, by the student as it is then.

    Args:
        prototypes: of the encoder's last feature map.
        thresholds: of pseudo labels.
        temperature, source_weight, target_weight: of the contrastive losses.
        self_training_from: first iteration of the second stage; below 0: there is none.
        self_training_weight: of the cross-entropy with pseudo labels in the second stage.
        threshold_period: iterations after which the thresholds are made anew; 0: once a stage.
        renew_labeller: make the teacher equal to the student at the start of a stage. With a
            teacher that does not follow (MODEL.TEACHER.ALPHA 1) that gives the authors' pseudo
            labels, which are those of the model that a stage starts from.
        max_iter: of the run.
        class_distance: measure the class centre distance before and after the run.
        **pseudo: see `Host`.
    """

    uses_target = True
    uses_pseudo_labels = True

    @configurable
    def __init__(
        self,
        *,
        prototypes: ClassCentres,
        thresholds: ClassThresholds,
        temperature: float = 100.0,
        source_weight: float = 1.0,
        target_weight: float = 1.0,
        self_training_from: int = -1,
        self_training_weight: float = 1.0,
        threshold_period: int = 0,
        renew_labeller: bool = True,
        max_iter: int = 0,
        class_distance: bool = False,
        **pseudo: Any,
    ) -> None:
        super().__init__(**pseudo)
        self.prototypes = prototypes
        self.thresholds = thresholds
        self.temperature = temperature
        self.source_weight = source_weight
        self.target_weight = target_weight
        self.self_training_from = self_training_from
        self.self_training_weight = self_training_weight
        self.threshold_period = threshold_period
        self.renew_labeller = renew_labeller
        self.max_iter = max_iter
        self.reports_class_distance = class_distance

    @classmethod
    def from_config(cls, cfg: CfgNode, network: SegmentationNetwork) -> dict[str, Any]:
        settings, classes = cfg.MODEL.SEG.SPCL, cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES
        return super().from_config(cfg, network) | {
            "prototypes": ClassCentres(classes, network.encoder.channels[-1], settings.KEEP),
            "thresholds": ClassThresholds(classes, settings.CEILING),
            "temperature": settings.TEMPERATURE,
            "source_weight": settings.SOURCE_WEIGHT,
            "target_weight": settings.TARGET_WEIGHT,
            "self_training_from": settings.SELF_TRAINING_FROM,
            "self_training_weight": settings.SELF_TRAINING_WEIGHT,
            "threshold_period": settings.THRESHOLD_PERIOD,
            "renew_labeller": settings.RENEW_LABELLER,
            "max_iter": cfg.SOLVER.MAX_ITER,
            "class_distance": settings.CLASS_DISTANCE,
        }

    def losses(self, step: Step) -> dict[str, Tensor]:
        on_source = step.student.supervised(step.source_images, step.source_labels)
        of_source = on_source.features[-1]
        self.prototypes.update((of_source, step.source_labels))
        losses = {
            "loss_source": on_source.loss,
            "loss_contrast_source": self.source_weight
            * self.contrast(of_source, step.source_labels),
        }
        labels = step.pseudo.labels
        if self.in_second_stage(step.iteration):
            on_target = step.student.supervised(step.target_images, labels, step.pseudo.weight)
            losses["loss_self_training"] = self.self_training_weight * on_target.loss
            of_target = on_target.features[-1]
        else:
            of_target = step.student.encode(step.target_images)[-1]
        losses["loss_contrast_target"] = self.target_weight * self.contrast(of_target, labels)
        return losses

    def contrast(self, features: Tensor, labels: Tensor) -> Tensor:
        """The contrastive loss of one domain, without its weight."""
        return prototype_contrast(features, labels, self.prototypes, self.temperature)

    @torch.no_grad()
    def pseudo_label(self, teacher: SegmentationNetwork, target: Tensor) -> PixelLabels:
        """The teacher's classes where they reach their thresholds, all of weight 1."""
        labels = self.thresholds(*predicted(teacher(target)))
        return PixelLabels(self.inner_rows(labels), torch.ones_like(labels, dtype=torch.float32))

    def inner_rows(self, labels: Tensor) -> Tensor:
        """``labels`` (N, H, W) without the first and last rows that are left out by config."""
        return without_rows(labels, self.ignore_top, self.ignore_bottom)

    def in_second_stage(self, iteration: int) -> bool:
        return 0 <= self.self_training_from <= iteration

    def stage_starts(self) -> tuple[int, ...]:
        starts = {0}
        if self.threshold_period:
            starts |= set(range(0, self.max_iter, self.threshold_period))
        if self.self_training_from >= 0:
            starts.add(self.self_training_from)
        return tuple(sorted(starts))

    def prepare(self, preparation: Preparation) -> None:
        iteration = preparation.iteration
        if iteration == 0:
            self.start_prototypes(preparation)
        elif iteration == self.self_training_from and self.renew_labeller:
            preparation.teacher.load_state_dict(preparation.student.state_dict())
        self.start_thresholds(preparation)

    @torch.no_grad()
    def start_prototypes(self, preparation: Preparation) -> None:
        """Prototypes of the whole source set, by the student as it is."""
        encode = preparation.student.encode
        self.prototypes.start_from(
            (encode(images)[-1], labels) for images, labels in preparation.source()
        )
        logger.info("Prototypes of %s", self.prototypes.coverage())

    @torch.no_grad()
    def start_thresholds(self, preparation: Preparation) -> None:
        """Thresholds of the whole target set, by the teacher as it is."""
        values = self.thresholds.values
        histograms = ConfidenceHistograms(len(values), device=values.device)
        for images in preparation.target():
            labels, confidence = predicted(preparation.teacher(images))
            inside = self.inner_rows(labels) != IGNORED
            histograms.add(labels[inside], confidence[inside])
        self.thresholds.assign(histograms)
        shown = ", ".join(f"{each:.3f}" for each in values.tolist())
        logger.info("Confidence thresholds of the classes: %s", shown)


def without_rows(labels: Tensor, top: int, bottom: int) -> Tensor:
    """A copy of ``labels`` (N, H, W) with `IGNORED` in the first and last rows."""
    labels = labels.clone()
    labels[:, :top] = IGNORED
    if bottom:
        labels[:, -bottom:] = IGNORED
    return labels
