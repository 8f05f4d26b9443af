"""Colour statistics in Lab space."""

from __future__ import annotations

import torch
from torch import Tensor

from .base import Translator, with_statistics_of

# sRGB (IEC 61966-2-1) to CIE XYZ, white point D65.
_TO_XYZ = (
    (0.4124564, 0.3575761, 0.1804375),
    (0.2126729, 0.7151522, 0.0721750),
    (0.0193339, 0.1191920, 0.9503041),
)
# X and Z of white are the rows' sums, so that grey has no colour to the last digit.
_DELTA = 6.0 / 29.0


def _matrix(like: Tensor) -> Tensor:
    """sRGB to XYZ with white at (1, 1, 1)."""
    matrix = torch.tensor(_TO_XYZ, dtype=torch.float64)
    return (matrix / matrix.sum(1, keepdim=True)).to(like.device)


def _apply(matrix: Tensor, images: Tensor) -> Tensor:
    return torch.einsum("ij,njhw->nihw", matrix.to(images), images)


def rgb_to_lab(rgb: Tensor) -> Tensor:
    """sRGB (N, 3, H, W) in [0, 1] to CIE Lab: L in [0, 100], a and b about in [-128, 127]."""
    linear = torch.where(rgb > 0.04045, ((rgb.clamp_min(0.0) + 0.055) / 1.055) ** 2.4, rgb / 12.92)
    xyz = _apply(_matrix(rgb), linear)
    root = torch.where(
        xyz > _DELTA**3, xyz.clamp_min(1e-12) ** (1 / 3), xyz / (3 * _DELTA**2) + 4 / 29
    )
    x, y, z = root.unbind(1)
    return torch.stack((116.0 * y - 16.0, 500.0 * (x - y), 200.0 * (y - z)), 1)


def lab_to_rgb(lab: Tensor) -> Tensor:
    """The inverse of `rgb_to_lab`; colours that sRGB does not have are clipped to [0, 1]."""
    lightness, a, b = lab.unbind(1)
    y = (lightness + 16.0) / 116.0
    root = torch.stack((y + a / 500.0, y, y - b / 200.0), 1)
    xyz = torch.where(root > _DELTA, root**3, 3 * _DELTA**2 * (root - 4 / 29))
    linear = _apply(torch.linalg.inv(_matrix(lab)), xyz).clamp(0.0, 1.0)
    small = linear <= 0.0031308
    return torch.where(small, linear * 12.92, 1.055 * linear.clamp_min(1e-12) ** (1 / 2.4) - 0.055)


class LabStatistics(Translator):
    """Mean and standard deviation of L, a and b become the target's.

    Reinhard et al., Color Transfer between Images, 2001, in CIE Lab.
    """

    def translate(self, source: Tensor, target: Tensor) -> Tensor:
        # A channel that hardly varies (a grey image's a and b) is moved, not stretched.
        return lab_to_rgb(with_statistics_of(rgb_to_lab(source), rgb_to_lab(target), floor=0.5))
