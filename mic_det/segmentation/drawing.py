"""Label maps as pictures and as files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from mic_det.data.files import write_atomically

from .losses import IGNORED

Colour = tuple[int, int, int]


def colour_map(labels: np.ndarray, colours: Sequence[Colour]) -> np.ndarray:
    """RGB (H, W, 3) uint8 of labels (H, W): a class's colour, black where ignored."""
    table = np.zeros((IGNORED + 1, 3), np.uint8)
    table[: len(colours)] = colours
    return table[labels]


def overlay(image: np.ndarray, labels: np.ndarray, colours: Sequence[Colour]) -> np.ndarray:
    """The colour map half transparent on its image, RGB (H, W, 3) uint8; ignored pixels as is."""
    drawn = (image.astype(np.uint16) + colour_map(labels, colours)) // 2
    return np.where((labels == IGNORED)[..., None], image, drawn.astype(np.uint8))


def legend(names: Sequence[str], colours: Sequence[Colour], width: int) -> np.ndarray:
    """The classes with their colours in rows of ``width`` pixels, RGB on white."""
    entry, height = 150, 22
    columns = max(1, width // entry)
    rows = -(-len(names) // columns)
    sheet = np.full((rows * height, max(width, entry), 3), 255, np.uint8)
    for i, (name, colour) in enumerate(zip(names, colours, strict=True)):
        top, left = height * (i // columns), entry * (i % columns)
        sheet[top + 4 : top + 18, left + 4 : left + 24] = colour
        place = (left + 30, top + 16)
        cv2.putText(sheet, name, place, cv2.FONT_HERSHEY_SIMPLEX, 0.45, 0, 1, cv2.LINE_AA)
    return sheet


def write_labels(path: Path, labels: np.ndarray) -> None:
    """Write labels (H, W) in [0, 255] as an 8-bit PNG, atomically."""
    _, encoded = cv2.imencode(".png", labels.astype(np.uint8))
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, lambda file: file.write(encoded.tobytes()))


def read_labels(path: Path) -> np.ndarray:
    """Labels (H, W) uint8 that `write_labels` wrote. FileNotFoundError if there are none."""
    labels = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    if labels is None:
        raise FileNotFoundError(f"{path}: no label image")
    return labels
