"""YOLO text labels to COCO detection json.

A label file has a line for each object: class number, then centre x, centre y, width and height as
fractions of the image. It lies in the folder of labels where its image lies in that of images
(``images/a/7.jpg``, ``labels/a/7.txt``). An image without a label file has no objects. Lines with a
polygon instead of a box (YOLO segmentation) give the polygon's box.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path

import yaml

from mic_det.data.errors import DataError, gather
from mic_det.data.formats.report import ConversionReport, LabelledImage, box_in_image, build_coco
from mic_det.data.images import image_size, list_images, walk
from mic_det.data.unique_keys import UniqueKeyLoader

#: Files of class names, in the order in which they are looked for.
NAME_FILES = ("data.yaml", "data.yml", "dataset.yaml", "classes.txt", "obj.names")
#: Text files that lie among labels and are none, unless an image has their name.
NOT_LABELS = frozenset({"classes.txt", "train.txt", "val.txt", "test.txt", "readme.txt"})
# Folders above the labels in which names are looked for: labels/train, labels, data set.
_LEVELS = 3
# By how much a coordinate may leave [0, 1]: half a pixel of an image 500 pixels wide.
_ROUNDING = 1e-3


def yolo_to_coco(
    images: Path,
    labels: Path,
    *,
    classes: Sequence[str] | None = None,
    keeps: Callable[[str], bool] = lambda file_name: True,
) -> tuple[dict, ConversionReport]:
    """Convert a folder of YOLO label files.

    Args:
        images: folder of images, sub-folders included.
        labels: folder of ``.txt`` files, sub-folders included; it may be the folder of images.
        classes: if a file of class names (`NAME_FILES`) lies beside the labels: names to keep, in
            the order of the category ids 1, 2, ...; None keeps all. If there is none: the names of
            the class numbers 0, 1, ...
        keeps: whether an image is converted, by its path relative to ``images``. Label files of
            others are not opened.

    Returns:
        The COCO content, its file names relative to ``images``, and the report.

    Raises:
        DataError: if a line is malformed, a class number has no name, a label file has no image,
            an image cannot be read, or no names are known.
    """
    if not labels.is_dir():
        raise DataError(f"{labels}: no such folder of YOLO labels. Check the path.")
    names, origin = class_names(labels, classes)
    kept = tuple(names) if origin is None or classes is None else tuple(classes)
    absent = [name for name in kept if name not in names]
    if absent:
        raise DataError(
            f"{origin}: names: has no class {', '.join(map(repr, absent))}; it has "
            f"{', '.join(map(repr, names))}. Name classes of this file."
        )
    all_images = list_images(images)
    found = [path for path in all_images if keeps(path.relative_to(images).as_posix())]
    sources = _match(all_images, images, labels)
    report = ConversionReport(images=len(found), boxes=dict.fromkeys(kept, 0))
    converted = []

    def read(path: Path) -> tuple[Path, int, int, list]:
        width, height = image_size(path)
        source = sources.get(path)
        objects = [] if source is None else _read(source, names, width, height, report)
        return path, width, height, objects

    for path, width, height, objects in gather(read, found):
        report.left_out.update(Counter(name for name, _ in objects if name not in kept))
        boxes = [(name, box) for name, box in objects if name in kept]
        report.images_without_boxes += not boxes
        for name, _ in boxes:
            report.boxes[name] += 1
        file_name = path.relative_to(images).as_posix()
        converted.append(LabelledImage(file_name, width, height, boxes))
    without = sum(path not in sources for path in found)
    if without:
        report.notes.append(
            f"{without} of {len(found)} images have no label file: no objects, as YOLO takes it."
        )
    return build_coco(converted, kept, f"YOLO labels of {labels}"), report


def class_names(labels: Path, given: Sequence[str] | None) -> tuple[list[str], Path | None]:
    """Names of the class numbers 0, 1, ..., and the file that has them (None: ``given``).

    Raises:
        DataError: if there are none, or the file that has them is malformed.
    """
    folders = [labels, *labels.absolute().parents][:_LEVELS]
    for path in (folder / name for folder in folders for name in NAME_FILES):
        if path.is_file():
            names = _names_of(path)
            _check_names(names, path)
            return names, path
    if given:
        _check_names(list(given), Path("classes"))
        return list(given), None
    raise DataError(
        f"{labels}: class names: none of {', '.join(NAME_FILES)} is there or in the folders "
        "above. List the names of the class numbers 0, 1, ... in classes.txt beside the labels, "
        "or give them as classes."
    )


def _check_names(names: list[str], path: Path) -> None:
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice or not names:
        fault = f"the class {twice[0]!r} is listed twice" if twice else "lists no class"
        raise DataError(f"{path}: names: {fault}. List each class once, by its number.")


def _names_of(path: Path) -> list[str]:
    try:
        text = path.read_text(encoding="utf-8-sig")
        if path.suffix not in (".yaml", ".yml"):
            return [line.strip() for line in text.splitlines() if line.strip()]
        content = yaml.load(text, Loader=UniqueKeyLoader)  # plain values only
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise DataError(f"{path}: cannot be read as class names ({error}). Repair it.") from error
    names = content.get("names") if isinstance(content, dict) else None
    if isinstance(names, dict):
        if set(names) != set(range(len(names))):
            raise DataError(
                f"{path}: names: the class numbers are {list(names)}, not 0 to {len(names) - 1}. "
                "Number them without gaps."
            )
        names = [names[number] for number in range(len(names))]
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise DataError(
            f"{path}: names: is no list of class names. Write names: [car, person], each in "
            "quotes if YAML takes it for something else (no, 1)."
        )
    return names


def _match(found: Sequence[Path], images: Path, labels: Path) -> dict[Path, Path]:
    """The label file of each image that has one."""
    stems = {path.stem for path in found}
    sources = [
        path
        for path in walk(labels)
        if path.suffix.lower() == ".txt" and (path.stem in stems or path.name not in NOT_LABELS)
    ]
    if not sources:
        raise DataError(f"{labels}: holds no .txt file. Name the folder of YOLO labels.")
    by_place = {path.relative_to(images).with_suffix(""): path for path in found}
    if len(by_place) < len(found):
        counts = Counter(path.with_suffix("") for path in found)
        twice = [path for path in found if counts[path.with_suffix("")] > 1]
        raise DataError(
            f"{twice[0]}: and {twice[1].name} share one label file. Keep one of them, or rename it."
        )
    by_stem: dict[str, list[Path]] = defaultdict(list)
    for path in found:
        by_stem[path.stem].append(path)
    matched: dict[Path, Path] = {}
    for source in sorted(sources):
        place = source.relative_to(labels).with_suffix("")
        candidates = [by_place[place]] if place in by_place else by_stem.get(source.stem, [])
        if not candidates:
            raise DataError(
                f"{source}: no image with the stem {source.stem!r} in {images}. "
                "Add the image or remove the label file."
            )
        if len(candidates) > 1:
            raise DataError(
                f"{source}: may belong to {' or '.join(map(str, candidates))}. "
                "Put it in the sub-folder that its image is in."
            )
        other = matched.setdefault(candidates[0], source)
        if other != source:
            raise DataError(
                f"{source}: belongs to {candidates[0]}, and so does {other}. Keep one of the two."
            )
    return matched


def _read(
    source: Path, names: Sequence[str], width: int, height: int, report: ConversionReport
) -> list[tuple[str, list[float]]]:
    """Class name and COCO box of each line."""
    try:
        lines = source.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, ValueError) as error:
        raise DataError(f"{source}: cannot be read as text ({error}). Repair it.") from error
    boxes = []
    for number, line in enumerate(lines, 1):
        words = line.split()
        if not words:
            continue
        place = f"{source}: line {number}"
        name = _class_of(words[0], names, place)
        x0, y0, x1, y1 = _corners(words[1:], place)
        pixels = (x0 * width, y0 * height, x1 * width, y1 * height)
        case = f"{place}: {name} ({' '.join(words[1:])})"
        box = box_in_image([round(v, 3) for v in pixels], width, height, case, report)
        if box is not None:
            boxes.append((name, [round(v, 3) for v in box]))
    return boxes


def _class_of(word: str, names: Sequence[str], place: str) -> str:
    try:
        number = int(word)
    except ValueError:
        raise DataError(
            f"{place}: class: {word!r} is no number. A line is: class number, centre x, centre y, "
            "width, height."
        ) from None
    if not 0 <= number < len(names):
        raise DataError(
            f"{place}: class: {number} has no name; there are {len(names)} "
            f"({', '.join(names)}). Correct the line or the list of names."
        )
    return names[number]


def _corners(words: Sequence[str], place: str) -> tuple[float, float, float, float]:
    """x0, y0, x1, y1 as fractions of the image, from a box or a polygon."""
    try:
        values = [float(word) for word in words]
    except ValueError:
        values = [math.nan]
    if not all(map(math.isfinite, values)):
        raise DataError(f"{place}: {' '.join(words)!r} are not all numbers. Correct the line.")
    if len(values) == 5:
        raise DataError(
            f"{place}: has six numbers, a detection with a confidence. Labels have five: take the "
            "confidence out if these really are labels."
        )
    if len(values) != 4 and (len(values) < 6 or len(values) % 2):
        raise DataError(
            f"{place}: has {len(values) + 1} numbers, not five. A line is: class number, centre x, "
            "centre y, width, height."
        )
    if max(map(abs, values)) > 1 + _ROUNDING:
        raise DataError(
            f"{place}: {' '.join(words)}: not fractions of the image, 0 to 1. If these are "
            "pixels, divide x and width by the image's width, y and height by its height."
        )
    if len(values) == 4:
        x, y, w, h = values
        return x - w / 2, y - h / 2, x + w / 2, y + h / 2
    return min(values[::2]), min(values[1::2]), max(values[::2]), max(values[1::2])
