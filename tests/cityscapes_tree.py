"""Draws a tiny Cityscapes tree in exactly the published layout, with known boxes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

BETAS = ("0.005", "0.01", "0.02")
ROWS, COLUMNS = 16, 32  # the scene is drawn on this grid; at 256 x 512 a cell is 16 x 16 pixels

# Ids as in gtFine's instanceIds: label id * 1000 + n, or the label id itself. In cells:
# (value, first row, end row, first column, end column), later ones hide earlier ones.
BACKGROUND = [
    (7, 8, 16, 0, 32),  # road
    (23, 0, 8, 0, 32),  # sky
    (11, 3, 8, 0, 11),  # building
    (1, 15, 16, 0, 32),  # ego vehicle, which is ignored
    (0, 0, 16, 31, 32),  # unlabelled
]
OBJECTS = [
    (26000, 9, 12, 4, 10),  # car, cut in two by the pole
    (17, 5, 13, 6, 7),  # pole
    (26001, 9, 11, 12, 15),  # car
    (27000, 5, 9, 22, 25),  # truck, its right side hidden by the bus
    (28000, 4, 10, 24, 28),  # bus
    (31000, 6, 8, 11, 16),  # train
    (32000, 9, 12, 19, 22),  # motorcycle, partly hidden by the rider
    (25000, 7, 10, 20, 21),  # rider
    (33000, 11, 13, 2, 4),  # bicycle
    (24000, 8, 12, 17, 18),  # person
    (26, 12, 13, 26, 30),  # car group
    (24, 13, 14, 12, 14),  # person group
]
NAMES = {
    0: "unlabeled", 1: "ego vehicle", 7: "road", 11: "building", 17: "pole", 23: "sky",
    24: "person", 25: "rider", 26: "car", 27: "truck", 28: "bus", 31: "train",
    32: "motorcycle", 33: "bicycle",
}  # fmt: skip
COLOURS = {
    0: (0, 0, 0), 1: (20, 20, 20), 7: (90, 85, 90), 11: (130, 110, 95), 17: (60, 60, 60),
    23: (150, 190, 230), 24: (200, 60, 50), 25: (220, 120, 30), 26: (40, 60, 170),
    27: (30, 130, 90), 28: (210, 190, 40), 31: (120, 40, 140), 32: (90, 30, 30),
    33: (30, 160, 170),
}  # fmt: skip


def draw_cityscapes_tree(
    root: Path,
    *,
    cities_train: Sequence[str] = ("aachen",),
    cities_val: Sequence[str] = ("frankfurt",),
    size: tuple[int, int] = (256, 512),
    foggy: bool = True,
) -> None:
    """Draw two scenes a city below ``root``: 000000 with every class, 000001 with no object.

    Args:
        root: the Cityscapes folder, which gets leftImg8bit, gtFine and leftImg8bit_foggy.
        cities_train, cities_val: names of the cities of each split.
        size: height and width in pixels, multiples of 16 and 32.
        foggy: whether to draw the foggy images, three for each scene.
    """
    for split, cities in (("train", cities_train), ("val", cities_val)):
        for city in cities:
            for number, objects in enumerate((OBJECTS, [])):
                scene = f"{split}/{city}/{city}_{number:06d}_000019"
                draw_scene(root, scene, [*BACKGROUND, *objects], size, foggy, seed=number)


def draw_scene(
    root: Path,
    scene: str,
    shapes: Sequence[tuple[int, int, int, int, int]],
    size: tuple[int, int],
    foggy: bool,
    seed: int,
) -> None:
    """Draw one scene, such as ``train/aachen/aachen_000000_000019``, and write all its files."""
    height, width = size
    cell_height, cell_width = height // ROWS, width // COLUMNS
    instance_ids = np.zeros(size, np.uint16)
    objects = []
    for value, top, bottom, left, right in shapes:
        y, y_end, x, x_end = (
            top * cell_height, bottom * cell_height, left * cell_width, right * cell_width
        )  # fmt: skip
        instance_ids[y:y_end, x:x_end] = value
        label = value if value < 1000 else value // 1000
        name = NAMES[label] + ("group" if value == label and label >= 24 else "")
        corners = [[x, y], [x_end - 1, y], [x_end - 1, y_end - 1], [x, y_end - 1]]
        objects.append({"label": name, "polygon": corners})
    label_ids = np.where(instance_ids < 1000, instance_ids, instance_ids // 1000).astype(np.uint8)

    ground_truth = f"{root / 'gtFine' / scene}_gtFine_"
    _save(Path(f"{ground_truth}instanceIds.png"), instance_ids)
    _save(Path(f"{ground_truth}labelIds.png"), label_ids)
    polygons = {"imgHeight": height, "imgWidth": width, "objects": objects}
    Path(f"{ground_truth}polygons.json").write_text(json.dumps(polygons))

    image = _colours(label_ids, seed)
    _save(Path(f"{root / 'leftImg8bit' / scene}_leftImg8bit.png"), image.astype(np.uint8))
    # Everything above the horizon is far away; below it, the road comes nearer row by row.
    horizon, rows = height // 2, np.arange(height)
    metres = 10.0 * horizon / np.maximum(rows - horizon, horizon / 10)
    for beta in BETAS if foggy else ():
        transmission = np.exp(-float(beta) * metres)[:, None, None]
        mist = image * transmission + 215 * (1 - transmission)
        place = f"{root / 'leftImg8bit_foggy' / scene}_leftImg8bit_foggy_beta_{beta}.png"
        _save(Path(place), mist.astype(np.uint8))


def _colours(label_ids: np.ndarray, seed: int) -> np.ndarray:
    palette = np.zeros((256, 3))
    palette[list(COLOURS)] = list(COLOURS.values())
    noise = np.random.default_rng(seed).normal(0, 8, (*label_ids.shape, 3))
    return np.clip(palette[label_ids] + noise, 0, 255)


def _save(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path, compress_level=1)
