"""Encoders, decoders and networks of semantic segmentation."""

from .base import Decoder, Encoder, Output, SegmentationNetwork, upsample
from .build import build_encoder, build_network

__all__ = [
    "Decoder",
    "Encoder",
    "Output",
    "SegmentationNetwork",
    "build_encoder",
    "build_network",
    "upsample",
]
