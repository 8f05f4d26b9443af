"""Trainings of a few iterations, whole or cut in the midst, for the tests of the trainer."""

from __future__ import annotations

from pathlib import Path

import torch
from detectron2.engine import HookBase
from tiny_streets import CLEAR, FOGGY, register_tiny_streets

from mic_det.config import load_config
from mic_det.engine import build_trainer

REPOSITORY = Path(__file__).parents[1]
SMALL = [
    *("MODEL.RESNETS.STEM_OUT_CHANNELS", "32", "MODEL.RESNETS.RES2_OUT_CHANNELS", "32"),
    *("SOLVER.IMS_PER_BATCH", "2", "SOLVER.CHECKPOINT_PERIOD", "100", "SOLVER.WARMUP_ITERS", "1"),
    *("SOLVER.STEPS", "()", "TEST.EVAL_PERIOD", "0", "TEST.LABEL_FREE_IMAGES", "2"),
    *("MODEL.DEVICE", "cpu", "MODEL.WEIGHTS", ""),
]
# A score that a model from random weights reaches, so that the masked branch takes part.
ALL_PARTS = [
    *("MODEL.MIC.ENABLED", "True", "MODEL.SADA.ENABLED", "True"),
    *("MODEL.MIC.SCORE_THRESH", "0.12", "MODEL.ROI_HEADS.SCORE_THRESH_TEST", "0.1"),
]


def config(output: Path, *overrides: str, target: str = FOGGY, iterations: int = 4):
    register_tiny_streets()
    data = [
        *("DATASETS.TRAIN", f"('{CLEAR}',)", "DATASETS.TARGET", f"('{target}',)"),
        *("DATASETS.TEST", f"('{FOGGY}',)", "SOLVER.MAX_ITER", str(iterations)),
        *("OUTPUT_DIR", str(output), "SOLVER.WARMUP_ITERS", str(min(1, iterations - 1))),
    ]
    return load_config(REPOSITORY / "configs/base/streets.yaml", [*SMALL, *data, *overrides])


class PowerCut(Exception):
    """Ends a run in the midst of it."""


class CutAfter(HookBase):
    def __init__(self, iteration: int) -> None:
        self.iteration = iteration

    def after_step(self) -> None:
        if self.trainer.iter == self.iteration:
            raise PowerCut


def train(cfg, *, resume: bool = False, cut_after: int | None = None):
    """Train to the end, or until the power is cut after iteration ``cut_after``."""
    trainer = build_trainer(cfg, resume=resume, writers=list)
    if cut_after is not None:
        trainer.register_hooks([CutAfter(cut_after)])
    trainer.train(trainer.start_iter, cfg.SOLVER.MAX_ITER)
    return trainer


def differing(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> list[str]:
    assert first.keys() == second.keys()
    return [name for name in first if not torch.equal(first[name], second[name])]
