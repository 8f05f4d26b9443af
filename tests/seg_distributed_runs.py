"""What the processes of `test_seg_distributed` do; a module, so that a new process finds it."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from detectron2.utils import comm
from seg_domains import small_config

from mic_det.engine import build_trainer, load_for_evaluation
from mic_det.segmentation.evaluation import evaluate_model
from mic_det.tasks import task_of

# GroupNorm knows one image at a time, and masks and colours belong to the image.
SAME = {
    "MODEL.RESNETS.NORM": "GN",
    "MODEL.RESNETS.STEM_OUT_CHANNELS": 32,
    "MODEL.RESNETS.RES2_OUT_CHANNELS": 32,
    "MODEL.MIC.ENABLED": True,
    "MODEL.CHANNELS_LAST": False,
    "SOLVER.OPTIMIZER": "SGD",
    "SOLVER.BASE_LR": 0.0002,
}


def train(method: str, domains: Path, output: Path, settings: dict | None = None) -> None:
    """Two steps; what this process ends with goes to ``output``/rank<r>.pth."""
    pairs = [part for item in (settings or {}).items() for part in item]
    cfg = small_config(method, domains, output, "SOLVER.MAX_ITER", 2, *pairs, "DATASETS.TEST", "()")
    trainer = build_trainer(cfg, writers=list)
    trainer.train(0, 2)
    student = getattr(trainer.student, "module", trainer.student)
    ends = {"student": student.state_dict(), "teacher": trainer.teacher.model.state_dict()}
    torch.save(ends | {"skipped": trainer.guard.skipped}, output / f"rank{comm.get_rank()}.pth")


def evaluate(domains: Path, output: Path, weights: Path) -> None:
    """Metrics of a checkpoint; all processes share the images out."""
    cfg = small_config("source", domains, output, "MODEL.WEIGHTS", weights, *same_network())
    student, _ = load_for_evaluation(cfg)
    task_of(cfg).check(cfg, training=False)
    metrics = evaluate_model(cfg, student, output / "maps")
    if comm.is_main_process():
        (output / "metrics.json").write_text(json.dumps(metrics))


def same_network() -> list:
    return [part for item in SAME.items() if "RESNETS" in item[0] for part in item]


def scenarios(domains: Path, output: Path) -> None:
    """All that is asked of several processes, one after the other."""
    train("source", domains, output / "same", SAME)
    for method in ("hrda_mic", "adversarial"):
        train(method, domains, output / method)
    evaluate(domains, output / "evaluation", output / "same" / "model_final.pth")
