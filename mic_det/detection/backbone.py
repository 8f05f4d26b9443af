"""A ResNet-18 with FPN of any width, for small images and small machines."""

from __future__ import annotations

from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, FPN, ResNet
from detectron2.modeling.backbone.fpn import LastLevelMaxPool
from detectron2.modeling.backbone.resnet import BasicBlock, BasicStem


@BACKBONE_REGISTRY.register()
def build_slim_resnet_fpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> FPN:
    """ResNet-18 with ``MODEL.RESNETS.RES2_OUT_CHANNELS`` channels in its first stage, and FPN.

    Detectron2's own builder allows 64 there and nothing else. Each further stage has twice the
    channels of the one before; other keys mean what they mean to Detectron2.
    """
    norm = cfg.MODEL.RESNETS.NORM
    stem_channels = cfg.MODEL.RESNETS.STEM_OUT_CHANNELS
    stem = BasicStem(in_channels=input_shape.channels, out_channels=stem_channels, norm=norm)
    stages = []
    in_channels, out_channels = stem_channels, cfg.MODEL.RESNETS.RES2_OUT_CHANNELS
    for number in range(4):
        stages.append(
            ResNet.make_stage(
                BasicBlock,
                num_blocks=2,
                stride_per_block=[1 if number == 0 else 2, 1],
                in_channels=in_channels,
                out_channels=out_channels,
                norm=norm,
            )
        )
        in_channels, out_channels = out_channels, 2 * out_channels
    bottom_up = ResNet(stem, stages, out_features=cfg.MODEL.RESNETS.OUT_FEATURES)
    return FPN(
        bottom_up=bottom_up.freeze(cfg.MODEL.BACKBONE.FREEZE_AT),
        in_features=cfg.MODEL.FPN.IN_FEATURES,
        out_channels=cfg.MODEL.FPN.OUT_CHANNELS,
        norm=cfg.MODEL.FPN.NORM,
        top_block=LastLevelMaxPool(),
        fuse_type=cfg.MODEL.FPN.FUSE_TYPE,
    )
