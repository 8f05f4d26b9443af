"""BDD100K's detection labels to COCO detection json, by day alone or at all times.

Both published formats are read: ``det_20`` (2020: pedestrian, motorcycle, bicycle) and the one of
2018 (``bdd100k_labels_images_*.json``: person, motor, bike; lanes and areas among the labels). Data
set: F. Yu et al., "BDD100K: A Diverse Driving Dataset for Heterogeneous Multitask Learning", CVPR
2020.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from mic_det.data.formats.cityscapes import CLASSES as CITYSCAPES_CLASSES
from mic_det.data.formats.coco import DataError, write_coco, write_text_atomically
from mic_det.data.formats.report import ConversionReport, LabelledImage, box_in_image, build_coco
from mic_det.data.images import image_size
from mic_det.data.unique_keys import unique_keys

#: The classes shared with Cityscapes; the benchmark leaves out the train, which BDD100K hardly has.
CLASSES = tuple(name for name in CITYSCAPES_CLASSES if name != "train")
#: BDD100K's names, of both formats, for what Cityscapes calls otherwise.
ALIASES = {"pedestrian": "person", "motor": "motorcycle", "bike": "bicycle"}
SPLITS = ("train", "val")
TIMES = ("daytime", "night", "dawn/dusk")

_CORNERS = ("x1", "y1", "x2", "y2")
_LABEL_FILES = ("labels/det_20/det_{}.json", "labels/bdd100k_labels_images_{}.json")


def download_remedy(root: Path) -> str:
    """What to download for the BDD100K folder ``root``, and where it goes."""
    return (
        "Download bdd100k_images_100k.zip and bdd100k_det_20_labels_trainval.zip (100K Images and "
        "Detection 2020 Labels) from bdd-data.berkeley.edu and put their contents in "
        f"{root}, so that it holds images/100k/train and labels/det_20/det_train.json. "
        f"Then run: python tools/convert_bdd100k.py --root {root}"
    )


def convert_bdd100k(
    root: Path,
    splits: Sequence[str] = SPLITS,
    *,
    progress: Callable[[Iterable, int, str], Iterable] | None = None,
) -> list[tuple[Path, ConversionReport]]:
    """Write ``<root>/annotations/bdd100k_daytime_<split>.json``, and lists of the images (.txt).

    The list is what the unlabelled target is made of: which images were taken by day is told by
    the label files alone.

    Args:
        root: the BDD100K folder, with ``images/100k`` and ``labels``.
        splits: of train and val.
        progress: wraps the iterable of images, given its length and the split (a progress bar).

    Returns:
        The json and what was kept, for each split.

    Raises:
        DataError: if folders or files are missing, unreadable or do not fit together.
    """
    pairs = [(split, *_find(root, split)) for split in splits]
    written = []
    for split, labels, images in pairs:
        bar = None if progress is None else lambda items, n, title=split: progress(items, n, title)
        data, report = bdd100k_to_coco(images, labels, timeofday="daytime", progress=bar)
        path = root / "annotations" / f"bdd100k_daytime_{split}.json"
        write_coco(path, data)
        names = [image["file_name"] for image in data["images"]]
        write_text_atomically(path.with_suffix(".txt"), "".join(f"{name}\n" for name in names))
        written.append((path, report))
    return written


def _find(root: Path, split: str) -> tuple[Path, Path]:
    """Label file and folder of images of a split."""
    images = root / "images" / "100k" / split
    candidates = [root / name.format(split) for name in _LABEL_FILES]
    labels = next((path for path in candidates if path.is_file()), None)
    if labels is None or not images.is_dir():
        absent = [] if images.is_dir() else [str(images)]
        absent += [] if labels else [" or ".join(map(str, candidates))]
        raise DataError(f"{' and '.join(absent)}: not there. {download_remedy(root)}")
    return labels, images


def bdd100k_to_coco(
    images: Path,
    labels: Path,
    *,
    classes: Sequence[str] = CLASSES,
    timeofday: str | None = None,
    progress: Callable[[Iterable, int], Iterable] | None = None,
) -> tuple[dict, ConversionReport]:
    """Convert one label file.

    Classes get the names of Cityscapes (`ALIASES`). Boxes are the corners of the file, (x2 - x1) x
    (y2 - y1), cut at the image's border. Labels without ``box2d`` (lanes, areas) are no objects.

    Args:
        images: folder of the images of the split.
        labels: json of one of the two formats.
        classes: names to keep, in the order of the category ids 1, 2, ...
        timeofday: "daytime", "night" or "dawn/dusk", to keep images with this attribute alone;
            None keeps all.
        progress: wraps the iterable of images, given its length (a progress bar).

    Returns:
        The COCO content, its images by name, and the report.

    Raises:
        DataError: if the file is malformed, or an image is missing or unreadable.
    """
    if timeofday not in (None, *TIMES):
        raise DataError(f"timeofday: {timeofday!r} is none of {', '.join(TIMES)}.")
    if not classes or len(set(classes)) != len(classes):
        raise DataError(f"classes: {', '.join(classes)}: name at least one, each once.")
    frames = _read_frames(labels)
    times = Counter(frame["attributes"].get("timeofday") for frame in frames.values())
    kept = [f for f in frames.values() if timeofday in (None, f["attributes"].get("timeofday"))]
    if not kept:
        raise DataError(
            f"{labels}: attributes.timeofday: no image has {timeofday!r}; found "
            f"{', '.join(f'{time!r}: {n}' for time, n in times.items())}. Check the file."
        )
    absent = [frame["name"] for frame in kept if not (images / frame["name"]).is_file()]
    if absent:
        raise DataError(
            f"{images / absent[0]}: no such file (of {len(absent)} that {labels} names and that "
            "are missing). Unpack bdd100k_images_100k.zip again, all of it."
        )
    report = ConversionReport(images=len(kept), boxes=dict.fromkeys(classes, 0))
    if len(kept) < len(frames):
        report.notes.append(f"{len(frames) - len(kept)} images of other times are left out")
    converted = []
    for frame in kept if progress is None else progress(kept, len(kept)):
        size = image_size(images / frame["name"])
        boxes = []
        for number, label in enumerate(frame["labels"], 1):
            case = f"{labels}: {frame['name']}: label {number}"
            boxes += _boxes(label, case, size, classes, report)
        report.images_without_boxes += not boxes
        converted.append(LabelledImage(frame["name"], *size, boxes))
    title = f"BDD100K labels of {labels}, {timeofday or 'all times'}"
    return build_coco(converted, classes, title), report


def _read_frames(path: Path) -> dict[str, dict]:
    """The entries of a label file by name, sorted; attributes and labels are in each."""
    try:
        content = json.loads(path.read_bytes(), object_pairs_hook=unique_keys)
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read as JSON ({error}). Restore it.") from error
    if isinstance(content, dict) and "frames" in content:  # as the Scalabel tools write it
        content = content["frames"]
    if not isinstance(content, list):
        raise DataError(f"{path}: holds no list of images. Name a detection label file of BDD100K.")
    frames: dict[str, dict] = {}
    for number, frame in enumerate(content, 1):
        name = frame.get("name") if isinstance(frame, dict) else None
        if not isinstance(name, str) or not name:
            raise DataError(f"{path}: entry {number}: name: {name!r} is no file name. Restore it.")
        if name in frames:
            raise DataError(f"{path}: entry {number}: name: {name!r} occurs twice. Restore it.")
        attributes, labels = frame.get("attributes") or {}, frame.get("labels") or []
        if not isinstance(attributes, dict) or not isinstance(labels, list):
            raise DataError(
                f"{path}: {name}: attributes is no object or labels no list. Restore the file."
            )
        frames[name] = {"name": name, "attributes": attributes, "labels": labels}
    return dict(sorted(frames.items()))


def _boxes(
    label: object,
    case: str,
    size: tuple[int, int],
    classes: Sequence[str],
    report: ConversionReport,
) -> list[tuple[str, list[float]]]:
    """Name and COCO box of a label, if it is one; what is not kept goes to the report."""
    category = label.get("category") if isinstance(label, dict) else None
    if not isinstance(category, str):
        raise DataError(f"{case}: category: {category!r} is no name. Restore the file.")
    corners = label.get("box2d")
    if corners is None:
        return []
    name = ALIASES.get(category, category)
    if name not in classes:
        report.left_out[name] += 1
        return []
    values = [corners.get(key) if isinstance(corners, dict) else None for key in _CORNERS]
    if not all(isinstance(value, (int, float)) and math.isfinite(value) for value in values):
        raise DataError(f"{case}: box2d: {corners!r} lacks a number x1, y1, x2 or y2. Restore it.")
    box = box_in_image(values, *size, f"{case} ({category})", report)
    if box is None:
        return []
    report.boxes[name] += 1
    return [(name, [round(value, 3) for value in box])]
