"""Names of a model's classes, from the metadata of the data sets that it is trained on."""

from __future__ import annotations

from collections.abc import Sequence

from detectron2.data import DatasetCatalog, MetadataCatalog

from mic_det.data.catalog import labelled_dicts
from mic_det.data.formats.coco import DataError


def class_names(datasets: Sequence[str], count: int) -> list[str]:
    """Names of ``count`` classes, from the first of ``datasets`` that has that many; else empty.

    The metadata are enough where they name the classes; otherwise the data set's annotations are
    read, if they are there.
    """
    for name in datasets:
        for read in (False, True) if name in DatasetCatalog else ():
            found = _of_data_set(name, read)
            if found is not None and len(found) == count:
                return found
    return []


def numbered(count: int) -> list[str]:
    """Names for classes of which none is known: "class 0", "class 1", …"""
    return [f"class {k}" for k in range(count)]


def _of_data_set(name: str, read: bool) -> list[str] | None:
    if read:
        try:
            labelled_dicts(name)
        except DataError:
            return None
    found = MetadataCatalog.get(name).get("thing_classes")
    return None if found is None else list(found)
