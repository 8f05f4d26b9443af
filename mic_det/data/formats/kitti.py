"""KITTI's object detection labels (``label_2/*.txt``) to COCO detection json.

Format: A. Geiger, P. Lenz, R. Urtasun, "Are we ready for Autonomous Driving? The KITTI Vision
Benchmark Suite", CVPR 2012, and the readme of its development kit: 15 values a line, separated by
blanks: type, truncated, occluded, alpha, left, top, right, bottom (pixels from 0), 3 dimensions,
3 of the location, rotation_y.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from mic_det.data.formats.coco import DataError, list_images, write_coco
from mic_det.data.formats.report import ConversionReport, LabelledImage, box_in_image, build_coco
from mic_det.data.images import image_size

TYPES = (
    "Car", "Van", "Truck", "Pedestrian", "Person_sitting", "Cyclist", "Tram", "Misc",
)  # fmt: skip
#: Category names, in the order of the ids 1, 2, ...
CLASSES = tuple(name.lower() for name in TYPES)
DONT_CARE = ("leave-out", "crowd")

_IGNORED = "dontcare"
_VALUES_OF_A_LINE = (15, 16)  # 16 with a score, as in results


def download_remedy(root: Path) -> str:
    """What to download for the KITTI folder ``root``, and where it goes."""
    return (
        f"Download data_object_image_2.zip and data_object_label_2.zip (object detection, left "
        f"colour images and labels) from cvlibs.net/datasets/kitti and unpack both in {root}, "
        "which gives training/image_2 and training/label_2. "
        f"Then run: python tools/convert_kitti.py --root {root}"
    )


def convert_kitti(
    root: Path,
    *,
    dont_care: str = "leave-out",
    progress: Callable[[Iterable, int], Iterable] | None = None,
) -> tuple[Path, ConversionReport]:
    """Write ``<root>/annotations/kitti_train.json`` from ``<root>/training``; see `kitti_to_coco`.

    Returns:
        The file, and what was kept.

    Raises:
        DataError: if folders or files are missing, unreadable or do not fit together.
    """
    folders = [root / "training" / name for name in ("image_2", "label_2")]
    absent = [str(folder) for folder in folders if not folder.is_dir()]
    if absent:
        raise DataError(f"{' and '.join(absent)}: no such folder. {download_remedy(root)}")
    data, report = kitti_to_coco(*folders, dont_care=dont_care, progress=progress)
    path = root / "annotations" / "kitti_train.json"
    write_coco(path, data)
    return path, report


def kitti_to_coco(
    images: Path,
    labels: Path,
    *,
    classes: Sequence[str] | None = None,
    dont_care: str = "leave-out",
    progress: Callable[[Iterable, int], Iterable] | None = None,
) -> tuple[dict, ConversionReport]:
    """Convert a folder of KITTI label files.

    Types are compared and named in small letters: car, van, truck, pedestrian, person_sitting,
    cyclist, tram, misc. Boxes are the corners of the file, (right - left) x (bottom - top), as
    KITTI's own evaluation measures them, and cut at the image's border.

    Args:
        images: folder of images, ``000000.png``.
        labels: folder of label files, ``000000.txt``; each needs an image.
        classes: names to keep, in the order of the category ids 1, 2, ...; None: all eight.
        dont_care: what ``DontCare`` regions become, in which objects are too far away to be
            labelled: "leave-out", as the UDA benchmarks have it, or "crowd", an annotation with
            iscrowd 1 for each class, so that evaluation ignores what is found there.
        progress: wraps the iterable of files, given its length (a progress bar).

    Returns:
        The COCO content, its file names relative to ``images``, and the report.

    Raises:
        DataError: if a line is malformed, an image is missing or unreadable, or a class unknown.
    """
    names = list(CLASSES if classes is None else classes)
    _check_arguments(names, dont_care)
    image_of = {path.relative_to(images).with_suffix(""): path for path in list_images(images)}
    if not labels.is_dir():
        raise DataError(f"{labels}: no such folder of label files. Check the path.")
    files = sorted(labels.rglob("*.txt"))
    if not files:
        raise DataError(f"{labels}: holds no .txt file. Name KITTI's label_2.")
    report = ConversionReport(images=len(files), boxes=dict.fromkeys(names, 0))
    unlabelled = len(image_of) - len(files)
    if unlabelled > 0:
        report.notes.append(f"{unlabelled} images have no label file and are left out")
    converted = []
    for file in files if progress is None else progress(files, len(files)):
        image = image_of.get(file.relative_to(labels).with_suffix(""))
        if image is None:
            raise DataError(
                f"{file}: there is no image {file.stem} in {images}. Add it or remove the labels."
            )
        file_name, size = image.relative_to(images).as_posix(), image_size(image)
        kept = [
            box
            for label in _read_labels(file)
            for box in _boxes(label, size, names, dont_care, report)
        ]
        crowd = [place for place, (_, _, ignored) in enumerate(kept) if ignored]
        report.images_without_boxes += len(crowd) == len(kept)
        boxes = [(name, box) for name, box, _ in kept]
        converted.append(LabelledImage(file_name, *size, boxes, crowd))
    return build_coco(converted, names, f"KITTI labels of {labels}"), report


def _check_arguments(names: list[str], dont_care: str) -> None:
    unknown = [name for name in names if name not in CLASSES]
    if unknown or not names or len(set(names)) != len(names):
        raise DataError(
            f"classes: {', '.join(names)}: name each of your choice once, of {', '.join(CLASSES)}."
        )
    if dont_care not in DONT_CARE:
        raise DataError(f"dont_care: {dont_care!r} is none of {', '.join(DONT_CARE)}.")


@dataclass(frozen=True)
class _Label:
    case: str  # for messages: file, line, type
    name: str
    corners: tuple[float, float, float, float]  # left, top, right, bottom


def _read_labels(path: Path) -> list[_Label]:
    try:
        lines = path.read_text(encoding="ascii").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read as text ({error}). Restore it.") from error
    labels = []
    for number, line in enumerate(lines, 1):
        values = line.split()
        if not values:
            continue
        case = f"{path}: line {number}"
        if len(values) not in _VALUES_OF_A_LINE:
            raise DataError(f"{case}: has {len(values)} values instead of 15. Restore the file.")
        name = values[0].lower()
        if name not in (*CLASSES, _IGNORED):
            raise DataError(
                f"{case}: type {values[0]!r} is none of {', '.join(TYPES)}, DontCare. Correct it."
            )
        corners = tuple(_number(value, case) for value in values[4:8])
        labels.append(_Label(f"{case} ({values[0]})", name, corners))
    return labels


def _number(text: str, case: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise DataError(f"{case}: bounding box: {text!r} is not a number. Correct it.")
    return value


def _boxes(
    label: _Label,
    size: tuple[int, int],
    names: Sequence[str],
    dont_care: str,
    report: ConversionReport,
) -> list[tuple[str, list[float], bool]]:
    """Name, COCO box and whether it is ignored; what is not kept goes to the report.

    An ignored region becomes a box of each class.
    """
    ignored = label.name == _IGNORED
    if (ignored and dont_care == "leave-out") or not (ignored or label.name in names):
        report.left_out[label.name] += 1
        return []
    box = box_in_image(label.corners, *size, label.case, report)
    if box is None:
        return []
    box = [round(value, 3) for value in box]
    if ignored:
        return [(name, box, True) for name in names]
    report.boxes[label.name] += 1
    return [(label.name, box, False)]
