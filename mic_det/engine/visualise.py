"""Pictures of detections side by side."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
import torch
from detectron2.structures import Instances
from torch import nn

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
SCALE = 3
MARGIN = 26


def draw_boxes(
    image: np.ndarray,
    boxes: np.ndarray,
    classes: Sequence[int],
    names: Sequence[str],
    scores: Sequence[float] | None = None,
    scale: float = SCALE,
) -> np.ndarray:
    """Bring an RGB image (H, W, 3) uint8 to ``scale`` times its size and draw boxes on it.

    ``boxes`` are (N, 4) in the image's own coordinates, XYXY. Lines and letters grow with the
    result, so that they can be read on large images too.
    """
    size = (round(image.shape[1] * scale), round(image.shape[0] * scale))
    how = cv2.INTER_CUBIC if scale >= 1 else cv2.INTER_AREA
    canvas = cv2.resize(image, size, interpolation=how)
    grown = max(1.0, max(size) / 800)
    font, thick = 0.42 * grown, round(grown)
    for i, (box, k) in enumerate(zip(boxes, classes, strict=True)):
        colour = PALETTE[int(k) % len(PALETTE)]
        x0, y0, x1, y1 = (round(float(v) * scale) for v in box)
        cv2.rectangle(canvas, (x0, y0), (x1, y1), colour, 2 * thick)
        text = names[int(k)] if scores is None else f"{names[int(k)]} {scores[i]:.2f}"
        (width, height), _ = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, font, thick)
        top = y0 - height - 5 if y0 > height + 5 else y1
        cv2.rectangle(canvas, (x0, top), (x0 + width + 4, top + height + 5), colour, -1)
        at = (x0 + 2, top + height + 2)
        white = (255, 255, 255)
        cv2.putText(canvas, text, at, cv2.FONT_HERSHEY_SIMPLEX, font, white, thick, cv2.LINE_AA)
    return canvas


def image_scale(image: np.ndarray, width: int) -> float:
    """Scale that makes an image (H, W, 3) about ``width`` pixels wide; small ones stay sharp."""
    scale = width / image.shape[1]
    return float(round(scale)) if scale >= 1 else scale


def detect(model: nn.Module, record: dict[str, Any], threshold: float) -> Instances:
    """Detections of at least ``threshold`` on one input dict, on the CPU."""
    with torch.no_grad():
        found = model([record])[0]["instances"].to("cpu")
    return found[found.scores >= threshold]


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
