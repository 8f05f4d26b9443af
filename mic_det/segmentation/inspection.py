"""Two looks at a trained segmentor on labelled data: how well its features separate classes, and
how many pixels its host would label, and how well. For evaluation; training never comes here.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from .agreement import kept_and_correct
from .distances import ClassCentreDistance
from .hosts import Host
from .losses import IGNORED
from .networks.base import SegmentationNetwork

Labelled = Iterable[tuple[Tensor, Tensor]]


@torch.no_grad()
def class_separation(network: SegmentationNetwork, data: Labelled) -> tuple[list[float], float]:
    """`ClassCentreDistance` of the encoder's last feature map: by class, and the mean.

    ``network`` must be in eval mode; ``data`` are images (N, 3, H, W) and labels (N, H, W).
    """
    meter = None
    for images, labels in data:
        features = network.encode(images)[-1]
        if meter is None:
            shape = (network.num_classes, features.shape[1])
            meter = ClassCentreDistance(*shape, device=features.device)
        meter.add(features, labels)
    if meter is None:
        return [float("nan")] * network.num_classes, float("nan")
    return meter.result()


@dataclass
class PseudoLabelQuality:
    """``kept``: share of pixels with a pseudo label; ``accuracy``: share of these that are right,
    where the truth is known; ``unfiltered``: the same of the plain predictions. All in [0, 1]."""

    kept: float
    accuracy: float
    unfiltered: float


@torch.no_grad()
def pseudo_label_quality(
    host: Host, network: SegmentationNetwork, data: Labelled
) -> PseudoLabelQuality:
    """What the host's pseudo labels, by ``network`` as the teacher, are worth on labelled data."""
    counts = torch.zeros(6, dtype=torch.int64)
    for images, truth in data:
        pseudo = host.pseudo_label(network, images)
        believed = pseudo.labels.where(pseudo.weight > 0, IGNORED)
        plain = kept_and_correct(network(images).argmax(1), truth)
        found = (*kept_and_correct(believed, truth), *plain[2:])
        counts += torch.stack([torch.as_tensor(each) for each in found]).cpu()
    kept, pixels, right, known, plain_right, plain_known = counts.tolist()
    return PseudoLabelQuality(
        kept / max(pixels, 1), right / max(known, 1), plain_right / max(plain_known, 1)
    )
