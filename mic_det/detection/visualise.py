"""Detections drawn on images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
import torch
from detectron2.structures import Instances
from torch import nn

from mic_det.drawing import PALETTE

SCALE = 3


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


def detect(model: nn.Module, record: dict[str, Any], threshold: float) -> Instances:
    """Detections of at least ``threshold`` on one input dict, on the CPU."""
    with torch.no_grad():
        found = model([record])[0]["instances"].to("cpu")
    return found[found.scores >= threshold]
