"""Evaluation of student and teacher, by the task's own metrics and without labels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from detectron2.config import CfgNode
from detectron2.utils import comm
from torch import nn

from mic_det.config import ConfigError
from mic_det.core import EMATeacher
from mic_det.data.loader import worker_failures_explained
from mic_det.tasks import task_of

from .checkpoint import last_checkpoint


def inference_folder(output_dir: str | Path, which: str) -> Path:
    """Where the predictions of "student" or "teacher" lie, a folder for each test set."""
    return Path(output_dir) / "inference" / which


def evaluated_weights(cfg: CfgNode, *, resume: bool = False) -> str:
    """The file that an evaluation loads, with ``resume`` the last checkpoint; "" for none."""
    return (last_checkpoint(cfg.OUTPUT_DIR) if resume else "") or cfg.MODEL.WEIGHTS


def check_evaluated_weights(cfg: CfgNode, *, resume: bool = False) -> None:
    """Raise ConfigError where there are none, or their results would replace those of another run.

    A config's own ``MODEL.WEIGHTS`` are those that its training starts from, and its ``OUTPUT_DIR``
    has the results of what that training ends with.
    """
    weights, folder = evaluated_weights(cfg, resume=resume), Path(cfg.OUTPUT_DIR)
    own = last_checkpoint(cfg.OUTPUT_DIR)
    trained = own or f"{folder}/model_final.pth"
    if not weights:
        raise ConfigError(
            f"--eval-only: MODEL.WEIGHTS is empty. Say what to evaluate: MODEL.WEIGHTS {trained}"
        )
    if own and not Path(weights).resolve().is_relative_to(folder.resolve()):
        raise ConfigError(
            f"--eval-only: MODEL.WEIGHTS is {weights}, whose results would replace those of the "
            f"run in {folder}. To evaluate that run, add MODEL.WEIGHTS {trained}; to evaluate "
            "other weights, add another OUTPUT_DIR."
        )


def evaluate(cfg: CfgNode, student: nn.Module, teacher: EMATeacher) -> dict[str, Any]:
    """Evaluate ``TEST.MODELS``: the task's metrics on each test set, and its label-free criterion.

    Returns ``{"student": {dataset: metrics, …}, "teacher": …}``; with ``TEST.LABEL_FREE_IMAGES``
    each also has ``stability``, in percent, if the task has such a criterion (`Task.stability`).
    Predictions are left in ``OUTPUT_DIR/inference``.
    """
    task = task_of(cfg)
    task.check(cfg, training=False)
    models = {"student": student, "teacher": teacher.model}
    stability = task.stability(cfg) if comm.is_main_process() else None
    results: dict[str, Any] = {}
    for which in cfg.TEST.MODELS:
        model = models[which]
        with worker_failures_explained():
            results[which] = task.evaluate(cfg, model, inference_folder(cfg.OUTPUT_DIR, which))
        if stability is not None:
            results[which]["stability"] = 100.0 * stability(model)
    return results
