"""Look at a whole domain before hours are spent on it: every image, every box, every file."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from mic_det.data.catalog import get_domain, load_labels, require_domain
from mic_det.data.classification.folders import (
    class_names_of,
    image_counts,
    is_class_folders,
    notes_on,
)
from mic_det.data.errors import DataError
from mic_det.data.images import read_image
from mic_det.data.mapper import check_size

#: Wraps an iterable, given its length and a title: a progress bar.
Progress = Callable[[Iterable, int, str], Iterable]


@dataclass
class DomainReport:
    """What was found in a domain.

    Attributes:
        name: of the domain.
        labelled: whether it was registered with annotations.
        images: images in the folder that fit its pattern.
        labelled_images: images that its annotations list.
        files: paths of the images that have labels, or a class.
        sizes: images read, by (width, height) as shown.
        classes: names in the order of the contiguous ids.
        images_with: images that have a box of the class, by class.
        sides: of each box, the side in pixels of a square of its area; (N,) by class.
        boxes_per_image: boxes of each labelled image.
        left_out: boxes of classes that are not among those the domain was registered with.
        errors: what makes the domain unusable; file, record and remedy each.
        warnings: what is put right or left out, and what is strange.
    """

    name: str
    labelled: bool = False
    images: int = 0
    labelled_images: int = 0
    files: list[str] = field(default_factory=list)
    sizes: Counter[tuple[int, int]] = field(default_factory=Counter)
    classes: list[str] = field(default_factory=list)
    images_with: dict[str, int] = field(default_factory=dict)
    sides: dict[str, np.ndarray] = field(default_factory=dict)
    boxes_per_image: list[int] = field(default_factory=list)
    left_out: dict[str, int] = field(default_factory=dict)
    errors: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    @property
    def boxes(self) -> dict[str, int]:
        """Boxes by class."""
        return {name: len(sides) for name, sides in self.sides.items()}


def check_domain(
    name: str, *, labels: bool = True, decode: bool = True, progress: Progress | None = None
) -> DomainReport:
    """Everything about a domain. Problems are reported, not raised.

    Args:
        name: a registered domain.
        labels: check its annotations too, if it has any.
        decode: read every image in full; without, only list them.
        progress: shows how far the images are.
    """
    report = DomainReport(name)
    try:
        domain = get_domain(name)
        require_domain(name, labelled=False)
        paths = domain.image_files()
    except DataError as error:
        report.errors.append(str(error))
        return report
    report.images = len(paths)
    report.labelled = labels and domain.annotations is not None
    records = _read_labels(name, report) if report.labelled else {}
    if labels and is_class_folders(name):
        _count_classes(name, report)
        report.files = [str(path) for path in paths]
    if decode:
        _read_images(paths, records, report, progress)
    without = sum(str(path) not in records for path in paths)
    if records and without:
        report.warnings.append(
            f"{domain.folder()}: {without} of {len(paths)} images are not in the annotations: they "
            "are used where the domain is a target, not where it is a source or evaluated."
        )
    return report


def _read_labels(name: str, report: DomainReport) -> dict[str, dict[str, Any]]:
    """Dataset dicts by file name; none if the annotations are broken."""
    try:
        records, selection = load_labels(name)
    except DataError as error:
        report.errors.append(str(error))
        return {}
    report.warnings += selection.notes
    report.left_out = selection.left_out
    report.classes = list(selection.classes)
    report.labelled_images = len(records)
    report.files = [record["file_name"] for record in records]
    sides: dict[int, list[float]] = {k: [] for k in range(len(report.classes))}
    images_with: Counter[int] = Counter()
    for record in records:
        for each in record["annotations"]:
            sides[each["category_id"]].append((each["bbox"][2] * each["bbox"][3]) ** 0.5)
        images_with.update({each["category_id"] for each in record["annotations"]})
        report.boxes_per_image.append(len(record["annotations"]))
    for k, each in enumerate(report.classes):
        report.sides[each] = np.array(sides[k])
        report.images_with[each] = images_with[k]
        if not sides[k]:
            report.warnings.append(f"{name}: class {each!r} has no box. Is it called otherwise?")
    return {record["file_name"]: record for record in records}


def _count_classes(name: str, report: DomainReport) -> None:
    """Images by class of a domain of class folders."""
    try:
        counts = image_counts(name)
        report.classes = class_names_of(name)
    except DataError as error:
        report.errors.append(str(error))
        return
    report.images_with = dict(counts)
    report.warnings += [f"{name}: {note}" for note in notes_on(counts, report.classes)]


def _read_images(
    paths: list[Path],
    records: dict[str, dict[str, Any]],
    report: DomainReport,
    progress: Progress | None,
) -> None:
    """Decode all images, several at a time, and compare their sizes with the annotations'."""

    def read(path: Path) -> tuple[int, int] | str:
        try:
            height, width, _ = read_image(path).shape
            if str(path) in records:
                check_size(path, (width, height), records[str(path)])
        except DataError as error:
            return str(error)
        return width, height

    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        found: Iterable = pool.map(read, paths)
        for size in progress(found, len(paths), report.name) if progress else found:
            if isinstance(size, str):
                report.errors.append(size)
            else:
                report.sizes[size] += 1
