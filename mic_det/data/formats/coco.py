"""COCO-format detection files: read, check, write.

Knows nothing of Detectron2. Boxes are COCO's ``[x, y, width, height]`` in pixels.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path

from mic_det.data.errors import DataError, Problem, Problems, link_hint, problem_lines
from mic_det.data.files import write_text_atomically
from mic_det.data.images import IMAGE_SUFFIXES, list_images
from mic_det.data.unique_keys import RepeatedKeyError, unique_keys

__all__ = [
    "IMAGE_SUFFIXES",
    "DataError",
    "coco_problems",
    "list_images",
    "read_coco",
    "read_json",
    "tidy_boxes",
    "validate_coco",
    "write_coco",
    "write_text_atomically",
]

#: Pixels by which a box may reach beyond its image before anybody is told: rounding.
SLACK = 1.0
# A data set has corners where sizes should be if nearly all boxes make sense as corners and so
# many leave their image as sizes.
_SENSIBLE_AS_CORNERS, _OUTSIDE_AS_SIZES = 0.99, 0.1

# NumPy, in which pycocotools calculates, holds no larger integers.
_LARGEST = 2**63

_CONVERT = "Convert the data set anew (tools/datasets.py convert)."
_AREA = "Write square pixels, or leave the area out: then it is the box's."


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
    data = read_json(path)
    validate_coco(data, path)
    return data


def read_json(path: Path) -> object:
    """The content of a json file.

    Raises:
        DataError: if the file cannot be read, is no json, or an object in it has a key twice.
    """
    try:
        return json.loads(path.read_bytes(), object_pairs_hook=unique_keys)
    except FileNotFoundError:
        raise DataError(f"{path}: no such annotation file. Check the path.") from None
    except OSError as error:
        raise DataError(
            f"{path}: cannot be read ({error.strerror}). Check the path and the rights (chmod u+r)."
        ) from error
    except RepeatedKeyError as error:
        raise DataError(f"{path}: {error}. Merge the two, or remove one.") from None
    except (ValueError, RecursionError) as error:  # not JSON, or not even text
        raise DataError(
            f"{path}: is not JSON ({error}{link_hint(path)}). "
            "A COCO detection file is needed; make it anew."
        ) from error


def validate_coco(data: object, source: Path) -> list[Problem]:
    """Check all that training and COCO's own evaluation rely on.

    Args:
        data: the parsed file.
        source: its path, for the message.

    Returns:
        What is no error since `tidy_boxes` puts it right.

    Raises:
        DataError: one message with each kind of problem, how often it occurs, its first case with
            the record that has it, and the remedy.
    """
    problems = coco_problems(data, source)
    errors = [problem for problem in problems if problem.is_error]
    if errors:
        raise DataError(
            f"{source}: is not a sound COCO detection file:\n{problem_lines(errors)}\n"
            "Correct these entries or convert the data set anew "
            "(tools/datasets.py convert makes such a file from other formats)."
        )
    return list(problems)


def coco_problems(data: object, source: Path) -> Problems:
    """All kinds of faults of a parsed file: errors, and what `tidy_boxes` puts right.

    Raises:
        DataError: if ``data`` is no COCO object at all.
    """
    if not isinstance(data, dict):
        hint = ""
        if isinstance(data, list) and data and isinstance(data[0], dict) and "score" in data[0]:
            hint = " (it looks like COCO results, which are detections, not labels)"
        raise DataError(
            f"{source}: holds a {type(data).__name__}, not a COCO object with images{hint}. "
            "Name a file with the fields images, annotations and categories."
        )
    problems = Problems()
    for field in ("images", "annotations", "categories"):
        entries = data.get(field)
        if field not in data:
            remedy = f"Name a COCO detection file: it has a list {field!r}."
            problems.add(f"field {field!r} is not a list of objects", None, "missing", remedy)
        elif not isinstance(entries, list) or not all(isinstance(e, dict) for e in entries):
            problems.add(
                f"field {field!r} is not a list of objects", type(entries).__name__, "", _CONVERT
            )
    if problems.has_errors():
        return problems
    if not data["categories"]:
        remedy = "List the classes, {id, name} each."
        problems.add("field 'categories' is empty", [], "", remedy)
    image_ids = _check_ids(data["images"], "images", problems)
    category_ids = _check_ids(data["categories"], "categories", problems)
    _check_ids(data["annotations"], "annotations", problems, optional=True)
    _check_names(data["images"], "images", "file_name", problems)
    _check_names(data["categories"], "categories", "name", problems)
    sizes = _check_sizes(data["images"], problems)
    for number, annotation in enumerate(data["annotations"]):
        _check_annotation(number, annotation, image_ids, category_ids, problems)
    if not problems.has_errors():  # otherwise boxes may have no number in them or no image
        _check_boxes(data["annotations"], sizes, problems)
    return problems


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) < _LARGEST


def _is_number(value: object) -> bool:
    if isinstance(value, float):
        return math.isfinite(value)
    return _is_int(value)


def _check_ids(
    entries: Sequence[dict], field: str, problems: Problems, optional: bool = False
) -> set[int | str]:
    """The ids in use; text counts, so that what refers to it is not reported as well."""
    seen: set[int | str] = set()
    for number, entry in enumerate(entries):
        if optional and "id" not in entry:
            continue
        value, record = entry.get("id"), f"{field}[{number}]"
        if not _is_int(value):
            remedy = f"Number the {field} (in 64 bits) and refer to them by these numbers."
            problems.add(f"{field}[].id is not an integer", value, record, remedy)
        if not isinstance(value, (int, str)):
            continue
        if value in seen:
            problems.add(
                f"{field}[].id occurs twice", value, record, f"Give each of the {field} its own id."
            )
        seen.add(value)
    return seen


def _check_names(entries: Sequence[dict], field: str, key: str, problems: Problems) -> None:
    seen: set[str] = set()
    for number, entry in enumerate(entries):
        value, record = entry.get(key), f"{field}[{number}]"
        if not isinstance(value, str) or not value:
            problems.add(f"{field}[].{key} is not a name", value, record, f"Write its {key}.")
        elif value in seen:
            remedy = "Merge the entries, or give each its own"
            remedy += " path relative to the folder of images." if key == "file_name" else " name."
            problems.add(f"{field}[].{key} occurs twice", value, record, remedy)
        else:
            seen.add(value)


def _check_sizes(images: Sequence[dict], problems: Problems) -> dict[object, tuple[int, int]]:
    """Width and height by image id."""
    for number, image in enumerate(images):
        for key in ("height", "width"):
            value = image.get(key)
            if not _is_int(value) or value <= 0:
                problems.add(
                    f"images[].{key} is not a positive integer",
                    value,
                    f"images[{number}]",
                    f"Write the image's {key} in pixels.",
                )
    return {
        image["id"]: (image.get("width"), image.get("height"))
        for image in images
        if _is_int(image.get("id"))
    }


def _record(number: int, annotation: dict) -> str:
    return f"annotations[{number}], id {annotation.get('id')!r}"


def _check_annotation(
    number: int,
    annotation: dict,
    image_ids: set[int | str],
    category_ids: set[int | str],
    problems: Problems,
) -> None:
    record = _record(number, annotation)
    for key, known in (("image_id", image_ids), ("category_id", category_ids)):
        value = annotation.get(key)
        if not isinstance(value, (int, str)) or isinstance(value, bool) or value not in known:
            what = "image" if key == "image_id" else "category"
            remedy = f"Add the {what}, or remove the annotation."
            problems.add(f"annotations[].{key} names no entry of the file", value, record, remedy)
    box = annotation.get("bbox")
    if not isinstance(box, list) or len(box) != 4 or not all(map(_is_number, box)):
        remedy = "Write four finite numbers, in pixels."
        problems.add("annotations[].bbox is not [x, y, width, height]", box, record, remedy)
    crowd = annotation.get("iscrowd", 0)
    if crowd not in (0, 1):
        problems.add("annotations[].iscrowd is not 0 or 1", crowd, record, "Write 0 or 1.")
    area = annotation.get("area", 0)
    if not _is_number(area) or area < 0:
        problems.add("annotations[].area is not a number from 0 on", area, record, _AREA)
    if "score" in annotation:
        remedy = "Are these detections? As labels all count alike, whatever their score."
        what = "annotations[].score belongs to no label"
        problems.add(what, annotation["score"], record, remedy, is_error=False)


def _check_boxes(
    annotations: Sequence[dict], sizes: dict[object, tuple[int, int]], problems: Problems
) -> None:
    """Boxes against their images, once all of them are four numbers and all images have a size."""
    pattern = _pattern_of_all(annotations, sizes)
    if pattern:
        fault, remedy = pattern
        problems.add(fault, annotations[0]["bbox"], _record(0, annotations[0]), remedy)
        return
    for number, annotation in enumerate(annotations):
        box, record = annotation["bbox"], _record(number, annotation)
        width, height = sizes[annotation["image_id"]]
        x, y, w, h = box
        if w < 0 or h < 0:
            remedy = "Write width and height, or remove the annotation."
            problems.add("annotations[].bbox has a negative size", box, record, remedy)
        elif annotation.get("area", 0) > max((width + SLACK) * (height + SLACK), w * h):
            # Evaluation takes an object of more than 1e10 pixels for none.
            what = "annotations[].area is larger than the image"
            remedy = f"The image is {width}x{height}. {_AREA}"
            problems.add(what, annotation["area"], record, remedy)
        elif w == 0 or h == 0:
            remedy = "Such boxes are left out."
            problems.add("annotations[].bbox has no area", box, record, remedy, is_error=False)
        elif x >= width or y >= height or x + w <= 0 or y + h <= 0:
            remedy = f"The image is {width}x{height}: correct the box or the image's size."
            problems.add("annotations[].bbox is outside its image", box, record, remedy)
        elif _excess(box, width, height) > SLACK:
            remedy = f"The image is {width}x{height}: such boxes are cut at its border."
            what = "annotations[].bbox reaches beyond its image"
            problems.add(what, box, record, remedy, is_error=False)


def _excess(box: Sequence[float], width: int, height: int) -> float:
    """Pixels by which a box reaches beyond its image."""
    x, y, w, h = box
    return max(-x, -y, x + w - width, y + h - height)


def _pattern_of_all(
    annotations: Sequence[dict], sizes: dict[object, tuple[int, int]]
) -> tuple[str, str] | None:
    """A fault that all boxes share, and the remedy: something other than pixel sizes is given."""
    boxes = [(a["bbox"], *sizes[a["image_id"]]) for a in annotations]
    solid = [(box, w, h) for box, w, h in boxes if box[2] > 0 and box[3] > 0]
    if not solid:
        return None
    if all(max(map(abs, box)) <= 1.0 for box, _, _ in solid):
        return (
            "annotations[].bbox holds fractions of the image, in all annotations",
            "COCO boxes are in pixels: multiply x and width by the image's width, y and height by "
            "its height.",
        )
    as_corners = sum(
        0 <= x0 < x1 <= width + SLACK and 0 <= y0 < y1 <= height + SLACK
        for (x0, y0, x1, y1), width, height in solid
    )
    outside = sum(_excess(box, width, height) > SLACK for box, width, height in solid)
    if as_corners < _SENSIBLE_AS_CORNERS * len(solid):
        return None
    if outside < max(2, _OUTSIDE_AS_SIZES * len(solid)):
        return None
    return (
        f"annotations[].bbox holds corners [x0, y0, x1, y1], as it seems: {outside} of "
        f"{len(solid)} boxes leave their image as [x, y, width, height], and as corners "
        f"{as_corners} lie inside",
        "COCO boxes are [x, y, width, height]: write [x0, y0, x1 - x0, y1 - y0] for all.",
    )


def tidy_boxes(data: dict) -> list[dict]:
    """The annotations without boxes that have no area, and with boxes cut at the image's border.

    Those that reach beyond it by no more than `SLACK` stay as they are. `coco_problems` names what
    is changed here. ``data`` has passed `validate_coco`; it is not modified.
    """
    sizes = {image["id"]: (image["width"], image["height"]) for image in data["images"]}
    tidy = []
    for annotation in data["annotations"]:
        box = annotation["bbox"]
        if box[2] <= 0 or box[3] <= 0:
            continue
        width, height = sizes[annotation["image_id"]]
        if _excess(box, width, height) > SLACK:
            x0, y0 = max(box[0], 0), max(box[1], 0)
            x1, y1 = min(box[0] + box[2], width), min(box[1] + box[3], height)
            area = {"area": (x1 - x0) * (y1 - y0)} if "area" in annotation else {}
            annotation = annotation | {"bbox": [x0, y0, x1 - x0, y1 - y0]} | area
        tidy.append(annotation)
    return tidy
