"""A source and a target of coloured blocks with label images, registered as domains."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from tempfile import mkdtemp

import numpy as np
from PIL import Image

from mic_det.data.segmentation import register_segmentation

SOURCE, TARGET, UNLABELLED = "blocks_light", "blocks_dark", "blocks_dark_unlabelled"
CLASSES = ("ground", "wall", "sky")
_COLOURS = np.array([[90, 160, 60], [150, 120, 110], [120, 170, 230]], dtype=np.float64)


def _draw(folder: Path, count: int, light: float, seed: int) -> None:
    generator = np.random.default_rng(seed)
    for part in ("images", "labels"):
        (folder / part).mkdir(parents=True)
    for i in range(count):
        blocks = generator.integers(0, 3, (4, 6)).astype(np.uint8)
        ids = blocks.repeat(8, 0).repeat(8, 1)
        pixels = light * (_COLOURS[ids] + generator.normal(0.0, 12.0, (*ids.shape, 3)))
        ids[:2, :8] = 255
        pixels = pixels.clip(0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / "images" / f"{i}.png")
        Image.fromarray(ids).save(folder / "labels" / f"{i}.png")


@cache
def draw_blocks() -> Path:
    """4 light and 4 dark images of 32 x 48 pixels with their labels; returns their folder."""
    root = Path(mkdtemp(prefix="mic_det_tests_"))
    _draw(root / "light", 4, 1.0, 1)
    _draw(root / "dark", 4, 0.4, 2)
    return root


def register_blocks() -> Path:
    """Register them, the dark ones also without their labels; returns their folder."""
    root = draw_blocks()
    for name, folder in ((SOURCE, "light"), (TARGET, "dark")):
        register_segmentation(name, root / folder / "images", root / folder / "labels", CLASSES)
    register_segmentation(UNLABELLED, root / "dark" / "images")
    return root
