"""From a dataset dict to a segmentation model's input."""

from __future__ import annotations

from typing import Any

from detectron2.config import CfgNode


class SegmentationMapper:
    """Reads an image and, in training on a labelled one, its label image; augments both alike."""

    @classmethod
    def from_config(
        cls, cfg: CfgNode, is_train: bool = True, target: bool = False
    ) -> SegmentationMapper:
        """Sizes, crop, flip and jitter as ``INPUT`` says; ``target`` takes the target's sizes."""
        raise NotImplementedError

    def __call__(self, record: dict[str, Any]) -> dict[str, Any]:
        """Input dict of a dataset dict.

        Returns:
            ``file_name``, ``image_id``, ``height`` and ``width`` (of the file), ``image``
            (3, H, W) uint8 in ``INPUT.FORMAT``, and in training, if the record has
            ``sem_seg_file_name``, ``sem_seg`` (H, W) int64 with `IGNORE`. In training all have
            the size of the crop.

        Raises:
            DataError: if a file is missing or broken, or the two differ in size.
        """
        raise NotImplementedError
