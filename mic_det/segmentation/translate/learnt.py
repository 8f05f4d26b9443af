"""A small encoder-decoder that brings images to another image's feature statistics."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .base import Translator, channel_statistics, with_statistics_of

# A channel of features that hardly varies is moved, not stretched.
_FLOOR = 0.05


def _convolution(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    convolution = nn.Conv2d(inputs, outputs, 3, stride, 1, padding_mode="replicate")
    return nn.Sequential(convolution, nn.LeakyReLU(0.2))


class LearntTranslator(Translator):
    """Encoder and decoder at full, half and quarter size, their features re-normalised in between.

    The encoder's features of the source, at all three sizes, get the channel means and spreads of
    the target's (adaptive instance normalisation: Huang and Belongie, ICCV 2017, eq. 8), and the
    decoder makes an image of them. Features of the full size go through it, so edges stay where
    they are. No pre-trained network is needed: `losses` trains it on images of both domains.

    Args:
        width: channels at full size; twice and four times as many below.
    """

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.width = int(width)
        self.encoder = nn.ModuleList(
            [
                _convolution(3, width),
                _convolution(width, 2 * width, 2),
                _convolution(2 * width, 4 * width, 2),
            ]
        )
        self.decoder = nn.ModuleList(
            [
                _convolution(4 * width, 2 * width),
                _convolution(4 * width, width),
                _convolution(2 * width, width),
            ]
        )
        self.to_rgb = nn.Conv2d(width, 3, 1)

    def encode(self, rgb: Tensor) -> list[Tensor]:
        """Features of RGB images in [0, 1]: (N, w, H, W), (N, 2w, H/2, W/2), (N, 4w, H/4, W/4)."""
        features = [2.0 * rgb - 1.0]
        for block in self.encoder:
            features.append(block(features[-1]))
        return features[1:]

    def decode(self, features: list[Tensor]) -> Tensor:
        """An image of the size of the first features; values about in [0, 1], not clipped."""
        full, half, quarter = features
        x = self.decoder[0](quarter)
        x = F.interpolate(x, half.shape[-2:], mode="bilinear", align_corners=False)
        x = self.decoder[1](torch.cat((x, half), 1))
        x = F.interpolate(x, full.shape[-2:], mode="bilinear", align_corners=False)
        x = self.decoder[2](torch.cat((x, full), 1))
        return 0.5 * self.to_rgb(x) + 0.5

    def translate(self, source: Tensor, target: Tensor) -> Tensor:
        pairs = zip(self.encode(source), self.encode(target), strict=True)
        return self.decode([with_statistics_of(mine, like, _FLOOR) for mine, like in pairs])

    def losses(self, source: Tensor, target: Tensor) -> dict[str, Tensor]:
        """What it is trained with, on as many source as target images, RGB in [0, 1].

        reconstruction: L1 between each image and its own decoded features;
        style: L1 between channel means and spreads of the translated image's features and those of
        the target's; content: mean squared distance between the normalised features of the
        translated image and of the source. The images' own features are what is aimed at, and get
        no gradient as such.
        """
        own, other = self.encode(source), self.encode(target)
        both = torch.cat((source, target))
        decoded = self.decode([torch.cat(pair) for pair in zip(own, other, strict=True)])
        pairs = zip(own, other, strict=True)
        translated = self.decode([with_statistics_of(mine, like, _FLOOR) for mine, like in pairs])
        again = self.encode(translated)
        style = content = source.new_zeros(())
        for new, mine, like in zip(again, own, other, strict=True):
            mine, like = mine.detach(), like.detach()
            mean, spread = channel_statistics(new, _FLOOR)
            wanted_mean, wanted_spread = channel_statistics(like, _FLOOR)
            style = style + F.l1_loss(mean, wanted_mean) + F.l1_loss(spread, wanted_spread)
            own_mean, own_spread = channel_statistics(mine, _FLOOR)
            shape = (new - mean) / spread, (mine - own_mean) / own_spread
            content = content + F.mse_loss(*shape)
        return {
            "reconstruction": 10.0 * F.l1_loss(decoded, both),
            "style": style,
            "content": 0.1 * content,
        }
