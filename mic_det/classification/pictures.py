"""Pictures during training: what teacher and student call the same target images over time."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from detectron2.config import CfgNode

from mic_det.data.catalog import unlabelled_dicts
from mic_det.drawing import image_scale, titled
from mic_det.target_pictures import FOLDER, TargetPictures

from .mapper import SquareMapper

__all__ = ["FOLDER", "ClassPictures", "spread_targets"]

WIDTH = 320  # of a panel, about: a title has room


class ClassPictures(TargetPictures):
    """A row for each image: the image; its masked copy and what the student calls it (with MIC);
    the teacher's pseudo label, with its probability; what the student calls the complete image.

    Args:
        names: of the classes.
        *others, **settings: of `TargetPictures`.
    """

    def __init__(self, *others: Any, names: Sequence[str], **settings: Any) -> None:
        super().__init__(*others, **settings)
        self.names = names

    def panels(self, record: dict[str, Any]) -> list[np.ndarray]:
        plain = {"image": record["image"]}
        image = _enlarged(self.rgb(record["image"]))
        panels = [titled(image, "target image")]
        if self.mask_target is not None:
            (masked,) = self.mask_target([plain])
            shown = _enlarged(self.rgb(masked["image"]))
            panels.append(titled(shown, f"masked: {self._student(masked)}"))
        pseudo = self.trainer.teacher.pseudo_label([plain], update=False)
        title = f"teacher: {self._name(int(pseudo.classes), float(pseudo.quality))}"
        panels.append(titled(image, title))
        panels.append(titled(image, f"student: {self._student(plain)}"))
        return panels

    def _student(self, record: dict[str, Any]) -> str:
        probability, k = self.student([record])[0]["probabilities"].max(-1)
        return self._name(int(k), float(probability))

    def _name(self, k: int, probability: float) -> str:
        return f"{self.names[k]} {probability:.2f}"


def spread_targets(cfg: CfgNode, count: int) -> list[dict[str, Any]]:
    """``count`` images spread evenly over ``DATASETS.TARGET``, as in testing, no labels."""
    records = [record for name in cfg.DATASETS.TARGET for record in unlabelled_dicts(name)]
    step = math.ceil(len(records) / count)
    mapper = SquareMapper.from_config(cfg, is_train=False)
    return [mapper(record) for record in records[::step]]


def _enlarged(image: np.ndarray) -> np.ndarray:
    """A picture of about `WIDTH`; the pixels of a small one stay sharp."""
    scale = image_scale(image, WIDTH)
    size = (round(image.shape[1] * scale), round(image.shape[0] * scale))
    how = cv2.INTER_NEAREST if scale >= 1 else cv2.INTER_AREA
    return cv2.resize(image, size, interpolation=how)
