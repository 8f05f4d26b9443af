"""Pictures side by side with titles, for every task."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from mic_det.data.files import write_atomically

# Distinct colours (RGB), one a class, that hold on fog and on asphalt.
PALETTE = (
    (230, 25, 75),
    (255, 160, 20),
    (0, 110, 255),
    (145, 30, 180),
    (0, 150, 90),
    (120, 70, 20),
    (240, 50, 230),
    (0, 160, 190),
    (110, 130, 0),
    (60, 60, 60),
)
MARGIN = 26


def image_scale(image: np.ndarray, width: int) -> float:
    """Scale that makes an image (H, W, 3) about ``width`` pixels wide; small ones stay sharp."""
    scale = width / image.shape[1]
    return float(round(scale)) if scale >= 1 else scale


def titled(image: np.ndarray, title: str) -> np.ndarray:
    """Put a line of text on a white bar above an RGB image."""
    bar = np.full((MARGIN, image.shape[1], 3), 255, np.uint8)
    black = (0, 0, 0)
    cv2.putText(bar, title, (6, 18), cv2.FONT_HERSHEY_SIMPLEX, 0.55, black, 1, cv2.LINE_AA)
    return np.concatenate([bar, image])


def grid(rows: Sequence[Sequence[np.ndarray]], gap: int = 6) -> np.ndarray:
    """Images of one size in rows and columns on white."""
    height, width = rows[0][0].shape[:2]
    columns = len(rows[0])
    size = (len(rows) * (height + gap) - gap, columns * (width + gap) - gap, 3)
    sheet = np.full(size, 255, np.uint8)
    for r, row in enumerate(rows):
        for c, image in enumerate(row):
            top, left = r * (height + gap), c * (width + gap)
            sheet[top : top + height, left : left + width] = image
    return sheet


def write_png(path: Path, image: np.ndarray) -> None:
    """Write an RGB image (H, W, 3) uint8 atomically."""
    _, encoded = cv2.imencode(".png", image[:, :, ::-1])
    write_atomically(path, lambda file: file.write(encoded.tobytes()))
