"""A segmentation network of a few hundred weights, and steps for hosts."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mic_det.segmentation.hosts import Host, Preparation, Step
from mic_det.segmentation.networks.base import Decoder, Encoder, SegmentationNetwork

CLASSES = 3


class TinyEncoder(Encoder):
    """Two convolutions to 4 channels at half size."""

    channels = (4,)
    strides = (2,)

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.Tanh(), nn.Conv2d(4, 4, 1))

    def forward(self, images: Tensor) -> list[Tensor]:
        return [self.layers(images)]


class TinyDecoder(Decoder):
    """A linear classifier of the encoder's features."""

    stride = 2
    embedding_channels = 4

    def __init__(self) -> None:
        super().__init__()
        self.classifier = nn.Conv2d(4, CLASSES, 1)

    def embed(self, features: list[Tensor]) -> Tensor:
        return features[-1]

    def classify(self, embedding: Tensor) -> Tensor:
        return self.classifier(embedding)


def tiny_network() -> SegmentationNetwork:
    """3 classes, output stride 2."""
    return SegmentationNetwork(
        TinyEncoder(), TinyDecoder(), CLASSES, (120.0, 120.0, 120.0), (60.0, 60.0, 60.0)
    )


def frozen_copy(network: SegmentationNetwork) -> SegmentationNetwork:
    """A teacher that equals ``network``."""
    teacher = tiny_network()
    teacher.load_state_dict(network.state_dict())
    return teacher.requires_grad_(False).eval()


def images(count: int, size: tuple[int, int] = (8, 8)) -> Tensor:
    """Random images in [0, 255]."""
    return 255.0 * torch.rand(count, 3, *size)


def labels(count: int, size: tuple[int, int] = (8, 8)) -> Tensor:
    """Random labels of 2 x 2 blocks, some ignored."""
    small = torch.randint(0, CLASSES + 1, (count, size[0] // 2, size[1] // 2))
    small[small == CLASSES] = 255
    return small.repeat_interleave(2, 1).repeat_interleave(2, 2)


def step_for(host: Host, student: SegmentationNetwork, teacher: SegmentationNetwork, **given):
    """A step of 2 source and 2 target images, labelled by ``host`` as in training."""
    target = given.pop("target_images", None)
    target = images(2) if target is None else target
    return Step(
        student=student,
        source_images=given.pop("source_images", images(2)),
        source_labels=given.pop("source_labels", labels(2)),
        target_images=target,
        pseudo=given.pop("pseudo", None) or host.pseudo_label(teacher, target),
        teacher=teacher,
        **given,
    )


def preparation(student, teacher, source, target, iteration: int = 0) -> Preparation:
    """Data sets given as lists of batches."""
    return Preparation(student, teacher, lambda: iter(source), lambda: iter(target), iteration)
