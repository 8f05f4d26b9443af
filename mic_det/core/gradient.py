"""Gradient reversal and scaling."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class _ScaleGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, factor: float) -> Tensor:
        ctx.factor = factor
        return x.view_as(x)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None]:
        return grad * ctx.factor, None


def scale_gradient(x: Tensor, factor: float) -> Tensor:
    """Return ``x`` unchanged; on the way back the gradient is multiplied by ``factor``.

    A negative factor is the gradient reversal layer of Ganin and Lempitsky, ICML 2015, eq. 9-10.
    """
    return _ScaleGradient.apply(x, float(factor))


class _ScaledBranches(torch.autograd.Function):
    @staticmethod
    def forward(ctx, module: nn.Module, factors: Sequence[float], x: Tensor, *parameters: Tensor):
        with torch.enable_grad():
            ctx.x = x.detach().requires_grad_(x.requires_grad)
            ctx.y = module(ctx.x)
        ctx.factors, ctx.parameters = factors, parameters
        ctx.set_materialize_grads(False)
        return tuple(ctx.y.detach() for _ in factors)

    @staticmethod
    def backward(ctx, *grads: Tensor | None):
        pairs = [(f, g) for f, g in zip(ctx.factors, grads, strict=True) if g is not None]
        nothing = (None, None, None, *(None for _ in ctx.parameters))
        if not pairs:
            return nothing
        wanted = [each for each in ctx.parameters if each.requires_grad]
        of_x = None
        if wanted:
            total = sum(grad for _, grad in pairs)
            keep = ctx.x.requires_grad
            found = iter(torch.autograd.grad(ctx.y, wanted, total, keep, allow_unused=True))
        if ctx.x.requires_grad:
            scaled = sum(factor * grad for factor, grad in pairs)
            (of_x,) = torch.autograd.grad(ctx.y, [ctx.x], scaled)
        del ctx.x, ctx.y  # the inner graph: its memory would be held until the whole step is over
        of_parameters = [next(found) if each.requires_grad else None for each in ctx.parameters]
        return None, None, of_x, *of_parameters


def scaled_branches(module: nn.Module, x: Tensor, factors: Sequence[float]) -> tuple[Tensor, ...]:
    """``module(x)``, computed once and returned once for each factor, for losses that disagree.

    What flows back from output i changes the module's parameters as usual, and ``x`` multiplied by
    ``factors[i]``: the outputs and gradients are those of
    ``[module(scale_gradient(x, factor)) for factor in factors]``, where dropout draws anew for each
    factor and here once for all. A graph through it can be walked back once only.
    """
    if not torch.is_grad_enabled():
        return (module(x),) * len(factors)
    return _ScaledBranches.apply(module, tuple(map(float, factors)), x, *module.parameters())
