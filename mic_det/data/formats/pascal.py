"""Data sets in the layout of PASCAL VOC: VOC 2007 and 2012, Clipart1k and its kin, Sim10k.

Each is a folder with ``JPEGImages``, ``Annotations`` and ``ImageSets/Main``. Which images belong to
a split is what the image sets say: Watercolor2k and Comic2k hold more, whose boxes are dummies.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mic_det.data.formats.coco import DataError, write_coco
from mic_det.data.formats.voc import ConversionReport, voc_to_coco

#: PASCAL VOC's 20 classes, in its order.
VOC_CLASSES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow",
    "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train",
    "tvmonitor",
)  # fmt: skip
#: The 6 of them that Watercolor2k and Comic2k have.
SIX_CLASSES = ("bicycle", "bird", "car", "cat", "dog", "person")
SIM10K_CLASSES = ("car", "motorbike", "person")


@dataclass(frozen=True)
class PascalSet:
    """One data set in this layout.

    Attributes:
        folder: below the folder of data sets.
        classes: those that its annotations have, in the order of the category ids.
        splits: for each domain, the image sets that it is made of.
        download: what to download.
        one_based: whether boxes count pixels from 1 and include the last one.
    """

    folder: str
    classes: tuple[str, ...]
    splits: dict[str, tuple[str, ...]]
    download: str
    one_based: bool = True

    def json(self, root: Path, domain: str) -> Path:
        """The COCO file of a domain, given the folder of data sets."""
        # Not "annotations": that is "Annotations" on a file system that ignores case.
        return root / self.folder / "coco" / f"{domain}.json"

    def image_set(self, root: Path, name: str) -> Path:
        """An image set's file, given the folder of data sets."""
        return root / self.folder / "ImageSets" / "Main" / f"{name}.txt"

    def remedy(self, root: Path) -> str:
        """What to download, where it goes and how it is converted."""
        name = next(key for key, value in PASCAL_SETS.items() if value is self)
        return (
            f"Download {self.download}, so that {root / self.folder} holds JPEGImages, Annotations "
            f"and ImageSets/Main. Then run: python tools/convert_pascal.py {name} --root {root}"
        )


def _voc(year: str) -> PascalSet:
    return PascalSet(
        f"VOC{year}",
        VOC_CLASSES,
        {f"pascal_voc_{year}_trainval": ("trainval",)},
        f"the training/validation data of PASCAL VOC {year} from host.robots.ox.ac.uk/pascal/VOC "
        f"and move its folder VOCdevkit/VOC{year}",
    )


def _cross_domain(folder: str, name: str, classes: tuple[str, ...]) -> PascalSet:
    splits = {f"{name}_train": ("train",), f"{name}_test": ("test",)}
    return PascalSet(
        folder,
        classes,
        splits | ({f"{name}_all": ("train", "test")} if name == "clipart1k" else {}),
        f"{folder}.zip, as github.com/naoto0804/cross-domain-detection tells, and unpack it",
    )


PASCAL_SETS = {
    "voc2007": _voc("2007"),
    "voc2012": _voc("2012"),
    "clipart": _cross_domain("clipart", "clipart1k", VOC_CLASSES),
    "watercolor": _cross_domain("watercolor", "watercolor2k", SIX_CLASSES),
    "comic": _cross_domain("comic", "comic2k", SIX_CLASSES),
    "sim10k": PascalSet(
        "sim10k/VOC2012",
        SIM10K_CLASSES,
        {"sim10k_train": ("trainval10k",)},
        "repro_10k_images.tgz, repro_10k_annotations.tgz and repro_image_sets.tgz of Driving in "
        "the Matrix (fcav.engin.umich.edu/projects/driving-in-the-matrix) and unpack all three in "
        "the folder sim10k",
        one_based=False,
    ),
}


def convert_pascal(root: Path, name: str) -> list[tuple[Path, ConversionReport]]:
    """Write the COCO files of one data set, ``<root>/<folder>/coco/<domain>.json``.

    Objects marked difficult get iscrowd 1: training leaves them out and evaluation ignores them,
    as PASCAL's own does.

    Args:
        root: folder of data sets.
        name: key of `PASCAL_SETS`.

    Returns:
        Each file, and what was kept.

    Raises:
        DataError: if the name is unknown, or files are missing, broken or do not fit together.
    """
    if name not in PASCAL_SETS:
        raise DataError(f"{name!r}: is none of {', '.join(PASCAL_SETS)}.")
    entry = PASCAL_SETS[name]
    images, labels = (root / entry.folder / part for part in ("JPEGImages", "Annotations"))
    sets = {domain: [entry.image_set(root, s) for s in of] for domain, of in entry.splits.items()}
    _require([images, labels], [path for paths in sets.values() for path in paths], entry, root)
    written = []
    for domain, image_sets in sets.items():
        data, report = voc_to_coco(
            images,
            labels,
            classes=entry.classes,
            one_based=entry.one_based,
            image_sets=image_sets,
            difficult="crowd",
        )
        path = entry.json(root, domain)
        write_coco(path, data)
        written.append((path, report))
    return written


def _require(folders: Sequence[Path], files: Sequence[Path], entry: PascalSet, root: Path) -> None:
    absent = [str(path) for path in folders if not path.is_dir()]
    absent += [str(path) for path in dict.fromkeys(files) if not path.is_file()]
    if absent:
        raise DataError(f"{' and '.join(absent)}: not there. {entry.remedy(root)}")
