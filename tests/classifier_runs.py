"""What the processes of `test_classification_distributed` do, where they can import it."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch
from class_trees import CONFIGS, TINY
from detectron2.engine import HookBase
from detectron2.utils import comm

from mic_det.config import load_config
from mic_det.engine import build_trainer

# A loss that adds up over images: no class confusion and no weights by certainty, which look at
# all images of a process; and normalisation as it is in testing.
ADDITIVE = [
    *("MODEL.CLASSIFIER.MCC.WEIGHT", "0.0", "MODEL.CLASSIFIER.ALIGN.ENTROPY", "False"),
    *("MODEL.CLASSIFIER.ALIGN.WARMUP_ITERS", "0"),
]


class FixedNormalisation(HookBase):
    """BatchNorm takes its running statistics, as in testing, and leaves them."""

    def before_step(self) -> None:
        for layer in self.trainer.student.modules():
            if isinstance(layer, torch.nn.modules.batchnorm._BatchNorm):
                layer.eval()


class Gradients(HookBase):
    """Keeps the gradients of the first step."""

    def after_backward(self) -> None:
        if self.trainer.iter == 0:
            named = self.trainer.student.named_parameters()
            self.kept = {n.removeprefix("module."): p.grad.clone() for n, p in named}


def train(
    output: Path, domains: Path, *overrides: str, stop: int = 4, resume: bool = False, hooks=()
) -> None:
    """Train ``digits_mic`` on the trees that ``domains`` names and save what this process has."""
    cfg = load_config(
        CONFIGS / "digits_mic.yaml",
        [
            *TINY,
            *("DATASETS.REGISTER", f"('{domains}',)", "DATASETS.TRAIN", "('shapes2',)"),
            *("DATASETS.TARGET", "('pale2',)", "DATASETS.TEST", "()", "SOLVER.MAX_ITER", "4"),
            *("SOLVER.IMS_PER_BATCH", "8", "OUTPUT_DIR", str(output), "TEST.EVAL_PERIOD", "0"),
            *("SOLVER.CHECKPOINT_PERIOD", "2", *overrides),
        ],
    )
    trainer = build_trainer(cfg, resume=resume, writers=list)
    gradients = Gradients()
    trainer.register_hooks([gradients, *hooks])
    trainer.train(trainer.start_iter, stop)
    student = getattr(trainer.student, "module", trainer.student)
    everything = {
        "start": trainer.start_iter,
        "student": student.state_dict(),
        "teacher": trainer.teacher.model.state_dict(),
        "gradients": getattr(gradients, "kept", {}),
    }
    torch.save(everything, output / f"rank{comm.get_rank()}.pth")


def scenarios(root: Path, domains: Path) -> None:
    """All that is asked of several processes, one after the other."""
    train(root / "additive", domains, *ADDITIVE, hooks=[FixedNormalisation()])
    train(root / "straight", domains)
    if comm.is_main_process():
        (root / "resumed").mkdir()
        shutil.copy(root / "straight" / "model_0000001.pth", root / "resumed")
        (root / "resumed" / "last_checkpoint").write_text("model_0000001.pth")
    comm.synchronize()
    train(root / "resumed", domains, resume=True)
