"""From a dataset dict to a segmentation model's input."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode, configurable
from detectron2.data import transforms as T

from mic_det.data.augmentation import colour_jitter
from mic_det.data.errors import DataError
from mic_det.data.images import read_image
from mic_det.data.segmentation.coding import IGNORE
from mic_det.data.segmentation.crop import labelled_window, random_window
from mic_det.data.segmentation.records import LabelReaders, check_sizes


class SegmentationMapper:
    """Reads an image and, in training on a labelled one, its label image; augments both alike.

    Args:
        is_train: crop, flip and jitter, and read the labels of records that have them.
        image_format: "RGB" or "BGR".
        min_size: lengths of the shorter side in pixels, one drawn for each image (``sample_style``
            "choice"; "range": between two); () or 0: images keep their size.
        max_size: of the longer side; it wins over ``min_size``.
        sample_style: see ``min_size``.
        crop: height and width of the training window; None: the complete image. Smaller images are
            filled up at the right and below.
        largest_share: see `labelled_window`.
        wanted_pixels: that a window should have of the record's ``wanted_class``, if it has one.
        flip: "none", "horizontal" or "vertical", half of the time.
        jitter: see ``INPUT.COLOR_JITTER``.
        filling: colour of what is filled up, in ``image_format``; its label is `IGNORE`.
    """

    @configurable
    def __init__(
        self,
        *,
        is_train: bool,
        image_format: str = "BGR",
        min_size: Sequence[int] | int = (),
        max_size: int = 1 << 30,
        sample_style: str = "choice",
        crop: tuple[int, int] | None = None,
        largest_share: float = 1.0,
        wanted_pixels: int = 0,
        flip: str = "horizontal",
        jitter: float = 0.0,
        filling: Sequence[float] = (0.0, 0.0, 0.0),
    ) -> None:
        self.is_train = is_train
        self.image_format = image_format
        self.crop = crop if is_train else None
        self.largest_share = largest_share
        self.wanted_pixels = wanted_pixels
        self.filling = np.array(filling).round().astype(np.uint8)
        sizes = [min_size] if isinstance(min_size, int) else list(min_size)
        resizes = any(sizes)
        self._resize = T.AugmentationList(
            [T.ResizeShortestEdge(sizes, max_size, sample_style)] if resizes else []
        )
        after: list[T.Augmentation] = []
        if is_train and flip != "none":
            after.append(T.RandomFlip(horizontal=flip == "horizontal", vertical=flip == "vertical"))
        self._after_crop = T.AugmentationList(after + (colour_jitter(jitter) if is_train else []))
        self._read_labels = LabelReaders()

    @classmethod
    def from_config(
        cls, cfg: CfgNode, is_train: bool = True, target: bool = False
    ) -> dict[str, Any]:
        """Sizes, crop, flip and jitter as ``INPUT`` says; ``target`` takes the target's sizes."""
        given = cfg.INPUT
        if not is_train:
            return {
                "is_train": False,
                "image_format": given.FORMAT,
                "min_size": given.MIN_SIZE_TEST,
                "max_size": given.MAX_SIZE_TEST,
            }
        rare = cfg.DATALOADER.RARE_CLASSES
        return {
            "is_train": True,
            "image_format": given.FORMAT,
            "min_size": (target and given.MIN_SIZE_TARGET) or given.MIN_SIZE_TRAIN,
            "max_size": (target and given.MAX_SIZE_TARGET) or given.MAX_SIZE_TRAIN,
            "sample_style": given.MIN_SIZE_TRAIN_SAMPLING,
            "crop": tuple(map(int, given.CROP.SIZE)) if given.CROP.ENABLED else None,
            "largest_share": given.CROP.SINGLE_CATEGORY_MAX_AREA,
            "wanted_pixels": round(rare.MIN_PIXELS * rare.MIN_CROP_SHARE),
            "flip": given.RANDOM_FLIP,
            "jitter": given.COLOR_JITTER,
            "filling": cfg.MODEL.PIXEL_MEAN,
        }

    def __call__(self, record: dict[str, Any]) -> dict[str, Any]:
        """Input dict of a dataset dict.

        Returns:
            ``file_name``, ``image_id``, ``height`` and ``width`` (of the file), ``image``
            (3, H, W) uint8 in ``INPUT.FORMAT``, and in training, if the record has
            ``sem_seg_file_name``, ``sem_seg`` (H, W) int64 with `IGNORE`. In training all have
            the size of the crop; where it was filled up, ``shown`` (h, w) is the image's part.

        Raises:
            DataError: if a file is missing or broken, or the two differ in size.
        """
        image, ids = self._read(record)
        mapped = {key: record[key] for key in ("file_name", "image_id") if key in record}
        mapped["height"], mapped["width"] = image.shape[:2]
        picture = T.AugInput(image, sem_seg=ids)
        self._resize(picture)
        if self.crop is not None:
            self._cut(picture, record.get("wanted_class"))
        self._after_crop(picture)
        if self.crop is not None and picture.image.shape[:2] != self.crop:
            mapped["shown"] = picture.image.shape[:2]
            self._fill_up(picture)
        pixels = np.ascontiguousarray(picture.image.transpose(2, 0, 1))
        mapped["image"] = torch.from_numpy(pixels)
        if ids is not None:
            labels = np.ascontiguousarray(picture.sem_seg).astype(np.int64)
            mapped["sem_seg"] = torch.from_numpy(labels)
        return mapped

    def why_unreadable(self, record: dict[str, Any]) -> str | None:
        """Why a record's image or label image cannot be read; None if both can."""
        try:
            self._read(record)
        except DataError as error:
            return " ".join(str(error).removeprefix(f"{record['file_name']}: ").split())
        return None

    def _read(self, record: dict[str, Any]) -> tuple[np.ndarray, np.ndarray | None]:
        """The image (H, W, 3), and its ids (H, W) uint8 if they are wanted."""
        image = read_image(Path(record["file_name"]), self.image_format)
        if not self.is_train or "sem_seg_file_name" not in record:
            return image, None
        ids = self._read_labels(record)
        check_sizes(record, image.shape[1::-1], ids.shape[::-1])
        return image, ids

    def _cut(self, picture: T.AugInput, wanted: int | None) -> None:
        height, width = self.crop
        ids = picture.sem_seg
        if ids is None:
            window = random_window(picture.image.shape[:2], self.crop)
        else:
            window = labelled_window(ids, self.crop, self.largest_share, wanted, self.wanted_pixels)
        inside = (slice(window[0], window[0] + height), slice(window[1], window[1] + width))
        picture.image = picture.image[inside]
        if ids is not None:
            picture.sem_seg = ids[inside]

    def _fill_up(self, picture: T.AugInput) -> None:
        picture.image = self._filled(picture.image, self.filling)
        if picture.sem_seg is not None:
            picture.sem_seg = self._filled(picture.sem_seg, np.uint8(IGNORE))

    def _filled(self, array: np.ndarray, value: np.ndarray) -> np.ndarray:
        """The array brought to the crop's size with ``value`` at the right and below."""
        full = np.empty((*self.crop, *array.shape[2:]), array.dtype)
        full[...] = value
        full[: array.shape[0], : array.shape[1]] = array
        return full
