"""How many pixels each class has in each label image of a data set; counted once and kept."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.utils import comm

from mic_det.data.errors import DataError
from mic_det.data.files import cache_folder, write_text_atomically
from mic_det.data.images import image_size
from mic_det.data.segmentation.counting import count_ids
from mic_det.data.segmentation.records import LabelReaders, check_sizes

logger = logging.getLogger(__name__)

#: Wraps an iterable, given its length and a title: a progress bar.
Progress = Callable[[Iterable, int, str], Iterable]

_VERSION = 3


@dataclass(frozen=True)
class PixelCounts:
    """Pixels of label images.

    Attributes:
        counts: (images, classes) int64; 0 for a label image that cannot be used.
        faults: why a label image cannot be used, by its path: it cannot be read, has a value
            without a meaning, or another size than its image.
    """

    counts: np.ndarray
    faults: dict[str, str]


def pixel_counts(
    records: Sequence[dict[str, Any]], classes: Sequence[str], progress: Progress | None = None
) -> PixelCounts:
    """Pixels of each class of the model in each of the label images.

    They are kept in `cache_folder` until the content of a file, or what its values mean, changes:
    to read all files takes a fiftieth of the time of counting. Of several processes on a machine
    one counts, and the others wait for it.

    Args:
        records: of `labelled_seg_dicts`.
        classes: of the model, by id.
        progress: shows how far the counting is.
    """
    if comm.get_local_rank() != 0:
        comm.synchronize()
    found = _kept_or_counted(records, classes, progress)
    if comm.get_local_rank() == 0:
        comm.synchronize()
    return found


def _kept_or_counted(
    records: Sequence[dict[str, Any]], classes: Sequence[str], progress: Progress | None
) -> PixelCounts:
    readers = LabelReaders()
    path = cache_folder() / f"pixels-{_digest(records, classes, readers)}.json"
    kept = _kept(path, (len(records), len(classes)))
    if kept is not None:
        return kept
    logger.info("Counting the pixels of each class in %d label images: once", len(records))
    found = _count(records, len(classes), readers, progress)
    content = {"counts": found.counts.tolist(), "faults": found.faults}
    try:
        write_text_atomically(path, json.dumps(content | {"checksum": _sha256(content)}))
    except OSError as error:
        logger.warning(
            "%s: cannot be written (%s); they are counted again next time, unless MIC_DET_CACHE is "
            "a folder that can be written",
            *(path, error.strerror or error),
        )
    return found


def _digest(
    records: Sequence[dict[str, Any]], classes: Sequence[str], readers: LabelReaders
) -> str:
    codings = [repr(readers.of(name)) for name in dict.fromkeys(r["domain"] for r in records)]
    with _threads() as pool:
        files = list(pool.map(_state, records))
    return _sha256([_VERSION, list(classes), codings, files])[:24]


def _sha256(content: object) -> str:
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def _threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(min(8, os.cpu_count() or 1))


def _state(record: dict[str, Any]) -> tuple[object, ...]:
    """All that the counts of a label image depend on: its content, and the size of its image."""
    path = record["sem_seg_file_name"]
    try:
        content = hashlib.sha256(Path(path).read_bytes()).hexdigest()
    except OSError:  # reading it again says why
        content = None
    return path, content, record["file_name"], _image_size(record)


def _kept(path: Path, shape: tuple[int, int]) -> PixelCounts | None:
    """What an earlier call wrote; None if there is nothing or it is damaged."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content.pop("checksum") != _sha256(content):
            raise ValueError("changed by another program")
        counts = np.array(content["counts"], dtype=np.int64).reshape(shape)
        return PixelCounts(counts, {str(k): str(v) for k, v in content["faults"].items()})
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        logger.warning("%s: is damaged or was edited; the pixels are counted again", path)
        return None


def _count(
    records: Sequence[dict[str, Any]],
    classes: int,
    readers: LabelReaders,
    progress: Progress | None,
) -> PixelCounts:
    def count(record: dict[str, Any]) -> np.ndarray | str:
        try:
            ids = readers(record)
            size = _image_size(record)
            if size is not None:
                check_sizes(record, size, ids.shape[::-1])
            return count_ids(ids)[:classes]
        except DataError as error:
            return str(error)

    for name in dict.fromkeys(record["domain"] for record in records):
        readers.of(name)  # made here, not by several threads at once
    counts = np.zeros((len(records), classes), np.int64)
    faults = {}
    with _threads() as pool:
        found: Iterable = pool.map(count, records)
        if progress:
            found = progress(found, len(records), "pixels of each class")
        for k, each in enumerate(found):
            if isinstance(each, str):
                faults[records[k]["sem_seg_file_name"]] = each
            else:
                counts[k] = each
    return PixelCounts(counts, faults)


def _image_size(record: dict[str, Any]) -> tuple[int, int] | None:
    """(width, height); None for an image that cannot be read, which is no fault of its label."""
    try:
        return image_size(Path(record["file_name"]))
    except DataError:
        return None
