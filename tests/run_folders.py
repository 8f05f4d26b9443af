"""Folders as training leaves them, made in a moment: what is found is the labels, disturbed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from detectron2.structures import Boxes, BoxMode, Instances
from tiny_streets import FOGGY
from torch import nn

from mic_det.data.catalog import labelled_dicts
from mic_det.detection.evaluation import evaluate_model
from mic_det.engine.evaluation import inference_folder
from mic_det.engine.record import write_results


class Imitator(nn.Module):
    """Finds the labels with some noise, misses a part of them, and sees things.

    Args:
        noise: standard deviation of box edges, relative to the box's size.
    """

    def __init__(self, noise: float, seed: int = 0) -> None:
        super().__init__()
        self.noise = noise
        self.generator = torch.Generator().manual_seed(seed)
        self.labels = {record["image_id"]: record for record in labelled_dicts(FOGGY)}

    def _rand(self, *size: int) -> torch.Tensor:
        return torch.rand(*size, generator=self.generator)

    def forward(self, batch: list[dict[str, Any]]) -> list[dict[str, Instances]]:
        return [{"instances": self._found(record)} for record in batch]

    def _found(self, record: dict[str, Any]) -> Instances:
        labels = self.labels[record["image_id"]]["annotations"]
        boxes, classes = [], []
        for label in labels:
            box = BoxMode.convert(label["bbox"], BoxMode.XYWH_ABS, BoxMode.XYXY_ABS)
            size = torch.tensor(label["bbox"][2:]).repeat(2)
            for _ in range(2):  # twice: one of the two is a false detection
                noise = self.noise * size * torch.randn(4, generator=self.generator)
                boxes.append(torch.tensor(box) + noise)
                wrong = self._rand(1).item() < 0.2
                classes.append((label["category_id"] + wrong) % 8)
        found = Instances((record["height"], record["width"]))
        found.pred_boxes = Boxes(torch.stack(boxes) if boxes else torch.zeros(0, 4))
        found.pred_classes = torch.tensor(classes, dtype=torch.int64)
        found.scores = self._rand(len(boxes))
        return found[self._rand(len(boxes)) > 0.1]


def make_run(
    cfg: Any, noise: float, *, rows: int = 30, scalars: tuple[str, ...] = (), seed: int = 0
) -> Path:
    """Fill ``OUTPUT_DIR``: configs, metrics, results and detections of an `Imitator`."""
    folder = Path(cfg.OUTPUT_DIR)
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("config.yaml", "run_config.yaml"):
        (folder / name).write_text(cfg.dump())
    lines = [
        {"iteration": 20 * k + 19, "total_loss": 2.0 / (k + 1), "loss_cls": 1.0 / (k + 1)}
        | dict.fromkeys(scalars, 0.5 + k / 100)
        for k in range(rows)
    ]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (folder / "metrics.json").write_text(text)
    results = {}
    for which in cfg.TEST.MODELS:
        out = inference_folder(folder, which)
        results[which] = evaluate_model(cfg, Imitator(noise, seed), out)
    write_results(cfg, results, str(folder / "model_final.pth"))
    return folder
