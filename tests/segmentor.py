"""Tiny segmentors, images and labels for the tests of `mic_det.segmentation`."""

from __future__ import annotations

from pathlib import Path

import torch
from detectron2.modeling import build_model
from torch import Tensor, nn

import mic_det.segmentation.meta_arch  # noqa: F401  (registers the meta-architecture)
from mic_det.config import load_config
from mic_det.core import EMATeacher
from mic_det.segmentation.networks.base import Decoder, Encoder, SegmentationNetwork

CONFIGS = Path(__file__).parents[1] / "configs" / "seg"
CLASSES = 4

TINY = {
    "MODEL.DEVICE": "cpu",
    "MODEL.SEM_SEG_HEAD.NUM_CLASSES": CLASSES,
    "MODEL.RESNETS.STEM_OUT_CHANNELS": 8,
    "MODEL.RESNETS.RES2_OUT_CHANNELS": 8,
    "MODEL.RESNETS.NORM": "BN",
    "MODEL.SEG.HRDA.DETAIL_CROP": (32, 32),
    "MODEL.SEG.HRDA.CONTEXT_WINDOW": (64, 64),
    "MODEL.SEG.HRDA.ATTENTION_CHANNELS": 8,
    "MODEL.SEG.NORM": "BN",
    "MODEL.SEG.ADVERSARIAL.CHANNELS": 4,
    "SOLVER.WARMUP_ITERS": 0,
}


def tiny_cfg(overrides: dict | None = None):
    """The frozen config of configs/seg/base/streets.yaml with a smaller network."""
    settings = TINY | (overrides or {})
    return load_config(
        CONFIGS / "base" / "streets.yaml",
        [str(part) for item in settings.items() for part in item],
    )


def tiny_model(overrides: dict | None = None, seed: int = 0):
    """A tiny model in training mode, and its teacher; the weights depend on ``seed`` alone."""
    torch.manual_seed(seed)
    model = build_model(tiny_cfg(overrides))
    with torch.no_grad():  # classifiers start almost at zero, where all classes are alike
        for branch in getattr(model.network.decoder, "branches", ()):
            if isinstance(branch, nn.Conv2d):
                branch.weight.normal_(0.0, 0.1)
    return model.train(), EMATeacher(model, alpha=0.9, model=model.teacher_copy())


def labelled(height: int = 64, width: int = 96) -> dict:
    """A Detectron2 input dict: an image of blocks whose colours tell the classes."""
    coarse = torch.randint(0, CLASSES, (1, 1, 4, 6)).float()
    labels = nn.functional.interpolate(coarse, size=(height, width))[0, 0].long()
    colours = torch.tensor([[40, 40, 40], [200, 60, 60], [60, 200, 60], [60, 60, 200]])
    noise = torch.randint(0, 40, (height, width, 3))
    image = (colours[labels] + noise).permute(2, 0, 1).to(torch.uint8)
    return {"image": image, "sem_seg": labels, "height": height, "width": width}


def unlabelled(height: int = 64, width: int = 96) -> dict:
    each = labelled(height, width)
    del each["sem_seg"]
    return each


class Pooled(Encoder):
    """The mean colours of squares of ``stride`` pixels."""

    channels = (3,)

    def __init__(self, stride: int = 4) -> None:
        super().__init__()
        self.strides = (stride,)

    def forward(self, images: Tensor) -> list[Tensor]:
        return [nn.functional.avg_pool2d(images, self.strides[0])]


class Linear(Decoder):
    """A linear map of each position: ``weight`` (K, C) and ``bias`` (K,)."""

    def __init__(self, weight: Tensor, bias: Tensor, stride: int = 4) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight.float())
        self.bias = nn.Parameter(bias.float())
        self.stride = stride
        self.embedding_channels = weight.shape[1]

    def embed(self, features: list[Tensor]) -> Tensor:
        return features[-1]

    def classify(self, embedding: Tensor) -> Tensor:
        logits = torch.einsum("kc,nchw->nkhw", self.weight, embedding)
        return logits + self.bias.view(1, -1, 1, 1)


def linear_parts(stride: int = 4, weight: Tensor | None = None, bias: Tensor | None = None) -> dict:
    """What a `SegmentationNetwork` of `Pooled` and `Linear` is made of, on images as they are."""
    weight = torch.eye(3) if weight is None else weight
    bias = torch.zeros(len(weight)) if bias is None else bias
    return {
        "encoder": Pooled(stride),
        "decoder": Linear(weight, bias, stride),
        "num_classes": len(weight),
        "pixel_mean": [0.0, 0.0, 0.0],
        "pixel_std": [1.0, 1.0, 1.0],
    }


def linear_network(**settings) -> SegmentationNetwork:
    return SegmentationNetwork(**linear_parts(**settings))
