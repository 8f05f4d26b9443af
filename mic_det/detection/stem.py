"""A ResNet's stem that keeps less for its way back."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from detectron2.modeling.backbone.resnet import BasicStem
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

WINDOW = {"kernel_size": 3, "stride": 2, "padding": 1}


def pool_before_relu(model: nn.Module) -> None:
    """Let each `BasicStem` of ``model`` pool first; outputs and gradients stay the same to the bit.

    The largest value of a window is the same before relu and after it, and so is where it lies,
    unless it is negative: then nothing flows back in either order. Relu then works on a quarter of
    the map, and of what goes into the pooling, the largest map but for the norm's input, only the
    places of the largest values are kept.
    """
    for module in model.modules():
        if type(module) is BasicStem:
            module.__class__ = PoolFirstStem


class PoolFirstStem(BasicStem):
    """`BasicStem` with relu behind the pooling; see `pool_before_relu`."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv1(x)
        if x.requires_grad and not torch.jit.is_tracing():
            return F.relu_(_MaxPool.apply(x))
        return F.relu_(F.max_pool2d(x, **WINDOW))


class _MaxPool(torch.autograd.Function):
    """Pooling over `WINDOW` that keeps the places of the largest values and not its input."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        pooled, places = F.max_pool2d(x, **WINDOW, return_indices=True)
        ctx.like = torch.empty_like(x, device="meta")
        ctx.save_for_backward(places.int())
        return pooled

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> Tensor:
        (places,) = ctx.saved_tensors
        kernel, stride, padding = ([size, size] for size in WINDOW.values())
        # Of the input only the shape and the order in memory are looked at.
        like = torch.empty_like(ctx.like, device=grad.device, dtype=grad.dtype)
        return torch.ops.aten.max_pool2d_with_indices_backward(
            grad, like, kernel, stride, padding, [1, 1], False, places.long()
        )
