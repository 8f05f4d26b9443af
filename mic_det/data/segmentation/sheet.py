"""Images of a domain with their label images on one sheet, for a person to look at."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from mic_det.data.images import read_image
from mic_det.data.segmentation.coding import IGNORE
from mic_det.data.segmentation.colours import class_colours, colour_map
from mic_det.data.segmentation.counting import count_ids
from mic_det.data.segmentation.records import (
    check_sizes,
    label_loader,
    labelled_seg_dicts,
    model_classes,
)
from mic_det.drawing import legend, shortened, square_grid, titled

#: Share of the class's colour where a label is laid over its image.
OPACITY = 0.6


def label_sheet(name: str, count: int = 16, width: int = 320) -> np.ndarray:
    """Images of a domain beside the same with their labels in colours, and what the colours mean.

    Args:
        name: a registered domain with labels.
        count: images, evenly spread over the domain.
        width: of each picture in pixels.

    Returns:
        RGB, (H, W, 3) uint8. Pixels without a class are black.

    Raises:
        DataError: if a file cannot be read.
    """
    records = labelled_seg_dicts(name)
    count = min(count, len(records))
    chosen = [records[i * len(records) // count] for i in range(count)]
    classes, reader = model_classes(name), label_loader(name)
    counts = np.zeros(IGNORE + 1, np.int64)
    pairs = []
    for record in chosen:
        image = read_image(Path(record["file_name"]))
        ids = reader(record["sem_seg_file_name"])
        check_sizes(record, image.shape[1::-1], ids.shape[::-1])
        counts += count_ids(ids)
        pairs.append(_pair(record, image, ids, classes, width))
    sheet = square_grid(pairs, max(1, math.ceil(math.sqrt(len(pairs) / 2))))
    return np.concatenate([sheet, _legend(classes, counts, sheet.shape[1])])


def _pair(
    record: dict[str, Any], image: np.ndarray, ids: np.ndarray, classes: Sequence[str], width: int
) -> np.ndarray:
    """Image and labelled image side by side under the file's name."""
    scale = width / image.shape[1]
    size = (width, max(1, round(image.shape[0] * scale)))
    small = cv2.resize(image, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    small_ids = cv2.resize(ids, size, interpolation=cv2.INTER_NEAREST)
    colours = colour_map(small_ids, classes)
    mixed = cv2.addWeighted(small, 1 - OPACITY, colours, OPACITY, 0)
    mixed[small_ids == IGNORE] = 0
    return titled(np.concatenate([small, mixed], axis=1), shortened(str(record["image_id"])))


def _legend(classes: Sequence[str], counts: np.ndarray, width: int) -> np.ndarray:
    total = max(1, int(counts.sum()))
    shares = [100 * int(counts[k]) / total for k in (*range(len(classes)), IGNORE)]
    named = zip((*classes, "ignored"), shares, strict=True)
    texts = [f"{name} ({share:.1f} %)" for name, share in named]
    return legend(texts, [*class_colours(classes), (0, 0, 0)], width)
