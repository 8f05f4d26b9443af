"""A two-layer classifier of single positions, with its way back written out."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from .branches import computing_dtype, merged


def pointwise_logits(
    x: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor, factors: Sequence[float]
) -> tuple[Tensor, ...]:
    """``w2 relu(w1 x + b1) + b2`` at each position, once for each factor, for losses that disagree.

    Outputs and gradients are those of two 1x1 convolutions, evaluated for each factor behind
    `mic_det.core.scale_gradient`. As there is one logit a position, what flows back through the
    hidden layer is the same matrix for all losses but for a number a position: it is multiplied out
    once, and those numbers are put onto the C channels of ``x`` instead of the hidden ones. Kept
    for the way back is which hidden units are active, a bit each.

    Args:
        x: (N, C, H, W), floating, contiguous or channels-last.
        w1, b1, w2, b2: (K, C), (K,), (K,), (1,).
        factors: what gradients into ``x`` are multiplied by, for each output.

    Returns logit maps (N, 1, H, W); under autocast in its dtype. There is no second derivative.
    """
    return _PointwiseLogits.apply(tuple(map(float, factors)), x, w1, b1, w2, b2)


# Numbers of the hidden layer that are worked on, and in memory, at a time.
CPU_BLOCK, GPU_BLOCK = 1 << 20, 1 << 26


def pack_bits(values: Tensor) -> Tensor:
    """(..., K) bool to (..., ceil(K / 8)) uint8: eight a byte, the first in its lowest bit."""
    values = F.pad(values, (0, -values.shape[-1] % 8)).contiguous()
    # Eight bytes of 0 or 1 are an integer; the product brings them side by side into its top byte.
    return ((values.view(torch.int64) * 0x0102040810204080) >> 56).to(torch.uint8)


def unpack_bits(packed: Tensor, count: int, dtype: torch.dtype) -> Tensor:
    """The first ``count`` values that `pack_bits` has packed, (..., count) of 0 and 1."""
    codes = torch.arange(256, device=packed.device)
    of_byte = (codes[:, None] >> torch.arange(8, device=packed.device) & 1).to(dtype)
    return F.embedding(packed.int(), of_byte).flatten(-2)[..., :count]


def _positions(maps: Tensor) -> Tensor:
    """(N, C, H, W), contiguous or channels-last, as (N, H * W, C): a view."""
    return maps.flatten(2).transpose(1, 2)


def _blocks(maps: Tensor, hidden: int) -> list[slice]:
    """Positions in portions that bound what the hidden layer takes of the memory."""
    limit = GPU_BLOCK if maps.is_cuda else CPU_BLOCK
    size = max(1, limit // (len(maps) * hidden))
    return [slice(first, first + size) for first in range(0, maps.shape[2] * maps.shape[3], size)]


class _PointwiseLogits(torch.autograd.Function):
    @staticmethod
    def forward(ctx, factors, x, w1, b1, w2, b2):
        dtype = computing_dtype(x)
        ctx.factors, ctx.dtype = factors, dtype
        ctx.set_materialize_grads(False)
        if not x.is_contiguous(memory_format=torch.channels_last):
            x = x.contiguous()
        count, _, height, width = x.shape
        logits = x.new_empty(count, height * width, dtype=dtype)
        active = x.new_empty(count, height * width, -(-len(w1) // 8), dtype=torch.uint8)
        with torch.autocast(x.device.type, enabled=False):
            inputs = _positions(x.to(dtype))
            weight = w1.to(dtype).t().expand(count, -1, -1)
            first, last, offset = b1.to(dtype), w2.to(dtype), b2.to(dtype)
            for part in _blocks(x, len(w1)):
                hidden = torch.baddbmm(first, inputs[:, part], weight)
                active[:, part] = pack_bits(hidden > 0)
                logits[:, part] = hidden.relu_() @ last + offset
        ctx.save_for_backward(x, w1, b1, w2, active)
        logits = logits.view(count, 1, height, width)
        return tuple(logits if i == 0 else logits.clone() for i in range(len(factors)))

    @staticmethod
    @once_differentiable
    def backward(ctx, *grads: Tensor | None):
        dtype, exact = ctx.dtype, torch.promote_types(ctx.dtype, torch.float32)
        sums_of_losses = merged(grads, ctx.factors, exact)
        if sums_of_losses is None:
            return (None,) * 6
        x, w1, b1, w2, active = ctx.saved_tensors
        total, scaled = (each.flatten(1) for each in sums_of_losses)
        of_x = torch.empty_like(x) if ctx.needs_input_grad[1] else None
        of_parameters = any(ctx.needs_input_grad[2:])
        # sums over positions of g * active * x, and of g * active
        products, sums = w1.new_zeros(w1.shape, dtype=exact), b1.new_zeros(b1.shape, dtype=exact)
        with torch.autocast(x.device.type, enabled=False):
            inputs = _positions(x.to(dtype))
            # At the start these products are about 1e-6, too small for float16.
            weight = w2[:, None] * w1
            largest = weight.abs().amax().clamp(min=torch.finfo(weight.dtype).tiny)
            weight = (weight / largest).to(dtype).expand(len(x), -1, -1)
            scaled = scaled.unsqueeze(2) * largest
            for part in _blocks(x, len(w1)):
                mask = unpack_bits(active[:, part], len(w1), dtype)
                if of_x is not None:
                    of_part = torch.bmm(mask, weight).to(exact)
                    _positions(of_x)[:, part] = of_part.mul_(scaled[:, part])
                if of_parameters:
                    spread = total[:, part].to(dtype)
                    weighted = inputs[:, part] * spread.unsqueeze(2)
                    products += torch.bmm(mask.transpose(1, 2), weighted).to(exact).sum(0)
                    sums += (mask.flatten(0, 1).t() @ spread.flatten()).to(exact)
            if not of_parameters:
                return None, of_x, None, None, None, None
            return (
                *(None, of_x),
                (w2[:, None] * products).to(w1.dtype),
                (w2 * sums).to(b1.dtype),
                ((w1 * products).sum(1) + b1 * sums).to(w2.dtype),
                total.sum().reshape(1).to(b1.dtype),
            )
