"""What the parts of the detector hand to each other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from detectron2.modeling.proposal_generator import RPN
from detectron2.structures import Boxes, ImageList, Instances
from torch import Tensor, nn

from .domain_heads import ImageLogits

# Pixels of all images up to which a CPU is faster with one pass of the backbone than with several.
CPU_PIXELS = 16 * 128 * 256


@dataclass
class FeatureBatch:
    """Images of one domain and their features.

    ``images``: N normalised images, padded to one size. ``features``: a map for each feature name,
    (N, C, H_l, W_l). ``domain_logits``: what the image-level domain heads say of them, or None.
    """

    images: ImageList
    features: dict[str, Tensor]
    domain_logits: ImageLogits | None = None

    def __len__(self) -> int:
        return len(self.images)


def extract_features(
    backbone: nn.Module,
    images: Sequence[ImageList | None],
    together: bool | None = None,
) -> list[FeatureBatch | None]:
    """Features of each batch of images, None for None.

    Args:
        together: all batches, which are padded to one size, go through the backbone as one; None:
            if that is faster.
    """
    rows = [i for i, each in enumerate(images) if each is not None]
    tensors = [images[i].tensor for i in rows]
    if together is None:
        together = together_is_faster(tensors)
    if together:
        joint = backbone(torch.cat(tensors))
        sizes = [len(each) for each in tensors]
        parts = {name: maps.split(sizes) for name, maps in joint.items()}
        found = [{name: parts[name][i] for name in parts} for i in range(len(rows))]
    else:
        found = [backbone(each) for each in tensors]
    features = dict(zip(rows, found, strict=True))
    return [
        None if each is None else FeatureBatch(each, features[i]) for i, each in enumerate(images)
    ]


def together_is_faster(tensors: Sequence[Tensor]) -> bool:
    """Whether batches of padded images should go through the backbone as one.

    On a GPU always. On a CPU while they are small: then weights, which each pass reads and whose
    gradients each pass writes, are most of the work (docs/performance.md has the measurement).
    Batches that are padded to different sizes never are one.
    """
    if len({each.shape[1:] for each in tensors}) > 1:
        return False
    if tensors[0].is_cuda:
        return True
    return sum(len(each) * each.shape[-2] * each.shape[-1] for each in tensors) <= CPU_PIXELS


@dataclass
class RPNOutput:
    """Anchors of each level (R_l), objectness logits (N, R_l) and anchor deltas (N, R_l, 4)."""

    anchors: list[Boxes]
    logits: list[Tensor]
    deltas: list[Tensor]


def run_rpn(rpn: RPN, batch: FeatureBatch) -> RPNOutput:
    """The RPN's predictions, without the labels and losses that its training forward demands."""
    features = [batch.features[name] for name in rpn.in_features]
    logits, deltas = rpn.rpn_head(features)
    box_dim = rpn.anchor_generator.box_dim
    return RPNOutput(
        anchors=rpn.anchor_generator(features),
        logits=[level.permute(0, 2, 3, 1).flatten(1) for level in logits],
        deltas=[
            level.unflatten(1, (-1, box_dim)).permute(0, 3, 4, 1, 2).flatten(1, 3)
            for level in deltas
        ],
    )


def propose(rpn: RPN, batch: FeatureBatch, output: RPNOutput) -> list[Instances]:
    """Proposals of each image, best first, as `RPN.predict_proposals` gives them; no gradient."""
    return rpn.predict_proposals(
        output.anchors, output.logits, output.deltas, batch.images.image_sizes
    )
