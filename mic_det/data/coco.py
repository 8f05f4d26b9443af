"""COCO-format detection files: read, check, narrow down to some classes, write.

Knows nothing of Detectron2. Boxes are COCO's ``[x, y, width, height]`` in pixels.
"""

from __future__ import annotations

import json
import math
import os
import tempfile
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp"})


class DataError(ValueError):
    """Data on disk are missing or broken. The message names the file, the field and the remedy."""


def list_images(folder: Path, pattern: str = "*") -> list[Path]:
    """Image files in ``folder`` and its sub-folders whose name fits ``pattern``, sorted by path.

    Hidden files (``._a.jpg``, which macOS leaves in archives) are no images.

    Raises:
        DataError: if there is no such folder or no such image.
    """
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder of images. Check the path.")
    found = [
        Path(parent, name)
        for parent, _, names in os.walk(folder, followlinks=True)
        for name in names
        if Path(name).suffix.lower() in IMAGE_SUFFIXES
        and not name.startswith(".")
        and fnmatchcase(name, pattern)
    ]
    if not found:
        fitting = "" if pattern == "*" else f" named like {pattern!r}"
        kinds = " ".join(sorted(suffix[1:] for suffix in IMAGE_SUFFIXES))
        raise DataError(
            f"{folder}: holds no image{fitting} (looked in sub-folders too, for {kinds}). "
            "Put the images there, or name the folder that has them."
        )
    return sorted(found, key=lambda path: path.relative_to(folder).as_posix())


def write_text_atomically(path: Path, text: str) -> None:
    """Write ``text``, so that nobody ever sees half a file under this name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    temporary = Path(name)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)  # mkstemp's 0600 would shut out the other users
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_coco(path: Path, data: dict) -> None:
    """Check ``data`` and write it as COCO json, atomically.

    Raises:
        DataError: if ``data`` is not sound (nothing is written then).
    """
    validate_coco(data, path)
    write_text_atomically(path, json.dumps(data))


def read_coco(path: Path) -> dict:
    """The content of a COCO detection file, checked by `validate_coco`.

    Raises:
        DataError: if the file cannot be read or is not sound.
    """
    try:
        data = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise DataError(f"{path}: no such annotation file. Check the path.") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}). Check the path.") from error
    except ValueError as error:  # not JSON, or not even text
        raise DataError(
            f"{path}: is not JSON ({error}). A COCO detection file is needed; make it anew."
        ) from error
    validate_coco(data, path)
    return data


class _Problems:
    """Counts what is wrong by kind, and keeps the first example of each kind."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.first: dict[str, str] = {}

    def add(self, kind: str, example: object) -> None:
        self.counts[kind] += 1
        self.first.setdefault(kind, repr(example))

    def raise_if_any(self, source: Path) -> None:
        if not self.counts:
            return
        lines = [
            f"  {kind}: {count} time{'s' * (count > 1)}, first {self.first[kind]}"
            for kind, count in self.counts.items()
        ]
        raise DataError(
            f"{source}: is not a sound COCO detection file:\n" + "\n".join(lines) + "\n"
            "Correct these entries or convert the data set anew "
            "(tools/convert_voc.py makes such a file from Pascal-VOC XML)."
        )


def validate_coco(data: object, source: Path) -> None:
    """Check all that training and COCO's own evaluation rely on.

    Args:
        data: the parsed file.
        source: its path, for the message.

    Raises:
        DataError: one message with each kind of problem, how often it occurs, and its first case.
    """
    if not isinstance(data, dict):
        raise DataError(f"{source}: holds a {type(data).__name__}, not a COCO object with images.")
    problems = _Problems()
    for field in ("images", "annotations", "categories"):
        entries = data.get(field)
        if not isinstance(entries, list) or not all(isinstance(e, dict) for e in entries):
            problems.add(f"field {field!r} is not a list of objects", type(entries).__name__)
    problems.raise_if_any(source)
    if not data["categories"]:
        problems.add("field 'categories' is empty", [])

    image_ids = _check_ids(data["images"], "images", problems)
    category_ids = _check_ids(data["categories"], "categories", problems)
    _check_ids((a for a in data["annotations"] if "id" in a), "annotations", problems)
    _check_images(data["images"], problems)
    _check_names(data["categories"], "categories", "name", problems)
    for annotation in data["annotations"]:
        _check_annotation(annotation, image_ids, category_ids, problems)
    problems.raise_if_any(source)


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _check_ids(entries: Iterable[dict], field: str, problems: _Problems) -> set[int | str]:
    """The ids in use; text counts, so that what refers to it is not reported as well."""
    seen: set[int | str] = set()
    for entry in entries:
        value = entry.get("id")
        if not _is_int(value):
            problems.add(f"{field}[].id is not an integer", value)
        if not isinstance(value, (int, str)):
            continue
        if value in seen:
            problems.add(f"{field}[].id occurs twice", value)
        seen.add(value)
    return seen


