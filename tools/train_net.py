#!/usr/bin/env python
"""Train or evaluate: ``python tools/train_net.py --config configs/streets_mic.yaml [KEY VALUE]``.

The flags are those of Detectron2's own train_net.py, ``--reproduce OUTPUT_DIR``, which makes the
run of that folder again beside it, and ``--allow-changes``, with which a run is resumed under
changed settings. docs/training.md is about several processes and about resuming.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from detectron2.config import CfgNode
from detectron2.engine import default_argument_parser
from detectron2.utils import comm

from mic_det.cli import USER_ERRORS, run_tool, without_tracebacks
from mic_det.config import load_config
from mic_det.data.errors import DataError
from mic_det.engine import build_trainer, evaluate, load_for_evaluation
from mic_det.engine.checkpoint import last_checkpoint
from mic_det.engine.description import check_resumed_config
from mic_det.engine.evaluation import check_evaluated_weights, evaluated_weights
from mic_det.engine.launch import launch, main_process_first, started_by_torchrun
from mic_det.engine.logs import set_up
from mic_det.engine.output_folder import refuse_former_run, sole_run
from mic_det.engine.record import read_record, write_record, write_results
from mic_det.engine.report import results_table
from mic_det.tasks import task_of


def parse_arguments() -> argparse.Namespace:
    """Detectron2's arguments, with ``--config`` beside ``--config-file``."""
    parser = default_argument_parser()
    parser.add_argument(
        "--config", dest="config_file", default=argparse.SUPPRESS, help="same as --config-file"
    )
    parser.add_argument(
        "--reproduce",
        metavar="OUTPUT_DIR",
        help="start the run of this folder again: its config, seed and number of processes; "
        "written to OUTPUT_DIR_again unless told otherwise (OUTPUT_DIR as KEY VALUE)",
    )
    parser.add_argument(
        "--allow-changes",
        action="store_true",
        help="with --resume: go on although settings or data have changed since",
    )
    parser.set_defaults(dist_url="auto")
    arguments = parser.parse_args()
    if arguments.allow_changes and (arguments.eval_only or not arguments.resume):
        parser.error("--allow-changes goes with --resume, in training")
    if arguments.reproduce:
        if arguments.config_file or arguments.resume or arguments.eval_only:
            parser.error("--reproduce brings its own config, and starts from the beginning")
        return repeat(arguments)
    if not arguments.config_file:
        parser.error("--config is needed, e.g. --config configs/cs2foggy_mic.yaml")
    return arguments


def repeat(arguments: argparse.Namespace) -> argparse.Namespace:
    """The arguments that start a recorded run again."""
    config, start = read_record(arguments.reproduce)
    arguments.config_file = str(config)
    if not started_by_torchrun():
        arguments.num_gpus, arguments.num_machines = start["processes"], 1
    folder = str(Path(arguments.reproduce)) + "_again"
    arguments.opts = ["OUTPUT_DIR", folder, *arguments.opts]
    return arguments


def prepare(arguments: argparse.Namespace) -> CfgNode:
    """The checked configuration.

    Raises with one message if data that it names are missing, or OUTPUT_DIR has another run.
    """
    cfg = load_config(arguments.config_file, arguments.opts)
    if arguments.eval_only:
        check_evaluated_weights(cfg, resume=arguments.resume)
    elif arguments.resume and last_checkpoint(cfg.OUTPUT_DIR):
        check_resumed_config(cfg, allow=arguments.allow_changes)
    elif not arguments.resume:
        refuse_former_run(cfg)
    message = task_of(cfg).missing_data_message(cfg, training=not arguments.eval_only)
    if message:
        raise DataError(message)
    return cfg


def main(arguments: argparse.Namespace) -> None:
    """What each process runs."""
    cfg = prepare(arguments)
    with sole_run(cfg.OUTPUT_DIR):
        work(cfg, arguments)


def work(cfg: CfgNode, arguments: argparse.Namespace) -> None:
    """Train or evaluate in a folder that no other run writes to."""
    set_up(cfg, arguments)
    without_tracebacks()
    with main_process_first():  # it makes data that are made on first use
        task_of(cfg).check(cfg, training=not arguments.eval_only)
    if arguments.eval_only:
        weights = evaluated_weights(cfg, resume=arguments.resume)
        results = evaluate(cfg, *load_for_evaluation(cfg, resume=arguments.resume))
    else:
        trainer = build_trainer(cfg, resume=arguments.resume, allow_changes=arguments.allow_changes)
        write_record(cfg, trainer.seed)
        trainer.train()
        weights = f"{cfg.OUTPUT_DIR}/model_final.pth"
        results = trainer.last_results
    if comm.is_main_process() and results:
        path = write_results(cfg, results, weights)
        task = task_of(cfg)
        print(results_table(results, task.columns, task.per_class))
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
        expected=USER_ERRORS,
    )


if __name__ == "__main__":
    run_tool(start, "Training goes on from its last checkpoint with --resume.")
