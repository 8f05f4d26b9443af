"""A small domain for segmentation on disk, its label images in each of the forms."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

#: Width and height of the images.
SIZE = (48, 32)
CLASSES = ("road", "car", "person")
COLOURS = ((128, 64, 128), (0, 0, 142), (220, 20, 60))
IGNORED_COLOUR = (0, 0, 0)
#: File, and class id and corners of each region; the rest is road, the uppermost four rows ignored.
SCENES = {
    "a.png": [(1, 4, 10, 24, 30), (2, 30, 8, 34, 20)],
    "sub/b.jpg": [(1, 30, 8, 46, 28)],
    "c d.png": [],
}


def ids_of(name: str) -> np.ndarray:
    """Class ids of a scene, (H, W) uint8 with 255 ignored."""
    ids = np.zeros(SIZE[::-1], np.uint8)
    for k, x0, y0, x1, y1 in SCENES[name]:
        ids[y0:y1, x0:x1] = k
    ids[:4] = 255
    return ids


def draw_images(folder: Path) -> None:
    """The images: each class in its colour."""
    for name in SCENES:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(in_colours(ids_of(name))).save(path)


def in_colours(ids: np.ndarray) -> np.ndarray:
    """RGB of class ids."""
    table = np.zeros((256, 3), np.uint8)
    table[: len(COLOURS)] = COLOURS
    return table[ids]


def save_palette(path: Path, ids: np.ndarray) -> None:
    """A palette PNG whose indices are the ids."""
    image = Image.fromarray(ids).convert("L")
    table = np.zeros((256, 3), np.uint8)
    table[: len(COLOURS)] = COLOURS
    image.putpalette(table.tobytes())
    image.save(path)


def save_deep_channels(path: Path, ids: np.ndarray) -> None:
    """A PNG of 3 channels with 16 bits, ids in the first one, as SYNTHIA's."""
    instances = np.full_like(ids, 7)
    bgr = np.stack([np.zeros_like(ids), instances, ids], axis=2).astype(np.uint16)
    path.write_bytes(cv2.imencode(".png", bgr)[1].tobytes())


def save_plain(path: Path, ids: np.ndarray) -> None:
    """An 8-bit grey PNG."""
    Image.fromarray(ids).save(path)


def write_labels(
    folder: Path, save: Callable[[Path, np.ndarray], None] = save_plain, suffix: str = ""
) -> Path:
    """A label PNG for each image, written by ``save(path, ids)``; returns the folder."""
    for name in SCENES:
        path = (folder / name).with_suffix("")
        path = path.with_name(f"{path.name}{suffix}.png")
        path.parent.mkdir(parents=True, exist_ok=True)
        save(path, ids_of(name))
    return folder


def make_scenes(root: Path) -> Path:
    """Images in ``root/images`` and plain label images in ``root/labels``; returns ``root``."""
    draw_images(root / "images")
    write_labels(root / "labels")
    return root
