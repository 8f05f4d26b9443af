"""Pictures during training, for every task: the same target images over time."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.engine import HookBase
from detectron2.evaluation import inference_context
from torch import Tensor, nn

from mic_det.core import MaskedView
from mic_det.drawing import grid, write_png

logger = logging.getLogger(__name__)

FOLDER = "pictures"


class TargetPictures(HookBase, ABC):
    """Every ``period`` iterations, and at the end: a PNG and TensorBoard images of a few targets.

    A row for each image, whose `panels` the task draws. The images, and their masks, are the same
    each time. Training is left exactly as it was: random generators, modes.

    Args:
        student: the module without DistributedDataParallel.
        records: gives input dicts of target images when first called.
        mask_target: the run's own masking; None: no MIC.
        folder: of the PNG files.
        period: in iterations.
        channels: "RGB" or "BGR", the images' order.
    """

    def __init__(
        self,
        student: nn.Module,
        records: Callable[[], Sequence[dict[str, Any]]],
        mask_target: MaskedView | None,
        *,
        folder: Path,
        period: int,
        channels: str = "BGR",
    ) -> None:
        self.student = student
        self.mask_target = mask_target
        self.folder = folder
        self.period = period
        self.channels = channels
        self._make_records = records
        self._records: Sequence[dict[str, Any]] | None = None

    @abstractmethod
    def panels(self, record: dict[str, Any]) -> list[np.ndarray]:
        """Pictures of one input dict, RGB (H, W, 3) uint8 of one size; without gradients."""

    def foot(self, width: int) -> list[np.ndarray]:
        """What stands below the rows, ``width`` pixels wide or more."""
        return []

    def after_step(self) -> None:
        iteration = self.trainer.iter + 1
        if iteration % self.period and iteration != self.trainer.max_iter:
            return
        if self._records is None:
            self._records = self._make_records()
        rows = [grid([row]) for row in self.draw()]
        for i, row in enumerate(rows):
            picture = np.ascontiguousarray(row.transpose(2, 0, 1))
            self.trainer.storage.put_image(f"target/{i}", picture)
        rows += self.foot(max(row.shape[1] for row in rows))
        width = max(row.shape[1] for row in rows)
        path = self.folder / f"iteration_{iteration:07d}.png"
        write_png(path, np.concatenate([_padded(row, width) for row in rows]))
        logger.info("Pictures of %d target images: %s", len(self._records), path)

    def draw(self) -> list[list[np.ndarray]]:
        """The panels of each image."""
        device = next(self.student.parameters()).device
        cuda = [device] if device.type == "cuda" else []
        # Dropout is off here, but masks are drawn: training's generators must not notice.
        with torch.random.fork_rng(cuda), inference_context(self.student), torch.no_grad():
            torch.manual_seed(0)
            return [self.panels(record) for record in self._records]

    def rgb(self, image: Tensor) -> np.ndarray:
        """A network's input (3, H, W) in 0..255 as a picture."""
        array = image.detach().cpu().clamp(0, 255).to(torch.uint8).permute(1, 2, 0).numpy()
        return np.ascontiguousarray(array[:, :, ::-1] if self.channels == "BGR" else array)


def _padded(sheet: np.ndarray, width: int, gap: int = 6) -> np.ndarray:
    """Brought to ``width`` with a gap below, on white."""
    return np.pad(sheet, ((0, gap), (0, width - sheet.shape[1]), (0, 0)), constant_values=255)
