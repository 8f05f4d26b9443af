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
# Characters of a file name that fit over a picture 320 pixels wide.
_TITLE = 34


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


def square_grid(pictures: Sequence[np.ndarray], columns: int) -> np.ndarray:
    """Images of one width and any heights in rows on white."""
    height = max(picture.shape[0] for picture in pictures)
    cells = [
        np.pad(each, ((0, height - each.shape[0]), (0, 0), (0, 0)), constant_values=255)
        for each in pictures
    ]
    cells += [np.full_like(cells[0], 255)] * (-len(cells) % columns)
    return grid([cells[i : i + columns] for i in range(0, len(cells), columns)])


def shortened(title: str) -> str:
    """The end of a file name that fits over a picture 320 pixels wide."""
    return title if len(title) <= _TITLE else "..." + title[3 - _TITLE :]


def legend(texts: Sequence[str], colours: Sequence[tuple[int, int, int]], width: int) -> np.ndarray:
    """A line of texts, each with its colour; as many lines as they need."""
    font, size, line = cv2.FONT_HERSHEY_SIMPLEX, 0.5, 24
    places, x, y = [], 8, 0
    for text in texts:
        needed = cv2.getTextSize(text, font, size, 1)[0][0] + 34
        if x + needed > width and x > 8:
            x, y = 8, y + line
        places.append((text, x, y))
        x += needed
    bar = np.full((y + line + 8, width, 3), 255, np.uint8)
    for (text, left, top), colour in zip(places, colours, strict=True):
        cv2.rectangle(bar, (left, top + 8), (left + 14, top + 22), colour, -1)
        cv2.putText(bar, text, (left + 19, top + 20), font, size, (0, 0, 0), 1, cv2.LINE_AA)
    return bar


def write_png(path: Path, image: np.ndarray) -> None:
    """Write an RGB image (H, W, 3) uint8 atomically."""
    _, encoded = cv2.imencode(".png", image[:, :, ::-1])
    write_atomically(path, lambda file: file.write(encoded.tobytes()))
