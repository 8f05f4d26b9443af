"""Many images of a domain on one sheet, with their boxes, for a person to look at."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from mic_det.data.images import read_image
from mic_det.drawing import PALETTE, grid, titled

from .visualise import draw_boxes

# Characters of a file name that fit over a picture 320 pixels wide.
_TITLE = 34


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
    height = max(picture.shape[0] for picture in pictures)
    pictures = [_padded(picture, height) for picture in pictures]
    columns = math.ceil(math.sqrt(len(pictures)))
    pictures += [np.full_like(pictures[0], 255)] * (-len(pictures) % columns)
    rows = [pictures[i : i + columns] for i in range(0, len(pictures), columns)]
    sheet = grid(rows)
    counts = [0] * len(names)
    for record in records:
        for each in record.get("annotations", ()):
            counts[each["category_id"]] += 1
    return np.concatenate([sheet, _legend(names, counts, sheet.shape[1])]) if names else sheet


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
    title = str(record.get("image_id", ""))
    title = title if isinstance(record.get("image_id"), str) else path.name
    title = title if len(title) <= _TITLE else "..." + title[3 - _TITLE :]
    if len(names) > len(PALETTE):  # colours alone do not tell the classes apart
        return titled(draw_boxes(small, corners, classes, names, scale=1), title)
    for (x0, y0, x1, y1), k in zip(corners.round().astype(int).tolist(), classes, strict=True):
        cv2.rectangle(small, (x0, y0), (x1, y1), PALETTE[k], 2)
    return titled(small, title)


def _padded(picture: np.ndarray, height: int) -> np.ndarray:
    below = height - picture.shape[0]
    return np.pad(picture, ((0, below), (0, 0), (0, 0)), constant_values=255)


def _legend(names: Sequence[str], counts: Sequence[int], width: int) -> np.ndarray:
    """A line of coloured names; as many lines as they need."""
    font, size, line = cv2.FONT_HERSHEY_SIMPLEX, 0.5, 24
    places, x, y = [], 8, 0
    for name, count in zip(names, counts, strict=True):
        text = f"{name} ({count})"
        needed = cv2.getTextSize(text, font, size, 1)[0][0] + 34
        if x + needed > width and x > 8:
            x, y = 8, y + line
        places.append((text, x, y))
        x += needed
    bar = np.full((y + line + 8, width, 3), 255, np.uint8)
    for k, (text, left, top) in enumerate(places):
        colour = PALETTE[k % len(PALETTE)]
        cv2.rectangle(bar, (left, top + 8), (left + 14, top + 22), colour, -1)
        cv2.putText(bar, text, (left + 19, top + 20), font, size, (0, 0, 0), 1, cv2.LINE_AA)
    return bar
