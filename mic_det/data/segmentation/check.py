"""Look at a whole segmentation domain before hours are spent on it: every image and label image."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from mic_det.data.catalog import get_domain, require_domain
from mic_det.data.errors import DataError
from mic_det.data.images import image_size, read_image
from mic_det.data.segmentation.coding import IGNORE
from mic_det.data.segmentation.counting import count_ids
from mic_det.data.segmentation.label_folder import LabelFolder
from mic_det.data.segmentation.pixel_counts import Progress
from mic_det.data.segmentation.records import (
    check_sizes,
    domain_pairs,
    label_loader,
    labelled_seg_dicts,
    model_classes,
)


@dataclass
class SegmentationReport:
    """What was found in a domain with label images.

    Attributes:
        name: of the domain.
        images: images in the folder that fit its pattern.
        labelled_images: images that have a label image.
        files: their paths.
        sizes: images by (width, height) as shown.
        classes: names by id.
        pixels: of each class in all label images, (classes,) int64.
        images_with: images that show the class, (classes,) int64.
        ignored: pixels without a class.
        left_out: classes of the label images that are not among the domain's.
        errors: what makes the domain unusable; file, value and remedy each.
        warnings: what is left out, and what is strange.
    """

    name: str
    images: int = 0
    labelled_images: int = 0
    files: list[str] = field(default_factory=list)
    sizes: Counter[tuple[int, int]] = field(default_factory=Counter)
    classes: tuple[str, ...] = ()
    pixels: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    images_with: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    ignored: int = 0
    left_out: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def check_segmentation_domain(
    name: str, *, decode: bool = True, progress: Progress | None = None
) -> SegmentationReport:
    """Everything about a domain with label images. Problems are reported, not raised.

    Args:
        name: a registered domain with labels.
        decode: read every image in full; without, of images only their size. Label images are
            read in full in either case.
        progress: shows how far the images are.
    """
    report = SegmentationReport(name)
    try:
        domain = get_domain(name)
        labels: LabelFolder = domain.label_folder()
        require_domain(name)
        report.images = len(domain.image_files())
        report.classes = model_classes(name)
        report.left_out = labels.coding.left_out()
        pairs = domain_pairs(name)
        records = labelled_seg_dicts(name)
    except DataError as error:
        report.errors.append(str(error))
        return report
    report.warnings += pairs.notes()
    report.labelled_images = len(records)
    report.files = [record["file_name"] for record in records]
    report.pixels = np.zeros(len(report.classes), np.int64)
    report.images_with = np.zeros(len(report.classes), np.int64)
    empty = _read(records, report, decode, progress)
    _judge(report, empty)
    return report


def _read(
    records: list[dict[str, Any]],
    report: SegmentationReport,
    decode: bool,
    progress: Progress | None,
) -> list[str]:
    """Read all pairs, several at a time; gives the label images without any class."""
    reader = label_loader(report.name)
    empty = []

    def read(record: dict[str, Any]) -> tuple[tuple[int, int], np.ndarray] | str:
        path = Path(record["file_name"])
        try:
            size = read_image(path).shape[1::-1] if decode else image_size(path)
            ids = reader(record["sem_seg_file_name"])
            check_sizes(record, size, ids.shape[::-1])
        except DataError as error:
            return str(error)
        return size, count_ids(ids)

    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        found: Iterable = pool.map(read, records)
        if progress:
            found = progress(found, len(records), report.name)
        for record, each in zip(records, found, strict=True):
            if isinstance(each, str):
                report.errors.append(each)
                continue
            size, counts = each
            report.sizes[size] += 1
            of_classes = counts[: len(report.classes)]
            report.pixels += of_classes
            report.images_with += of_classes > 0
            report.ignored += int(counts[IGNORE])
            if not of_classes.any():
                empty.append(record["sem_seg_file_name"])
    return empty


def _judge(report: SegmentationReport, empty: list[str]) -> None:
    """What the counts tell."""
    name = report.name
    if len(empty) == len(report.errors) + report.labelled_images or (
        empty and not report.pixels.any()
    ):
        report.errors.append(
            f"Domain {name!r}: no pixel of any label image has a class; the first is {empty[0]}. "
            "Check label_map."
        )
        return
    if empty:
        report.warnings.append(
            f"{len(empty)} label images have no pixel of any class (the first: {empty[0]})."
        )
    if report.pixels.any():
        absent = [
            each for each, count in zip(report.classes, report.pixels, strict=True) if not count
        ]
        for each in absent:
            report.warnings.append(
                f"{name}: class {each!r} never occurs. Is its value in label_map right?"
            )
