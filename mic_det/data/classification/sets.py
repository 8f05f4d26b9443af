"""The classification benchmarks under the names of the papers: layouts, classes, where to get them.

Nothing is read here; `classification_entries` gives the arguments of
`mic_det.data.classification.folders.register_class_folders`.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from mic_det.data.classification.digits import DIGIT_CLASSES, ensure_digits

Entry = dict[str, object]

VISDA_CLASSES = (
    *("aeroplane", "bicycle", "bus", "car", "horse", "knife", "motorcycle", "person", "plant"),
    *("skateboard", "train", "truck"),
)
VISDA_FOLDERS = {"train": "train", "validation": "validation"}
OFFICE_HOME_FOLDERS = {
    "art": "Art",
    "clipart": "Clipart",
    "product": "Product",
    "real_world": "Real World",
}
OFFICE31_FOLDERS = ("amazon", "dslr", "webcam")
DOMAINNET_FOLDERS = ("clipart", "infograph", "painting", "quickdraw", "real", "sketch")
DIGITS_FOLDERS = {
    "digits_fonts": "fonts",
    "digits_handwritten": "handwritten_train",
    "digits_handwritten_test": "handwritten_test",
}


def classification_entries(root: Path) -> Iterator[Entry]:
    """Arguments of `register_class_folders` for each domain, under the folder ``root``."""
    yield from _office_home(root / "office_home")
    yield from _visda(root / "visda2017")
    yield from _office31(root / "office31")
    yield from _domainnet(root / "domainnet")
    for name, folder in DIGITS_FOLDERS.items():
        yield {
            "name": name,
            "images": Path(folder),
            "classes": DIGIT_CLASSES,
            "prepare": ensure_digits,
        }


def _office_home(root: Path) -> Iterator[Entry]:
    remedy = (
        "Office-Home: download OfficeHomeDataset_10072016.zip from the project page at "
        f"hemanthdv.org (Resources, Office-Home) and unpack it so that {root} has the folders "
        f"{', '.join(OFFICE_HOME_FOLDERS.values())}, each with 65 folders of classes."
    )
    for name, folder in OFFICE_HOME_FOLDERS.items():
        yield {"name": f"office_home_{name}", "images": root / folder, "remedy": remedy}


def _visda(root: Path) -> Iterator[Entry]:
    remedy = (
        "VisDA-2017, classification: download train.tar and validation.tar from "
        "ai.bu.edu/visda-2017 (the links are in its GitHub repository VisionLearningGroup/"
        f"taskcv-2017-public) and unpack both in {root}: {root}/train and {root}/validation have "
        "12 folders of classes each."
    )
    for name, folder in VISDA_FOLDERS.items():
        entry = {"images": root / folder, "classes": VISDA_CLASSES, "remedy": remedy}
        yield {"name": f"visda2017_{name}", **entry}


def _office31(root: Path) -> Iterator[Entry]:
    remedy = (
        "Office-31: download domain_adaptation_images.tar.gz (the project page of Saenko et al., "
        f"ECCV 2010, has the link) and unpack it in {root}: {root}/amazon/images and the same for "
        "dslr and webcam have 31 folders of classes each."
    )
    for name in OFFICE31_FOLDERS:
        yield {"name": f"office31_{name}", "images": root / name / "images", "remedy": remedy}


def _domainnet(root: Path) -> Iterator[Entry]:
    remedy = (
        "DomainNet: download the six zip files (cleaned version) and their lists of images from "
        f"ai.bu.edu/M3SDA and unpack all in {root}: {root}/clipart/<class>/… and "
        f"{root}/clipart_train.txt, {root}/clipart_test.txt, and so on."
    )
    for name in DOMAINNET_FOLDERS:
        for split in ("train", "test"):
            yield {
                "name": f"domainnet_{name}_{split}",
                "images": root / name,
                "image_list": root / f"{name}_{split}.txt",
                "remedy": remedy,
            }
