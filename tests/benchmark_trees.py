"""Draws tiny data sets in exactly the published layouts: KITTI, BDD100K, PASCAL VOC and its kin."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from mic_det.data.formats.pascal import SIX_CLASSES, VOC_CLASSES

#: name, xmin, ymin, xmax, ymax, difficult
VocObject = tuple[str, float, float, float, float, int]


def draw_image(path: Path, size: tuple[int, int], seed: int = 0) -> None:
    """An image of noise; ``size`` is width and height."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3))
    Image.fromarray(pixels.astype(np.uint8)).save(path)


# ---- KITTI -----------------------------------------------------------------------------------

KITTI_SIZE = (124, 37)  # a tenth of the published 1242 x 375
KITTI_LABELS = {
    "000000": (
        "Pedestrian 0.00 0 -0.20 71.24 14.30 81.07 30.79 1.89 0.48 1.20 1.84 1.47 8.41 0.01\n"
    ),
    "000001": (
        "Truck 0.00 0 -1.57 59.94 15.64 62.92 18.92 2.85 2.63 12.34 0.47 1.49 69.44 -1.56\n"
        "Car 0.00 0 1.85 38.76 18.13 42.38 20.32 1.67 1.87 3.69 -16.53 2.39 58.49 1.57\n"
        "Cyclist 0.00 3 -1.65 67.66 16.36 68.89 19.39 1.86 0.60 2.02 4.59 1.32 45.84 -1.55\n"
        "DontCare -1 -1 -10 50.30 16.91 59.08 18.90 -1 -1 -1 -1000 -1000 -1000 -10\n"
        "DontCare -1 -1 -10 51.11 17.46 52.51 19.79 -1 -1 -1 -1000 -1000 -1000 -10\n"
    ),
    "000002": (
        "Misc 0.00 0 -1.82 80.40 16.78 99.51 32.79 1.63 1.48 2.37 3.23 1.59 8.55 -1.47\n"
        "Car 0.88 3 -0.69 -1.00 19.24 40.28 37.50 1.59 1.59 2.47 -2.50 1.67 3.21 -1.30\n"
    ),
}


def draw_kitti(root: Path) -> None:
    """``training/image_2`` and ``training/label_2`` of three images."""
    for seed, (name, text) in enumerate(KITTI_LABELS.items()):
        draw_image(root / f"training/image_2/{name}.png", KITTI_SIZE, seed)
        path = root / f"training/label_2/{name}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


# ---- BDD100K ---------------------------------------------------------------------------------

BDD_SIZE = (128, 72)  # a tenth of the published 1280 x 720
BDD_2018 = {"pedestrian": "person", "motorcycle": "motor", "bicycle": "bike"}
BDD_FRAMES = {
    "0000f77c-6257be58.jpg": (
        "daytime",
        [
            ("pedestrian", 10.5, 20.0, 14.5, 32.25),
            ("rider", 30.0, 20.0, 36.0, 40.0),
            ("motorcycle", 28.0, 30.0, 40.0, 48.0),
            ("bicycle", 50.0, 40.0, 60.0, 50.0),
            ("car", 100.0, 30.0, 129.5, 60.0),
            ("truck", 60.0, 20.0, 80.0, 40.0),
            ("bus", 82.0, 22.0, 98.0, 44.0),
            ("train", 1.0, 1.0, 9.0, 9.0),
            ("traffic light", 20.0, 2.0, 22.0, 6.0),
        ],
    ),
    "0000f77c-62c2a288.jpg": ("night", [("car", 10.0, 10.0, 20.0, 20.0)]),
    "0000f77c-cb820c98.jpg": ("dawn/dusk", [("car", 10.0, 10.0, 20.0, 20.0)]),
    "0001542f-5ce3cf52.jpg": ("daytime", None),  # nothing labelled: no field at all in det_20
}


def draw_bdd100k(
    root: Path, *, release: str = "det_20", splits: Sequence[str] = ("train", "val")
) -> None:
    """``images/100k/<split>`` and the label files of a release, "det_20" or "2018"."""
    for split in splits:
        frames = []
        for seed, (name, (time, objects)) in enumerate(BDD_FRAMES.items()):
            draw_image(root / "images/100k" / split / name, BDD_SIZE, seed)
            frame = {
                "name": name,
                "attributes": {"weather": "clear", "timeofday": time, "scene": "city street"},
                "timestamp": 10000,
            }
            if objects is not None or release == "2018":
                frame["labels"] = _bdd_labels(objects or [], release)
            frames.append(frame)
        old = f"labels/bdd100k_labels_images_{split}.json"
        path = root / (old if release == "2018" else f"labels/det_20/det_{split}.json")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(frames))


