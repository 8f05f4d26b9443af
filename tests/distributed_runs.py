"""What the processes of `test_distributed` do; a module, so that a new process finds it."""

from __future__ import annotations

import json
import math
import zlib
from pathlib import Path

import torch
from detectron2.engine import HookBase
from detectron2.structures import Boxes, Instances
from detectron2.utils import comm
from processes import HEIGHT, SMALL, WIDTH

from mic_det.config import load_config
from mic_det.data.builtin import register_builtin
from mic_det.detection.evaluation import evaluate_model
from mic_det.engine import build_trainer, load_for_evaluation

CONFIG = Path(__file__).parents[1] / "configs" / "streets_mic.yaml"
# Nothing is drawn in a step but masks and colours, which belong to the image, and nothing is
# selected by scores that rounding could put into another order: each anchor is a sample and a
# proposal, of which each image has the same number, and nothing drops out.
EXHAUSTIVE = [
    *("MODEL.RPN.BATCH_SIZE_PER_IMAGE", "4096", "MODEL.RPN.NMS_THRESH", "2.0"),
    *("MODEL.RPN.PRE_NMS_TOPK_TRAIN", "2000", "MODEL.RPN.POST_NMS_TOPK_TRAIN", "2000"),
    *("MODEL.ROI_HEADS.PROPOSAL_APPEND_GT", "False", "MODEL.ROI_HEADS.POSITIVE_FRACTION", "1.0"),
    *("MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE", "512", "MODEL.SADA.DROPOUT", "0.0"),
    *("MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS", "[[1.0]]"),
    *("SOLVER.OPTIMIZER", "SGD", "SOLVER.BASE_LR", "0.001"),
]


def small_config(output: Path, *overrides: str):
    register_builtin()
    return load_config(CONFIG, [*SMALL, "OUTPUT_DIR", str(output), *overrides])


def labels_for_some(trainer) -> list[list[int]]:
    """Pseudo labels that follow from an image's name, and for half of them none.

    Returns their numbers, step by step. The teacher's own depend on the order of scores.
    """
    counts = []

    def some(target):
        labels = [_labels_of(Path(each["file_name"]).name) for each in target]
        counts.append([len(each) for each in labels])
        return labels

    trainer.teacher.pseudo_label = some
    return counts


def _labels_of(name: str) -> Instances:
    number = zlib.crc32(name.encode())
    count = number % 2 * (1 + number % 5)
    random = torch.Generator().manual_seed(number)
    corners = torch.rand(count, 2, generator=random) * torch.tensor([60.0, 36.0])
    sides = 8 + 20 * torch.rand(count, 2, generator=random)
    labels = Instances((HEIGHT, WIDTH))
    labels.gt_boxes = Boxes(torch.cat([corners, corners + sides], dim=1))
    labels.gt_classes = torch.randint(0, 8, (count,), generator=random)
    labels.gt_scores = 0.8 + 0.2 * torch.rand(count, generator=random)
    return labels


class Gradients(HookBase):
    """Keeps the weights at the start and the gradients of the first step."""

    def before_train(self) -> None:
        student = getattr(self.trainer.student, "module", self.trainer.student)
        self.start = {name: tensor.clone() for name, tensor in student.state_dict().items()}

    def after_backward(self) -> None:
        if self.trainer.iter == 0:
            named = self.trainer.student.named_parameters()
            self.kept = {n.removeprefix("module."): p.grad.clone() for n, p in named}


class BadLoss(HookBase):
    """Makes the losses of one process NaN, or those of its images, at some iterations."""

    def __init__(self, rank: int, iterations: set[int]) -> None:
        self.rank, self.iterations = rank, iterations

    def before_train(self) -> None:
        student, hook = self.trainer.student, self

        def spoil(module, inputs, losses):
            if comm.get_rank() == hook.rank and hook.trainer.iter in hook.iterations:
                return {name: loss * math.nan for name, loss in losses.items()}
            return losses

        getattr(student, "module", student).register_forward_hook(spoil)


def train(output: Path, *overrides: str, iterations: int, hooks=(), uneven: bool = False) -> None:
    """Train and save what this process ends with to ``output``/rank<r>.pth."""
    cfg = small_config(output, "SOLVER.MAX_ITER", str(iterations), *overrides)
    trainer = build_trainer(cfg, writers=list)
    counts = labels_for_some(trainer) if uneven else []
    gradients = Gradients()
    trainer.register_hooks([gradients, *hooks])
    trainer.train(0, iterations)
    student = getattr(trainer.student, "module", trainer.student)
    everything = {
        "start": gradients.start,
        "student": student.state_dict(),
        "teacher": trainer.teacher.model.state_dict(),
        "gradients": gradients.kept,
        "counts": counts,
        "skipped": trainer.guard.skipped,
    }
    torch.save(everything, output / f"rank{comm.get_rank()}.pth")


def scenarios(root: Path, iterations: int) -> None:
    """All that is asked of several processes, one after the other."""
    none = ("DATASETS.TEST", "()")
    train(root / "same", *none, *EXHAUSTIVE, iterations=iterations, uneven=True)
    train(root / "fault", *none, iterations=3, hooks=[BadLoss(comm.get_world_size() - 1, {1})])
    predict(root / "predictions", root / "fault" / "model_final.pth")


def predict(output: Path, weights: Path) -> None:
    """Evaluate the student of a file; all detections and the metrics go into ``output``."""
    # Everything is detected, so that there is something to compare.
    cfg = small_config(output, "MODEL.WEIGHTS", str(weights), "TEST.DETECTIONS_PER_IMAGE", "20")
    cfg.defrost()
    cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST = 0.0
    student, _ = load_for_evaluation(cfg)
    metrics = evaluate_model(cfg, student, output_dir=str(output))
    if comm.is_main_process():
        (output / "metrics.json").write_text(json.dumps(metrics).replace("NaN", "null"))
