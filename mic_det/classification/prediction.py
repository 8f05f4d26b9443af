"""A trained classifier on a user's own images: a table."""

from __future__ import annotations

import csv
import io

import numpy as np
import torch
from detectron2.config import CfgNode
from torch import nn

from mic_det.data.class_names import numbered
from mic_det.data.files import write_text_atomically
from mic_det.data.inputs import Frame, Input
from mic_det.tasks import Predictions, PredictOptions

from .mapper import SquareMapper

FILE = "predictions.csv"
BEST = 5


class ClassPredictions(Predictions):
    """``predictions.csv``: file, frame of a video, class, confidence, and the next best classes."""

    def __init__(self, cfg: CfgNode, model: nn.Module, options: PredictOptions) -> None:
        self.model = model.eval()
        self.mapper = SquareMapper.from_config(cfg, is_train=False)
        self.names = list(options.classes) or numbered(cfg.MODEL.CLASSIFIER.NUM_CLASSES)
        self.path = options.folder / FILE
        self.rows: list[list[object]] = []

    @torch.no_grad()
    def add(self, source: Input, frame: Frame) -> None:
        pixels = frame.pixels[:, :, ::-1] if self.mapper.channels == "BGR" else frame.pixels
        picture = self.mapper.transformed(np.ascontiguousarray(pixels))
        (found,) = self.model([{"image": self.mapper.tensor(picture)}])
        scores, classes = found["probabilities"].topk(min(BEST, len(self.names)))
        row: list[object] = [source.name.as_posix(), "" if frame.index is None else frame.index]
        for score, k in zip(scores.tolist(), classes.tolist(), strict=True):
            row += [self.names[k], f"{score:.4f}"]
        self.rows.append(row)

    def write(self) -> str:
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        count = min(BEST, len(self.names))
        heads = [part for n in range(2, count + 1) for part in (f"class {n}", f"confidence {n}")]
        writer.writerow(["file", "frame", "class", "confidence", *heads])
        writer.writerows(self.rows)
        write_text_atomically(self.path, text.getvalue())
        return f"{len(self.rows)} images classified: {self.path}"
