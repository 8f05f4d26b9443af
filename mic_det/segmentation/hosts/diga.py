"""DiGA: distil to generalise, then adapt (Shen et al., CVPR 2023)."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from torch import Tensor

from ..agreement import agreeing
from ..centres import ClassCentres
from ..crdomix import BlendedColour, CrossDomainMixture
from ..distillation import symmetric_distillation
from ..losses import IGNORED, resize_labels
from ..mixing import class_mask, mix
from ..networks.base import SegmentationNetwork, upsample
from ..pseudo_labels import PixelLabels
from ..translate import Translator, build_translator
from .base import HOST_REGISTRY, Host, Preparation, Step
from .self_training import fit
from .spcl import without_rows

logger = logging.getLogger(__name__)


@dataclass
class EmbeddedLabels(PixelLabels):
    """`PixelLabels`, and the teacher's ``embedding`` (N, C, h, w) of the images; None without."""

    embedding: Tensor | None = None


def embed_and_predict(network: SegmentationNetwork, images: Tensor) -> tuple[Tensor, Tensor]:
    """The last feature map before the classifier, and logits (N, K, H, W) at the images' size.

    In one pass, unless the network predicts in another way than by its decoder alone (HRDA).
    """
    embedding = network.embed(network.encode(images))
    if type(network).forward is SegmentationNetwork.forward:
        return embedding, upsample(network.decoder.classify(embedding), images.shape[-2:])
    return embedding, network(images)


