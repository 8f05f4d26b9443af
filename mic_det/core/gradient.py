"""Gradient reversal and scaling."""

from __future__ import annotations

import torch
from torch import Tensor


class _ScaleGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, factor: float) -> Tensor:
        ctx.factor = factor
        return x.view_as(x)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None]:
        return grad * ctx.factor, None


def scale_gradient(x: Tensor, factor: float) -> Tensor:
    """Return ``x`` unchanged; in the backward pass its gradient is multiplied by ``factor``.

    A negative factor is the gradient reversal layer of Ganin and Lempitsky, ICML 2015, eq. 9-10.
    """
    return _ScaleGradient.apply(x, float(factor))
