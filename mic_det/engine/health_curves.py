"""Curves that tell whether an adaptation is healthy, beside the losses."""

from __future__ import annotations

from collections.abc import Mapping

from detectron2.engine import HookBase
from detectron2.utils import comm
from torch import nn

from mic_det.core import running_means

PREFIX = "health/"
TEACHER_DISTANCE = "teacher_distance"


class HealthCurves(HookBase):
    """Write what the student's modules count of their own work, and how far the teacher is.

    Every module with a `RunningMeans` named ``health`` is read, over all processes, and written
    under ``health/``:

    - ``pseudo_boxes_per_image``, ``images_with_pseudo_boxes`` (share of target images with any)
      and ``teacher_score`` (mean score of the pseudo boxes);
    - ``domain_accuracy_image/p2`` … and ``domain_accuracy_instance/p2`` …: share of positions and
      proposals whose domain the classifier of the level tells right, the two domains counting the
      same: 0.5 is chance, 1 means that the features still give the domain away;
    - ``teacher_distance``, relative (see `EMATeacher.distance`), of this moment.

    Register it on every process. A GPU is waited for once a period, never in the steps between.

    Args:
        student: the module without DistributedDataParallel.
        period: in iterations.
    """

    def __init__(self, student: nn.Module, period: int = 20) -> None:
        self.student = student
        self.period = period

    def after_step(self) -> None:
        trainer = self.trainer
        if (trainer.iter + 1) % self.period and trainer.iter + 1 != trainer.max_iter:
            return
        gathered = comm.gather(self._read())
        if not comm.is_main_process():
            return
        means = balanced(added(gathered))
        means[TEACHER_DISTANCE] = trainer.teacher.distance(self.student).item()
        for name, value in means.items():
            trainer.storage.put_scalar(PREFIX + name, value, smoothing_hint=False)

    def _read(self) -> dict[str, tuple[float, float]]:
        found: dict[str, tuple[float, float]] = {}
        for means in running_means(self.student):
            found |= means.pop()
        return found


def added(parts: list[Mapping[str, tuple[float, float]]]) -> dict[str, float]:
    """Means over several processes' ``{name: (sum, weight)}``; a name of weight 0 is left out."""
    means = {}
    for name in dict.fromkeys(name for part in parts for name in part):
        total, weight = (sum(part.get(name, (0, 0))[i] for part in parts) for i in (0, 1))
        if weight:
            means[name] = total / weight
    return means


def balanced(means: Mapping[str, float]) -> dict[str, float]:
    """Replace ``NAME/source`` and ``NAME/target`` by ``NAME``, the mean of the two.

    Where one of them is missing (no proposal of that size in one domain) neither tells anything.
    """
    found = {}
    for name, value in means.items():
        stem, _, domain = name.rpartition("/")
        if domain not in ("source", "target"):
            found[name] = value
        elif domain == "source" and f"{stem}/target" in means:
            found[stem] = (value + means[f"{stem}/target"]) / 2
    return found
