"""Learning rates over a run: Detectron2's schedules, and those of the adaptation papers."""

from __future__ import annotations

from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.engine import hooks
from detectron2.solver import LRMultiplier, WarmupParamScheduler
from detectron2.solver import build_lr_scheduler as detectron2_scheduler
from fvcore.common.param_scheduler import ParamScheduler


class PolynomialDecay(ParamScheduler):
    """(1 - t/T)^power at iteration t of T."""

    def __init__(self, power: float) -> None:
        self.power = power

    def __call__(self, where: float) -> float:
        return (1.0 - where) ** self.power


class InverseDecay(ParamScheduler):
    """(1 + gamma t)^-power at iteration t (Ganin and Lempitsky, ICML 2015, section 5.2.2).

    Args:
        iterations: of the whole run.
    """

    def __init__(self, gamma: float, power: float, iterations: int) -> None:
        self.gamma, self.power, self.iterations = gamma, power, iterations

    def __call__(self, where: float) -> float:
        return (1.0 + self.gamma * where * self.iterations) ** -self.power


class LRScheduler(hooks.LRScheduler):
    """Detectron2's hook; resumed, it takes the iteration from the file and the rates from here.

    State is found by the name of the class.
    """

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        schedule = self.scheduler
        schedule.last_epoch = state_dict["last_epoch"]
        for group, rate in zip(schedule.optimizer.param_groups, schedule.get_lr(), strict=True):
            group["lr"] = rate


def build_lr_scheduler(cfg: CfgNode, optimizer: torch.optim.Optimizer) -> Any:
    """As ``SOLVER.LR_SCHEDULER_NAME`` says: one of Detectron2's, "WarmupPoly" or "WarmupInverse".

    The two begin with Detectron2's warm-up and take ``SOLVER.POWER``, the second ``SOLVER.GAMMA``
    as well.
    """
    solver = cfg.SOLVER
    if solver.LR_SCHEDULER_NAME == "WarmupPoly":
        schedule: ParamScheduler = PolynomialDecay(solver.POWER)
    elif solver.LR_SCHEDULER_NAME == "WarmupInverse":
        schedule = InverseDecay(solver.GAMMA, solver.POWER, solver.MAX_ITER)
    else:
        return detectron2_scheduler(cfg, optimizer)
    warm = WarmupParamScheduler(
        schedule,
        solver.WARMUP_FACTOR,
        solver.WARMUP_ITERS / solver.MAX_ITER,
        solver.WARMUP_METHOD,
    )
    return LRMultiplier(optimizer, multiplier=warm, max_iter=solver.MAX_ITER)
