"""DeepLab-v2 (Chen et al., TPAMI 2018): dilated ResNet or VGG-16, and its classifier."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torchvision
from detectron2.config import CfgNode
from detectron2.modeling.backbone import ResNet
from detectron2.modeling.backbone.resnet import (
    BasicBlock,
    BasicStem,
    BottleneckBlock,
    CNNBlockBase,
)
from torch import Tensor, nn

from mic_det.config import ConfigError
from mic_det.weights_checkpointer import WeightsCheckpointer, check_weights
from mic_det.weights_file import load_tensors

from .base import Decoder, Encoder

BLOCKS = {
    18: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
}


class DilatedResNet(Encoder):
    """Detectron2's ResNet with output stride 8: its last two stages dilated by 2 and 4.

    Names of parameters are those of Detectron2's backbones, so that its ImageNet weights fit.

    Args:
        depth: 18, 34, 50, 101 or 152. The first two have basic blocks, which Detectron2 cannot
            dilate: their last stages keep dilation 1, at the same stride.
        norm: Detectron2's name: "FrozenBN", "BN", "GN".
        stem_channels, res2_channels: 64, and 256 of a bottleneck's output or 64 of a basic block's.
        freeze_at: as Detectron2's MODEL.BACKBONE.FREEZE_AT.
        stride_in_1x1: as in the weights; True for Detectron2's "MSRA" ones.
    """

    def __init__(
        self,
        depth: int = 101,
        norm: str = "FrozenBN",
        stem_channels: int = 64,
        res2_channels: int = 256,
        freeze_at: int = 0,
        stride_in_1x1: bool = True,
    ) -> None:
        super().__init__()
        stem = BasicStem(3, stem_channels, norm)
        stages, inputs = [], stem_channels
        for i, count in enumerate(BLOCKS[depth]):
            outputs = res2_channels * 2**i
            stages.append(_stage(depth, i, count, inputs, outputs, norm, stride_in_1x1))
            inputs = outputs
        self.resnet = ResNet(stem, stages, out_features=["res5"], freeze_at=freeze_at)
        self.channels = (inputs,)
        self.strides = (8,)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> DilatedResNet:
        """As ``MODEL.RESNETS`` says."""
        resnets = cfg.MODEL.RESNETS
        return cls(
            depth=resnets.DEPTH,
            norm=resnets.NORM,
            stem_channels=resnets.STEM_OUT_CHANNELS,
            res2_channels=resnets.RES2_OUT_CHANNELS,
            freeze_at=cfg.MODEL.BACKBONE.FREEZE_AT,
            stride_in_1x1=resnets.STRIDE_IN_1X1,
        )

    def forward(self, images: Tensor) -> list[Tensor]:
        """One map (N, C, H/8, W/8)."""
        return [self.resnet(images)["res5"]]


def _stage(
    depth: int, index: int, count: int, inputs: int, outputs: int, norm: str, stride_in_1x1: bool
) -> list[CNNBlockBase]:
    first_stride = (1, 2, 1, 1)[index]
    strides = [first_stride] + [1] * (count - 1)
    if depth < 50:
        return ResNet.make_stage(
            BasicBlock,
            count,
            stride_per_block=strides,
            in_channels=inputs,
            out_channels=outputs,
            norm=norm,
        )
    return ResNet.make_stage(
        BottleneckBlock,
        count,
        stride_per_block=strides,
        in_channels=inputs,
        out_channels=outputs,
        bottleneck_channels=outputs // 4,
        stride_in_1x1=stride_in_1x1,
        dilation=(1, 1, 2, 4)[index],
        norm=norm,
    )


# Channels and number of convolutions of VGG-16's stages.
VGG16 = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))


class DilatedVGG16(Encoder):
    """VGG-16 without its last two poolings; the last stage dilated by 2; output stride 8.

    Names of parameters are those of torchvision's ``vgg16().features``.

    Its fully connected layers become two dilated convolutions of 1024 channels, as DeepLab has
    them, when ``fc_channels`` is above 0.

    Args:
        fc_channels: channels of the two layers that stand for fc6 and fc7.
    """

    def __init__(self, fc_channels: int = 1024) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        inputs = 3
        for stage, (channels, count) in enumerate(VGG16):
            dilation = 2 if stage == 4 else 1
            for _ in range(count):
                conv = nn.Conv2d(inputs, channels, 3, padding=dilation, dilation=dilation)
                nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
                nn.init.zeros_(conv.bias)
                layers += [conv, nn.ReLU(inplace=True)]
                inputs = channels
            # A placeholder keeps the numbers of the layers, by which weights are found.
            layers.append(nn.MaxPool2d(2, 2) if stage < 3 else nn.Identity())
        self.features = nn.Sequential(*layers)
        self.fully_connected = nn.Sequential(
            nn.Conv2d(512, fc_channels, 3, padding=4, dilation=4),
            nn.ReLU(inplace=True),
            nn.Dropout2d(0.5),
            nn.Conv2d(fc_channels, fc_channels, 1),
            nn.ReLU(inplace=True),
            nn.Dropout2d(0.5),
        )
        self.channels = (fc_channels,)
        self.strides = (8,)

    def forward(self, images: Tensor) -> list[Tensor]:
        """One map (N, C, H/8, W/8)."""
        return [self.fully_connected(self.features(images))]


class ASPPDecoder(Decoder):
    """DeepLab-v2's classifier: the sum of 3x3 convolutions of several dilations.

    The embedding is the encoder's last map itself.
    """

    class_rows = "branches.0.weight"

    def __init__(
        self,
        in_channels: int,
        stride: int,
        num_classes: int,
        dilations: Sequence[int] = (6, 12, 18, 24),
    ) -> None:
        super().__init__()
        self.stride = stride
        self.embedding_channels = in_channels
        self.branches = nn.ModuleList(
            nn.Conv2d(in_channels, num_classes, 3, padding=dilation, dilation=dilation)
            for dilation in dilations
        )
        for each in self.branches:
            nn.init.normal_(each.weight, 0.0, 0.01)
            nn.init.zeros_(each.bias)

    def embed(self, features: Sequence[Tensor]) -> Tensor:
        return features[-1]

    def classify(self, embedding: Tensor) -> Tensor:
        return torch.stack([branch(embedding) for branch in self.branches]).sum(0)


def load_encoder_weights(encoder: Encoder, weights: str) -> None:
    """Fill a ResNet or VGG-16 with ImageNet weights.

    Args:
        weights: for a ResNet what Detectron2's checkpointer takes (a file, "detectron2://…"); for
            VGG-16 "IMAGENET1K_V1", or a file with torchvision's state dict.

    Raises ConfigError if they cannot be had or do not fit.
    """
    try:
        if isinstance(encoder, DilatedVGG16):
            _load_vgg(encoder, weights)
        else:
            WeightsCheckpointer(encoder.resnet).load(weights)
    except (OSError, RuntimeError, ValueError, KeyError, AssertionError) as error:
        raise ConfigError(
            f"MODEL.SEG.ENCODER_WEIGHTS: {weights}: cannot be used: {error}"
        ) from error


def _load_vgg(encoder: DilatedVGG16, weights: str) -> None:
    if weights in torchvision.models.VGG16_Weights.__members__:
        state = torchvision.models.VGG16_Weights[weights].get_state_dict(progress=False)
    else:
        state = load_tensors(weights)
        check_weights(weights, "model", state, encoder)
    prefix = "features."
    features = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
    encoder.features.load_state_dict(features)