def _bdd_labels(objects: Sequence[tuple], release: str) -> list[dict]:
    labels = []
    for number, (category, x1, y1, x2, y2) in enumerate(objects):
        old = release == "2018"
        labels.append(
            {
                "id": number if old else f"{number:08d}",
                "category": BDD_2018.get(category, category) if old else category,
                "attributes": {"occluded": False, "truncated": False, "trafficLightColor": "none"},
                "box2d": {"x1": x1, "y1": y1, "x2": x2, "y2": y2},
            }
        )
    if release == "2018":
        area = {"vertices": [[1.0, 2.0], [3.0, 4.0], [5.0, 1.0]], "types": "LLL", "closed": True}
        labels.append({"id": 99, "category": "drivable area", "attributes": {}, "poly2d": [area]})
        labels.append({"id": 100, "category": "lane", "attributes": {}, "poly2d": [area]})
    return labels


# ---- PASCAL VOC and its kin ------------------------------------------------------------------


def draw_voc_image(
    folder: Path, stem: str, objects: Sequence[VocObject], size: tuple[int, int] = (60, 40)
) -> None:
    """``JPEGImages/<stem>.jpg`` and ``Annotations/<stem>.xml``."""
    draw_image(folder / "JPEGImages" / f"{stem}.jpg", size, len(objects))
    rows = [
        f"\t<object>\n\t\t<name>{name}</name>\n\t\t<pose>Unspecified</pose>\n"
        f"\t\t<truncated>0</truncated>\n\t\t<difficult>{difficult}</difficult>\n\t\t<bndbox>\n"
        f"\t\t\t<xmin>{xmin}</xmin>\n\t\t\t<ymin>{ymin}</ymin>\n\t\t\t<xmax>{xmax}</xmax>\n"
        f"\t\t\t<ymax>{ymax}</ymax>\n\t\t</bndbox>\n\t</object>\n"
        for name, xmin, ymin, xmax, ymax, difficult in objects
    ]
    path = folder / "Annotations" / f"{stem}.xml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        f"<annotation>\n\t<folder>{folder.name}</folder>\n\t<filename>{stem}.jpg</filename>\n"
        f"\t<size>\n\t\t<width>{size[0]}</width>\n\t\t<height>{size[1]}</height>\n"
        f"\t\t<depth>3</depth>\n\t</size>\n\t<segmented>0</segmented>\n{''.join(rows)}</annotation>\n"
    )


def write_image_set(folder: Path, name: str, stems: Sequence[str]) -> None:
    path = folder / "ImageSets" / "Main" / f"{name}.txt"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{stem}\n" for stem in stems))


def draw_voc(root: Path, year: str) -> None:
    """``VOC<year>``: a trainval set of two images, and one more image, of the test set."""
    folder = root / f"VOC{year}"
    first, second, other = (
        ("000005", "000007", "000001")
        if year == "2007"
        else ("2008_000002", "2008_000003", "2008_000001")
    )
    row = [(name, 1 + 2 * i, 1, 10 + 2 * i, 20, 0) for i, name in enumerate(VOC_CLASSES)]
    draw_voc_image(folder, first, row)
    draw_voc_image(folder, second, [("dog", 8, 12, 35, 40, 0), ("person", 1, 1, 60, 40, 1)])
    draw_voc_image(folder, other, [("cat", 5, 5, 20, 20, 0)])
    write_image_set(folder, "trainval", [first, second])
    (folder / "ImageSets/Main/dog_trainval.txt").write_text(f"{first}  1\n{second} -1\n")


def draw_clipart(root: Path) -> None:
    folder = root / "clipart"
    for stem in ("131204842", "142346461", "97254", "99108"):
        draw_voc_image(folder, stem, [("cat", 3, 4, 30, 30, 0), ("tvmonitor", 20, 5, 50, 25, 0)])
    write_image_set(folder, "train", ["131204842", "97254"])
    write_image_set(folder, "test", ["142346461", "99108"])


def draw_painted(root: Path, folder: str) -> None:
    """Watercolor2k ("watercolor") or Comic2k ("comic"), with the dummy boxes of ``extra``."""
    place = root / folder
    for number, stem in enumerate(("100088629", "100155201", "100227041")):
        objects = [(name, 2 + i, 3, 20 + i, 30 + number, 0) for i, name in enumerate(SIX_CLASSES)]
        draw_voc_image(place, stem, objects)
    draw_voc_image(place, "99999999", [("dog", 1, 1, 1, 1, 0)])
    write_image_set(place, "train", ["100088629"])
    write_image_set(place, "test", ["100155201", "100227041"])
    write_image_set(place, "extra", ["99999999"])


def draw_sim10k(root: Path) -> None:
    folder = root / "sim10k" / "VOC2012"
    draw_voc_image(folder, "3384645", [("car", 5, 6, 25, 16, 0), ("person", 30, 5, 34, 20, 0)])
    draw_voc_image(folder, "3384812", [("motorbike", 5, 6, 25, 16, 0), ("car", 0, 0, 60, 40, 0)])
    write_image_set(folder, "trainval10k", ["3384645", "3384812"])
