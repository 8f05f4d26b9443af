"""A two-layer classifier of single positions, with its way back written out."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def pointwise_logits(
    x: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor, factors: Sequence[float]
) -> tuple[Tensor, ...]:
    """``w2 relu(w1 x + b1) + b2`` at each position, once for each factor, for losses that disagree.

    Outputs and gradients are those of two 1x1 convolutions, evaluated for each factor behind
    `mic_det.core.scale_gradient`. As there is one logit a position, what flows back through the
    hidden layer is the same matrix for all losses but for a number a position: it is multiplied out
    once, and those numbers are put onto the C channels of ``x`` instead of the hidden ones. Kept
    for the way back is which hidden units are active, a byte each.

    Args:
        x: (N, C, H, W), floating, contiguous or channels-last.
        w1, b1, w2, b2: (K, C), (K,), (K,), (1,).
        factors: what gradients into ``x`` are multiplied by, for each output.

    Returns logit maps (N, 1, H, W); under autocast in its dtype. There is no second derivative.
    """
    return _PointwiseLogits.apply(tuple(map(float, factors)), x, w1, b1, w2, b2)


def _positions(maps: Tensor) -> Tensor:
    """(N, C, H, W) as (N, H * W, C), without a copy."""
    return maps.flatten(2).transpose(1, 2)


class _PointwiseLogits(torch.autograd.Function):
    @staticmethod
    def forward(ctx, factors, x, w1, b1, w2, b2):
        kind = x.device.type
        autocast = torch.is_autocast_enabled(kind)
        dtype = torch.get_autocast_dtype(kind) if autocast else x.dtype
        ctx.factors, ctx.dtype = factors, dtype
        ctx.set_materialize_grads(False)
        with torch.autocast(kind, enabled=False):
            inputs = _positions(x.to(dtype))
            weight = w1.to(dtype).t().expand(len(x), -1, -1)
            hidden = torch.baddbmm(b1.to(dtype), inputs, weight)
            active = hidden > 0
            logits = hidden.relu_() @ w2.to(dtype) + b2.to(dtype)
        ctx.save_for_backward(x, w1, b1, w2, active)
        logits = logits.view(len(x), 1, *x.shape[2:])
        return tuple(logits if i == 0 else logits.clone() for i in range(len(factors)))

    @staticmethod
    @once_differentiable
    def backward(ctx, *grads: Tensor | None):
        pairs = [(f, g) for f, g in zip(ctx.factors, grads, strict=True) if g is not None]
        if not pairs:
            return (None,) * 6
        x, w1, b1, w2, active = ctx.saved_tensors
        with torch.autocast(x.device.type, enabled=False):
            mask = active.to(ctx.dtype)
            of_x = None
            if ctx.needs_input_grad[1]:
                scaled = sum(factor * grad for factor, grad in pairs)
                of_x = _into_features(x, mask, w2[:, None] * w1, scaled)
            if not any(ctx.needs_input_grad[2:]):
                return None, of_x, None, None, None, None
            total = sum(grad for _, grad in pairs).flatten(1)
            spread = total.to(ctx.dtype)
            weighted = _positions(x.to(ctx.dtype)) * spread.unsqueeze(2)
            # sum over positions of g * active * x, and of g * active
            exact = torch.promote_types(ctx.dtype, torch.float32)
            products = torch.bmm(mask.transpose(1, 2), weighted).to(exact).sum(0)
            sums = (mask.flatten(0, 1).t() @ spread.flatten()).to(exact)
            return (
                *(None, of_x),
                (w2[:, None] * products).to(w1.dtype),
                (w2 * sums).to(b1.dtype),
                ((w1 * products).sum(1) + b1 * sums).to(w2.dtype),
                total.to(exact).sum().reshape(1).to(b1.dtype),
            )


def _into_features(x: Tensor, mask: Tensor, weight: Tensor, scaled: Tensor) -> Tensor:
    """``scaled`` times the logits' derivatives, in the memory order of ``x``."""
    count, channels = x.shape[:2]
    weight = weight.to(mask.dtype)
    if x.is_contiguous():
        back = torch.bmm(weight.t().expand(count, -1, -1), mask.transpose(1, 2))
        return back.view(x.shape).mul_(scaled).to(x.dtype)
    back = torch.bmm(mask, weight.expand(count, -1, -1)).transpose(1, 2)
    return back.reshape(count, channels, *x.shape[2:]).mul_(scaled).to(x.dtype)
