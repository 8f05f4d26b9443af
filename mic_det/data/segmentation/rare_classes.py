"""Rare class sampling: source images are drawn by the rarity of the classes they show.

Hoyer et al., DAFormer, CVPR 2022, section 3.2: first a class c is drawn with

    P(c) = exp((1 - f_c) / T) / sum_k exp((1 - f_k) / T),

f_c being the share of the labelled pixels of the data set that it has, then one of the images that
show it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from mic_det.data.loader import SampleStream

logger = logging.getLogger(__name__)


def class_probabilities(pixels: np.ndarray, temperature: float) -> np.ndarray:
    """P(c) of classes with so many pixels (C,); classes without any have 0.

    Raises:
        ValueError: if no class has a pixel.
    """
    pixels = np.asarray(pixels, dtype=np.float64)
    if pixels.sum() <= 0:
        raise ValueError("no class has a pixel")
    rarity = (1.0 - pixels / pixels.sum()) / temperature
    rarity[pixels == 0] = -np.inf
    weights = np.exp(rarity - rarity.max())
    return weights / weights.sum()


class RareClassStream(SampleStream):
    """An endless stream of images drawn by the rarity of their classes.

    Sample k, its class included, follows from (seed, stream, k) alone. The mapper gets the class
    as ``wanted_class`` of the dict, an id.

    Args:
        dicts: labelled images, at least one.
        mapper: see `SampleStream`.
        seed: of classes, images and augmentation.
        stream: see `SampleStream`.
        counts: pixels of each class in each image, (images, classes).
        temperature: T; small: rare classes alone.
        min_pixels: an image shows a class if it has at least so many pixels of it. Of a class that
            no image shows, those with any pixel of it are taken.
        why_unreadable: see `SampleStream`.
    """

    def __init__(
        self,
        dicts: Sequence[dict[str, Any]],
        mapper: Callable[[dict[str, Any]], dict[str, Any]],
        seed: int,
        stream: int,
        *,
        counts: np.ndarray,
        temperature: float = 0.01,
        min_pixels: int = 3000,
        **kwargs: Any,
    ) -> None:
        super().__init__(dicts, mapper, seed, stream, **kwargs)
        if counts.shape[0] != len(dicts):
            raise ValueError(f"counts of {counts.shape[0]} images for {len(dicts)}")
        self.probabilities = class_probabilities(counts.sum(axis=0), temperature)
        self._cumulative = np.cumsum(self.probabilities)
        self._cumulative /= self._cumulative[-1]
        self.images_with = [_showing(column, min_pixels) for column in counts.T]

    def draw(self, k: int, attempt: int = 0) -> tuple[int, int]:
        """Class and image (place in ``dicts``) of sample k, or of the one in its place."""
        generator = np.random.default_rng((*self.key, k, attempt))
        wanted = int(np.searchsorted(self._cumulative, generator.random(), side="right"))
        images = self.images_with[wanted]
        return wanted, int(images[generator.integers(len(images))])

    def index_of(self, k: int) -> int:
        return self.draw(k)[1]

    def _record(self, k: int, attempt: int) -> dict[str, Any]:
        wanted, index = self.draw(k, attempt)
        return {**self.dicts[index], "wanted_class": wanted}


def _showing(pixels: np.ndarray, min_pixels: int) -> np.ndarray:
    enough = np.flatnonzero(pixels >= min_pixels)
    return enough if len(enough) else np.flatnonzero(pixels)