def _check_names(entries: Iterable[dict], field: str, key: str, problems: _Problems) -> None:
    seen: set[str] = set()
    for entry in entries:
        value = entry.get(key)
        if not isinstance(value, str) or not value:
            problems.add(f"{field}[].{key} is not a name", value)
        elif value in seen:
            problems.add(f"{field}[].{key} occurs twice", value)
        else:
            seen.add(value)


def _check_images(images: Iterable[dict], problems: _Problems) -> None:
    _check_names(images, "images", "file_name", problems)
    for image in images:
        for key in ("height", "width"):
            value = image.get(key)
            if not _is_int(value) or value <= 0:
                problems.add(f"images[].{key} is not a positive integer", value)


def _check_annotation(
    annotation: dict, image_ids: set[int | str], category_ids: set[int | str], problems: _Problems
) -> None:
    for key, known in (("image_id", image_ids), ("category_id", category_ids)):
        value = annotation.get(key)
        if not isinstance(value, (int, str)) or value not in known:
            problems.add(f"annotations[].{key} names no entry of the file", value)
    box = annotation.get("bbox")
    numbers = isinstance(box, list) and len(box) == 4
    if not numbers or not all(isinstance(v, (int, float)) and math.isfinite(v) for v in box):
        problems.add("annotations[].bbox is not [x, y, width, height]", box)


@dataclass(frozen=True)
class Selection:
    """A COCO file narrowed down to some classes and images.

    Attributes:
        data: COCO content; its category ids ascend in the order of ``classes``. That order is
            what Detectron2's evaluator relies on when it puts names to the per-class results.
        classes: class names, in the order of the contiguous ids 0, 1, ...
        category_ids: the id in ``data`` of each class.
        left_out: annotations left out, by category name.
        changed: whether ``data`` differs from the file as it lies on disk.
    """

    data: dict
    classes: tuple[str, ...]
    category_ids: tuple[int, ...]
    left_out: dict[str, int]
    changed: bool


def select(
    data: dict, source: Path, classes: Sequence[str] | None = None, pattern: str = "*"
) -> Selection:
    """Keep the given classes, in the given order, and the images whose file name fits ``pattern``.

    What COCO's evaluation needs and files in the field lack is filled in: ``area``, ``iscrowd``,
    and annotation ids other than 0 (pycocotools takes a match with id 0 for no match).

    Args:
        data: content checked by `validate_coco`; it is not modified.
        source: its path, for messages.
        classes: names to keep; None keeps all, in ascending order of their ids.
        pattern: shell pattern for the last part of ``file_name``.

    Raises:
        DataError: if a class is not in the file or no image fits.
    """
    in_file = {c["name"]: c["id"] for c in sorted(data["categories"], key=lambda c: c["id"])}
    names = tuple(in_file) if classes is None else tuple(classes)
    absent = [name for name in names if name not in in_file]
    if absent:
        raise DataError(
            f"{source}: categories: has no class {', '.join(map(repr, absent))}; "
            f"it has {', '.join(map(repr, in_file))}. Name classes of this file."
        )
    images = [i for i in data["images"] if fnmatchcase(PurePosixPath(i["file_name"]).name, pattern)]
    if not images:
        fitting = "" if pattern == "*" else f" named like {pattern!r}"
        raise DataError(f"{source}: images: lists no image{fitting}. Check the file and pattern.")

    same_classes = names == tuple(in_file)
    new_ids = {in_file[n]: in_file[n] if same_classes else i for i, n in enumerate(names, 1)}
    kept_images = {image["id"] for image in images}
    inside = [a for a in data["annotations"] if a["image_id"] in kept_images]
    kept = [a for a in inside if a["category_id"] in new_ids]
    renumber = not all(a.get("id") for a in kept)
    annotations = [
        _complete(a, new_ids[a["category_id"]], number if renumber else a["id"])
        for number, a in enumerate(kept, 1)
    ]
    of_id = {number: name for name, number in in_file.items()}
    left_out = Counter(of_id[a["category_id"]] for a in inside if a["category_id"] not in new_ids)
    changed = (
        not same_classes
        or len(images) != len(data["images"])
        or annotations != data["annotations"]
        or "info" not in data  # some releases of pycocotools fail without
    )
    category_ids = tuple(new_ids[in_file[name]] for name in names)
    result = {
        "info": data.get("info", {}),
        "images": images,
        "annotations": annotations,
        "categories": [{"id": i, "name": n} for i, n in zip(category_ids, names, strict=True)],
    }
    return Selection(result, names, category_ids, dict(left_out), changed)


def _complete(annotation: dict, category_id: int, number: int) -> dict:
    area = annotation["bbox"][2] * annotation["bbox"][3]
    return {
        "area": area,
        "iscrowd": 0,
        **annotation,
        "id": number,
        "category_id": category_id,
    }
