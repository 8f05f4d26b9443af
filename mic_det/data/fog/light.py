"""Atmospheric light by the dark-channel method.

Source: K. He, J. Sun, X. Tang, "Single Image Haze Removal Using Dark Channel Prior", CVPR 2009 and
IEEE TPAMI 2011, section 4.3: of the 0.1 % of pixels with the highest dark channel, the brightest.
K. Tang, J. Yang, J. Wang, "Investigating Haze-Relevant Features in a Learning Framework for Image
Dehazing", CVPR 2014, take the one of *median* intensity instead, which a white car or a lamp does
not mislead; Foggy Cityscapes follows them, and so does the default here.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

PICKS = ("median", "brightest")


def dark_channel(image: NDArray[np.uint8], patch: int = 15) -> NDArray[np.uint8]:
    """The lowest value of any channel in the ``patch`` x ``patch`` pixels around each pixel.

    Args:
        image: (H, W, C) uint8.
        patch: side of the window in pixels, odd; at the border it is cut off.

    Returns:
        (H, W) uint8.

    Raises:
        ValueError: if ``patch`` is even or not positive, or the image is not (H, W, C) uint8.
    """
    if patch < 1 or patch % 2 == 0:
        raise ValueError(f"patch must be odd and positive, got {patch}")
    if image.ndim != 3 or image.dtype != np.uint8:
        raise ValueError(f"image must be (H, W, C) uint8, got {image.dtype} {image.shape}")
    lowest = np.ascontiguousarray(image.min(axis=2))
    return cv2.erode(lowest, np.ones((patch, patch), np.uint8))


def atmospheric_light(
    image: NDArray[np.uint8], pick: str = "median", patch: int = 15, share: float = 0.001
) -> NDArray[np.float64]:
    """The colour of the air, for `add_fog`: that of one pixel of the image.

    Args:
        image: (H, W, 3) uint8 RGB.
        pick: among the ``share`` of pixels with the highest dark channel (an odd number of them,
            at least one; the first in reading order where they tie), "median": the one of median
            grey level, or "brightest".
        patch: side of the dark channel's window in pixels.
        share: in (0, 1].

    Returns:
        (3,) float64 in 0..255.

    Raises:
        ValueError: for another ``pick``, or a share out of range.
    """
    if pick not in PICKS:
        raise ValueError(f"pick must be one of {', '.join(PICKS)}, got {pick!r}")
    if not 0 < share <= 1:
        raise ValueError(f"share must be in (0, 1], got {share}")
    dark = dark_channel(image, patch).ravel()
    count = min(int(share * dark.size) // 2 * 2 + 1, dark.size)
    highest = np.argsort(255 - dark, kind="stable")[:count]
    colours = image.reshape(-1, image.shape[2])[highest].astype(np.float64)
    grey = colours @ (0.299, 0.587, 0.114)
    place = count // 2 if pick == "median" else count - 1
    return colours[np.argsort(grey, kind="stable")[place]]
