"""Networks that make a feature vector of an image: timm's by name, and a small one."""

from __future__ import annotations

import difflib
import logging
from collections.abc import Sequence

import torch
from torch import nn

from mic_det.config import ConfigError

logger = logging.getLogger(__name__)

SMALL = "small_cnn"


class SmallCNN(nn.Sequential):
    """Three stages of two 3x3 convolutions with BatchNorm, each at half the size of the one before.

    For images of about 32 pixels, (N, 3, H, W) to (N, 4 * width).
    """

    def __init__(self, width: int = 32) -> None:
        layers: list[nn.Module] = []
        inputs = 3
        for channels in (width, 2 * width, 4 * width):
            for stride in (2, 1):
                conv = nn.Conv2d(inputs, channels, 3, stride, padding=1, bias=False)
                layers += [conv, nn.BatchNorm2d(channels), nn.ReLU(inplace=True)]
                inputs = channels
        super().__init__(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.num_features = inputs


def build_backbone(
    name: str, pretrained: bool, pool: str = "", size: int = 224
) -> tuple[nn.Module, int]:
    """A network from images to vectors, and how long the vectors are.

    Args:
        name: `SMALL` or a model of timm's, "name" or "name.tag" with the tag of its weights.
        pretrained: with the weights that timm has for it.
        pool: timm's ``global_pool``; "" for the model's own.
        size: side of the square images in pixels.

    Raises ConfigError for a name that timm does not know, if its weights cannot be had, and if it
    makes no vectors of images of this size.
    """
    if name == SMALL:
        return _small(pretrained)
    import timm  # slow to import, and of no use to the other tasks

    if not timm.is_model(name):
        close = difflib.get_close_matches(name, [SMALL, *timm.list_models()], n=3)
        hint = f" Did you mean {' or '.join(close)}?" if close else ""
        raise ConfigError(f"MODEL.CLASSIFIER.BACKBONE: timm has no model {name!r}.{hint}")
    chosen = {"global_pool": pool} if pool else {}
    try:
        model = timm.create_model(name, pretrained=pretrained, num_classes=0, **chosen)
    except Exception as error:  # timm, its hub client and http each have errors of their own
        if not pretrained:
            raise ConfigError(f"MODEL.CLASSIFIER: {name} with POOL {pool!r}: {error}") from error
        raise ConfigError(
            f"MODEL.CLASSIFIER.PRETRAINED: timm could not get the weights of {name} ({error}). "
            "Without a network set MODEL.WEIGHTS to a checkpoint of this model, or PRETRAINED to "
            "False to train from random weights."
        ) from error
    return model, _features(model, name, pool, size)


def _features(model: nn.Module, name: str, pool: str, size: int) -> int:
    """Length of the vector that the network makes of an image: it is tried."""
    try:
        with torch.no_grad():
            shape = tuple(model.eval()(torch.zeros(1, 3, size, size)).shape)
    except Exception as error:  # each network has its own
        raise ConfigError(
            f"MODEL.CLASSIFIER.BACKBONE: {name} cannot take images of {size} x {size} pixels "
            f"(INPUT.SQUARE.SIZE): {error}"
        ) from error
    finally:
        model.train()
    if len(shape) != 2:
        raise ConfigError(
            f"MODEL.CLASSIFIER.POOL: {name} with POOL {pool!r} makes {shape[1:]} of an image and "
            'no vector. Choose another, "avg" for instance.'
        )
    return shape[1]


def compare_normalisation(model: nn.Module, mean: Sequence[float], std: Sequence[float]) -> None:
    """Say in the log if timm's weights are made for other ``mean`` and ``std`` (of 0..255)."""
    own = getattr(model, "pretrained_cfg", None) or {}
    theirs = [[round(255 * v, 3) for v in own.get(key) or ()] for key in ("mean", "std")]
    given = [[round(v, 3) for v in each] for each in (mean, std)]
    if all(theirs) and theirs != given:
        logger.info(
            "timm's weights were trained with PIXEL_MEAN %s and PIXEL_STD %s; here they are %s and "
            "%s.",
            *theirs,
            *given,
        )


def _small(pretrained: bool) -> tuple[nn.Module, int]:
    if pretrained:
        raise ConfigError(
            f"MODEL.CLASSIFIER.PRETRAINED: there are no weights of {SMALL}; set it to False."
        )
    model = SmallCNN()
    return model, model.num_features
