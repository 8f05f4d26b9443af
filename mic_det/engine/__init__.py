"""The training loop, checkpoints and evaluation that all tasks share."""

from mic_det.env import require_detectron2

require_detectron2()

from .build import build_student_and_teacher, build_trainer, load_for_evaluation  # noqa: E402
from .checkpoint import AdaptationCheckpointer  # noqa: E402
from .evaluation import evaluate  # noqa: E402
from .trainer import AdaptationTrainer  # noqa: E402

__all__ = [
    "AdaptationCheckpointer",
    "AdaptationTrainer",
    "build_student_and_teacher",
    "build_trainer",
    "evaluate",
    "load_for_evaluation",
]
