"""Label images of a domain as plain ones: 8-bit, class ids 0, 1, ..., 255 ignored."""

from __future__ import annotations

import io
import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image

from mic_det.data.errors import DataError, listed
from mic_det.data.files import write_atomically
from mic_det.data.segmentation.coding import IGNORE
from mic_det.data.segmentation.colours import class_colours
from mic_det.data.segmentation.pixel_counts import Progress
from mic_det.data.segmentation.records import label_loader, labelled_seg_dicts, model_classes


def convert_labels(name: str, output: Path, progress: Progress | None = None) -> list[Path]:
    """Write the label images of a domain to ``output``, named as its images, as PNG.

    They are 8-bit palette PNGs: their values are the ids of the domain's classes, and viewers show
    them in colours. With ``labels: output`` and the same classes they need no ``label_map``.

    Args:
        name: a registered domain with labels.
        output: a folder, made if it is not there; files in it are replaced.
        progress: shows how far it is.

    Returns:
        The files, in the order of the images.

    Raises:
        DataError: if label images are broken; the others are written.
    """
    records = labelled_seg_dicts(name)
    reader = label_loader(name)
    palette = _palette(model_classes(name))
    targets = [(output / record["image_id"]).with_suffix(".png") for record in records]
    sources = {
        Path(r[key]).resolve() for r in records for key in ("file_name", "sem_seg_file_name")
    }
    for target in targets:
        if target.resolve() in sources:
            raise DataError(f"{target}: is a file of the domain. Name another folder for --output.")
    if len(set(targets)) < len(targets):
        twice = next(target for target in targets if targets.count(target) > 1)
        raise DataError(f"{twice}: two images have this name but for their suffix. Rename one.")

    def convert(pair: tuple[dict, Path]) -> str | None:
        record, target = pair
        try:
            write_label_png(target, reader(record["sem_seg_file_name"]), palette)
        except DataError as error:
            return str(error)
        return None

    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        found: Iterable = pool.map(convert, zip(records, targets, strict=True))
        faults = list(progress(found, len(records), name) if progress else found)
    broken = [fault for fault in faults if fault is not None]
    if broken:
        raise DataError(listed(broken))
    return targets


def _palette(classes: tuple[str, ...]) -> bytes:
    table = np.zeros((256, 3), np.uint8)
    table[: len(classes)] = class_colours(classes)
    table[IGNORE] = 0
    return table.tobytes()


def write_label_png(path: Path, ids: np.ndarray, palette: bytes) -> None:
    """Write class ids (H, W) uint8 as a palette PNG, atomically."""
    image = Image.fromarray(np.ascontiguousarray(ids, dtype=np.uint8)).convert("L")
    image.putpalette(palette)
    data = io.BytesIO()
    image.save(data, format="PNG")
    write_atomically(path, lambda file: file.write(data.getbuffer()))
