"""What a run says: about ten lines on the console before it begins, and everything in log.txt."""

from __future__ import annotations

import argparse
import json
import logging
import re
import shlex
import sys

from detectron2.config import CfgNode
from detectron2.engine import default_setup
from detectron2.utils import comm
from detectron2.utils.logger import setup_logger

from mic_det.env import describe

from .evaluation import evaluated_weights

logger = logging.getLogger(__name__)

COLOURS = re.compile(r"\x1b\[[0-9;]*m")


class _WithoutColours(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return COLOURS.sub("", super().format(record))


def set_up(cfg: CfgNode, arguments: argparse.Namespace) -> None:
    """Detectron2's ``default_setup``; what it logs, hundreds of lines, goes to log.txt alone.

    The complete configuration is ``config.yaml`` in OUTPUT_DIR. Colours are for terminals.
    """
    folder, rank = cfg.OUTPUT_DIR, comm.get_rank()
    plain = _WithoutColours("[%(asctime)s] %(name)s %(levelname)s: %(message)s", "%m/%d %H:%M:%S")
    # Called as default_setup calls it, which then finds these loggers as they are left here.
    for built in (
        setup_logger(folder, distributed_rank=rank, name="fvcore"),
        setup_logger(folder, distributed_rank=rank),
        setup_logger(folder, distributed_rank=rank, name="mic_det"),
    ):
        for handler in built.handlers:
            console = handler.stream is sys.stdout
            if console:
                handler.setLevel(logging.INFO)
                handler.addFilter(lambda record: record.funcName != default_setup.__name__)
            if not (console and sys.stdout.isatty()):
                handler.setFormatter(plain)
    default_setup(cfg, arguments)
    logger.debug("Installation: %s", json.dumps(describe()))
    logger.info("%s", summary(cfg, arguments))


def summary(cfg: CfgNode, arguments: argparse.Namespace) -> str:
    """A line on each thing that makes a run what it is."""
    data, solver = cfg.DATASETS, cfg.SOLVER
    source, target = solver.IMS_PER_BATCH, solver.TARGET_IMS_PER_BATCH or solver.IMS_PER_BATCH
    parts = {
        "Task": cfg.MODEL.TASK,
        "Config": f"{arguments.config_file}; complete in {cfg.OUTPUT_DIR}/config.yaml",
        "Output": cfg.OUTPUT_DIR,
        "Device": f"{cfg.MODEL.DEVICE}, processes: {comm.get_world_size()}",
        "Weights": evaluated_weights(cfg, resume=arguments.resume) or "random",
        "Source": ", ".join(data.TRAIN) or "none",
        "Target": ", ".join(data.TARGET) or "none",
        "Test": ", ".join(data.TEST) or "none",
        "Seed": cfg.SEED if cfg.SEED >= 0 else "drawn",
        "Training": f"{solver.MAX_ITER} iterations of {source} source and {target} target images",
        "Overrides": shlex.join(arguments.opts) or "none",
    }
    if arguments.eval_only:
        parts["Training"] = "none, evaluation alone"
    return "\n".join(["This run:", *(f"  {name:10} {value}" for name, value in parts.items())])
