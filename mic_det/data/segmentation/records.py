"""Labelled images of a domain as Detectron2 dicts, and the reader of its label images."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.data import DatasetCatalog, MetadataCatalog

from mic_det.data.catalog import get_domain, is_domain, require_domain, say_once, trained_classes
from mic_det.data.errors import DataError
from mic_det.data.mapper import check_size
from mic_det.data.segmentation.coding import IGNORE, plain_coding
from mic_det.data.segmentation.label_files import LabelReader
from mic_det.data.segmentation.label_folder import LabelFolder, Pairs, pair_labels


def labelled_seg_dicts(name: str) -> list[dict[str, Any]]:
    """The images of a domain that have a label image, as Detectron2 dicts, sorted by path.

    Each has ``file_name``, ``image_id`` (path relative to the folder of images),
    ``sem_seg_file_name`` and ``domain`` (the name). No image is opened.

    Raises:
        DataError: if the domain is unknown or has no labels, or no image has a label.
    """
    if not is_domain(name) and name in DatasetCatalog:
        return _of_detectron2(name)
    pairs = domain_pairs(name)
    for note in pairs.notes():
        say_once(logging.WARNING, f"{name}: {note}")
    folder = get_domain(name).folder()
    return [
        {
            "file_name": str(image),
            "image_id": image.relative_to(folder).as_posix(),
            "sem_seg_file_name": str(label),
            "domain": name,
        }
        for image, label in pairs.label_of.items()
    ]


def domain_pairs(name: str) -> Pairs:
    """Images and label images of a labelled domain of mic_det; raises as `labelled_seg_dicts`.

    Where a pattern or a list takes a part of the images, labels of the others are not reported.
    """
    domain = get_domain(name)
    labels = domain.label_folder()
    require_domain(name)
    pairs = pair_labels(domain.folder(), domain.image_files(), labels)
    return pairs if domain.is_whole_folder else replace(pairs, unused=[])


def _of_detectron2(name: str) -> list[dict[str, Any]]:
    """Dicts of a data set that is registered with Detectron2 alone."""
    try:
        dicts = DatasetCatalog.get(name)
    except Exception as error:  # loaders of others raise anything
        raise DataError(
            f"{name}: registered with Detectron2, whose loader fails: {error!r}. Put the data "
            "where it looks for them, or register them with mic_det.data.register_segmentation."
        ) from error
    if not dicts or any("sem_seg_file_name" not in record for record in dicts):
        raise DataError(
            f"{name}: registered with Detectron2, but its images have no 'sem_seg_file_name', so "
            "it is no data set for segmentation. Use mic_det.data.register_segmentation."
        )
    return [record | {"domain": name} for record in dicts]


def own_classes(name: str) -> tuple[str, ...]:
    """Classes that the labels of a domain keep; no file is read.

    Raises:
        DataError: if the domain is unknown or has no labels.
    """
    return _label_folder(name).coding.classes


def model_classes(name: str) -> tuple[str, ...]:
    """Classes that ids of this domain stand for: the model's, or, if it has none yet, its own."""
    return trained_classes(name) or own_classes(name)


def _label_folder(name: str) -> LabelFolder:
    if is_domain(name) or name not in DatasetCatalog:
        return get_domain(name).label_folder()
    metadata = MetadataCatalog.get(name)
    classes = metadata.get("stuff_classes")
    if classes is None:
        raise DataError(
            f"{name}: registered with Detectron2, but its metadata lack 'stuff_classes'. Use "
            "mic_det.data.register_segmentation for it."
        )
    return LabelFolder(Path(), plain_coding(classes, metadata.get("ignore_label", IGNORE)))


def label_loader(name: str) -> LabelReader:
    """A function ``(path, dtype=np.uint8)`` that reads a label image of this domain.

    It gives (H, W) ids of the model's classes (of `check_segmentation`; before that of the
    domain's own) and `IGNORE`. It is what ``SemSegEvaluator`` takes as ``sem_seg_loading_fn``.

    Raises:
        DataError: if the domain is unknown or has no labels; from the function, if the file is
            broken or holds a value without a meaning.
    """
    return LabelReader(_label_folder(name), trained_classes(name))


class LabelReaders:
    """Readers of several domains, made when they are first needed."""

    def __init__(self) -> None:
        self._by_name: dict[str, LabelReader] = {}

    def of(self, name: str) -> LabelReader:
        """The reader of a domain."""
        if name not in self._by_name:
            self._by_name[name] = label_loader(name)
        return self._by_name[name]

    def __call__(self, record: Mapping[str, Any]) -> np.ndarray:
        """The label image of a dict of `labelled_seg_dicts`, (H, W) uint8 ids."""
        return self.of(record["domain"])(record["sem_seg_file_name"])


def check_sizes(record: Mapping[str, Any], image: tuple[int, int], label: tuple[int, int]) -> None:
    """Raise DataError unless an image and its label image have one size (width, height)."""
    if image == label:
        return check_size(Path(record["file_name"]), image, dict(record))
    raise DataError(
        f"{record['sem_seg_file_name']}: is {label[0]}x{label[1]}, but its image "
        f"{record['file_name']} is {image[0]}x{image[1]}. Pair the image with its own label, or "
        "bring the label to the image's size (nearest neighbour, so that values stay)."
    )
