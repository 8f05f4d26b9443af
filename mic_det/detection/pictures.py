"""Pictures during training: what teacher and student make of the same target images over time."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.engine import HookBase
from detectron2.evaluation import inference_context
from detectron2.utils import comm
from torch import nn

from mic_det.core import MaskedView
from mic_det.data.catalog import unlabelled_dicts
from mic_det.data.class_names import class_names
from mic_det.data.mapper import DomainMapper
from mic_det.drawing import grid, image_scale, titled, write_png

from .visualise import detect, draw_boxes

logger = logging.getLogger(__name__)

FOLDER = "pictures"


class AdaptationPictures(HookBase):
    """Every ``period`` iterations, and at the end: a PNG and TensorBoard images of a few targets.

    A row for each image: the image; its masked copy with what the student detects on it; the
    teacher's pseudo boxes; the student's detections on the complete image. The images, and their
    masks, are the same each time. Training is left exactly as it was: random generators, modes.

    Args:
        student: the module without DistributedDataParallel.
        records: gives input dicts of target images when first called.
        mask_target: the run's own masking; None (no MIC): three columns.
        names: of the classes.
        label_threshold: score from which on a detection of the teacher is a pseudo label.
        folder: of the PNG files.
        period: in iterations.
        draw_threshold: score from which on the student's detections are drawn.
    """

    def __init__(
        self,
        student: nn.Module,
        records: Callable[[], Sequence[dict[str, Any]]],
        mask_target: MaskedView | None,
        names: Sequence[str],
        *,
        label_threshold: float,
        folder: Path,
        period: int,
        channels: str = "BGR",
        draw_threshold: float = 0.5,
    ) -> None:
        self.student = student
        self.mask_target = mask_target
        self.names = names
        self.label_threshold = label_threshold
        self.folder = folder
        self.period = period
        self.channels = channels
        self.draw_threshold = draw_threshold
        self._make_records = records
        self._records: Sequence[dict[str, Any]] | None = None

    @classmethod
    def from_config(cls, cfg: CfgNode, student: nn.Module) -> AdaptationPictures:
        """As ``VIS_PERIOD`` and ``VIS_IMAGES`` say, in ``OUTPUT_DIR/pictures``."""
        return cls(
            student,
            lambda: _spread_targets(cfg),
            MaskedView.from_config(cfg) if cfg.MODEL.MIC.ENABLED else None,
            class_names((*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST), cfg.MODEL.ROI_HEADS.NUM_CLASSES),
            label_threshold=cfg.MODEL.MIC.SCORE_THRESH,
            folder=Path(cfg.OUTPUT_DIR) / FOLDER,
            period=cfg.VIS_PERIOD,
            channels=cfg.INPUT.FORMAT,
        )

    def after_step(self) -> None:
        iteration = self.trainer.iter + 1
        if iteration % self.period and iteration != self.trainer.max_iter:
            return
        if self._records is None:
            self._records = self._make_records()
        rows = self.draw()
        for i, row in enumerate(rows):
            sheet = grid([row]).transpose(2, 0, 1)
            self.trainer.storage.put_image(f"target/{i}", np.ascontiguousarray(sheet))
        path = self.folder / f"iteration_{iteration:07d}.png"
        write_png(path, np.concatenate([_padded(grid([row]), rows) for row in rows]))
        logger.info("Pictures of %d target images: %s", len(rows), path)

    def draw(self) -> list[list[np.ndarray]]:
        """The panels of each image, RGB (H, W, 3) uint8."""
        device = next(self.student.parameters()).device
        cuda = [device] if device.type == "cuda" else []
        # Dropout is off here, but masks are drawn: training's generators must not notice.
        with torch.random.fork_rng(cuda), inference_context(self.student), torch.no_grad():
            torch.manual_seed(0)
            return [self._panels(record) for record in self._records]

    def _panels(self, record: dict[str, Any]) -> list[np.ndarray]:
        plain = {"image": record["image"]}  # detections in the network's own coordinates
        (pseudo,) = self.trainer.teacher.pseudo_label([plain])
        pseudo = pseudo[pseudo.gt_scores >= self.label_threshold].to("cpu")
        image = self._rgb(record["image"])
        panels = [titled(self._draw(image), "target image")]
        if self.mask_target is not None:
            (masked,) = self.mask_target([plain])
            found = detect(self.student, masked, self.draw_threshold)
            drawn = self._draw_found(self._rgb(masked["image"]), found)
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

    def _rgb(self, image: torch.Tensor) -> np.ndarray:
        array = image.detach().cpu().clamp(0, 255).to(torch.uint8).permute(1, 2, 0).numpy()
        return np.ascontiguousarray(array[:, :, ::-1] if self.channels == "BGR" else array)


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


def _padded(sheet: np.ndarray, rows: Sequence[Sequence[np.ndarray]], gap: int = 6) -> np.ndarray:
    """A row brought to the width of the widest, with a gap below, on white."""
    width = max(grid([row]).shape[1] for row in rows)
    padding = ((0, gap), (0, width - sheet.shape[1]), (0, 0))
    return np.pad(sheet, padding, constant_values=255)
