"""Networks that make a feature vector of an image: timm's by name, and a small one."""

from __future__ import annotations

import difflib

from torch import nn

from mic_det.config import ConfigError

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


def build_backbone(name: str, pretrained: bool, pool: str = "") -> tuple[nn.Module, int]:
    """A network from images to vectors, and how long the vectors are.

    Args:
        name: `SMALL` or a model of timm's.
        pretrained: with the weights that timm has for it.
        pool: timm's ``global_pool``; "" for the model's own.

    Raises ConfigError for a name that timm does not know, and if its weights cannot be had.
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
    return model, getattr(model, "head_hidden_size", None) or model.num_features


def _small(pretrained: bool) -> tuple[nn.Module, int]:
    if pretrained:
        raise ConfigError(
            f"MODEL.CLASSIFIER.PRETRAINED: there are no weights of {SMALL}; set it to False."
        )
    model = SmallCNN()
    return model, model.num_features
