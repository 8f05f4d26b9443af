"""The domains that mic_det knows by name: benchmarks of the papers, CARLA, CamVid, streets."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

from mic_det.data.benchmarks import benchmark_entries
from mic_det.data.catalog import register_domain, unregister_domain
from mic_det.data.classification.folders import register_class_folders
from mic_det.data.classification.sets import classification_entries
from mic_det.data.formats.cityscapes import CLASSES as CITYSCAPES_CLASSES
from mic_det.data.formats.cityscapes import download_remedy
from mic_det.data.segmentation.builtin import segmentation_entries
from mic_det.data.segmentation.registration import register_segmentation
from mic_det.data.streets import STREETS_CLASSES, ensure_streets

SPLITS = ("train", "val")
STREETS_DOMAINS = ("clear", "foggy", "night")
CAMVID_FOLDERS = ("day_train", "day_val", "dusk_train", "dusk_val")
CAMVID_CLASSES = ("vehicle", "pedestrian", "bicyclist")

#: Arguments of `register_domain` or `register_segmentation` for one domain.
Entry = dict[str, object]

_registered: dict[str, Entry] = {}


def default_root() -> Path:
    """$DETECTRON2_DATASETS, or the folder ``datasets``."""
    return Path(os.environ.get("DETECTRON2_DATASETS") or "datasets")


def is_registered() -> bool:
    """Whether `register_builtin` was called in this process."""
    return bool(_registered)


def register_builtin(root: Path | None = None, leave_out: Collection[str] = ()) -> None:
    """Register all built-in domains; no file is read, and none needs to be there.

    Calling it again is harmless; with another root the domains are looked for there from then on.

    Args:
        root: folder of data sets; `default_root` if None.
        leave_out: names not to register, as they are taken.

    Raises:
        DataError: if one of the names is taken by other data.
    """
    root = (default_root() if root is None else Path(root)).expanduser().absolute()
    for entries, register in (
        (builtin_entries(root), register_pictures),
        (classification_entries(root), register_class_folders),
    ):
        for entry in entries:
            _register(entry, register, leave_out)


def _register(entry: Entry, register: Callable[..., None], leave_out: Collection[str]) -> None:
    name = str(entry["name"])
    if name in leave_out:
        return
    if name in _registered and _registered[name] != entry:
        unregister_domain(name)
    register(**entry)
    _registered[name] = entry


def register_pictures(**entry: object) -> None:
    """Register an entry of `builtin_entries`: of label images, or of boxes."""
    register = register_segmentation if "labels" in entry else register_domain
    register(**entry)  # type: ignore[operator]


def builtin_entries(root: Path) -> Iterator[Entry]:
    """Arguments of `register_domain` for each built-in domain under ``root``.

    Those with ``labels`` (None: an unlabelled target) are `register_segmentation`'s.
    """
    yield from _cityscapes(root / "cityscapes")
    yield from benchmark_entries(root)
    yield from _streets()
    yield from _carla(root / "carla")
    yield from _camvid(root / "camvid")
    yield from segmentation_entries(root)


def _cityscapes(root: Path) -> Iterator[Entry]:
    convert = f"Then run: python tools/convert_cityscapes.py --root {root}"
    common = {"classes": CITYSCAPES_CLASSES, "remedy": f"{download_remedy(root)} {convert}"}
    for split in SPLITS:
        annotations = root / "annotations"
        foggy = {"images": root / "leftImg8bit_foggy" / split, **common}
        yield {
            "name": f"cityscapes_det_{split}",
            "images": root / "leftImg8bit" / split,
            "annotations": annotations / f"cityscapes_{split}.json",
            **common,
        }
        yield {
            "name": f"foggy_cityscapes_{split}",
            "annotations": annotations / f"cityscapes_foggy_{split}.json",
            **foggy,
        }
        yield {
            "name": f"foggy_cityscapes_beta_0.02_{split}",
            "annotations": annotations / f"cityscapes_foggy_beta_0.02_{split}.json",
            "pattern": "*_foggy_beta_0.02.png",
            **foggy,
        }


def _streets() -> Iterator[Entry]:
    for domain in STREETS_DOMAINS:
        for split in SPLITS:
            yield {
                "name": f"streets_{domain}_{split}",
                "images": Path(domain, split, "images"),
                "annotations": Path(domain, split, "boxes.json"),
                "classes": tuple(STREETS_CLASSES),
                "prepare": ensure_streets,
            }


def _carla(root: Path) -> Iterator[Entry]:
    for split in ("train", "test"):
        images = root / "images" / split
        labels = root / "labels" / split
        annotations = root / "annotations" / f"{split}_vehicle.json"
        yield {
            "name": f"carla_{split}",
            "images": images,
            "annotations": annotations,
            "classes": ("vehicle",),
            "remedy": f"Put the frames in {images} and their Pascal-VOC XML files in {labels}. "
            f"Then run: python tools/convert_voc.py --images {images} --labels {labels} "
            f"--output {annotations} --classes vehicle",
        }


def _camvid(root: Path) -> Iterator[Entry]:
    for folder in CAMVID_FOLDERS:
        place = root / folder
        entry: Entry = {
            "images": place / "images",
            "annotations": None if folder == "dusk_train" else place / "boxes.json",
            "remedy": f"Put the CamVid frames in {place / 'images'} and their boxes, a COCO file "
            f"with the categories {', '.join(CAMVID_CLASSES)}, in {place / 'boxes.json'} "
            "(dusk_train needs none). From Pascal-VOC XML files it is made by: python "
            f"tools/convert_voc.py --images {place / 'images'} --labels <folder of XML files> "
            f"--output {place / 'boxes.json'} --classes {' '.join(CAMVID_CLASSES)}",
        }
        yield {"name": f"camvid_{folder}", "classes": CAMVID_CLASSES, **entry}
        yield {"name": f"camvid_{folder}_vehicle", "classes": ("vehicle",), **entry}
