"""From a dataset dict to a model's input, for images of every kind."""

from __future__ import annotations

import copy
import functools
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.config import configurable
from detectron2.data import DatasetMapper
from detectron2.data import transforms as T

from mic_det.data.errors import DataError
from mic_det.data.images import image_size, read_image, turned_hint
from mic_det.data.resized import ResizedImages


class DomainMapper(DatasetMapper):
    """Detectron2's mapper for boxes, with `read_image` of mic_det.

    So 16-bit and EXIF-turned images are read alike with every copy of Detectron2, and a broken
    image ends in a `DataError` that names it.

    Args:
        resized: keeps resized images on disk; None: every image is read and resized each time.
        **mapper: see Detectron2's `DatasetMapper`.
    """

    @configurable
    def __init__(self, *, resized: ResizedImages | None = None, **mapper: Any) -> None:
        super().__init__(**mapper)
        self.resized = resized

    def __call__(self, dataset_dict: dict[str, Any]) -> dict[str, Any]:
        """Input dict with ``image`` (C, H, W) uint8 and, in training on labels, ``instances``.

        Args:
            dataset_dict: ``file_name``; with labels ``height``, ``width`` and ``annotations``.

        Raises:
            DataError: if the image is missing or broken or has another size than it is said to.
        """
        record = copy.deepcopy(dataset_dict)
        path = Path(record["file_name"])
        image, transforms = self._augmented(path, record)
        record["image"] = torch.as_tensor(np.ascontiguousarray(image.transpose(2, 0, 1)))
        if not self.is_train:
            record.pop("annotations", None)
        elif "annotations" in record:
            self._transform_annotations(record, transforms, image.shape[:2])
        return record

    def _augmented(self, path: Path, record: dict[str, Any]) -> tuple[np.ndarray, T.Transform]:
        if self.resized is None:
            image = read_image(path, self.image_format)
            width, height = image.shape[1::-1]
        else:
            width, height = image_size(path)
        check_size(path, (width, height), record)
        record.update(height=height, width=width)
        if self.resized is None:
            picture = T.AugInput(image)
            transforms = self.augmentations(picture)
            return picture.image, transforms
        read = functools.partial(read_image, path, self.image_format)
        return self.resized.augment(path, (height, width), self.augmentations, read)


def check_size(path: Path, shown: tuple[int, int], record: dict[str, Any]) -> None:
    """Raise DataError unless an image's width and height, as shown, are those of its record."""
    stated = (record.get("width", shown[0]), record.get("height", shown[1]))
    if tuple(stated) == tuple(shown):
        return
    raise DataError(
        f"{path}: is {shown[0]}x{shown[1]}, but its annotations say {stated[0]}x{stated[1]} "
        f"(image id {record.get('image_id')!r}). {turned_hint(stated, shown)}Restore the image "
        "that was labelled, or correct its size and boxes in the annotations."
    )
