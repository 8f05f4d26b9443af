"""Adversarial alignment of predictions: AdaptSegNet (Tsai et al., CVPR 2018), single level."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode, configurable
from torch import Tensor, nn

from ..networks.base import SegmentationNetwork
from .base import HOST_REGISTRY, Host, Step

SOURCE, TARGET = 1.0, 0.0


class OutputDiscriminator(nn.Sequential):
    """Tells source from target by class probabilities: five strided convolutions.

    From (N, K, H, W) to logits (N, 1, ~H/32, ~W/32); ``channels`` of the first, then twice, four
    and eight times as many.
    """

    def __init__(self, num_classes: int, channels: int = 64) -> None:
        widths = [num_classes, channels, 2 * channels, 4 * channels, 8 * channels]
        layers: list[nn.Module] = []
        for before, after in pairwise(widths):
            layers += [nn.Conv2d(before, after, 4, 2, 1), nn.LeakyReLU(0.2)]
        super().__init__(*layers, nn.Conv2d(widths[-1], 1, 4, 2, 1))


def domain_loss(logits: Tensor, domain: float) -> Tensor:
    """Binary cross-entropy with one domain for all positions."""
    logits = logits.float()
    return F.binary_cross_entropy_with_logits(logits, torch.full_like(logits, domain))


@HOST_REGISTRY.register("adversarial")
class Adversarial(Host):
    """Cross-entropy on the source; predictions on the target shall look like those on the source.

    The student is trained to have target predictions taken for source (weight lambda_adv), the
    discriminator to tell them apart. Each one's loss changes it alone, in one backward pass.

    Args:
        discriminator: from probabilities (N, K, H, W) to domain logits.
        weight: lambda_adv.
        lr_factor: of SOLVER.BASE_LR for the discriminator.
        **pseudo: see `Host`.
    """

    uses_target = True

    @configurable
    def __init__(
        self,
        *,
        discriminator: nn.Module,
        weight: float = 0.001,
        lr_factor: float = 1.0,
        **pseudo: Any,
    ) -> None:
        super().__init__(**pseudo)
        self.discriminator = discriminator
        self.weight = weight
        self.lr_factor = lr_factor

    @classmethod
    def from_config(cls, cfg: CfgNode, network: SegmentationNetwork) -> dict[str, Any]:
        settings, classes = cfg.MODEL.SEG.ADVERSARIAL, cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES
        return super().from_config(cfg, network) | {
            "discriminator": OutputDiscriminator(classes, settings.CHANNELS),
            "weight": settings.WEIGHT,
            "lr_factor": settings.LR_FACTOR,
        }

    def losses(self, step: Step) -> dict[str, Tensor]:
        on_source = step.student.supervised(step.source_images, step.source_labels)
        on_target = step.student.training_logits(step.target_images)
        return {"loss_source": on_source.loss} | self.alignment(on_source.logits, on_target)

    def alignment(self, source_logits: Tensor, target_logits: Tensor) -> dict[str, Tensor]:
        """``loss_adversarial`` of the student, ``loss_discriminator`` of the discriminator."""
        source, target = source_logits.softmax(1), target_logits.softmax(1)
        frozen = {name: each.detach() for name, each in self.discriminator.named_parameters()}
        fooled = torch.func.functional_call(self.discriminator, frozen, target)
        on_source = self.discriminator(source.detach())
        on_target = self.discriminator(target.detach())
        told = 0.5 * (domain_loss(on_source, SOURCE) + domain_loss(on_target, TARGET))
        self.health.add("discriminator_right", (on_target < 0).float().mean(), 1)
        return {
            "loss_adversarial": self.weight * domain_loss(fooled, SOURCE),
            "loss_discriminator": told,
        }
