"""Masking, teacher, augmentation and pseudo-label quality: tensors in, tensors out.

Nothing here knows a task or Detectron2; take ``PatchMask`` and ``EMATeacher`` into any loop.
"""

from .ascent import SharpnessAscent
from .augment import StudentAugment
from .averages import RunningMeans, running_means
from .class_shares import ClassShares
from .evaluating import eval_mode, masked_pairs
from .fork import fork
from .gradient import scale_gradient
from .masking import PatchMask
from .quality import QUALITY_MODES, confident, objectness_quality, softmax_quality
from .statistics import StepStatistics, TargetStatistics, kept_statistics, untracked
from .student_view import MaskedView
from .teacher import EMATeacher

__all__ = [
    "QUALITY_MODES",
    "ClassShares",
    "EMATeacher",
    "MaskedView",
    "PatchMask",
    "RunningMeans",
    "SharpnessAscent",
    "StepStatistics",
    "StudentAugment",
    "TargetStatistics",
    "confident",
    "eval_mode",
    "fork",
    "kept_statistics",
    "masked_pairs",
    "objectness_quality",
    "running_means",
    "scale_gradient",
    "softmax_quality",
    "untracked",
]
