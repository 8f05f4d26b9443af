"""Self-training on mixed images: DACS (WACV 2021) with DAFormer's additions (CVPR 2022)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode, configurable
from torch import Tensor, nn

from mic_det.core import StudentAugment

from ..losses import IGNORED
from ..mixing import class_mask, mix
from ..networks import SegmentationNetwork, build_encoder
from ..pseudo_labels import PixelLabels
from .base import HOST_REGISTRY, Host, Step


def thing_mask(
    labels: Tensor, things: Sequence[int], size: tuple[int, int], share: float
) -> Tensor:
    """Positions of a feature map that show things.

    Args:
        labels: (N, H, W) int64.
        things: numbers of the classes.
        size: (h, w) of the feature map.
        share: a position counts if at least this share of its pixels is of one thing.

    Returns bool (N, h, w).
    """
    found = [
        F.adaptive_avg_pool2d((labels == each).float()[:, None], size)[:, 0] for each in things
    ]
    if not found:
        return labels.new_zeros((len(labels), *size), dtype=torch.bool)
    return torch.stack(found).amax(0) >= share


def feature_distance(features: Tensor, reference: Tensor, mask: Tensor) -> Tensor:
    """Mean Euclidean distance of two feature maps (N, C, h, w) over ``mask`` (N, h, w).

    DAFormer, eq. 7 and 8. 0 if nothing is masked.
    """
    squares = (features.float() - reference.float()).square().sum(1)
    # The root of 0 has no gradient.
    distances = squares.clamp_min(1e-12).sqrt()
    return (distances * mask).sum() / mask.sum().clamp_min(1)


@HOST_REGISTRY.register("self_training")
class SelfTraining(Host):
    """Cross-entropy on the source and on source classes pasted into pseudo-labelled targets.

    Args:
        weight: of the loss on mixed images.
        augment: colours of the mixed images.
        make_reference: makes the encoder that features shall stay near, in the first iteration, so
            that nobody has to have its weights for inference; None: no such loss.
        distance_weight, things, thing_share: of `feature_distance` and `thing_mask`.
        **pseudo: see `Host`.
    """

    uses_target = True
    uses_pseudo_labels = True

    @configurable
    def __init__(
        self,
        *,
        augment: StudentAugment,
        weight: float = 1.0,
        make_reference: Callable[[], nn.Module] | None = None,
        distance_weight: float = 0.005,
        things: Sequence[int] = (),
        thing_share: float = 0.75,
        **pseudo: Any,
    ) -> None:
        super().__init__(**pseudo)
        self.weight = weight
        self.augment = augment
        self.make_reference = make_reference
        # In a tuple it is no submodule: neither trained nor saved, since it never changes.
        self._reference: tuple[nn.Module, ...] = ()
        self.distance_weight = distance_weight
        self.things = tuple(things)
        self.thing_share = thing_share

    @classmethod
    def from_config(cls, cfg: CfgNode, network: SegmentationNetwork) -> dict[str, Any]:
        mixed = cfg.MODEL.SEG.SELF_TRAINING
        parts = super().from_config(cfg, network)
        keep_near = bool(cfg.MODEL.SEG.ENCODER_WEIGHTS) and mixed.FEATURE_DISTANCE > 0
        return parts | {
            "weight": mixed.WEIGHT,
            "augment": StudentAugment(
                jitter=mixed.JITTER,
                hue=mixed.HUE,
                jitter_probability=mixed.JITTER_PROB,
                blur_sigma=mixed.BLUR_SIGMA,
                blur_probability=mixed.BLUR_PROB,
                max_value=255.0,
                channels=cfg.INPUT.FORMAT,
            ),
            "make_reference": partial(_encoder_as_given, cfg) if keep_near else None,
            "distance_weight": mixed.FEATURE_DISTANCE,
            "things": [each for each in mixed.THINGS if each < cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES],
            "thing_share": mixed.THING_SHARE,
        }

    def losses(self, step: Step) -> dict[str, Tensor]:
        output = step.student.supervised(step.source_images, step.source_labels)
        losses = {"loss_source": output.loss}
        if self.make_reference is not None:
            losses["loss_feature_distance"] = self._distance(step, output.features)
        images, labels = self.mixed(step)
        losses["loss_mixed"] = self.weight * (
            step.student.supervised(images, labels.labels, labels.weight).loss
        )
        return losses

    @torch.no_grad()
    def mixed(self, step: Step) -> tuple[Tensor, PixelLabels]:
        """Target images with source classes on them, in other colours, and their labels."""
        # Where batches differ in size, the sources are used in turn.
        partner = torch.arange(len(step.target_images)) % len(step.source_images)
        sources, labels = step.source_images[partner], step.source_labels[partner]
        size = step.target_images.shape[-2:]
        sources = fit(sources, size, 0.0)
        labels = fit(labels, size, IGNORED)
        mask = class_mask(labels)
        images, mixed = mix(mask, sources, labels, step.target_images, step.pseudo)
        return self.augment(images), mixed

    def _distance(self, step: Step, features: list[Tensor]) -> Tensor:
        reference = self._reference_on(features[-1].device)
        with torch.no_grad():
            wanted = step.student.encode_with(reference, step.source_images)[-1]
        size = features[-1].shape[-2:]
        mask = thing_mask(step.source_labels, self.things, size, self.thing_share)
        return self.distance_weight * feature_distance(features[-1], wanted, mask)

    def _reference_on(self, device: torch.device) -> nn.Module:
        if not self._reference:
            # What its first weights are drawn with is no part of the iteration.
            with torch.random.fork_rng(devices=[]):
                made = self.make_reference()
            self._reference = (made.requires_grad_(False).eval().to(device),)
        return self._reference[0]


def _encoder_as_given(cfg: CfgNode) -> nn.Module:
    """The encoder with ``MODEL.SEG.ENCODER_WEIGHTS``."""
    return build_encoder(cfg, cfg.MODEL.SEG.ENCODER_WEIGHTS)


def fit(pixels: Tensor, size: tuple[int, int], fill: float) -> Tensor:
    """Cut off or fill up ``pixels`` (…, H, W) at the right and below, to ``size``."""
    height, width = pixels.shape[-2:]
    padding = (0, size[1] - width, 0, size[0] - height)
    return F.pad(pixels, padding, value=fill) if any(padding) else pixels
