"""A folder of two images with a COCO file, and its registration."""

from __future__ import annotations

import json
from pathlib import Path

from PIL import Image

from mic_det.data.catalog import register_domain


def sample() -> dict:
    """Two images; image 7 has one box of each class and a second car, image 3 has none."""
    return {
        "info": {},
        "images": [
            {"id": 7, "file_name": "sub/b.png", "height": 48, "width": 64},
            {"id": 3, "file_name": "a.jpg", "height": 48, "width": 64},
        ],
        "annotations": [
            {"id": n, "image_id": 7, "category_id": c, "bbox": b, "area": b[2] * b[3], "iscrowd": k}
            for n, c, b, k in (
                (1, 20, [1, 2, 10, 20], 0),
                (2, 10, [5, 6, 7.5, 8], 0),
                (3, 20, [30, 10, 20, 20], 0),
                (4, 30, [0, 0, 9, 9], 1),
            )
        ],
        "categories": [
            {"id": 30, "name": "tram"},
            {"id": 10, "name": "person"},
            {"id": 20, "name": "car"},
        ],
    }


def make_folder(tmp_path: Path) -> Path:
    """Images and ``boxes.json`` in ``tmp_path``, which it returns."""
    for name in ("a.jpg", "sub/b.png"):
        path = tmp_path / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (64, 48)).save(path)
    (tmp_path / "boxes.json").write_text(json.dumps(sample()))
    return tmp_path


def register(folder: Path, name: str = "t", **more) -> None:
    register_domain(name, folder / "images", folder / "boxes.json", **more)
