"""Evaluate a finished run again, for detections that were not kept."""

from __future__ import annotations

from mic_det.config import load_config
from mic_det.data.formats.coco import DataError
from mic_det.engine import load_for_evaluation
from mic_det.engine.evaluation import inference_folder
from mic_det.engine.record import write_results
from mic_det.errors import UserError
from mic_det.tasks import task_of

from .runs import FINAL, RunRecord


def evaluate_again(run: RunRecord) -> None:
    """Detect with the served model of ``model_final.pth``; detections are left in the run's folder.

    A run whose config is of another version, or whose weights or data are gone, gets a problem
    instead. Results that the run has already stay as they are.
    """
    weights = run.folder / FINAL
    try:
        if not weights.is_file():
            raise DataError(f"{weights}: no such file")
        overrides = ["MODEL.WEIGHTS", str(weights), "OUTPUT_DIR", str(run.folder)]
        cfg = load_config(run.config, overrides)
        student, teacher = load_for_evaluation(cfg)
        model = student if cfg.TEST.SERVE == "student" else teacher.model
        task = task_of(cfg)
        task.check(cfg, training=False)
        found = task.evaluate(cfg, model, inference_folder(run.folder, cfg.TEST.SERVE))
    except UserError as error:
        run.problems.append(f"could not be evaluated again: {error}")
        return
    if not run.results:
        run.results = {cfg.TEST.SERVE: found}
        write_results(cfg, run.results, str(weights))
