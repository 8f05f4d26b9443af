"""What the student gets to see of target images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from .augment import StudentAugment
from .masking import PatchMask


class MaskedView(nn.Module):
    """Colour-augment and mask the images of a batch of input dicts.

    Args:
        augment, mask: of `mic_det.core`; both draw anew for each image.
        device: where the images are worked on.
    """

    def __init__(
        self, augment: StudentAugment, mask: PatchMask, device: torch.device | str = "cpu"
    ) -> None:
        super().__init__()
        self.augment = augment
        self.mask = mask
        self.device = torch.device(device)
        self.to(self.device)

    @classmethod
    def from_config(cls, cfg: Any) -> MaskedView:
        """As ``MODEL.MIC`` says; hidden patches take the mean colour, ``MODEL.PIXEL_MEAN``."""
        mic = cfg.MODEL.MIC
        augment = StudentAugment(
            jitter=mic.AUGMENT.JITTER,
            hue=mic.AUGMENT.HUE,
            jitter_probability=mic.AUGMENT.JITTER_PROB,
            blur_sigma=mic.AUGMENT.BLUR_SIGMA,
            blur_probability=mic.AUGMENT.BLUR_PROB,
            max_value=255.0,
            channels=cfg.INPUT.FORMAT,
        )
        mask = PatchMask(mic.BLOCK_SIZE, mic.RATIO, fill=list(cfg.MODEL.PIXEL_MEAN))
        return cls(augment, mask, cfg.MODEL.DEVICE)

    @torch.no_grad()
    def forward(self, target: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """The same dicts with other images: float32 (3, H, W) in the value range they came in.

        All draws on an image follow from its ``sample_seed``, where it has one: they are the same
        in whichever process it is.
        """
        return [{**each, "image": self._view(each)} for each in target]

    def _view(self, each: dict[str, Any]) -> torch.Tensor:
        generator = None
        if "sample_seed" in each:
            generator = torch.Generator().manual_seed(each["sample_seed"])
        image = each["image"].to(self.device, non_blocking=True)
        augmented = self.augment(image, generator=generator)
        return self.mask(augmented, generator=generator)
