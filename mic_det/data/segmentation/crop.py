"""Windows of an image that show several classes, and a wanted one."""

from __future__ import annotations

import numpy as np

from mic_det.data.segmentation.coding import IGNORE
from mic_det.data.segmentation.counting import count_ids

#: Windows tried before the last one is taken as it is.
TRIES = 10

Window = tuple[int, int]


def random_window(shape: tuple[int, int], size: tuple[int, int]) -> Window:
    """Top and left of a random window of ``size`` in an image of ``shape``, both (height, width).

    Along a side where the image is not larger it begins at 0. Draws from numpy's generator.
    """
    top, left = (
        int(np.random.randint(max(0, s - c) + 1)) for s, c in zip(shape, size, strict=True)
    )
    return top, left


def labelled_window(
    ids: np.ndarray,
    size: tuple[int, int],
    largest_share: float,
    wanted: int | None = None,
    wanted_pixels: int = 0,
) -> Window:
    """Top and left of a random window that is worth training on.

    The rule of DAFormer (Hoyer et al., CVPR 2022): of 10 windows the first in which no class has
    as much as ``largest_share`` of the labelled pixels. With a wanted class that is repeated, 10
    times at most, until the window has ``wanted_pixels`` of it. Where no window fulfils the rule
    the last is taken.

    Args:
        ids: class ids (H, W) uint8 with `IGNORE`.
        size: height and width of the window.
        largest_share: in (0, 1]; 1: any window.
        wanted: id of a class.
        wanted_pixels: of the wanted class.
    """
    window = (0, 0)
    for _ in range(TRIES if wanted is not None and wanted_pixels > 0 else 1):
        for _ in range(TRIES if largest_share < 1 else 1):
            window = random_window(ids.shape, size)
            counts = _counts(ids, window, size)
            if largest_share >= 1 or 0 < counts.max() < largest_share * counts.sum():
                break
        if wanted is None or counts[wanted] >= wanted_pixels:
            break
    return window


def _counts(ids: np.ndarray, window: Window, size: tuple[int, int]) -> np.ndarray:
    top, left = window
    inside = ids[top : top + size[0], left : left + size[1]]
    return count_ids(inside)[:IGNORE]
