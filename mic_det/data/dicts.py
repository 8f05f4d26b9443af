"""COCO content as Detectron2's dicts."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path, PureWindowsPath

from detectron2.structures import BoxMode

from mic_det.data.classes import Selection
from mic_det.data.domain import Domain
from mic_det.data.errors import DataError
from mic_det.data.images import is_file, list_images


def to_detectron2(selection: Selection, folder: Path) -> list[dict]:
    """Standard dicts of the images in ``folder`` and their boxes, by image id."""
    contiguous = {number: index for index, number in enumerate(selection.category_ids)}
    dicts = {}
    for image in sorted(selection.data["images"], key=lambda image: image["id"]):
        dicts[image["id"]] = {
            "file_name": str(folder / image["file_name"]),
            "height": image["height"],
            "width": image["width"],
            "image_id": image["id"],
            "annotations": [],
        }
    for annotation in selection.data["annotations"]:
        dicts[annotation["image_id"]]["annotations"].append(
            {
                "bbox": list(annotation["bbox"]),
                "bbox_mode": BoxMode.XYWH_ABS,
                "category_id": contiguous[annotation["category_id"]],
                "iscrowd": annotation["iscrowd"],
            }
        )
    return list(dicts.values())


def raise_if_no_such_images(domain: Domain, dicts: list[dict]) -> None:
    """Raise DataError if images that the annotations name are no files."""
    absent = [d["file_name"] for d in dicts if not is_file(Path(d["file_name"]))]
    if absent:
        there = list_images(domain.folder())  # raises if the folder itself is what is wrong
        raise DataError(
            f"{domain.annotation_path()}: images[].file_name: {len(absent)} of {len(dicts)} are no "
            f"file in the folder of images, the first is {absent[0]}. "
            f"{_similar(absent[0], there)}Correct the folder of images "
            "or the file names."
        )


def _similar(absent: str, there: Iterable[Path]) -> str:
    """A sentence on images that the name may mean, if there are any."""
    stem = PureWindowsPath(absent).stem.lower()  # takes / and \
    found = [path for path in there if path.stem.lower() == stem]
    return f"There is {' and '.join(map(str, found[:3]))}. " if found else ""
