#!/usr/bin/env python
"""Train or evaluate: ``python tools/train_net.py --config configs/streets_mic.yaml [KEY VALUE]``.

The flags are those of Detectron2's own train_net.py.
"""

from __future__ import annotations

import argparse
import json
import logging
from pathlib import Path

from detectron2.engine import default_argument_parser, default_setup, launch
from detectron2.utils import comm

from mic_det.cli import run_tool
from mic_det.config import load_config
from mic_det.data.catalog import missing_data_message
from mic_det.data.errors import DataError
from mic_det.data.register import register_from_config
from mic_det.engine import build_trainer, load_for_evaluation
from mic_det.engine.build import check_classes, evaluate
from mic_det.engine.report import results_table
from mic_det.env import describe

logger = logging.getLogger("mic_det")


def parse_arguments() -> argparse.Namespace:
    """Detectron2's arguments, with ``--config`` beside ``--config-file``."""
    parser = default_argument_parser()
    parser.add_argument(
        "--config", dest="config_file", default=argparse.SUPPRESS, help="same as --config-file"
    )
    arguments = parser.parse_args()
    if not arguments.config_file:
        parser.error("--config is needed, e.g. --config configs/cs2foggy_mic.yaml")
    return arguments


def prepare(arguments: argparse.Namespace):
    """The checked configuration; raises with one message if data that it names are missing."""
    cfg = load_config(arguments.config_file, arguments.opts)
    register_from_config(cfg)
    labelled, unlabelled = cfg.DATASETS.TEST, ()
    if not arguments.eval_only:
        labelled, unlabelled = (*cfg.DATASETS.TRAIN, *labelled), cfg.DATASETS.TARGET
    message = missing_data_message(labelled, unlabelled)
    if message:
        raise DataError(message)
    return cfg


def main(arguments: argparse.Namespace) -> None:
    """What each process runs."""
    cfg = prepare(arguments)
    default_setup(cfg, arguments)
    logger.info("Installation: %s", json.dumps(describe()))
    if arguments.eval_only:
        check_classes(cfg, training=False)
        results = evaluate(cfg, *load_for_evaluation(cfg, resume=arguments.resume))
    else:
        trainer = build_trainer(cfg, resume=arguments.resume)
        trainer.train(trainer.start_iter, cfg.SOLVER.MAX_ITER)
        results = trainer.last_results
    if comm.is_main_process() and results:
        path = Path(cfg.OUTPUT_DIR) / "results.json"
        path.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
        print(results_table(results))
        print(f"Written to {path}")


def start() -> None:
    """Check everything that can be checked, then run `main` in each process."""
    arguments = parse_arguments()
    prepare(arguments)
    launch(
        main,
        arguments.num_gpus,
        num_machines=arguments.num_machines,
        machine_rank=arguments.machine_rank,
        dist_url=arguments.dist_url,
        args=(arguments,),
    )


if __name__ == "__main__":
    run_tool(start)
