"""The guided filter, which lets a transmission map follow the edges of its image.

Source: K. He, J. Sun, X. Tang, "Guided Image Filtering", ECCV 2010, equations (5), (6) and (8).
Foggy Cityscapes smooths its transmission maps so, with windows of 41 pixels.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray


def guided_filter(
    values: NDArray[np.floating], guide: NDArray[np.floating], radius: int = 20, eps: float = 1e-3
) -> NDArray[np.float64]:
    """Smooth ``values`` within the edges of ``guide``; windows are cut off at the border.

    Args:
        values: (H, W).
        guide: (H, W), in [0, 1].
        radius: windows are 2 * radius + 1 pixels wide; 0 returns ``values``.
        eps: variance of the guide in a window, in its units squared, below which it is smoothed.

    Returns:
        (H, W) float64; may leave the range of ``values`` a little.

    Raises:
        ValueError: if the shapes differ, or ``radius`` or ``eps`` is out of range.
    """
    if values.ndim != 2 or values.shape != guide.shape:
        raise ValueError(f"values and guide differ in shape: {values.shape}, {guide.shape}")
    if radius < 0 or not eps > 0:
        raise ValueError(f"radius must be >= 0 and eps > 0, got {radius} and {eps}")
    values = values.astype(np.float64)
    if radius == 0:
        return values
    guide = guide.astype(np.float64)
    count = _box_sum(np.ones_like(values), radius)

    def mean(array: NDArray) -> NDArray:
        return _box_sum(array, radius) / count

    mean_guide, mean_values = mean(guide), mean(values)
    variance = np.maximum(mean(guide * guide) - mean_guide**2, 0.0)
    slope = (mean(guide * values) - mean_guide * mean_values) / (variance + eps)
    offset = mean_values - slope * mean_guide
    return mean(slope) * guide + mean(offset)


def _box_sum(array: NDArray, radius: int) -> NDArray:
    side = 2 * radius + 1
    return cv2.boxFilter(
        array, cv2.CV_64F, (side, side), normalize=False, borderType=cv2.BORDER_CONSTANT
    )
