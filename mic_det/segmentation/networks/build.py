"""From a configuration to a segmentation network."""

from __future__ import annotations

from detectron2.config import CfgNode

from mic_det.config import ConfigError

from .base import Decoder, Encoder, SegmentationNetwork
from .daformer import DAFormerDecoder, MLPDecoder
from .deeplab import ASPPDecoder, DilatedResNet, DilatedVGG16, load_encoder_weights
from .hrda import HRDANetwork
from .mit import MixTransformer


def build_encoder(cfg: CfgNode, weights: str) -> Encoder:
    """``MODEL.SEG.ENCODER`` with such weights as ``MODEL.SEG.ENCODER_WEIGHTS``, "" for random."""
    seg = cfg.MODEL.SEG
    if seg.ENCODER == "mit":
        return MixTransformer(seg.MIT_VARIANT, weights, seg.DROP_PATH)
    encoder = DilatedVGG16() if seg.ENCODER == "vgg16" else DilatedResNet.from_config(cfg)
    if weights:
        load_encoder_weights(encoder, weights)
    return encoder


def build_decoder(cfg: CfgNode, encoder: Encoder) -> Decoder:
    """``MODEL.SEG.DECODER`` for the maps of ``encoder``."""
    seg, classes = cfg.MODEL.SEG, cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES
    if seg.DECODER == "deeplab_v2":
        return ASPPDecoder(
            encoder.channels[-1], encoder.strides[-1], classes, dilations=seg.ASPP_DILATIONS
        )
    return DAFormerDecoder(
        encoder.channels,
        encoder.strides,
        classes,
        channels=seg.CHANNELS,
        norm=seg.NORM,
        dropout=seg.DROPOUT,
    )


def build_network(cfg: CfgNode) -> SegmentationNetwork:
    """The student's network, with scales of HRDA if ``MODEL.SEG.HRDA.ENABLED``.

    Where the whole model comes from ``MODEL.WEIGHTS``, nobody asks for those of the encoder.
    """
    encoder = build_encoder(cfg, "" if cfg.MODEL.WEIGHTS else cfg.MODEL.SEG.ENCODER_WEIGHTS)
    parts = {
        "encoder": encoder,
        "decoder": build_decoder(cfg, encoder),
        "num_classes": cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES,
        "pixel_mean": cfg.MODEL.PIXEL_MEAN,
        "pixel_std": cfg.MODEL.PIXEL_STD,
    }
    hrda, seg = cfg.MODEL.SEG.HRDA, cfg.MODEL.SEG
    if not hrda.ENABLED:
        return SegmentationNetwork(**parts)
    attention = MLPDecoder(
        encoder.channels,
        encoder.strides,
        cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES,
        channels=hrda.ATTENTION_CHANNELS,
        norm=seg.NORM,
        dropout=seg.DROPOUT,
    )
    try:
        return HRDANetwork(
            attention=attention,
            scale=hrda.SCALE,
            detail_crop=hrda.DETAIL_CROP,
            context_window=hrda.CONTEXT_WINDOW,
            detail_weight=hrda.DETAIL_WEIGHT,
            windows_at_once=hrda.WINDOWS_AT_ONCE,
            **parts,
        )
    except ValueError as error:
        raise ConfigError(f"MODEL.SEG.HRDA: {error}") from error
