"""Augmentation that all tasks share."""

from __future__ import annotations

from detectron2.data import transforms as T


def colour_jitter(jitter: float) -> list[T.Augmentation]:
    """Brightness, contrast and saturation times a factor uniform in 1 -+ ``jitter``; 0: none."""
    if jitter <= 0:
        return []
    span = (max(0.0, 1.0 - jitter), 1.0 + jitter)
    return [T.RandomBrightness(*span), T.RandomContrast(*span), T.RandomSaturation(*span)]
