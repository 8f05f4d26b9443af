#!/usr/bin/env python
"""How right a teacher's labels are, by what BatchNorm normalises by and by images in a batch.

    python tools/label_statistics.py --config CONFIG --weights WEIGHTS [-- KEY VALUE …]

Labels the images of DATASETS.TEST (labelled, of the target; for choosing settings, others than
those that results are reported on) with the weights' teacher: by running statistics, and by
`core.TargetStatistics` of several numbers of images. Prints the share of images, or of pixels,
whose label is right: what MODEL.TEACHER.STATISTICS_IMAGES should be.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import Any

import torch
from tabulate import tabulate
from torch import Tensor, nn

from mic_det.cli import run_tool
from mic_det.config import load_config
from mic_det.core import TargetStatistics
from mic_det.core.statistics import batch_norm_layers
from mic_det.engine.build import load_for_evaluation
from mic_det.errors import ConfigError
from mic_det.tasks import task_of

COUNTS = (1, 2, 4, 8, 16, 32, 64)


def classified(cfg: Any, model: nn.Module) -> tuple[list[Any], Callable[[list[Any]], Tensor]]:
    """Images with classes, and whether the labels of a batch of them are right, (N,)."""
    from mic_det.classification.mapper import SquareMapper
    from mic_det.data.classification.folders import class_names_of, labelled_images

    classes = class_names_of(cfg.DATASETS.TRAIN[0])
    mapper = SquareMapper.from_config(cfg, is_train=False)
    records = [each for name in cfg.DATASETS.TEST for each in labelled_images(name, classes)]
    items = [mapper(record) | {"label": record["label"]} for record in records]

    def right(batch: list[Any]) -> Tensor:
        truth = torch.tensor([each["label"] for each in batch])
        return model.pseudo_label(batch).classes.cpu() == truth

    return items, right


def segmented(cfg: Any, model: nn.Module) -> tuple[list[Any], Callable[[list[Any]], Tensor]]:
    """Images with label maps, and whether the labels of a batch's known pixels are right."""
    from mic_det.segmentation.losses import IGNORED
    from mic_det.segmentation.preparation import labelled_pass

    items = list(labelled_pass(cfg, cfg.DATASETS.TEST, model))

    def right(batch: list[Any]) -> Tensor:
        images, truth = (torch.cat(parts) for parts in zip(*batch, strict=True))
        found = model.network(images).argmax(1)
        return (found == truth)[truth != IGNORED].cpu()

    return items, right


def accuracy(items: list[Any], right: Callable, size: int, context: Any) -> float:
    """Percent right over batches of ``size`` in a random order."""
    order = torch.randperm(len(items), generator=torch.Generator().manual_seed(0)).tolist()
    batches: Iterator[list[int]] = (
        order[i : i + size] for i in range(0, len(order) - size + 1, size)
    )
    with torch.no_grad(), context:
        found = torch.cat([right([items[i] for i in batch]) for batch in batches])
    return 100.0 * found.float().mean().item()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--config", required=True)
    parser.add_argument("--weights", required=True)
    parser.add_argument("--images", type=int, default=512, help="how many to label at most")
    parser.add_argument("--batches", nargs="+", type=int, default=COUNTS[:6])
    parser.add_argument("overrides", nargs="*", help="KEY VALUE, after --")
    arguments = parser.parse_args()
    cfg = load_config(arguments.config, [*arguments.overrides, "MODEL.WEIGHTS", arguments.weights])
    kinds = {"classification": classified, "segmentation": segmented}
    if cfg.MODEL.TASK not in kinds:
        raise ConfigError(f"MODEL.TASK {cfg.MODEL.TASK}: its teachers label by running statistics")
    task_of(cfg).register(cfg)
    student, teacher = load_for_evaluation(cfg)
    layers = batch_norm_layers(student)
    if not layers:
        raise ConfigError(f"{arguments.config}: the network has no trainable BatchNorm")
    items, right = kinds[cfg.MODEL.TASK](cfg, teacher.model)
    count = min(len(items), arguments.images)
    items = [items[i * len(items) // count] for i in range(count)]
    running = accuracy(items, right, 1, nullcontext())
    print(f"{len(items)} images, {len(layers)} layers; running statistics: {running:.1f} % right")
    rows = []
    for size in arguments.batches:
        row: list[Any] = [size]
        for images in COUNTS:
            statistics = TargetStatistics(teacher.model, layers, images)
            row.append(accuracy(items, right, size, statistics.used()))
        rows.append(row)
    print(tabulate(rows, headers=["batch", *(f"of {n}" for n in COUNTS)], floatfmt=".1f"))


if __name__ == "__main__":
    run_tool(main)
