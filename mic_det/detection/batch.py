"""What the parts of the detector hand to each other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from detectron2.modeling.proposal_generator import RPN
from detectron2.structures import Boxes, ImageList, Instances
from torch import Tensor


@dataclass
class FeatureBatch:
    """Images of one domain and their features.

    ``images``: N normalised images, padded to one size. ``features``: a map for each feature name,
    (N, C, H_l, W_l).
    """

    images: ImageList
    features: dict[str, Tensor]

    def __len__(self) -> int:
        return len(self.images)


def extract_features(
    backbone: Callable[[Tensor], dict[str, Tensor]],
    images: Sequence[ImageList | None],
    together: bool,
) -> list[FeatureBatch | None]:
    """Features of each batch of images, None for None.

    Args:
        together: all batches, which are padded to one size, go through the backbone as one.
    """
    present = [each for each in images if each is not None]
    if not together:
        found = [backbone(each.tensor) for each in present]
    else:
        joint = backbone(torch.cat([each.tensor for each in present]))
        parts = {name: maps.split([len(each) for each in present]) for name, maps in joint.items()}
        found = [{name: parts[name][i] for name in parts} for i in range(len(present))]
    batches = iter(map(FeatureBatch, present, found))
    return [None if each is None else next(batches) for each in images]


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
