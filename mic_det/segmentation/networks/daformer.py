"""The context-aware decoder of DAFormer (Hoyer et al., CVPR 2022), and SegFormer's plain one."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .base import Decoder, upsample
from .layers import conv_norm_relu, separable_conv


class _Stages(nn.Module):
    """A linear map of each stage to the same channels, brought to the finest one's size."""

    def __init__(self, in_channels: Sequence[int], channels: int) -> None:
        super().__init__()
        self.maps = nn.ModuleList(nn.Conv2d(each, channels, 1) for each in in_channels)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        size = features[0].shape[-2:]
        mapped = [each(map_) for each, map_ in zip(self.maps, features, strict=True)]
        return torch.cat([upsample(each, size) for each in mapped], dim=1)


class DAFormerDecoder(Decoder):
    """Stages to ``channels`` each, upsampled and concatenated, then fused with context.

    The context comes from parallel depth-wise separable 3x3 convolutions of several dilations (a
    dilation of 1 is a 1x1 convolution, as in ASPP), whose outputs a 3x3 convolution fuses.

    Args:
        in_channels, strides: of the encoder's maps, the finest first.
        channels: of each branch and of the embedding.
        dilations: of the branches.
        norm: by Detectron2's name.
        dropout: before the classifier, of whole channels.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        strides: Sequence[int],
        num_classes: int,
        channels: int = 256,
        dilations: Sequence[int] = (1, 6, 12, 18),
        norm: str = "BN",
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        self.stride = strides[0]
        self.embedding_channels = channels
        self.stages = _Stages(in_channels, channels)
        joined = channels * len(in_channels)
        self.branches = nn.ModuleList(
            conv_norm_relu(joined, channels, 1, norm)
            if dilation == 1
            else separable_conv(joined, channels, 3, norm, dilation)
            for dilation in dilations
        )
        self.fuse = conv_norm_relu(channels * len(dilations), channels, 3, norm)
        self.dropout = nn.Dropout2d(dropout)
        self.classifier = nn.Conv2d(channels, num_classes, 1)
        nn.init.normal_(self.classifier.weight, 0.0, 0.01)
        nn.init.zeros_(self.classifier.bias)

    def embed(self, features: Sequence[Tensor]) -> Tensor:
        joined = self.stages(features)
        return self.fuse(torch.cat([branch(joined) for branch in self.branches], dim=1))

    def classify(self, embedding: Tensor) -> Tensor:
        return self.classifier(self.dropout(embedding))


class MLPDecoder(Decoder):
    """SegFormer's decoder, the light one that HRDA predicts its scale attention with."""

    def __init__(
        self,
        in_channels: Sequence[int],
        strides: Sequence[int],
        num_classes: int,
        channels: int = 256,
        norm: str = "BN",
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        self.stride = strides[0]
        self.embedding_channels = channels
        self.stages = _Stages(in_channels, channels)
        self.fuse = conv_norm_relu(channels * len(in_channels), channels, 1, norm)
        self.dropout = nn.Dropout2d(dropout)
        self.classifier = nn.Conv2d(channels, num_classes, 1)

    def embed(self, features: Sequence[Tensor]) -> Tensor:
        return self.fuse(self.stages(features))

    def classify(self, embedding: Tensor) -> Tensor:
        return self.classifier(self.dropout(embedding))
