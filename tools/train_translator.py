#!/usr/bin/env python
"""Train the learnt translator of DiGA on source and target images; no labels are used.

    python tools/train_translator.py --config configs/seg/day2dusk_diga.yaml \\
        --output output/translators/day2dusk.pth

Then train with MODEL.SEG.DIGA.TRANSLATOR learnt MODEL.SEG.DIGA.TRANSLATOR_WEIGHTS <that file>.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from detectron2.utils.env import seed_all_rng

from mic_det.cli import run_tool
from mic_det.config import ConfigError, load_config
from mic_det.data.errors import DataError
from mic_det.data.files import write_atomically
from mic_det.data.segmentation import segmentation_batches
from mic_det.segmentation.translate import LearntTranslator, translator_file
from mic_det.segmentation.translate.fit import fit_translator
from mic_det.tasks import task_of


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", required=True, help="of a segmentation task")
    parser.add_argument("--output", type=Path, required=True, help="file to write")
    parser.add_argument("--iterations", type=int, default=2000)
    parser.add_argument("--lr", type=float, default=1e-3, help="learning rate of Adam")
    parser.add_argument("--width", type=int, default=16, help="channels at full size")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("overrides", nargs="*", metavar="KEY VALUE", help="after --")
    arguments = parser.parse_args()
    if arguments.iterations < 1 or arguments.width < 1 or not 0 < arguments.lr < 1e38:
        parser.error("--iterations and --width are at least 1, --lr is above 0 and finite")
    cfg = load_config(arguments.config, arguments.overrides)
    if cfg.MODEL.TASK != "segmentation" or not cfg.DATASETS.TARGET:
        raise ConfigError(f"{arguments.config}: not a segmentation config with a target")
    task = task_of(cfg)
    message = task.missing_data_message(cfg, True)
    if message:
        raise DataError(message)
    task.check(cfg)
    seed_all_rng(arguments.seed)
    translator = LearntTranslator(arguments.width).to(cfg.MODEL.DEVICE)
    fit_translator(
        translator,
        segmentation_batches(cfg, arguments.seed),
        channels=cfg.INPUT.FORMAT,
        iterations=arguments.iterations,
        lr=arguments.lr,
        say=print,
    )
    content = translator_file(translator.cpu())
    write_atomically(arguments.output, lambda file: torch.save(content, file))
    print(f"Written to {arguments.output}")


if __name__ == "__main__":
    run_tool(main)
