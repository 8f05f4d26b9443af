"""Self-training on mixed images: DACS (WACV 2021) with DAFormer's additions (CVPR 2022)."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode, configurable
from torch import Tensor, nn

from mic_det.core import StudentAugment

from ..losses import IGNORED
from ..mixing import class_mask, mix
from ..networks.base import SegmentationNetwork
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
        reference: encoder with the weights that features shall stay near; None: no such loss.
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
        reference: nn.Module | None = None,
        distance_weight: float = 0.005,
        things: Sequence[int] = (),
        thing_share: float = 0.75,
        **pseudo: Any,
    ) -> None:
        super().__init__(**pseudo)
        self.weight = weight
        self.augment = augment
        # In a tuple it is no submodule: neither trained nor saved, since it never changes.
        self._reference = ()
        if reference is not None:
            self._reference = (reference.requires_grad_(False).eval(),)
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
            "reference": copy.deepcopy(network.encoder) if keep_near else None,
            "distance_weight": mixed.FEATURE_DISTANCE,
            "things": [each for each in mixed.THINGS if each < cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES],
            "thing_share": mixed.THING_SHARE,
        }

    def losses(self, step: Step) -> dict[str, Tensor]:
        output = step.student.supervised(step.source_images, step.source_labels)
        losses = {"loss_source": output.loss}
        if self._reference:
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
        (reference,) = self._reference
        device = features[-1].device
        if any(each.device != device for each in reference.parameters()):
            reference.to(device)
        with torch.no_grad():
            wanted = step.student.encode_with(reference, step.source_images)[-1]
        size = features[-1].shape[-2:]
        mask = thing_mask(step.source_labels, self.things, size, self.thing_share)
        return self.distance_weight * feature_distance(features[-1], wanted, mask)


def fit(pixels: Tensor, size: tuple[int, int], fill: float) -> Tensor:
    """Cut off or fill up ``pixels`` (…, H, W) at the right and below, to ``size``."""
    height, width = pixels.shape[-2:]
    padding = (0, size[1] - width, 0, size[0] - height)
    return F.pad(pixels, padding, value=fill) if any(padding) else pixels
