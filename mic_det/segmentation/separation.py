"""The class centre distance of a run's student before and after its training, for the report."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode
from detectron2.engine import HookBase
from detectron2.utils import comm

from mic_det.core import eval_mode
from mic_det.data.files import write_text_atomically

from .inspection import class_separation
from .meta_arch import AdaptiveSegmentor
from .preparation import labelled_pass

logger = logging.getLogger(__name__)

FILE = "class_distance.json"
BEFORE, AFTER = "before", "after"


class ClassDistances(HookBase):
    """Measures `class_separation` on each of ``DATASETS.TEST`` before and after the training.

    ``OUTPUT_DIR/class_distance.json`` gets ``{"before": {dataset: {"mean": …, "classes": {name:
    …}}}, "after": …}``, null for a class that does not occur; the log gets the means. Labels of the
    test sets are read for this alone: training knows nothing of it. A resumed run keeps what was
    measured before its first iteration.

    Args:
        cfg: whose test sets are looked at, complete.
        student: the module without DistributedDataParallel.
        classes: names of the model's classes.
    """

    def __init__(self, cfg: CfgNode, student: AdaptiveSegmentor, classes: Sequence[str]) -> None:
        self.cfg = cfg
        self.student = student
        self.classes = list(classes)
        self.path = Path(cfg.OUTPUT_DIR) / FILE

    def before_train(self) -> None:
        if self.trainer.iter == 0 and comm.is_main_process():
            self._write({BEFORE: self.measure()})

    def after_train(self) -> None:
        if self.trainer.iter + 1 < self.trainer.max_iter or not comm.is_main_process():
            return
        found = read_distances(self.path.parent)
        found[AFTER] = self.measure()
        self._write(found)
        for name in found[AFTER]:
            means = {when: each[name]["mean"] for when, each in found.items() if name in each}
            told = ", ".join(f"{shown(mean)} {when}" for when, mean in means.items())
            logger.info("Class centre distance on %s: %s", name, told)

    def measure(self) -> dict[str, dict[str, Any]]:
        """By data set; see `inspection.class_separation`."""
        with eval_mode(self.student):
            return {name: self._on(name) for name in self.cfg.DATASETS.TEST}

    def _on(self, dataset: str) -> dict[str, Any]:
        data = labelled_pass(self.cfg, (dataset,), self.student)
        values, mean = class_separation(self.student.network, data)
        by_class = dict(zip(self.classes, map(_known, values), strict=True))
        return {"mean": _known(mean), "classes": by_class}

    def _write(self, found: dict[str, Any]) -> None:
        write_text_atomically(self.path, json.dumps(found, indent=2) + "\n")


def read_distances(folder: Path) -> dict[str, Any]:
    """What `ClassDistances` left in an output folder; empty if nothing there can be read."""
    try:
        found = json.loads((folder / FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def shown(distance: float | None) -> str:
    """A distance as text; a dash for what could not be measured."""
    return "–" if distance is None else f"{distance:.3f}"


def _known(value: float) -> float | None:
    return None if math.isnan(value) else value
