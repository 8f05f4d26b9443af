"""Draw a run of images of one split to files; also the entry point of a worker process."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from .scene import Scene, render_scene
from .spec import CROP_MARGIN, CROP_SIZE, MIN_CROP_SIDE, STREETS_CLASSES

# Noise hardly compresses, so a low level saves time and loses nothing.
_PNG = [cv2.IMWRITE_PNG_COMPRESSION, 1]


def crop_square(image: NDArray[np.uint8], box: NDArray) -> NDArray[np.uint8]:
    """Square around an XYXY box with a margin, (CROP_SIZE, CROP_SIZE, 3) uint8.

    Parts outside the image repeat its border.
    """
    x0, y0, x1, y1 = (float(v) for v in box)
    side = max(x1 - x0, y1 - y0) * (1 + 2 * CROP_MARGIN)
    left, top = round((x0 + x1 - side) / 2), round((y0 + y1 - side) / 2)
    size = max(1, round(side))
    height, width = image.shape[:2]
    inside = image[max(top, 0) : top + size, max(left, 0) : left + size]
    missing = (-top, top + size - height, -left, left + size - width)
    if max(missing) > 0:
        margins = [max(m, 0) for m in missing]
        inside = cv2.copyMakeBorder(inside, *margins, cv2.BORDER_REPLICATE)
    mode = cv2.INTER_AREA if size > CROP_SIZE else cv2.INTER_LINEAR
    return cv2.resize(inside, (CROP_SIZE, CROP_SIZE), interpolation=mode)


def _save(path: Path, image: NDArray[np.uint8]) -> None:
    if image.ndim == 3:
        image = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    if not cv2.imwrite(str(path), image, _PNG):
        raise OSError(f"cannot write {path}")


def _annotations(scene: Scene, image_id: int) -> list[dict]:
    areas = np.bincount(scene.instances.ravel(), minlength=len(scene.boxes) + 1)
    found = []
    for i, (box, class_id) in enumerate(zip(scene.boxes, scene.classes, strict=True)):
        x0, y0, x1, y1 = (float(v) for v in box)
        found.append(
            {
                "image_id": image_id,
                "category_id": int(class_id) + 1,
                "bbox": [x0, y0, x1 - x0, y1 - y0],
                "area": int(areas[i + 1]),
                "iscrowd": 0,
            }
        )
    return found


def write_images(folder: str, domain: str, first_seed: int, start: int, stop: int) -> None:
    """Write images start..stop-1 of a split, and their annotations to ``part-<start>.json``.

    Args:
        folder: the split's folder with images, labels and crops/<class> made already.
        domain: "clear", "foggy" or "night".
        first_seed: seed of the split's image 0.
        start, stop: range of image numbers.
    """
    root = Path(folder)
    images, annotations = [], []
    for number in range(start, stop):
        scene = render_scene(first_seed + number, domain)
        name = f"{number:06d}"
        _save(root / "images" / f"{name}.png", scene.image)
        _save(root / "labels" / f"{name}.png", scene.semantic)
        for i, (box, class_id) in enumerate(zip(scene.boxes, scene.classes, strict=True)):
            if min(box[2] - box[0], box[3] - box[1]) >= MIN_CROP_SIDE:
                target = root / "crops" / STREETS_CLASSES[class_id] / f"{name}_{i}.png"
                _save(target, crop_square(scene.image, box))
        height, width = scene.semantic.shape
        images.append({"id": number, "file_name": f"{name}.png", "height": height, "width": width})
        annotations += _annotations(scene, number)
    part = {"images": images, "annotations": annotations}
    (root / f"part-{start:06d}.json").write_text(json.dumps(part))


def main() -> None:
    """Read a JSON list of write_images arguments from standard input and write them."""
    cv2.setNumThreads(1)
    for chunk in json.load(sys.stdin):
        write_images(*chunk)
