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
from torch import Tensor, nn

from mic_det.core import MaskedView
from mic_det.data.segmentation import SegmentationMapper, unlabelled_dicts
from mic_det.drawing import grid, titled, write_png

from .drawing import Colour, legend, overlay
from .losses import IGNORED

logger = logging.getLogger(__name__)

FOLDER = "pictures"


class LabelMapPictures(HookBase):
    """Every ``period`` iterations, and at the end: a PNG and TensorBoard images of a few targets.

    A row for each image: the image; its masked copy as the student labels it (with MIC); the
    teacher's pseudo labels; the student's labels of the complete image. Images and masks are the
    same each time, and training is left exactly as it was: random generators, modes.

    Args:
        student: the module without DistributedDataParallel.
        records: gives input dicts of target images when first called.
        mask_target: the run's own masking; None: no such column.
        names, colours: of the classes.
        folder: of the PNG files.
        period: in iterations.
        channels: "RGB" or "BGR", the images' order.
    """

    def __init__(
        self,
        student: nn.Module,
        records: Callable[[], Sequence[dict[str, Any]]],
        mask_target: MaskedView | None,
        names: Sequence[str],
        colours: Sequence[Colour],
        *,
        folder: Path,
        period: int,
        channels: str = "BGR",
    ) -> None:
        self.student = student
        self.mask_target = mask_target
        self.names = names
        self.colours = colours
        self.folder = folder
        self.period = period
        self.channels = channels
        self._make_records = records
        self._records: Sequence[dict[str, Any]] | None = None

    def after_step(self) -> None:
        iteration = self.trainer.iter + 1
        if iteration % self.period and iteration != self.trainer.max_iter:
            return
        if self._records is None:
            self._records = self._make_records()
        rows = [grid([row]) for row in self.draw()]
        for i, row in enumerate(rows):
            self.trainer.storage.put_image(
                f"target/{i}", np.ascontiguousarray(row.transpose(2, 0, 1))
            )
        width = max(row.shape[1] for row in rows)
        rows.append(legend(self.names, self.colours, width))
        width = max(row.shape[1] for row in rows)
        path = self.folder / f"iteration_{iteration:07d}.png"
        write_png(path, np.concatenate([_padded(row, width) for row in rows]))
        logger.info("Pictures of %d target images: %s", len(self._records), path)

    def draw(self) -> list[list[np.ndarray]]:
        """The panels of each image, RGB (H, W, 3) uint8."""
        device = next(self.student.parameters()).device
        cuda = [device] if device.type == "cuda" else []
        # Dropout is off here, but masks are drawn: training's generators must not notice.
        with torch.random.fork_rng(cuda), inference_context(self.student), torch.no_grad():
            torch.manual_seed(0)
            return [self._panels(record) for record in self._records]

    def _panels(self, record: dict[str, Any]) -> list[np.ndarray]:
        plain = {"image": record["image"]}  # labels in the network's own pixels
        image = self._rgb(record["image"])
        panels = [titled(image, "target image")]
        if self.mask_target is not None:
            (masked,) = self.mask_target([plain])
            found = self._labels(masked)
            panels.append(titled(self._draw(self._rgb(masked["image"]), found), "masked: student"))
        pseudo = self.trainer.teacher.pseudo_label([plain])
        labels = torch.where(pseudo.weight[0] > 0, pseudo.labels[0], IGNORED).cpu().numpy()
        title = f"teacher: weight {float(pseudo.weight[0].mean()):.2f}"
        panels.append(titled(self._draw(image, labels), title))
        panels.append(titled(self._draw(image, self._labels(plain)), "student"))
        return panels

    def _labels(self, record: dict[str, Any]) -> np.ndarray:
        return self.student([record])[0]["sem_seg"].argmax(0).cpu().numpy()

    def _draw(self, image: np.ndarray, labels: np.ndarray) -> np.ndarray:
        return overlay(image, labels, self.colours)

    def _rgb(self, image: Tensor) -> np.ndarray:
        array = image.detach().cpu().clamp(0, 255).to(torch.uint8).permute(1, 2, 0).numpy()
        return np.ascontiguousarray(array[:, :, ::-1] if self.channels == "BGR" else array)


def spread_targets(cfg: CfgNode, count: int) -> list[dict[str, Any]]:
    """``count`` images spread evenly over ``DATASETS.TARGET``, at test size, no labels."""
    dicts = [record for name in cfg.DATASETS.TARGET for record in unlabelled_dicts(name)]
    step = max(1, math.ceil(len(dicts) / count))
    mapper = SegmentationMapper(cfg, is_train=False)
    return [mapper(record) for record in dicts[::step]]


def _padded(sheet: np.ndarray, width: int, gap: int = 6) -> np.ndarray:
    return np.pad(sheet, ((0, gap), (0, width - sheet.shape[1]), (0, 0)), constant_values=255)
