"""Tiny trees of the segmentation benchmarks, with the published names and encodings."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from PIL import Image

SIZE = (64, 32)  # width and height
#: Label ids of Cityscapes in stripes: road, building, sky, car, the own car (ignored), unlabelled.
STRIPES = (7, 11, 23, 26, 1, 0, 31, 22)
#: Train ids that they stand for.
TRAIN_IDS = (0, 2, 10, 13, 255, 255, 16, 9)


def stripes(values: tuple[int, ...], dtype: type = np.uint8) -> np.ndarray:
    """Vertical stripes of equal width, (H, W)."""
    width, height = SIZE
    row = np.repeat(np.array(values), width // len(values))
    return np.tile(row, (height, 1)).astype(dtype)


def _image(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(0).integers(0, 256, (SIZE[1], SIZE[0], 3)).astype(np.uint8)
    Image.fromarray(pixels).save(path)


def _label(path: Path, values: tuple[int, ...] = STRIPES) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(stripes(values)).save(path)


def draw_gta5(root: Path) -> None:
    """images/00001.png, and labels/00001.png with a palette and 34 for a licence plate."""
    for number in (1, 2):
        _image(root / f"images/{number:05d}.png")
        path = root / f"labels/{number:05d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        image = Image.fromarray(stripes((7, 11, 23, 26, 1, 34, 31, 22))).convert("L")
        image.putpalette(np.random.default_rng(1).integers(0, 256, 768).astype(np.uint8).tobytes())
        image.save(path)


#: SYNTHIA's ids in the same stripes: road, building, sky, car, void, lane marking, train, terrain.
SYNTHIA_STRIPES = (3, 2, 1, 8, 0, 22, 20, 16)


def draw_synthia(root: Path) -> None:
    """RGB/0000000.png, and GT/LABELS/0000000.png: 16 bits, ids in the first of 3 channels."""
    for number in (0, 1):
        _image(root / f"RGB/{number:07d}.png")
        path = root / f"GT/LABELS/{number:07d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        ids = stripes(SYNTHIA_STRIPES, np.uint16)
        instances = np.full_like(ids, 300)
        bgr = np.stack([np.zeros_like(ids), instances, ids], axis=2)  # as OpenCV orders them
        path.write_bytes(cv2.imencode(".png", bgr)[1].tobytes())


def draw_cityscapes(root: Path) -> None:
    """A city for each split, with the other renderings of a label that lie beside it."""
    for split, city in (("train", "aachen"), ("val", "lindau")):
        stem = f"{split}/{city}/{city}_000000_000019"
        _image(root / f"leftImg8bit/{stem}_leftImg8bit.png")
        _label(root / f"gtFine/{stem}_gtFine_labelIds.png")
        _label(root / f"gtFine/{stem}_gtFine_instanceIds.png")
        _label(root / f"gtFine/{stem}_gtFine_color.png")


def draw_acdc(root: Path) -> None:
    """Four conditions, each with its reference images taken in good weather."""
    for condition in ("fog", "night", "rain", "snow"):
        for split in ("train", "val", "test"):
            stem = f"{condition}/{split}/GOPR0475/GOPR0475_frame_000041"
            _image(root / f"rgb_anon/{stem}_rgb_anon.png")
            reference = stem.replace(f"/{split}/", f"/{split}_ref/")
            _image(root / f"rgb_anon/{reference}_rgb_ref_anon.png")
            if split != "test":
                for kind in ("labelIds", "labelTrainIds", "labelColor", "invIds"):
                    _label(root / f"gt/{stem}_gt_{kind}.png")


def draw_dark_zurich(root: Path) -> None:
    """Unlabelled training images by night, day and twilight, and labelled ones by night."""
    for split, times in (("train", ("night", "day", "twilight")), ("val", ("night",))):
        for time in times:
            stem = f"{split}/{time}/GOPR0356/GOPR0356_frame_000321"
            _image(root / f"rgb_anon/{stem}_rgb_anon.png")
    _label(root / "gt/val/night/GOPR0356/GOPR0356_frame_000321_gt_labelIds.png")
    _label(root / "gt/val/night/GOPR0356/GOPR0356_frame_000321_gt_labelTrainIds.png")


def draw_camvid(root: Path) -> None:
    """Values 0..10 and 11 for void; dusk_train has images alone."""
    for folder in ("day_train", "day_val", "dusk_train", "dusk_val"):
        _image(root / folder / "images/0001TP_006690.jpg")
        if folder != "dusk_train":
            _label(root / folder / "labels/0001TP_006690.png", (3, 1, 0, 8, 11, 9, 10, 5))


def draw_all(root: Path) -> None:
    """All of them, below a folder of data sets."""
    draw_gta5(root / "gta5")
    draw_synthia(root / "synthia")
    draw_cityscapes(root / "cityscapes")
    draw_acdc(root / "acdc")
    draw_dark_zurich(root / "dark_zurich")
    draw_camvid(root / "camvid")
