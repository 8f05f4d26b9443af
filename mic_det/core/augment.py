"""Colour jitter and blur of what the student sees, drawn afresh for each image."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# ITU-R BT.601 luma, the grey that torchvision's colour operations blend with.
_LUMA = (0.2989, 0.587, 0.114)


def _grey(rgb: Tensor) -> Tensor:
    weights = rgb.new_tensor(_LUMA).view(1, 3, 1, 1)
    return (rgb * weights).sum(1, keepdim=True)


def _blend(image: Tensor, other: Tensor, factor: Tensor) -> Tensor:
    return (factor * image + (1.0 - factor) * other).clamp_(0.0, 1.0)


def adjust_brightness(rgb: Tensor, factor: Tensor) -> Tensor:
    """Multiply by ``factor`` (N, 1, 1, 1); ``rgb`` is (N, 3, H, W) in [0, 1], as is the result."""
    return (rgb * factor).clamp_(0.0, 1.0)


def adjust_contrast(rgb: Tensor, factor: Tensor) -> Tensor:
    """Blend with each image's mean grey; shapes and range as in `adjust_brightness`."""
    return _blend(rgb, _grey(rgb).mean((2, 3), keepdim=True), factor)


def adjust_saturation(rgb: Tensor, factor: Tensor) -> Tensor:
    """Blend with each pixel's grey; shapes and range as in `adjust_brightness`."""
    return _blend(rgb, _grey(rgb), factor)


def rotate_hue(rgb: Tensor, turns: Tensor) -> Tensor:
    """Rotate the hue of HSV by ``turns`` (N, 1, 1, 1), a full turn being 1; shapes as above."""
    red, green, blue = rgb.unbind(1)
    value, minimum = rgb.amax(1), rgb.amin(1)
    chroma = value - minimum
    safe = torch.where(chroma > 0, chroma, torch.ones_like(chroma))
    # Six-sector hue; the order of the tests decides ties as the usual definition does.
    sixths = torch.where(
        value == red,
        (green - blue) / safe,
        torch.where(value == green, 2.0 + (blue - red) / safe, 4.0 + (red - green) / safe),
    )
    sixths = torch.where(chroma > 0, sixths, torch.zeros_like(sixths)) + 6.0 * turns.squeeze(1)
    # f(n) = V - C max(0, min(k, 4 - k, 1)), k = (n + H/60) mod 6, for n = 5, 3, 1: HSV to RGB.
    offsets = rgb.new_tensor((5.0, 3.0, 1.0)).view(1, 3, 1, 1)
    k = (offsets + sixths.unsqueeze(1)).remainder(6.0)
    falls = torch.minimum(k, 4.0 - k).clamp_(0.0, 1.0)
    return (value.unsqueeze(1) - chroma.unsqueeze(1) * falls).clamp_(0.0, 1.0)


def gaussian_blur(images: Tensor, sigma: Tensor) -> Tensor:
    """Blur ``images`` (N, C, H, W) each with its own ``sigma`` (N,) in pixels, > 0.

    ``sigma`` had best be on the CPU: how far the kernel reaches is read from it.
    Separable, truncated at three times the largest sigma, borders mirrored where the image is
    larger than the kernel's reach and repeated where it is not.
    """
    count, channels, height, width = images.shape
    reach = max(1, math.ceil(3.0 * float(sigma.max())))
    offsets = torch.arange(-reach, reach + 1, device=sigma.device, dtype=sigma.dtype)
    kernel = torch.exp(-0.5 * (offsets / sigma.view(-1, 1)) ** 2)
    kernel = (kernel / kernel.sum(1, keepdim=True)).to(images, non_blocking=True)
    kernel = kernel.repeat_interleave(channels, 0)
    mode = "reflect" if min(height, width) > reach else "replicate"
    planes = F.pad(images.reshape(1, count * channels, height, width), (reach,) * 4, mode=mode)
    planes = F.conv2d(planes, kernel[:, None, :, None], groups=count * channels)
    planes = F.conv2d(planes, kernel[:, None, None, :], groups=count * channels)
    return planes.view_as(images)


