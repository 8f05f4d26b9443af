"""Pictures during training: what teacher and student make of the same target images over time."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode

from mic_det.data.segmentation import SegmentationMapper, unlabelled_dicts
from mic_det.drawing import titled
from mic_det.target_pictures import FOLDER, TargetPictures

from .drawing import Colour, legend, overlay
from .losses import IGNORED

__all__ = ["FOLDER", "LabelMapPictures", "spread_targets"]


class LabelMapPictures(TargetPictures):
    """A row for each image: the image; its masked copy as the student labels it (with MIC); the
    teacher's pseudo labels; the student's labels of the complete image. Below, the classes.

    Args:
        names, colours: of the classes.
        *others, **settings: of `TargetPictures`.
    """

    def __init__(
        self, *others: Any, names: Sequence[str], colours: Sequence[Colour], **settings: Any
    ) -> None:
        super().__init__(*others, **settings)
        self.names = names
        self.colours = colours

    def foot(self, width: int) -> list[np.ndarray]:
        return [legend(self.names, self.colours, width)]

    def panels(self, record: dict[str, Any]) -> list[np.ndarray]:
        plain = {"image": record["image"]}  # labels in the network's own pixels
        image = self.rgb(record["image"])
        panels = [titled(image, "target image")]
        if self.mask_target is not None:
            (masked,) = self.mask_target([plain])
            found = self._labels(masked)
            panels.append(titled(self._draw(self.rgb(masked["image"]), found), "masked: student"))
        pseudo = self.trainer.teacher.pseudo_label([plain], update=False)
        labels = torch.where(pseudo.weight[0] > 0, pseudo.labels[0], IGNORED).cpu().numpy()
        title = f"teacher: weight {float(pseudo.weight[0].mean()):.2f}"
        panels.append(titled(self._draw(image, labels), title))
        panels.append(titled(self._draw(image, self._labels(plain)), "student"))
        return panels

    def _labels(self, record: dict[str, Any]) -> np.ndarray:
        return self.student([record])[0]["sem_seg"].argmax(0).cpu().numpy()

    def _draw(self, image: np.ndarray, labels: np.ndarray) -> np.ndarray:
        return overlay(image, labels, self.colours)


def spread_targets(cfg: CfgNode, count: int) -> list[dict[str, Any]]:
    """``count`` images spread evenly over ``DATASETS.TARGET``, at test size, no labels."""
    dicts = [record for name in cfg.DATASETS.TARGET for record in unlabelled_dicts(name)]
    step = max(1, math.ceil(len(dicts) / count))
    mapper = SegmentationMapper(cfg, is_train=False)
    return [mapper(record) for record in dicts[::step]]
