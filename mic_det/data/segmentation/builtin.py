"""Segmentation domains that mic_det knows by name: benchmarks of the papers, CamVid, streets."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from mic_det.data.segmentation.cityscapes_labels import (
    CLASSES,
    CLASSES_13,
    CLASSES_16,
    LABEL_IDS,
    SYNTHIA_IDS,
)
from mic_det.data.streets import STREETS_DOMAINS, ensure_streets

#: Arguments of `register_segmentation` for one domain.
Entry = dict[str, object]

SPLITS = ("train", "val")
ACDC_CONDITIONS = ("fog", "night", "rain", "snow")
CAMVID_FOLDERS = ("day_train", "day_val", "dusk_train", "dusk_val")
CAMVID_CLASSES = (
    "sky",
    "building",
    "pole",
    "road",
    "pavement",
    "tree",
    "sign",
    "fence",
    "car",
    "pedestrian",
    "bicyclist",
)
#: Ends of the names of domains with all 19 classes of Cityscapes, or those that SYNTHIA has too.
SUBSETS = {"": CLASSES, "_16cls": CLASSES_16, "_13cls": CLASSES_13}


def segmentation_entries(root: Path) -> Iterator[Entry]:
    """Arguments of `register_segmentation` for each domain, under the folder of data sets."""
    yield from _gta5(root / "gta5")
    yield from _synthia(root / "synthia")
    yield from _cityscapes(root / "cityscapes")
    yield from _acdc(root / "acdc")
    yield from _dark_zurich(root / "dark_zurich")
    yield from _camvid(root / "camvid")
    yield from _streets()


def _gta5(root: Path) -> Iterator[Entry]:
    yield {
        "name": "gta5_sem_train",
        "images": root / "images",
        "labels": root / "labels",
        "classes": CLASSES,
        "label_map": LABEL_IDS,
        "remedy": "Download the ten parts of images (01_images.zip ... 10_images.zip) and of "
        "labels (01_labels.zip ... 10_labels.zip) of 'Playing for Data' from "
        "download.visinf.tu-darmstadt.de/data/from_games and unpack them all in "
        f"{root}, which gets images/ and labels/.",
    }


def _synthia(root: Path) -> Iterator[Entry]:
    for subset in ("_16cls", "_13cls"):
        yield {
            "name": f"synthia_sem{subset}_train",
            "images": root / "RGB",
            "labels": root / "GT" / "LABELS",
            "classes": SUBSETS[subset],
            "label_map": SYNTHIA_IDS,
            "label_channel": 0,
            "remedy": "Download SYNTHIA-RAND-CITYSCAPES (CVPR16) from "
            "synthia-dataset.net/downloads, unpack it, and move RGB/ and GT/ of its folder "
            f"RAND_CITYSCAPES to {root}.",
        }


def _cityscapes(root: Path) -> Iterator[Entry]:
    for subset, classes in SUBSETS.items():
        for split in SPLITS:
            yield {
                "name": f"cityscapes_sem{subset}_{split}",
                "images": root / "leftImg8bit" / split,
                "labels": root / "gtFine" / split,
                "classes": classes,
                "label_map": LABEL_IDS,
                "label_suffixes": ("_leftImg8bit", "_gtFine_labelIds"),
                "remedy": "Download leftImg8bit_trainvaltest.zip and gtFine_trainvaltest.zip from "
                f"cityscapes-dataset.com (after registration) and unpack both in {root}, which "
                "gets leftImg8bit/ and gtFine/.",
            }


def _acdc(root: Path) -> Iterator[Entry]:
    common: Entry = {
        "classes": CLASSES,
        "label_map": LABEL_IDS,
        "label_suffixes": ("_rgb_anon", "_gt_labelIds"),
        "remedy": "Download rgb_anon_trainvaltest.zip and gt_trainval.zip from "
        f"acdc.vision.ee.ethz.ch (after registration) and unpack both in {root}, "
        "which gets rgb_anon/ and gt/.",
    }
    for split in SPLITS:
        yield {
            "name": f"acdc_sem_{split}",
            "images": root / "rgb_anon",
            "labels": root / "gt",
            "pattern": f"*/{split}/*_rgb_anon.png",
            **common,
        }
        for condition in ACDC_CONDITIONS:
            yield {
                "name": f"acdc_sem_{condition}_{split}",
                "images": root / "rgb_anon" / condition / split,
                "labels": root / "gt" / condition / split,
                "pattern": "*_rgb_anon.png",
                **common,
            }


def _dark_zurich(root: Path) -> Iterator[Entry]:
    for split in SPLITS:
        labels: Entry = {"labels": None}
        if split == "val":
            labels = {
                "labels": root / "gt" / split / "night",
                "classes": CLASSES,
                "label_map": LABEL_IDS,
                "label_suffixes": ("_rgb_anon", "_gt_labelIds"),
            }
        yield {
            "name": f"dark_zurich_sem_{split}",
            "images": root / "rgb_anon" / split / "night",
            "pattern": "*_rgb_anon.png",
            "remedy": "Download Dark_Zurich_train_anon.zip and Dark_Zurich_val_anon.zip from "
            f"trace.ethz.ch/publications/2019/GCMA_UIoU and unpack both in {root}, which gets "
            "rgb_anon/ and gt/ (only val has labels).",
            **labels,
        }


def _camvid(root: Path) -> Iterator[Entry]:
    values = ", ".join(f"{k} {name}" for k, name in enumerate((*CAMVID_CLASSES, "void")))
    for folder in CAMVID_FOLDERS:
        place = root / folder
        labelled: Entry = {
            "labels": place / "labels",
            "classes": CAMVID_CLASSES,
            "label_map": {**dict(enumerate(CAMVID_CLASSES)), len(CAMVID_CLASSES): "ignore"},
        }
        yield {
            "name": f"camvid_sem_{folder}",
            "images": place / "images",
            "remedy": f"Put the CamVid frames in {place / 'images'} and their label images, 8-bit "
            f"PNG with the values {values}, in {place / 'labels'} (dusk_train needs none).",
            **({"labels": None} if folder == "dusk_train" else labelled),
        }


def _streets() -> Iterator[Entry]:
    for domain in STREETS_DOMAINS:
        for split in SPLITS:
            yield {
                "name": f"streets_sem_{domain}_{split}",
                "images": Path(domain, split, "images"),
                "labels": Path(domain, split, "labels"),
                "classes": CLASSES,
                "prepare": ensure_streets,
            }
