"""Labelled images of a domain as Detectron2 dicts, and the reader of its label images."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np


def labelled_seg_dicts(name: str) -> list[dict[str, Any]]:
    """The images of a domain that have a label image, as Detectron2 dicts, sorted by path.

    Each has ``file_name``, ``image_id`` (path relative to the folder of images),
    ``sem_seg_file_name`` and ``domain`` (the name). No image is opened.

    Raises:
        DataError: if the domain is unknown or has no labels, or no image has a label.
    """
    raise NotImplementedError


def label_loader(name: str) -> Callable[..., np.ndarray]:
    """A function ``(path, dtype=np.uint8)`` that reads a label image of this domain.

    It gives (H, W) ids of the model's classes (of `check_segmentation`; before that of the
    domain's own) and `IGNORE`. It is what ``SemSegEvaluator`` takes as ``sem_seg_loading_fn``.

    Raises:
        DataError: (from the function) if the file is broken or holds a value without a meaning.
    """
    raise NotImplementedError
