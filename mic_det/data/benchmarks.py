"""Domains of the detection benchmarks beyond Cityscapes in fog, under the names of the papers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from mic_det.data.formats import bdd100k, cityscapes, kitti
from mic_det.data.formats.pascal import PASCAL_SETS, SIX_CLASSES, PascalSet

#: Arguments of `mic_det.data.catalog.register_domain` for one domain.
Entry = dict[str, object]


def benchmark_entries(root: Path) -> Iterator[Entry]:
    """Arguments of `register_domain` for each domain, under the folder of data sets ``root``."""
    yield from _cityscapes_subsets(root / "cityscapes")
    yield from _kitti(root / "kitti")
    yield from _bdd100k(root / "bdd100k")
    for name, entry in PASCAL_SETS.items():
        yield from _pascal(root, name, entry)


def _cityscapes_subsets(root: Path) -> Iterator[Entry]:
    """Cityscapes with the classes that it shares with another data set."""
    convert = f"Then run: python tools/convert_cityscapes.py --root {root}"
    for kind, classes in (("car", ("car",)), ("7cls", bdd100k.CLASSES)):
        for split in ("train", "val"):
            yield {
                "name": f"cityscapes_{kind}_{split}",
                "images": root / "leftImg8bit" / split,
                "annotations": root / "annotations" / f"cityscapes_{split}.json",
                "classes": classes,
                "remedy": f"{cityscapes.download_remedy(root)} {convert}",
            }


def _kitti(root: Path) -> Iterator[Entry]:
    yield {
        "name": "kitti_train",
        "images": root / "training" / "image_2",
        "annotations": root / "annotations" / "kitti_train.json",
        "classes": ("car",),
        "remedy": kitti.download_remedy(root),
    }


def _bdd100k(root: Path) -> Iterator[Entry]:
    for split in bdd100k.SPLITS:
        annotations = root / "annotations" / f"bdd100k_daytime_{split}.json"
        yield {
            "name": f"bdd100k_daytime_{split}",
            "images": root / "images" / "100k" / split,
            "annotations": annotations,
            "classes": bdd100k.CLASSES,
            "image_list": annotations.with_suffix(".txt"),
            "remedy": bdd100k.download_remedy(root),
        }


def _pascal(root: Path, name: str, entry: PascalSet) -> Iterator[Entry]:
    for domain, sets in entry.splits.items():
        common: Entry = {
            "images": root / entry.folder / "JPEGImages",
            "annotations": entry.json(root, domain),
            "remedy": entry.remedy(root),
        }
        if len(sets) == 1:  # of several there is no published list: all images of the folder
            common["image_list"] = entry.image_set(root, sets[0])
        classes = ("car",) if name == "sim10k" else entry.classes
        yield {"name": domain, "classes": classes, **common}
        if name in ("voc2007", "voc2012"):
            yield {"name": f"{domain}_6cls", "classes": SIX_CLASSES, **common}