@HOST_REGISTRY.register("diga")
class DiGA(Host):
    """Symmetric distillation on source images; then self-training without thresholds.

    Until ``warmup_iters`` only source images are learnt from: their labels, and what the teacher
    says of each image's other view. Of the target nothing but the style goes into the changed view.
    Then the pseudo labels on which classifier and nearest feature centroid agree are learnt as
    well, on target images with source classes pasted onto them, and the distillation continues.

    Args:
        centroids: of the teacher's embeddings.
        translator: from source images to the target's style.
        channels: "RGB" or "BGR", the order of images.
        num_classes: K.
        warmup_iters: first iteration of self-training; at least the run's length: warm-up alone.
        warmup_distillation, distillation: weights of the symmetric distillation in the two stages.
        backward_share: of `symmetric_distillation`.
        warmup_colour, colour: weights of `BlendedColour` in the two stages.
        weight: of the cross-entropy on mixed images.
        centroid_period: iterations of self-training after which the centroids are started anew
            over the data set; 0: never.
        max_iter: of the run.
        **pseudo: see `Host`.
    """

    uses_target = True
    uses_pseudo_labels = True

    @configurable
    def __init__(
        self,
        *,
        centroids: ClassCentres,
        translator: Translator,
        channels: str,
        num_classes: int,
        warmup_iters: int = 0,
        warmup_distillation: float = 0.5,
        distillation: float = 0.25,
        backward_share: float = 0.5,
        warmup_colour: float = 0.4,
        colour: float = 0.3,
        weight: float = 1.0,
        centroid_period: int = 0,
        max_iter: int = 0,
        **pseudo: Any,
    ) -> None:
        super().__init__(**pseudo)
        self.centroids = centroids
        # In a tuple it is no submodule: neither trained with the student nor saved with it.
        self._mixture = (CrossDomainMixture(translator, num_classes),)
        self.channels = channels
        self.warmup_iters = warmup_iters
        self.warmup_distillation = warmup_distillation
        self.distillation = distillation
        self.backward_share = backward_share
        self.warmup_colour = BlendedColour(warmup_colour)
        self.colour = BlendedColour(colour)
        self.weight = weight
        self.centroid_period = centroid_period
        self.max_iter = max_iter

    @classmethod
    def from_config(cls, cfg: CfgNode, network: SegmentationNetwork) -> dict[str, Any]:
        settings, classes = cfg.MODEL.SEG.DIGA, cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES
        channels = network.decoder.embedding_channels
        return super().from_config(cfg, network) | {
            "centroids": ClassCentres(classes, channels, settings.CENTROID_KEEP, normalise=False),
            "translator": build_translator(
                settings.TRANSLATOR, settings.FOURIER_SHARE, settings.TRANSLATOR_WEIGHTS
            ),
            "channels": cfg.INPUT.FORMAT,
            "num_classes": classes,
            "warmup_iters": settings.WARMUP_ITERS,
            "warmup_distillation": settings.WARMUP_DISTILLATION,
            "distillation": settings.DISTILLATION,
            "backward_share": settings.BACKWARD_SHARE,
            "warmup_colour": settings.WARMUP_COLOUR,
            "colour": settings.COLOUR,
            "weight": settings.WEIGHT,
            "centroid_period": settings.CENTROID_PERIOD,
            "max_iter": cfg.SOLVER.MAX_ITER,
        }

    def in_warmup(self, iteration: int) -> bool:
        return iteration < self.warmup_iters

    def losses(self, step: Step) -> dict[str, Tensor]:
        warmup = self.in_warmup(step.iteration)
        changed = self.changed_view(step, self.warmup_colour if warmup else self.colour)
        with torch.no_grad():
            views = torch.cat((step.source_images, changed))
            embedding, logits = embed_and_predict(step.teacher, views)
            of_source = embedding[len(changed) :]
            teacher_plain, teacher_changed = logits.split(len(changed))
        plain = step.student.supervised(step.source_images, step.source_labels)
        distillation = symmetric_distillation(
            plain.logits,
            step.student.training_logits(changed),
            teacher_plain,
            teacher_changed,
            self.backward_share,
        )
        weight = self.warmup_distillation if warmup else self.distillation
        losses = {"loss_source": plain.loss, "loss_distillation": weight * distillation}
        if not warmup:
            images, labels = self.mixed(step)
            output = step.student.supervised(images, labels.labels, labels.weight)
            losses["loss_mixed"] = self.weight * output.loss
            self.centroids.update(
                (step.pseudo.embedding, step.pseudo.labels), (of_source, step.source_labels)
            )
        return losses

    @torch.no_grad()
    def changed_view(self, step: Step, colour: BlendedColour) -> Tensor:
        """The source images, strongly changed (CrDoMix), as networks take them."""
        (mixture,) = self._mixture
        mixture.to(step.source_images.device)
        source, target = self.as_rgb(step.source_images), self.as_rgb(step.target_images)
        return self.from_rgb(mixture(source, step.source_labels, target, colour))

    @torch.no_grad()
    def mixed(self, step: Step) -> tuple[Tensor, PixelLabels]:
        """Target images in other colours with source classes on them, and their labels (DACS)."""
        partner = torch.arange(len(step.target_images)) % len(step.source_images)
        size = step.target_images.shape[-2:]
        sources = fit(step.source_images[partner], size, 0.0)
        labels = fit(step.source_labels[partner], size, IGNORED)
        targets = self.from_rgb(self.colour(self.as_rgb(step.target_images)))
        return mix(class_mask(labels), sources, labels, targets, step.pseudo)

    @torch.no_grad()
    def pseudo_label(self, teacher: SegmentationNetwork, target: Tensor) -> PixelLabels:
        """The teacher's classes where the nearest centroid says the same, all of weight 1.

        None at all as long as there are no centroids, that is in warm-up; the target is then not
        even looked at.
        """
        if not bool(self.centroids.seen.any()):
            shape = (len(target), *target.shape[-2:])
            labels = torch.full(shape, IGNORED, device=target.device)
            return EmbeddedLabels(labels, torch.zeros(shape, device=target.device), none=True)
        embedding, logits = embed_and_predict(teacher, target)
        nearest = resize_labels(self.centroids.nearest(embedding), target.shape[-2:])
        labels = agreeing(logits.argmax(1), nearest)
        labels = without_rows(labels, self.ignore_top, self.ignore_bottom)
        weight = torch.ones_like(labels, dtype=torch.float32)
        return EmbeddedLabels(labels, weight, embedding=embedding)

    def stage_starts(self) -> tuple[int, ...]:
        if self.warmup_iters >= self.max_iter:
            return ()
        if not self.centroid_period:
            return (self.warmup_iters,)
        return tuple(range(self.warmup_iters, self.max_iter, self.centroid_period))

    @torch.no_grad()
    def prepare(self, preparation: Preparation) -> None:
        """Start the centroids: over the target set, by the teacher's features and classes."""
        found = (embed_and_predict(preparation.teacher, each) for each in preparation.target())
        self.centroids.start_from((embedding, logits.argmax(1)) for embedding, logits in found)
        logger.info("Centroids of %s", self.centroids.coverage())

    def as_rgb(self, images: Tensor) -> Tensor:
        """Images in [0, 255] and the network's order as RGB in [0, 1]."""
        return (images.flip(1) if self.channels == "BGR" else images) / 255.0

    def from_rgb(self, images: Tensor) -> Tensor:
        """The inverse of `as_rgb`."""
        images = images * 255.0
        return images.flip(1) if self.channels == "BGR" else images
