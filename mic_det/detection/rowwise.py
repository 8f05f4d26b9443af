"""A three-layer classifier of single rows, with its way back written out."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from .branches import computing_dtype, merged


def rowwise_logits(
    x: Tensor, layers: Sequence[tuple[Tensor, Tensor]], dropout: float, factors: Sequence[float]
) -> tuple[Tensor, ...]:
    """Three linear layers, relu and dropout after the first two, for losses that disagree.

    Outputs and gradients are those of the layers, evaluated for each factor behind
    `mic_det.core.scale_gradient` with the same draw of the dropout. As there is one logit a row,
    what flows back is the same rows for all losses but for a number each: they are walked back
    once, and those numbers are put onto the weights' and ``x``'s gradients at the end. Kept for the
    way back is what comes out of each dropout, whose positive entries are the active ones.

    Args:
        x: (R, D), floating.
        layers: weight and bias of each layer, (K, D) and (K,), (L, K) and (L,), (1, L) and (1,).
        dropout: probability of a zero; 0 in eval mode.
        factors: what gradients into ``x`` are multiplied by, for each output.

    Returns logits (R,); under autocast in its dtype. There is no second derivative.
    """
    parameters = [each for layer in layers for each in layer]
    return _RowwiseLogits.apply(dropout, tuple(map(float, factors)), x, *parameters)


class _RowwiseLogits(torch.autograd.Function):
    @staticmethod
    def forward(ctx, dropout, factors, x, w1, b1, w2, b2, w3, b3):
        ctx.dtype = computing_dtype(x)
        ctx.factors = factors
        # What dropout multiplies the survivors by; of those of probability 1 there are none.
        ctx.survivors = 1 / (1 - dropout) if dropout < 1 else 0.0
        ctx.set_materialize_grads(False)
        with torch.autocast(x.device.type, enabled=False):
            rows, *layers = (each.to(ctx.dtype) for each in (x, w1, b1, w2, b2, w3, b3))
            hidden = []
            for weight, bias in (layers[0:2], layers[2:4]):
                rows = F.linear(rows, weight, bias).relu_()
                hidden.append(F.dropout(rows, dropout, training=dropout > 0, inplace=True))
                rows = hidden[-1]
            logits = F.linear(rows, *layers[4:]).flatten()
        ctx.save_for_backward(x, *hidden, w1, w2, w3)
        return tuple(logits if i == 0 else logits.clone() for i in range(len(factors)))

    @staticmethod
    @once_differentiable
    def backward(ctx, *grads: Tensor | None):
        sums_of_losses = merged(grads, ctx.factors, ctx.dtype)
        if sums_of_losses is None:
            return (None,) * 9
        total, scaled = sums_of_losses
        x, first, second, w1, w2, w3 = ctx.saved_tensors
        of_input, of_parameters = ctx.needs_input_grad[2], any(ctx.needs_input_grad[3:])
        with torch.autocast(x.device.type, enabled=False):
            rows, w1, w2, w3 = (each.to(ctx.dtype) for each in (x, w1, w2, w3))
            # d logit / d (what goes into the relu), of the second layer and of the first
            to_second = (second > 0) * (w3 * ctx.survivors)
            to_first = (to_second @ w2).mul_(first > 0).mul_(ctx.survivors)
            of_x = None
            if of_input:
                of_x = (to_first @ w1).mul_(scaled[:, None]).to(x.dtype)
            if not of_parameters:
                return None, None, of_x, *(None,) * 6
            found = [
                *((to_first * total[:, None]).t() @ rows, total @ to_first),
                *((to_second * total[:, None]).t() @ first, total @ to_second),
                *((total @ second)[None], total.sum()[None]),
            ]
        parameters = ctx.saved_tensors[3:]
        exact = parameters[0].dtype
        return None, None, of_x, *(each.to(exact) for each in found)
