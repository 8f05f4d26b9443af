"""Which classes of an annotation file are kept, and under which names and ids."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mic_det.data.errors import DataError
from mic_det.data.formats.coco import tidy_boxes


@dataclass(frozen=True)
class ClassChoice:
    """What a domain was told about classes.

    Attributes:
        classes: names to keep, after aliases; None keeps all.
        aliases: what a class of the file is called here.
        trained: classes of the model, in the order of its outputs. A class that is kept and not
            among them is an error. None: the model's classes are those kept.
        complete: whether the file lists all classes there are; if not (Pascal VOC names those
            that occur), a class to keep may be absent.
    """

    classes: tuple[str, ...] | None = None
    aliases: Mapping[str, str] = field(default_factory=dict)
    trained: tuple[str, ...] | None = None
    complete: bool = True


@dataclass(frozen=True)
class Selection:
    """A COCO file narrowed down to some classes and images.

    Attributes:
        data: COCO content; its category ids ascend in the order of ``classes``. That order is
            what Detectron2's evaluator relies on when it puts names to the per-class results.
        classes: class names, in the order of the contiguous ids 0, 1, ...
        category_ids: the id in ``data`` of each class.
        left_out: annotations left out, by category name.
        notes: what else the user should know, a sentence each.
        changed: whether ``data`` differs from the file as it lies on disk.
    """

    data: dict
    classes: tuple[str, ...]
    category_ids: tuple[int, ...]
    left_out: dict[str, int]
    notes: tuple[str, ...]
    changed: bool


def select(
    data: dict,
    source: Path,
    choice: ClassChoice | None = None,
    keeps: Callable[[str], bool] = lambda file_name: True,
) -> Selection:
    """Keep the chosen classes, in their order, and the chosen images.

    Categories are matched by name; ids and order of the file mean nothing. What COCO's evaluation
    needs and files in the field lack is filled in: ``area``, ``iscrowd``, and annotation ids other
    than 0 (pycocotools takes a match with id 0 for no match). Boxes are tidied (`tidy_boxes`).

    Args:
        data: content checked by `validate_coco`; it is not modified.
        source: its path, for messages.
        choice: the classes; by default all, in ascending order of their ids.
        keeps: whether an image is kept, by its ``file_name``.

    Raises:
        DataError: if a class to keep is not in the file, a class kept is none of the model's, or
            no image is kept.
    """
    choice = choice or ClassChoice()
    in_file = {c["id"]: c["name"] for c in sorted(data["categories"], key=lambda c: c["id"])}
    name_of = {number: choice.aliases.get(name, name) for number, name in in_file.items()}
    images = [image for image in data["images"] if keeps(image["file_name"])]
    if not images:
        raise DataError(
            f"{source}: images: lists no image{' of the domain' if data['images'] else ''}. "
            "Check the file, pattern and image_list."
        )
    kept_images = {image["id"] for image in images}
    inside = [a for a in tidy_boxes(data) if a["image_id"] in kept_images]
    counts = Counter(name_of[a["category_id"]] for a in inside)

    notes = _alias_notes(choice.aliases, in_file, source)
    chosen = kept = _kept(choice, name_of, source, notes)
    if choice.trained is not None:
        kept = _fitted(choice, chosen, counts, source)

    same_classes = kept == tuple(in_file.values())
    number_of = {n: i for i, n in in_file.items()} if same_classes else _numbered(kept)
    wanted = set(chosen) & set(kept)
    annotations = [a for a in inside if name_of[a["category_id"]] in wanted]
    renumber = not all(a.get("id") for a in annotations)
    annotations = [
        _complete(a, number_of[name_of[a["category_id"]]], number if renumber else a["id"])
        for number, a in enumerate(annotations, 1)
    ]
    changed = (
        not same_classes
        or len(images) != len(data["images"])
        or annotations != data["annotations"]
        or "info" not in data  # some releases of pycocotools fail without
    )
    result = {
        "info": data.get("info", {}),
        "images": images,
        "annotations": annotations,
        "categories": [{"id": number_of[name], "name": name} for name in kept],
    }
    left_out = {name: count for name, count in counts.items() if name not in wanted}
    category_ids = tuple(number_of[name] for name in kept)
    return Selection(result, kept, category_ids, left_out, tuple(notes), changed)


def _numbered(names: Sequence[str]) -> dict[str, int]:
    return {name: number for number, name in enumerate(names, 1)}


def _alias_notes(aliases: Mapping[str, str], in_file: dict[int, str], source: Path) -> list[str]:
    """Aliases of classes that the file does not have: perhaps another file's, perhaps misspelt."""
    return [
        f"{source}: aliases: has no class {name!r}{_close(name, in_file.values())}; "
        "this alias does nothing."
        for name in aliases
        if name not in in_file.values()
    ]


def _close(name: str, known: Sequence[str]) -> str:
    by_lower = {each.lower(): each for each in known}
    match = difflib.get_close_matches(name.lower(), by_lower, n=1)
    return f" (did you mean {by_lower[match[0]]!r}?)" if match else ""


def _kept(
    choice: ClassChoice, name_of: dict[int, str], source: Path, notes: list[str]
) -> tuple[str, ...]:
    """Names to keep, in their order."""
    here = tuple(dict.fromkeys(name_of.values()))
    if choice.classes is None:
        return here
    absent = [name for name in choice.classes if name not in here]
    if absent and (choice.complete or len(absent) == len(choice.classes)):
        raise DataError(
            f"{source}: categories: has no class "
            f"{', '.join(repr(name) + _close(name, here) for name in absent)}; "
            f"it has {', '.join(map(repr, here))}. Name classes of this file, or say with "
            "aliases what they are called in it."
        )
    if absent:
        names = ", ".join(map(repr, absent))
        notes.append(f"{source}: no box of class {names}; it has {', '.join(map(repr, here))}.")
    return choice.classes


def _fitted(
    choice: ClassChoice, kept: tuple[str, ...], counts: Counter[str], source: Path
) -> tuple[str, ...]:
    """The model's classes, if all that is kept is among them."""
    trained = choice.trained
    # A class that is listed in the file but has no box loses nothing.
    strange = [n for n in kept if n not in trained and (counts[n] or choice.classes is not None)]
    if not strange:
        return trained
    named = ", ".join(f"{n!r} ({counts[n]} boxes){_close(n, trained)}" for n in strange)
    keep = ", ".join(n for n in kept if n in trained) or trained[0]
    raise DataError(
        f"{source}: categories: {named}: no class of the model, which has "
        f"{', '.join(map(repr, trained))}. Where this domain is registered, say what it is called "
        f"there (aliases: {{{strange[0]}: {trained[0]}}}), or list the classes to keep and so "
        f"leave it out (classes: [{keep}])."
    )


def _complete(annotation: dict, category_id: int, number: int) -> dict:
    area = annotation["bbox"][2] * annotation["bbox"][3]
    return {
        "area": area,
        "iscrowd": 0,
        **annotation,
        "id": number,
        "category_id": category_id,
    }
