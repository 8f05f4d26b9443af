"""Pictures during training: what teacher and student make of the same target images over time."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.config import CfgNode
from detectron2.engine import HookBase
from detectron2.utils import comm
from torch import nn

from mic_det.core import MaskedView
from mic_det.data.catalog import unlabelled_dicts
from mic_det.data.class_names import class_names
from mic_det.data.mapper import DomainMapper
from mic_det.drawing import image_scale, titled
from mic_det.target_pictures import FOLDER, TargetPictures

from .visualise import detect, draw_boxes


class AdaptationPictures(TargetPictures):
    """A row for each image: the image; its masked copy with what the student detects on it (with
    MIC); the teacher's pseudo boxes; the student's detections on the complete image.

    Args:
        names: of the classes.
        label_threshold: score from which on a detection of the teacher is a pseudo label.
        draw_threshold: score from which on the student's detections are drawn.
        *others, **settings: of `TargetPictures`.
    """

    def __init__(
        self,
        *others: Any,
        names: Sequence[str],
        label_threshold: float,
        draw_threshold: float = 0.5,
        **settings: Any,
    ) -> None:
        super().__init__(*others, **settings)
        self.names = names
        self.label_threshold = label_threshold
        self.draw_threshold = draw_threshold

    @classmethod
    def from_config(cls, cfg: CfgNode, student: nn.Module) -> AdaptationPictures:
        """As ``VIS_PERIOD`` and ``VIS_IMAGES`` say, in ``OUTPUT_DIR/pictures``."""
        return cls(
            student,
            lambda: _spread_targets(cfg),
            MaskedView.from_config(cfg) if cfg.MODEL.MIC.ENABLED else None,
            names=class_names(
                (*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST), cfg.MODEL.ROI_HEADS.NUM_CLASSES
            ),
            label_threshold=cfg.MODEL.MIC.SCORE_THRESH,
            folder=Path(cfg.OUTPUT_DIR) / FOLDER,
            period=cfg.VIS_PERIOD,
            channels=cfg.INPUT.FORMAT,
        )

    def panels(self, record: dict[str, Any]) -> list[np.ndarray]:
        plain = {"image": record["image"]}  # detections in the network's own coordinates
        (pseudo,) = self.trainer.teacher.pseudo_label([plain], update=False)
        pseudo = pseudo[pseudo.gt_scores >= self.label_threshold].to("cpu")
        image = self.rgb(record["image"])
        panels = [titled(self._draw(image), "target image")]
        if self.mask_target is not None:
            (masked,) = self.mask_target([plain])
            found = detect(self.student, masked, self.draw_threshold)
            drawn = self._draw_found(self.rgb(masked["image"]), found)
            panels.append(titled(drawn, f"masked copy: student finds {len(found)}"))
        labels = (pseudo.gt_boxes.tensor.numpy(), pseudo.gt_classes, pseudo.gt_scores.tolist())
        title = f"teacher: {len(pseudo)} pseudo boxes >= {self.label_threshold:g}"
        panels.append(titled(self._draw(image, *labels), title))
        found = detect(self.student, plain, self.draw_threshold)
        title = f"student: {len(found)} detections >= {self.draw_threshold:g}"
        panels.append(titled(self._draw_found(image, found), title))
        return panels

    def _draw_found(self, image: np.ndarray, found: Any) -> np.ndarray:
        boxes = found.pred_boxes.tensor.numpy()
        return self._draw(image, boxes, found.pred_classes, found.scores.tolist())

    def _draw(
        self, image: np.ndarray, boxes: Any = (), classes: Any = (), scores: Any = ()
    ) -> np.ndarray:
        return draw_boxes(image, boxes, classes, self.names, scores, image_scale(image, 480))


def picture_hooks(cfg: CfgNode, student: nn.Module) -> list[HookBase]:
    """The hook of ``VIS_PERIOD`` on the first process, nothing where it cannot or may not be."""
    if not cfg.VIS_PERIOD or not cfg.DATASETS.TARGET or not comm.is_main_process():
        return []
    return [AdaptationPictures.from_config(cfg, student)]


def _spread_targets(cfg: CfgNode) -> list[dict[str, Any]]:
    """``VIS_IMAGES`` images spread evenly over ``DATASETS.TARGET``, at test size, no labels."""
    dicts = [record for name in cfg.DATASETS.TARGET for record in unlabelled_dicts(name)]
    step = max(1, math.ceil(len(dicts) / cfg.VIS_IMAGES))
    mapper = DomainMapper(cfg, is_train=False)
    return [mapper(record) for record in dicts[::step]]
