"""The best checkpoints, by metrics of the evaluation; what was best survives a resume."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from typing import Any

from detectron2.engine import HookBase
from detectron2.utils import comm

logger = logging.getLogger(__name__)


class BestCheckpoints(HookBase):
    """Save a checkpoint whenever an evaluation is better than all before it.

    Args:
        checkpointer: whose ``save(name, iteration=…)`` is called.
        metrics: from the file's name without ".pth" to the metric that decides, larger is better.
            To stand after the hook that evaluates.
    """

    def __init__(self, checkpointer: Any, metrics: Mapping[str, str]) -> None:
        self.checkpointer = checkpointer
        self.metrics = dict(metrics)
        self.best: dict[str, float] = {}

    def after_step(self) -> None:
        self._compare()

    def after_train(self) -> None:
        # The last evaluation is made after the last step.
        if self.trainer.iter + 1 >= self.trainer.max_iter:
            self._compare()

    def _compare(self) -> None:
        if not comm.is_main_process():
            return
        latest = self.trainer.storage.latest()
        now = self.trainer.iter
        for name, metric in self.metrics.items():
            value, iteration = latest.get(metric, (math.nan, None))
            if iteration != now or not math.isfinite(value):
                continue
            if name in self.best and value <= self.best[name]:
                continue
            self.best[name] = value
            logger.info("%s is %.3f, the best so far: saved as %s", metric, value, name)
            self.checkpointer.save(name, iteration=min(now, self.trainer.max_iter - 1))

    def state_dict(self) -> dict[str, Any]:
        return {"best": dict(self.best)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.best = dict(state["best"])
