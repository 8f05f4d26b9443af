"""HRDA: context at low, detail at high resolution (Hoyer et al., ECCV 2022), around any network."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..losses import pixel_cross_entropy
from .base import Decoder, Output, SegmentationNetwork, upsample
from .crops import Box, average_windows, random_crop, windows


def fuse(context: Tensor, detail: Tensor, attention: Tensor, box: Box, scale: int) -> Tensor:
    """Fused logits of a context and a detail prediction (HRDA, eq. 9).

    zeta((1 - a') * context) + zeta(a') * detail, where zeta enlarges by ``scale`` bilinearly, a' is
    the attention inside the detail crop and 0 outside it, and the detail is 0 outside its crop.

    Args:
        context: (N, K, h, w).
        detail: (N, K, …) of the crop's size at ``scale`` times the context's resolution.
        attention: (N, K or 1, h, w) in [0, 1].
        box: the crop, in positions of ``context``.

    Returns (N, K, scale * h, scale * w).
    """
    inside = torch.zeros_like(attention)
    box.of(inside).copy_(box.of(attention))
    size = (scale * context.shape[-2], scale * context.shape[-1])
    left, right = scale * box.left, size[1] - scale * box.right
    top, bottom = scale * box.top, size[0] - scale * box.bottom
    padded = F.pad(detail, (left, right, top, bottom))
    return upsample((1.0 - inside) * context, size) + upsample(inside, size) * padded


class HRDANetwork(SegmentationNetwork):
    """A network that sees an image twice: all of it coarsely, parts of it sharply.

    In training the whole image is the context, scaled down by ``scale``, and a random crop at full
    resolution the detail; the loss is that of the fused prediction and, with ``detail_weight``, of
    the detail alone. Otherwise overlapping windows of both are averaged. `encode`, `embed` and
    `decode` are of the context.

    Args:
        attention: decoder of the scale attention, one logit a class, on the context's features.
        scale: s, by which the context is smaller.
        detail_crop: (height, width) in pixels of the image.
        context_window: the same of a context window in inference.
        detail_weight: lambda_d.
        windows_at_once: detail windows that go through the network together in inference.
        **network: see `SegmentationNetwork`.
    """

    def __init__(
        self,
        *,
        attention: Decoder,
        scale: int = 2,
        detail_crop: tuple[int, int] = (512, 512),
        context_window: tuple[int, int] = (1024, 1024),
        detail_weight: float = 0.1,
        windows_at_once: int = 4,
        **network: Any,
    ) -> None:
        super().__init__(**network)
        align = scale * self.decoder.stride
        for name, sides in (("detail_crop", detail_crop), ("context_window", context_window)):
            if any(side % align for side in sides):
                raise ValueError(f"{name} {tuple(sides)}: sides must be multiples of {align}")
        self.attention = attention
        self.scale = scale
        self.detail_crop = tuple(detail_crop)
        self.context_window = tuple(context_window)
        self.detail_weight = detail_weight
        self.windows_at_once = windows_at_once

    @property
    def align(self) -> int:
        """What corners of crops are multiples of: s times the output stride, 8 for DAFormer."""
        return self.scale * self.decoder.stride

    def encode_with(self, encoder: nn.Module, images: Tensor) -> list[Tensor]:
        """Feature maps of the images, filled up, at the context's resolution."""
        images = self._filled_up(images)
        size = [each // self.scale for each in images.shape[-2:]]
        smaller = F.interpolate(images, size=size, mode="bilinear", align_corners=False)
        return super().encode_with(encoder, smaller)

    def supervised(self, images: Tensor, labels: Tensor, weight: Tensor | None = None) -> Output:
        size = images.shape[-2:]
        images = self._filled_up(images)
        box = random_crop(images.shape[-2:], self.detail_crop, self.align)
        features = self.encode(images)
        detail = self._decode_sharp(box.of(images))
        fused = fuse(*self._parts(features, detail), box.divided(self.align), self.scale)
        logits = _cut(upsample(fused, images.shape[-2:]), size)
        loss = (1.0 - self.detail_weight) * pixel_cross_entropy(logits, labels, weight)
        if self.detail_weight:
            of_detail = _cut(upsample(detail, box.size), box.of(labels).shape[-2:])
            weight = None if weight is None else box.of(weight)
            loss = loss + self.detail_weight * pixel_cross_entropy(
                of_detail, box.of(labels), weight
            )
        return Output(loss, logits, features)

    def training_logits(self, images: Tensor) -> Tensor:
        size = images.shape[-2:]
        images = self._filled_up(images)
        box = random_crop(images.shape[-2:], self.detail_crop, self.align)
        detail = self._decode_sharp(box.of(images))
        parts = self._parts(self.encode(images), detail)
        fused = fuse(*parts, box.divided(self.align), self.scale)
        return _cut(upsample(fused, images.shape[-2:]), size)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (N, K, H, W): fused predictions of context windows, averaged where they overlap.

        The detail is computed once for the whole image, by windows that overlap by half.
        """
        size = images.shape[-2:]
        images = self._filled_up(images)
        whole = images.shape[-2:]
        stride = self.decoder.stride
        detail = self._sharp_windows(images)

        def predict(boxes: Sequence[Box]) -> Tensor:
            return torch.stack([self._fused_window(images, detail, box) for box in boxes])

        boxes = windows(whole, self.context_window, self._steps(self.context_window, self.align))
        on_map = {box.divided(stride): box for box in boxes}
        fused = average_windows(
            list(on_map),
            lambda some: predict([on_map[box] for box in some]),
            (whole[0] // stride, whole[1] // stride),
        )
        return _cut(upsample(fused, whole), size)

    def _fused_window(self, images: Tensor, detail: Tensor, box: Box) -> Tensor:
        features = self.encode(box.of(images))
        inside = box.divided(self.decoder.stride).of(detail)
        parts = self._parts(features, inside)
        rows, columns = parts[0].shape[-2:]
        return fuse(*parts, Box(0, 0, rows, columns), self.scale)

    def _sharp_windows(self, images: Tensor) -> Tensor:
        """Detail logits of whole images, at the output stride."""
        whole, stride, count = images.shape[-2:], self.decoder.stride, len(images)
        boxes = windows(whole, self.detail_crop, self._steps(self.detail_crop, stride))
        on_map = {box.divided(stride): box for box in boxes}

        def predict(some: Sequence[Box]) -> Tensor:
            logits = self._decode_sharp(torch.cat([on_map[box].of(images) for box in some]))
            return logits.view(len(some), count, *logits.shape[1:])

        size = (whole[0] // stride, whole[1] // stride)
        return average_windows(list(on_map), predict, size, self.windows_at_once)

    def _decode_sharp(self, images: Tensor) -> Tensor:
        """Logits at feature size of images at full resolution."""
        return self.decode(super().encode_with(self.encoder, images))

    def _parts(self, features: Sequence[Tensor], detail: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Context logits, detail logits, attention: what `fuse` takes."""
        return self.decode(features), detail, torch.sigmoid(self.attention(features))

    def _filled_up(self, images: Tensor) -> Tensor:
        """Filled up at the right and below with the mean colour, to multiples of ``align``."""
        height, width = images.shape[-2:]
        rows, columns = -height % self.align, -width % self.align
        if not rows and not columns:
            return images
        return F.pad(images - self.pixel_mean, (0, columns, 0, rows)) + self.pixel_mean

    @staticmethod
    def _steps(window: tuple[int, int], align: int) -> tuple[int, int]:
        """Half a window, rounded down to a multiple of ``align``."""
        height, width = (max(align, side // 2 // align * align) for side in window)
        return height, width


def _cut(pixels: Tensor, size: tuple[int, int]) -> Tensor:
    return pixels[..., : size[0], : size[1]]
