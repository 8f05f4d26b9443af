"""Watches the number of pseudo labels: none for long, or far too many."""

from __future__ import annotations

import logging
from typing import Any

from detectron2.engine import HookBase
from detectron2.utils import comm

from mic_det.errors import DivergedError

logger = logging.getLogger(__name__)

ACTIONS = ("warn", "stop")


class PseudoLabelWatchdog(HookBase):
    """Compares the teacher's pseudo boxes an image with the source's labelled boxes an image.

    Collapse: not one pseudo box in any process for ``collapse_iterations``. Explosion: on average
    over a period more than ``explosion_factor`` times as many an image as the source has.

    Args:
        action: "warn" logs it, once a period while it lasts; "stop" raises DivergedError.
        period: iterations between looks; processes exchange their counts then.
    """

    def __init__(
        self,
        collapse_iterations: int,
        explosion_factor: float,
        action: str = "warn",
        period: int = 20,
    ) -> None:
        self.collapse_iterations = collapse_iterations
        self.explosion_factor = explosion_factor
        self.action = action
        self.period = period
        self.without_any = 0
        self._reset()

    def _reset(self) -> None:
        self.iterations, self.pseudo, self.source = 0, 0.0, 0.0

    def after_step(self) -> None:
        latest = self.trainer.storage.latest().get("mic/pseudo_boxes_per_image")
        source = self.trainer.batch[0]
        if latest is not None and latest[1] == self.trainer.iter:
            self.pseudo += latest[0]
        self.source += sum(len(each["instances"]) for each in source) / len(source)
        self.iterations += 1
        if (self.trainer.iter + 1) % self.period == 0:
            self._look()

    def _look(self) -> None:
        counts = comm.all_gather((self.pseudo, self.source))
        pseudo = sum(each[0] for each in counts) / len(counts) / self.iterations
        source = sum(each[1] for each in counts) / len(counts) / self.iterations
        self.without_any = 0 if pseudo > 0 else self.without_any + self.iterations
        before = self.without_any - self.iterations
        self._reset()
        limit = self.collapse_iterations
        if self.without_any // limit > max(before, 0) // limit:
            self._report(
                f"no pseudo box for {self.without_any} iterations: the masked loss does nothing. "
                "Lower MODEL.MIC.SCORE_THRESH, or start from weights trained on the source "
                "(MODEL.WEIGHTS)."
            )
        if pseudo > self.explosion_factor * max(source, 1.0):
            self._report(
                f"{pseudo:.1f} pseudo boxes an image against {source:.1f} labelled ones on the "
                "source: the teacher takes background for objects. Raise MODEL.MIC.SCORE_THRESH, "
                "or MODEL.TEACHER.ALPHA, or start from weights trained on the source."
            )

    def _report(self, what: str) -> None:
        message = f"Iteration {self.trainer.iter}: {what}"
        if self.action == "stop":
            raise DivergedError(f"{message}\nStopped, as MODEL.MIC.WATCHDOG.ACTION says.")
        logger.warning("%s Training goes on (MODEL.MIC.WATCHDOG.ACTION).", message)

    def state_dict(self) -> dict[str, Any]:
        names = ("without_any", "iterations", "pseudo", "source")
        return {name: getattr(self, name) for name in names}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for name, value in state.items():
            setattr(self, name, value)
