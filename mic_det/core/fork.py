"""One head, several losses that send different shares of their gradients into its input."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


def fork(head: nn.Module, x: Tensor, factors: Sequence[float]) -> tuple[Tensor, ...]:
    """``head(x)``, once for each factor that gradients into ``x`` are multiplied by.

    The numbers are those of ``head(scale_gradient(x, factor))`` for each factor, with one random
    draw for all; the parameters of ``head`` receive the plain gradients of all losses. The head
    runs once, and its backward pass twice: for its input and for its parameters. There is no
    second derivative.

    Args:
        head: any module from a tensor to a tensor.
        x: its input, floating.
        factors: one for each output, at least one, not all 0.
    """
    return _Fork.apply(head, tuple(map(float, factors)), x, *head.parameters())


class _Fork(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, head: nn.Module, factors: tuple[float, ...], x: Tensor, *params: Tensor):
        with torch.enable_grad():
            inputs = x.detach().requires_grad_(ctx.needs_input_grad[2])
            output = head(inputs)
        ctx.kept = output, inputs, params, factors
        ctx.set_materialize_grads(False)
        return tuple(output.detach().clone() for _ in factors)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        output, inputs, params, factors = ctx.kept
        del ctx.kept
        pairs = [(f, g) for f, g in zip(factors, grads, strict=True) if g is not None]
        trained = [k for k, needed in enumerate(ctx.needs_input_grad[3:]) if needed]
        into_input, into_params = None, [None] * len(params)
        if pairs and ctx.needs_input_grad[2]:
            # Multiplied by the largest at the end: small factors would be lost in float16.
            largest = max(abs(factor) for factor in factors)
            total = sum(factor / largest * grad for factor, grad in pairs)
            (found,) = torch.autograd.grad(output, inputs, total, retain_graph=bool(trained))
            into_input = found * largest
        if pairs and trained:
            total = sum(grad for _, grad in pairs)
            found = torch.autograd.grad(output, [params[k] for k in trained], total)
            for k, grad in zip(trained, found, strict=True):
                into_params[k] = grad
        return None, None, into_input, *into_params
