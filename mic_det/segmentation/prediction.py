"""A trained segmentor on a user's own images: label maps, and colour maps of them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import transforms as T
from torch import nn

from mic_det.data.files import write_text_atomically
from mic_det.data.inputs import Frame, Input
from mic_det.drawing import write_png
from mic_det.tasks import Predictions, PredictOptions

from .drawing import Colour, colour_map, write_labels

LABELS, COLOURS, CLASSES = "labels", "colours", "classes.json"


class Predictor:
    """Labels of single images, as in evaluation: resized to test size and back.

    Args:
        model: a segmentor in Detectron2's form; put into eval mode.
        min_size, max_size: of the shorter and longer side in pixels, as ``INPUT.MIN_SIZE_TEST``;
            min_size 0 leaves images as they are.
    """

    def __init__(self, model: nn.Module, min_size: int, max_size: int) -> None:
        self.model = model.eval()
        self.resize = T.ResizeShortestEdge([min_size, min_size], max_size)

    @torch.no_grad()
    def __call__(self, image: np.ndarray) -> np.ndarray:
        """Class ids (H, W) uint8 of an image (H, W, 3) uint8, in its pixels."""
        height, width = image.shape[:2]
        resized = self.resize.get_transform(image).apply_image(image)
        pixels = torch.from_numpy(np.ascontiguousarray(resized.transpose(2, 0, 1)))
        record = {"image": pixels, "height": height, "width": width}
        labels = self.model([record])[0]["sem_seg"].argmax(0)
        return labels.to(torch.uint8).cpu().numpy()


class LabelMapPredictions(Predictions):
    """``labels/`` with class ids and ``colours/`` with pictures, PNG under the names of the inputs.

    A video's frames go to a folder of its name. ``classes.json`` says what ids and colours mean.

    Args:
        classes: name and RGB colour of each class, by id.
    """

    def __init__(
        self,
        cfg: CfgNode,
        model: nn.Module,
        options: PredictOptions,
        classes: Sequence[tuple[str, Colour]],
    ) -> None:
        self.predictor = Predictor(model, cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST)
        self.options = options
        self.classes = list(classes)
        self.count = 0

    def files(self, source: Input) -> list[Path]:
        """The label map and the colour map; of a video, the folders of those of its frames."""
        kinds = (LABELS, COLOURS) if self.options.pictures else (LABELS,)
        name = source.name if source.is_video else source.output_name(".png", (".png",))
        return [self.options.folder / kind / name for kind in kinds]

    def add(self, source: Input, frame: Frame) -> None:
        labels = self.predictor(frame.pixels)
        paths = self.files(source)
        if frame.index is not None:
            paths = [folder / f"{frame.index:06d}.png" for folder in paths]
        write_labels(paths[0], labels)
        for path in paths[1:]:
            write_png(path, colour_map(labels, [colour for _, colour in self.classes]))
        self.count += 1

    def write(self) -> str:
        described = [
            {"id": k, "name": name, "colour": list(colour)}
            for k, (name, colour) in enumerate(self.classes)
        ]
        write_text_atomically(self.options.folder / CLASSES, json.dumps(described, indent=1))
        return f"Label maps of {self.count} images: {self.options.folder}"
