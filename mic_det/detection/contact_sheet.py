"""Many images of a domain on one sheet, with their boxes, for a person to look at."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from mic_det.data.images import read_image
from mic_det.drawing import PALETTE, legend, shortened, square_grid, titled

from .visualise import draw_boxes


def choose(records: Sequence[dict[str, Any]], count: int) -> list[dict[str, Any]]:
    """Up to ``count`` records, evenly spread; those with boxes, if there are any."""
    boxed = [record for record in records if record.get("annotations")]
    records = boxed or list(records)
    count = min(count, len(records))
    return [records[i * len(records) // count] for i in range(count)]


def contact_sheet(
    records: Sequence[dict[str, Any]], names: Sequence[str], width: int = 320
) -> np.ndarray:
    """Images with their boxes in a grid, and below what colour each class has.

    Boxes are named only where there are more classes than colours: names would hide small objects.

    Args:
        records: Detectron2 dataset dicts, at least one; boxes are ``[x, y, width, height]``.
        names: of the classes.
        width: of a picture, in pixels.

    Returns:
        RGB, (H, W, 3) uint8.

    Raises:
        DataError: if an image cannot be read.
    """
    pictures = [_picture(record, names, width) for record in records]
    sheet = square_grid(pictures, math.ceil(math.sqrt(len(pictures))))
    counts = [0] * len(names)
    for record in records:
        for each in record.get("annotations", ()):
            counts[each["category_id"]] += 1
    texts = [f"{name} ({count})" for name, count in zip(names, counts, strict=True)]
    colours = [PALETTE[k % len(PALETTE)] for k in range(len(names))]
    return np.concatenate([sheet, legend(texts, colours, sheet.shape[1])]) if names else sheet


def _picture(record: dict[str, Any], names: Sequence[str], width: int) -> np.ndarray:
    path = Path(record["file_name"])
    image = read_image(path)
    scale = width / image.shape[1]
    size = (width, max(1, round(image.shape[0] * scale)))
    how = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    small = cv2.resize(image, size, interpolation=how)
    annotations = record.get("annotations", ())
    boxes = np.array([each["bbox"] for each in annotations], dtype=float).reshape(-1, 4)
    corners = np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1) * scale
    classes = [each["category_id"] for each in annotations]
    title = shortened(record["image_id"] if isinstance(record.get("image_id"), str) else path.name)
    if len(names) > len(PALETTE):  # colours alone do not tell the classes apart
        return titled(draw_boxes(small, corners, classes, names, scale=1), title)
    for (x0, y0, x1, y1), k in zip(corners.round().astype(int).tolist(), classes, strict=True):
        cv2.rectangle(small, (x0, y0), (x1, y1), PALETTE[k], 2)
    return titled(small, title)
