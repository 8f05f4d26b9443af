"""A colour for each class."""

from __future__ import annotations

import colorsys
from collections.abc import Iterator, Sequence

import numpy as np

from mic_det.data.segmentation.cityscapes_labels import COLOURS
from mic_det.data.segmentation.coding import IGNORE

Colour = tuple[int, int, int]

# Other data sets' names of classes of Cityscapes.
_SAME = {
    "pavement": "sidewalk",
    "sign": "traffic sign",
    "tree": "vegetation",
    "pedestrian": "person",
    "bicyclist": "rider",
}


def class_colours(classes: Sequence[str]) -> list[Colour]:
    """RGB 0..255 of each class: Cityscapes' own where it has the name, distinct ones else."""
    taken: list[Colour] = []
    found: list[Colour | None] = []
    for name in classes:
        lower = name.lower()
        colour = COLOURS.get(lower, COLOURS.get(_SAME.get(lower, "")))
        colour = None if colour in taken else colour
        found.append(colour)
        if colour is not None:
            taken.append(colour)
    candidates = _candidates()
    for k, colour in enumerate(found):
        if colour is None:
            found[k] = next(each for each in candidates if each not in taken)
            taken.append(found[k])
    return found  # type: ignore[return-value]


def _candidates() -> Iterator[Colour]:
    """Endless bright colours; those that follow each other differ in hue by the golden section."""
    k = 0
    while True:
        ring = (k // 32) % 4
        hue, light = (k * 0.6180339887) % 1.0, 0.5 + 0.1 * ring
        yield tuple(round(255 * part) for part in colorsys.hls_to_rgb(hue, light, 0.85))
        k += 1


def colour_map(ids: np.ndarray, classes: Sequence[str]) -> np.ndarray:
    """A picture of class ids (H, W): RGB, (H, W, 3) uint8; `IGNORE` is black."""
    table = np.zeros((256, 3), np.uint8)
    table[: len(classes)] = class_colours(classes)
    table[IGNORE] = 0
    return table[ids]
