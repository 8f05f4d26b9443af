"""Symmetric distillation between two views of an image."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def soft_cross_entropy(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean over pixels of -sum_k softmax(teacher)_k log softmax(student)_k.

    Both are logits (N, K, H, W); no gradient flows into ``teacher``. Computed in float32.
    """
    with torch.autocast(student.device.type, enabled=False):
        return F.cross_entropy(student.float(), teacher.detach().float().softmax(1))


def symmetric_distillation(
    student_plain: Tensor,
    student_changed: Tensor,
    teacher_plain: Tensor,
    teacher_changed: Tensor,
    backward_share: float = 0.5,
) -> Tensor:
    """CE(teacher plain, student changed) + share * CE(teacher changed, student plain).

    Shen et al., DiGA, CVPR 2023, eq. 2. All are logits (N, K, H, W) of the same image geometry:
    the changed view moves no pixel.
    """
    loss = soft_cross_entropy(student_changed, teacher_plain)
    return loss + backward_share * soft_cross_entropy(student_plain, teacher_changed)
