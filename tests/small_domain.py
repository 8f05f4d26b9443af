"""A small labelled domain on disk, in each of the formats, to be read or broken."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from PIL import Image

#: Width and height of the images.
SIZE = (64, 48)
#: File, and the class and corners of each object.
OBJECTS = {
    "a.png": [("car", 4, 6, 24, 30), ("person", 40, 10, 48, 40)],
    "sub/b.jpg": [("car", 30, 8, 62, 44)],
    "c d.png": [],
}
CLASSES = ("car", "person")


def draw_images(folder: Path) -> None:
    """The images: grey, with the objects in white."""
    for name, objects in OBJECTS.items():
        image = Image.new("RGB", SIZE, (90, 90, 90))
        for _, x0, y0, x1, y1 in objects:
            image.paste((255, 255, 255), (x0, y0, x1, y1))
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        image.save(path)


def coco_content() -> dict:
    """Images 1, 2, 3; annotations 1, 2, 3; categories 1 car and 2 person."""
    images, annotations = [], []
    for image_id, (name, objects) in enumerate(OBJECTS.items(), 1):
        images.append({"id": image_id, "file_name": name, "width": SIZE[0], "height": SIZE[1]})
        for label, x0, y0, x1, y1 in objects:
            box = [x0, y0, x1 - x0, y1 - y0]
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": CLASSES.index(label) + 1,
                    "bbox": box,
                    "area": box[2] * box[3],
                    "iscrowd": 0,
                }
            )
    categories = [{"id": i, "name": name} for i, name in enumerate(CLASSES, 1)]
    return {"info": {}, "images": images, "annotations": annotations, "categories": categories}


def write_coco_file(root: Path, change: Callable[[dict], object] = lambda data: None) -> Path:
    """``root/boxes.json``; ``change`` may edit the content, or return another."""
    data = coco_content()
    changed = change(data)
    path = root / "boxes.json"
    path.write_text(json.dumps(data if changed is None else changed))
    return path


def write_voc(root: Path) -> Path:
    """``root/xml/…`` beside the images' sub-folders."""
    for name, objects in OBJECTS.items():
        rows = "".join(
            f"<object><name>{label}</name><bndbox><xmin>{x0}</xmin><ymin>{y0}</ymin>"
            f"<xmax>{x1}</xmax><ymax>{y1}</ymax></bndbox></object>"
            for label, x0, y0, x1, y1 in objects
        )
        size = f"<size><width>{SIZE[0]}</width><height>{SIZE[1]}</height></size>"
        path = (root / "xml" / name).with_suffix(".xml")
        path.parent.mkdir(parents=True, exist_ok=True)
        file_name = Path(name).name
        path.write_text(f"<annotation><filename>{file_name}</filename>{size}{rows}</annotation>")
    return root / "xml"


def write_yolo(root: Path, names: str | None = "classes.txt") -> Path:
    """``root/txt/…`` with a file of class names, if ``names`` says which."""
    for name, objects in OBJECTS.items():
        rows = [
            f"{CLASSES.index(label)} {(x0 + x1) / 2 / SIZE[0]} {(y0 + y1) / 2 / SIZE[1]} "
            f"{(x1 - x0) / SIZE[0]} {(y1 - y0) / SIZE[1]}\n"
            for label, x0, y0, x1, y1 in objects
        ]
        path = (root / "txt" / name).with_suffix(".txt")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(rows))
    if names and names.endswith(".yaml"):
        (root / "txt" / names).write_text("names: {0: car, 1: person}\n")
    elif names:
        (root / "txt" / names).write_text("car\nperson\n")
    return root / "txt"


def make_domain(root: Path) -> Path:
    """Images in ``root/images`` and labels in all three formats; returns ``root``."""
    draw_images(root / "images")
    write_coco_file(root)
    write_voc(root)
    write_yolo(root)
    return root
