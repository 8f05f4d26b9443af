"""The interface of all translators."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn


class Translator(nn.Module, ABC):
    """Brings source images to the style of target images, pixel for pixel.

    A subclass implements `translate`. Translators are never trained together with a network that
    uses them, and their calls leave no gradient.
    """

    @abstractmethod
    def translate(self, source: Tensor, target: Tensor) -> Tensor:
        """Float32 RGB ``source`` (N, 3, H, W) and ``target`` (N, 3, H', W'), image by image."""

    @torch.no_grad()
    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        """``source`` (N, 3, H, W) in the style of ``target`` (M, 3, H', W'); RGB in [0, 1].

        Source image i takes the style of target image i modulo M. Returns (N, 3, H, W) in [0, 1].
        """
        paired = target[torch.arange(len(source), device=target.device) % len(target)]
        with torch.autocast(source.device.type, enabled=False):
            translated = self.translate(source.float(), paired.float())
        return translated.clamp(0.0, 1.0).to(source.dtype)


def channel_statistics(images: Tensor, floor: float = 1e-6) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation, at least ``floor``, of each channel: (N, C, 1, 1) both."""
    mean = images.mean((2, 3), keepdim=True)
    variance = images.var((2, 3), keepdim=True, unbiased=False)
    return mean, variance.clamp_min(floor**2).sqrt()


def with_statistics_of(images: Tensor, like: Tensor, floor: float = 1e-6) -> Tensor:
    """``images`` (N, C, H, W) with each channel's mean and spread those of ``like``."""
    mean, spread = channel_statistics(images, floor)
    wanted_mean, wanted_spread = channel_statistics(like, floor)
    return (images - mean) / spread * wanted_spread + wanted_mean
