"""Which regions of which images go through the box head, and once for all of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from detectron2.modeling.poolers import assign_boxes_to_levels
from detectron2.modeling.roi_heads import StandardROIHeads
from detectron2.structures import Boxes, Instances, pairwise_iou
from torch import Tensor

from .batch import FeatureBatch
from .sparse_pooling import pool_regions


@dataclass
class Regions:
    """Boxes of the images of one batch, in the order in which the box head sees them.

    ``boxes``: for each image, R in all. ``features``: (R, D) from the box head, once it has run.
    """

    batch: FeatureBatch
    boxes: list[Boxes]
    features: Tensor | None = field(default=None, kw_only=True)


@dataclass
class SourceRegions(Regions):
    """Regions of source images: a sample for detection, a uniform one for alignment.

    ``sampled``: Detectron2's sample for each image, whose regions are the rows ``detection_rows``
    of ``features``. ``alignment_boxes``, ``alignment_rows``: the same for the domain heads; the two
    overlap.
    """

    sampled: list[Instances]
    detection_rows: Tensor
    alignment_boxes: list[Boxes]
    alignment_rows: Tensor


def run_box_head(roi_heads: StandardROIHeads, regions: Sequence[Regions]) -> None:
    """Pool the regions of each batch and run the box head once on all of them."""
    names = roi_heads.box_in_features
    pooled = pool_regions(
        roi_heads.box_pooler,
        [([each.batch.features[name] for name in names], each.boxes) for each in regions],
    )
    features = roi_heads.box_head(pooled)
    parts = features.split([sum(map(len, each.boxes)) for each in regions])
    for each, part in zip(regions, parts, strict=True):
        each.features = part


def pooler_levels(roi_heads: StandardROIHeads, boxes: Sequence[Boxes]) -> Tensor:
    """(R,) number, counted from 0, of the level that each box is pooled from."""
    pooler = roi_heads.box_pooler
    return assign_boxes_to_levels(
        list(boxes),
        pooler.min_level,
        pooler.max_level,
        pooler.canonical_box_size,
        pooler.canonical_level,
    )


def random_boxes(proposals: Sequence[Instances], count: int) -> list[Boxes]:
    """Up to ``count`` boxes of each image, drawn without regard to class or score."""
    drawn = []
    for each in proposals:
        boxes = each.proposal_boxes.tensor.detach()
        drawn.append(Boxes(boxes[torch.randperm(len(boxes))[:count].to(boxes.device)]))
    return drawn


def sample_source_regions(
    roi_heads: StandardROIHeads,
    batch: FeatureBatch,
    proposals: Sequence[Instances],
    labels: Sequence[Instances],
    aligned: int,
) -> SourceRegions:
    """Detectron2's sample for detection, and up to ``aligned`` uniformly drawn ones an image.

    The uniform ones are drawn so that most of them are in the other sample too: a region that
    serves both goes through the box head once.
    """
    sampled, positions = _sample_for_detection(roi_heads, proposals, labels)
    boxes, detection_rows, alignment_rows, alignment_boxes = [], [], [], []
    start = 0
    for i, each in enumerate(sampled):
        mine = each.proposal_boxes.tensor
        known = (positions[i] >= 0).nonzero().flatten()
        strata = _strata(roi_heads, proposals[i], labels[i])
        reused, others = uniform_sample_near(aligned, strata, positions[i][known])
        everything = torch.cat([mine, proposals[i].proposal_boxes.tensor.detach()[others]])
        rows = torch.cat([known[reused], torch.arange(len(mine), len(everything)).to(known)])
        boxes.append(Boxes(everything))
        alignment_boxes.append(Boxes(everything[rows]))
        detection_rows.append(start + torch.arange(len(mine)))
        alignment_rows.append(start + rows)
        start += len(everything)
    return SourceRegions(
        batch,
        boxes,
        sampled,
        torch.cat(detection_rows).to(alignment_rows[0].device),
        alignment_boxes,
        torch.cat(alignment_rows),
    )


def _sample_for_detection(
    roi_heads: StandardROIHeads, proposals: Sequence[Instances], labels: Sequence[Instances]
) -> tuple[list[Instances], list[Tensor]]:
    """Detectron2's sample of each image, and the positions in ``proposals`` that it comes from.

    The position is -1 for a label's box, which Detectron2 adds to the proposals.
    """
    tagged, targets = [], []
    for each, label in zip(proposals, labels, strict=True):
        tagged.append(Instances(each.image_size, **each.get_fields()))
        tagged[-1].position = torch.arange(len(each), device=each.proposal_boxes.device)
        targets.append(Instances(label.image_size, **label.get_fields()))
        targets[-1].position = tagged[-1].position.new_full((len(label),), -1)
    sampled = roi_heads.label_and_sample_proposals(tagged, targets)
    positions = [each.position for each in sampled]
    for each in sampled:
        each.remove("position")
    return sampled, positions


def _strata(roi_heads: StandardROIHeads, proposals: Instances, labels: Instances) -> Tensor:
    """What Detectron2's sampler takes each proposal for: 1 object, 0 background, -1 neither."""
    overlaps = pairwise_iou(labels.gt_boxes, proposals.proposal_boxes)
    return roi_heads.proposal_matcher(overlaps)[1].long()


def uniform_sample_near(count: int, strata: Tensor, sampled: Tensor) -> tuple[Tensor, Tensor]:
    """A uniform random subset of N things that meets ``sampled`` as often as can be.

    ``sampled`` was drawn by somebody else, uniformly within each stratum but from the strata in
    unequal shares. To draw how many to take from each stratum as a uniform subset would, and then
    those in ``sampled`` first, gives every subset of ``count`` things the same probability.

    Args:
        count: size of the subset; all N if there are fewer.
        strata: (N,) stratum of each thing, small integers.
        sampled: (S,) things drawn before, each at most once.

    Returns:
        which entries of ``sampled`` belong to the subset (as positions in it), and the things that
        make up the rest of it.
    """
    device = strata.device
    shuffled = torch.randperm(len(strata)).to(device)
    order = torch.randperm(len(sampled)).to(device)
    subset = shuffled[:count]
    unsampled = torch.ones_like(strata, dtype=torch.bool)
    unsampled[sampled] = False
    reused, others = [sampled[:0]], [sampled[:0]]
    for stratum in strata.unique().tolist():
        wanted = int((strata[subset] == stratum).sum())
        mine = order[strata[sampled[order]] == stratum][:wanted]
        rest = shuffled[(strata[shuffled] == stratum) & unsampled[shuffled]]
        reused.append(mine)
        others.append(rest[: wanted - len(mine)])
    return torch.cat(reused), torch.cat(others)
