"""Crops and windows of images whose corners fall on whole positions of feature maps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Box:
    """Rows [top, bottom) and columns [left, right)."""

    top: int
    left: int
    bottom: int
    right: int

    @property
    def size(self) -> tuple[int, int]:
        return self.bottom - self.top, self.right - self.left

    def of(self, pixels: Tensor) -> Tensor:
        """That part of ``pixels`` (…, H, W), as a view."""
        return pixels[..., self.top : self.bottom, self.left : self.right]

    def divided(self, stride: int) -> Box:
        """The same box on a map of that stride. ValueError unless all corners fall on positions."""
        corners = (self.top, self.left, self.bottom, self.right)
        if any(each % stride for each in corners):
            raise ValueError(f"{self} does not lie on whole positions of stride {stride}")
        return Box(*(each // stride for each in corners))


def random_crop(
    size: tuple[int, int],
    crop: tuple[int, int],
    align: int,
    generator: torch.Generator | None = None,
) -> Box:
    """A random crop of an image of ``size``, whose corners are multiples of ``align``.

    Where the image is smaller than the crop the crop is the whole side. Raises ValueError unless
    sizes of image and crop are multiples of ``align`` too.
    """
    starts, sides = [], []
    for whole, side in zip(size, crop, strict=True):
        side = min(side, whole)
        if whole % align or side % align:
            raise ValueError(f"image {size} and crop {crop} must be multiples of {align}")
        places = (whole - side) // align + 1
        starts.append(align * int(torch.randint(places, (), generator=generator)))
        sides.append(side)
    return Box(starts[0], starts[1], starts[0] + sides[0], starts[1] + sides[1])


def window_starts(whole: int, side: int, step: int) -> list[int]:
    """Where windows of ``side`` begin that cover ``whole``, every ``step``, the last at its end."""
    if side >= whole:
        return [0]
    return sorted({*range(0, whole - side, step), whole - side})


def windows(size: tuple[int, int], window: tuple[int, int], step: tuple[int, int]) -> list[Box]:
    """Overlapping windows that cover an image of ``size``, row by row."""
    sides = [min(side, whole) for side, whole in zip(window, size, strict=True)]
    rows, columns = (
        window_starts(whole, side, each)
        for whole, side, each in zip(size, sides, step, strict=True)
    )
    return [Box(top, left, top + sides[0], left + sides[1]) for top in rows for left in columns]


def average_windows(
    boxes: Sequence[Box],
    predict: Callable[[Sequence[Box]], Tensor],
    size: tuple[int, int],
    at_once: int = 1,
) -> Tensor:
    """Predictions of windows, averaged where they overlap.

    Args:
        boxes: windows of one size that cover the map.
        predict: from W windows to predictions (W, N, K, h, w) of their size.
        size: of the map.
        at_once: windows handed to ``predict`` in one call.

    Returns (N, K, *size).
    """
    total = count = None
    for start in range(0, len(boxes), at_once):
        some = boxes[start : start + at_once]
        for box, found in zip(some, predict(some), strict=True):
            if total is None:
                total = found.new_zeros((*found.shape[:2], *size))
                count = found.new_zeros(size)
            box.of(total).add_(found)
            box.of(count).add_(1.0)
    return total / count