class StudentAugment(nn.Module):
    """Strong colour augmentation of the student's copy of a target image.

    Each image draws for itself whether it is jittered and blurred, and how strongly; brightness,
    contrast, saturation and hue follow one another in this order.

    Args:
        jitter: factors of brightness, contrast and saturation are uniform in 1 -+ jitter.
        hue: largest turn of the hue, either way, as a share of the circle, in [0, 0.5].
        jitter_probability, blur_probability: in [0, 1].
        blur_sigma: range of the blur's sigma in pixels.
        max_value: white of the images: 255 for Detectron2's, 1 for torchvision's.
        channels: "RGB" or "BGR", the images' order.

    Raises ValueError for values out of range.
    """

    def __init__(
        self,
        jitter: float = 0.2,
        hue: float = 0.2,
        jitter_probability: float = 0.8,
        blur_sigma: tuple[float, float] = (0.15, 1.15),
        blur_probability: float = 0.5,
        max_value: float = 1.0,
        channels: str = "RGB",
    ) -> None:
        super().__init__()
        if not 0.0 <= jitter <= 1.0 or not 0.0 <= hue <= 0.5:
            raise ValueError(f"jitter must be in [0, 1] and hue in [0, 0.5], got {jitter}, {hue}")
        if not (0.0 <= jitter_probability <= 1.0 and 0.0 <= blur_probability <= 1.0):
            raise ValueError("jitter_probability and blur_probability must be in [0, 1]")
        if not 0.0 < blur_sigma[0] <= blur_sigma[1]:
            raise ValueError(f"blur_sigma must be 0 < low <= high in pixels, got {blur_sigma}")
        if channels not in ("RGB", "BGR"):
            raise ValueError(f"channels must be 'RGB' or 'BGR', got {channels!r}")
        self.jitter = jitter
        self.hue = hue
        self.jitter_probability = jitter_probability
        self.blur_sigma = tuple(blur_sigma)
        self.blur_probability = blur_probability
        self.max_value = float(max_value)
        self.channels = channels

    def forward(self, images: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Augment ``images``: (N, 3, H, W) or (3, H, W), integer or floating, in [0, max_value].

        Returns floating images (float32 for integer input) of the same shape, range and order.
        All draws are made on the CPU, so a seed gives the same result on each device.
        """
        batch = images if images.dim() == 4 else images.unsqueeze(0)
        if not batch.is_floating_point():
            batch = batch.float()
        count = batch.shape[0]
        draws = torch.rand(count, 7, generator=generator)
        jittered = (draws[:, 0] < self.jitter_probability).nonzero().flatten()
        blurred = (draws[:, 1] < self.blur_probability).nonzero().flatten()
        low, high = self.blur_sigma
        sigma = low + (high - low) * draws[:, 2]
        swing = 2.0 * draws[:, 3:] - 1.0

        result = batch.clone()
        # Images are augmented in the precision they come in, in mixed precision too.
        with torch.autocast(batch.device.type, enabled=False):
            if len(jittered):
                rows = jittered.to(batch.device, non_blocking=True)
                amounts = swing[jittered].to(result, non_blocking=True)
                result[rows] = self._jitter(result[rows], amounts)
            if len(blurred):
                rows = blurred.to(batch.device, non_blocking=True)
                result[rows] = gaussian_blur(result[rows], sigma[blurred].to(result.dtype))
        return result.view(images.shape)

    def _jitter(self, images: Tensor, swing: Tensor) -> Tensor:
        rgb = images / self.max_value
        if self.channels == "BGR":
            rgb = rgb.flip(1)
        brightness, contrast, saturation = (
            (1.0 + self.jitter * swing[:, i]).view(-1, 1, 1, 1) for i in range(3)
        )
        rgb = adjust_brightness(rgb, brightness)
        rgb = adjust_contrast(rgb, contrast)
        rgb = adjust_saturation(rgb, saturation)
        rgb = rotate_hue(rgb, (self.hue * swing[:, 3]).view(-1, 1, 1, 1))
        if self.channels == "BGR":
            rgb = rgb.flip(1)
        return rgb * self.max_value
