"""The same test images as each run sees them, as SVG over one copy of each picture."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from html import escape
from pathlib import Path

import cv2
import numpy as np

from mic_det.data.images import read_image

from .matching import Matches, TestSet
from .runs import RunRecord
from .svg import style_class

WIDTH = 640
# Detections below are not even in the page; its slider starts at `THRESHOLD`.
LEAST_SCORE = 0.05
THRESHOLD = 0.5


def chosen_images(test_set: TestSet, count: int) -> list[int]:
    """Ids of ``count`` images with labels, spread evenly over the set: nobody picked them."""
    ids = [i for i in sorted(test_set.coco.imgs) if test_set.coco.getAnnIds(imgIds=[i])]
    ids = [i for i in ids if test_set.image_file(i)]
    if len(ids) <= count:
        return ids
    return [ids[int(k)] for k in np.linspace(0, len(ids) - 1, count)]


def example_rows(
    test_set: TestSet, found: Sequence[tuple[RunRecord, Matches]], count: int
) -> list[str]:
    """A row of panels for each image: the runs, and the labels."""
    return [_row(test_set, found, i) for i in chosen_images(test_set, count)]


def _row(test_set: TestSet, found: Sequence[tuple[RunRecord, Matches]], image_id: int) -> str:
    image = read_image(Path(test_set.image_file(image_id)), "RGB")
    height, width = image.shape[:2]
    key = f"{test_set.name}-{image_id}".replace(" ", "-")
    symbol = (
        f'<svg class="store"><symbol id="{escape(key)}" viewBox="0 0 {width} {height}">'
        f'<image href="{data_uri(image)}" width="{width}" height="{height}"/></symbol></svg>'
    )
    frame = (escape(key), width, height)
    panels = [
        _panel(*frame, run.label, run.style, _boxes(matches, image_id, test_set.classes, width))
        for run, matches in found
    ]
    truth = found[0][1].labels if found else []
    labels = "".join(
        _box("truth", each["box"], test_set.classes[each["class"]], width)
        for each in truth
        if each["image_id"] == image_id
    )
    panels.append(_panel(*frame, "labels", None, labels))
    return f'{symbol}<div class="strip">{"".join(panels)}</div>'


def _panel(key: str, width: int, height: int, title: str, style: int | None, boxes: str) -> str:
    dot = "" if style is None else f'<i class="key {style_class(style)}"></i>'
    return (
        f"<figure><figcaption>{dot}{escape(title)}</figcaption>"
        f'<svg viewBox="0 0 {width} {height}"><use href="#{key}"/>{boxes}</svg></figure>'
    )


def _boxes(matches: Matches, image_id: int, classes: Sequence[str], width: int) -> str:
    """Missed labels below, false and right detections above them."""
    parts = []
    for each in matches.labels:
        if each["image_id"] == image_id:
            # Missed at every threshold above the score of what found it.
            until = -1.0 if each["found"] is None else each["found"]
            data = f'data-until="{until:.3f}"'
            name = classes[each["class"]]
            parts.append(_box("missed", each["box"], name, width, data, f"{name}, missed"))
    for each in sorted(matches.detections, key=lambda d: d["score"]):
        if (
            each["image_id"] == image_id
            and each["score"] >= LEAST_SCORE
            and each["hit"] is not None
        ):
            kind = "right" if each["hit"] else "false"
            data = f'data-score="{each["score"]:.3f}"'
            name = classes[each["class"]]
            note = f"{name} {each['score']:.2f}, {kind}"
            parts.append(_box(kind, each["box"], name, width, data, note))
    return "".join(parts)


def _box(
    kind: str, box: Sequence[float], name: str, width: int, data: str = "", note: str = ""
) -> str:
    """A box with its name; ``note`` is told when a pointer rests on it."""
    x, y, w, h = box
    size = width / 34
    above = y - size * 0.25 if y > size * 1.3 else y + h + size * 0.95
    # Near the right edge a name runs to the left, so that it is not cut off.
    at, side = (x, "") if x < 0.8 * width else (x + w, ' class="end"')
    return (
        f'<g class="box {kind}" {data}><title>{escape(note or name)}</title>'
        f'<rect x="{x:.1f}" y="{y:.1f}" width="{w:.1f}" height="{h:.1f}"/>'
        f'<text{side} x="{at:.1f}" y="{above:.1f}" font-size="{size:.1f}">{escape(name)}</text></g>'
    )


def data_uri(image: np.ndarray) -> str:
    """An RGB image (H, W, 3) uint8 as a JPEG of at most `WIDTH` pixels across, inline."""
    if image.shape[1] > WIDTH:
        size = (WIDTH, max(1, round(image.shape[0] * WIDTH / image.shape[1])))
        image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    _, encoded = cv2.imencode(".jpg", image[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, 85])
    return "data:image/jpeg;base64," + base64.b64encode(encoded.tobytes()).decode()
