"""A segmentation network: an encoder, a decoder, and what they are trained and used by."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..losses import pixel_cross_entropy


@dataclass
class Output:
    """Of a training pass: ``loss``, a scalar; ``logits`` (N, K, H, W) at the images' size;
    ``features``, what the encoder gave for them."""

    loss: Tensor
    logits: Tensor
    features: list[Tensor]


class Encoder(nn.Module, ABC):
    """From normalised images to feature maps, the finest first.

    ``channels`` and ``strides`` say what each map has.
    """

    channels: tuple[int, ...]
    strides: tuple[int, ...]

    @abstractmethod
    def forward(self, images: Tensor) -> list[Tensor]:
        """``images`` (N, 3, H, W), normalised, to a map for each of ``strides``."""


class Decoder(nn.Module, ABC):
    """From an encoder's feature maps to class logits.

    It has two halves: ``embed``, to the last feature map before the classifier, and ``classify``.
    ``stride`` is that of both maps, ``embedding_channels`` the former's channels, ``class_rows``
    the name of a parameter with a row for each class.
    """

    class_rows = "classifier.weight"
    stride: int
    embedding_channels: int

    @abstractmethod
    def embed(self, features: Sequence[Tensor]) -> Tensor:
        """The encoder's maps to (N, embedding_channels, H / stride, W / stride)."""

    @abstractmethod
    def classify(self, embedding: Tensor) -> Tensor:
        """An embedding to the logits (N, K, …) of the classes, at its own size."""

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        return self.classify(self.embed(features))


def upsample(logits: Tensor, size: tuple[int, int]) -> Tensor:
    """Logits (N, K, h, w) at ``size`` (H, W), bilinearly, corners not aligned."""
    if logits.shape[-2:] == tuple(size):
        return logits
    return F.interpolate(logits, size=size, mode="bilinear", align_corners=False)


class SegmentationNetwork(nn.Module):
    """Encoder and decoder on images in [0, 255].

    Args:
        encoder, decoder: see `Encoder` and `Decoder`.
        num_classes: K.
        pixel_mean, pixel_std: of each channel, in the images' order.
    """

    def __init__(
        self,
        encoder: Encoder,
        decoder: Decoder,
        num_classes: int,
        pixel_mean: Sequence[float],
        pixel_std: Sequence[float],
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.decoder = decoder
        self.num_classes = num_classes
        for name, values in (("pixel_mean", pixel_mean), ("pixel_std", pixel_std)):
            values = torch.tensor(values, dtype=torch.float32).view(1, -1, 1, 1)
            self.register_buffer(name, values, persistent=False)

    @property
    def output_stride(self) -> int:
        """Pixels of an image to a position of the logits."""
        return self.decoder.stride

    def encode(self, images: Tensor) -> list[Tensor]:
        """Feature maps of images (N, 3, H, W), the finest first."""
        return self.encode_with(self.encoder, images)

    def encode_with(self, encoder: nn.Module, images: Tensor) -> list[Tensor]:
        """The same by another encoder of this kind."""
        return encoder((images - self.pixel_mean) / self.pixel_std)

    def embed(self, features: Sequence[Tensor]) -> Tensor:
        """The last feature map before the classifier, (N, C, h, w)."""
        return self.decoder.embed(features)

    def decode(self, features: Sequence[Tensor]) -> Tensor:
        """Logits at feature size, (N, K, h, w)."""
        return self.decoder(features)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (N, K, H, W) of images (N, 3, H, W)."""
        return upsample(self.decode(self.encode(images)), images.shape[-2:])

    def training_logits(self, images: Tensor) -> Tensor:
        """Logits (N, K, H, W) as `supervised` has them, for losses without labels."""
        return upsample(self.decode(self.encode(images)), images.shape[-2:])

    def supervised(self, images: Tensor, labels: Tensor, weight: Tensor | None = None) -> Output:
        """Train on ``labels``: the cross-entropy of the prediction, as `pixel_cross_entropy`."""
        features = self.encode(images)
        logits = upsample(self.decode(features), images.shape[-2:])
        return Output(pixel_cross_entropy(logits, labels, weight), logits, features)
