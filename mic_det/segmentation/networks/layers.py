"""Layers that several networks share."""

from __future__ import annotations

from detectron2.layers import get_norm
from torch import nn


def conv_norm_relu(
    inputs: int, outputs: int, kernel: int, norm: str, *, dilation: int = 1, groups: int = 1
) -> nn.Sequential:
    """Convolution that keeps the size, normalisation by Detectron2's name ("" for none), ReLU."""
    padding = dilation * (kernel // 2)
    conv = nn.Conv2d(
        inputs,
        outputs,
        kernel,
        padding=padding,
        dilation=dilation,
        groups=groups,
        bias=norm == "",
    )
    layers = [conv, get_norm(norm, outputs), nn.ReLU()]
    return nn.Sequential(*(each for each in layers if each is not None))


def separable_conv(
    inputs: int, outputs: int, kernel: int, norm: str, dilation: int = 1
) -> nn.Sequential:
    """A depth-wise and then a 1x1 convolution, each with normalisation and ReLU."""
    return nn.Sequential(
        conv_norm_relu(inputs, inputs, kernel, norm, dilation=dilation, groups=inputs),
        conv_norm_relu(inputs, outputs, 1, norm),
    )
