"""SADA's domain classifiers: image level, instance level, and their consistency.

Chen, Wang, Li, Sakaridis, Dai, Van Gool: Scale-Aware Domain Adaptive Faster R-CNN, IJCV 2021.
The domain label is 1 for source and 0 for target.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from detectron2.structures import Boxes
from torch import Tensor, nn
from torchvision.ops import roi_align

from mic_det.core import RunningMeans, fork

SOURCE, TARGET = 1.0, 0.0
# Maps for the classification loss and for the consistency, a list of levels each.
ImageLogits = tuple[list[Tensor], list[Tensor]]


class ImageDomainHead(nn.Module):
    """Logit map of one pyramid level: 1x1 conv, ReLU, 1x1 conv; weights N(0, 0.001), biases 0."""

    def __init__(self, in_channels: int, channels: int = 512) -> None:
        super().__init__()
        self.hidden = nn.Conv2d(in_channels, channels, 1)
        self.logit = nn.Conv2d(channels, 1, 1)
        for layer in (self.hidden, self.logit):
            nn.init.normal_(layer.weight, std=0.001)
            nn.init.zeros_(layer.bias)

    def forward(self, features: Tensor) -> Tensor:
        """(N, C, H, W) to (N, 1, H, W)."""
        return self.logit(F.relu(self.hidden(features)))


class InstanceDomainHead(nn.Sequential):
    """Logit of a proposal: two FC with ReLU and dropout, then FC; weights N(0, 0.01), biases 0."""

    def __init__(self, in_channels: int, channels: int = 1024, dropout: float = 0.5) -> None:
        super().__init__(
            nn.Linear(in_channels, channels),
            nn.ReLU(inplace=True),
            nn.Dropout(dropout),
            nn.Linear(channels, channels),
            nn.ReLU(inplace=True),
            nn.Dropout(dropout),
            nn.Linear(channels, 1),
        )
        for layer in self:
            if isinstance(layer, nn.Linear):
                nn.init.normal_(layer.weight, std=0.01)
                nn.init.zeros_(layer.bias)


def image_domain_loss(
    logit_maps: Sequence[Tensor],
    image_sizes: Sequence[tuple[int, int]],
    stride: int,
    label: float,
) -> Tensor:
    """Binary cross-entropy of the images of one domain, mean over levels, positions and images.

    Each level's map is brought to the size of the first, the finest, bilinearly with aligned
    corners. Positions that lie in a smaller image's padding do not count, so that each image's mean
    is over its own area.

    Args:
        logit_maps: a map (N, 1, H_l, W_l) for each level, finest first.
        image_sizes: (height, width) of each image in pixels, before padding.
        stride: pixels between neighbouring positions of the finest map.
        label: domain label of the images.
    """
    size = logit_maps[0].shape[-2:]
    maps = [
        level
        if level.shape[-2:] == size
        else F.interpolate(level, size=size, mode="bilinear", align_corners=True)
        for level in logit_maps
    ]
    logits = torch.cat(maps, dim=1).float()
    loss = F.binary_cross_entropy_with_logits(
        logits, torch.full_like(logits, label), reduction="none"
    )
    return torch.stack([part.mean() for part in _insides(loss, image_sizes, stride)]).mean()


def _insides(maps: Tensor, image_sizes: Sequence[tuple[int, int]], stride: int) -> list[Tensor]:
    """The images' own areas of ``maps`` (N, ...), padding left out; one part if all are equal."""
    images = [maps] if len(set(image_sizes)) == 1 else maps.split(1)
    return [
        each[:, :, : -(-height // stride), : -(-width // stride)]
        for each, (height, width) in zip(images, image_sizes, strict=False)
    ]


def mean_probability_in_boxes(
    logit_maps: Sequence[Tensor], boxes: Sequence[Boxes], levels: Tensor, strides: Sequence[int]
) -> Tensor:
    """Mean domain probability of the map inside each box, on the level the box belongs to.

    Args:
        logit_maps: (N, 1, H_l, W_l) for each ROI-pooler level.
        boxes: of each of the N images, R in all, in pixels of the network's input.
        levels: (R,) level of each box.
        strides: of the levels, in pixels.

    Returns (R,) probabilities in [0, 1].
    """
    index = torch.cat(
        [each.tensor.new_full((len(each), 1), i) for i, each in enumerate(boxes)], dim=0
    )
    rois = torch.cat([index, Boxes.cat(list(boxes)).tensor], dim=1)
    means = rois.new_zeros(len(rois))
    for level, (logits, stride) in enumerate(zip(logit_maps, strides, strict=True)):
        rows = (levels == level).nonzero().flatten()
        # One bin for each box, sampled about once a map position: the mean of its inside.
        pooled = roi_align(
            torch.sigmoid(logits.float()),
            rois[rows].float(),
            output_size=1,
            spatial_scale=1.0 / stride,
            sampling_ratio=0,
            aligned=True,
        )
        means = means.index_copy(0, rows, pooled.flatten().to(means.dtype))
    return means


class SADAHeads(nn.Module):
    """The domain classifiers of all levels and their three losses.

    Args:
        image_channels: channels of each image-level map, finest level first (P2..P6).
        strides: of these levels, in pixels.
        instance_channels: length of the box head's features.
        pooled_levels: number of ROI-pooler levels (P2..P5). With the consistency term they are the
            first of the image levels.
        per_level: a classifier of instances for each ROI-pooler level, as in the paper, or one
            for all.
        image_hidden, instance_hidden, dropout: of the classifiers.
        image_reversal, instance_reversal: what gradients into the features are multiplied by,
            negated, in the backward pass of the two classification losses.
        consistency_scale: the same for the consistency loss is + this times those two.
        image_weight, instance_weight, consistency_weight: of the losses; a part that is used by no
            loss of weight > 0 is not built.

    Raises ValueError if the consistency term lacks an image level that proposals are pooled from.
    """

    def __init__(
        self,
        *,
        image_channels: Sequence[int],
        strides: Sequence[int],
        instance_channels: int,
        pooled_levels: int,
        per_level: bool = True,
        image_hidden: int = 512,
        instance_hidden: int = 1024,
        dropout: float = 0.5,
        image_reversal: float = 0.025,
        instance_reversal: float = 0.1,
        consistency_scale: float = 0.1,
        image_weight: float = 1.0,
        instance_weight: float = 1.0,
        consistency_weight: float = 1.0,
    ) -> None:
        super().__init__()
        if consistency_weight > 0 and pooled_levels > len(image_channels):
            raise ValueError(
                f"the consistency term needs {pooled_levels} image levels, not "
                f"{len(image_channels)}: one for each level that proposals are pooled from"
            )
        self.strides = tuple(strides)
        self.image_reversal = image_reversal
        self.instance_reversal = instance_reversal
        self.consistency_scale = consistency_scale
        self.image_weight = image_weight
        self.instance_weight = instance_weight
        self.consistency_weight = consistency_weight
        # How often each classifier is right, for the curves of `engine.health_curves`.
        self.health = RunningMeans()
        self.uses_instances = instance_weight > 0 or consistency_weight > 0
        # The consistency term looks at the levels that proposals are pooled from, and no others.
        self.consistent_levels = pooled_levels if consistency_weight > 0 else 0
        image_levels = len(image_channels) if image_weight > 0 else self.consistent_levels
        self.image_heads = nn.ModuleList(
            ImageDomainHead(channels, image_hidden) for channels in image_channels[:image_levels]
        )
        instance_heads = (pooled_levels if per_level else 1) if self.uses_instances else 0
        self.instance_heads = nn.ModuleList(
            InstanceDomainHead(instance_channels, instance_hidden, dropout)
            for _ in range(instance_heads)
        )

    def image_logits(self, features: Sequence[Tensor]) -> ImageLogits:
        """Logit maps for the classification loss and, of the pooled levels, for the consistency.

        Both are the same numbers, computed once; they differ in what gradients into the features
        are multiplied by.
        """
        factors = (-self.image_reversal, self.consistency_scale * self.image_reversal)
        aligned, consistent = [], []
        for level, (head, maps) in enumerate(zip(self.image_heads, features, strict=False)):
            if level >= self.consistent_levels:
                aligned += fork(head, maps, factors[:1])
            elif self.image_weight == 0:
                consistent += fork(head, maps, factors[1:])
            else:
                first, second = fork(head, maps, factors)
                aligned.append(first)
                consistent.append(second)
        return aligned, consistent

    def instance_logits(self, box_features: Tensor, levels: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (R,) of box features (R, D) for classification and for the consistency.

        Each is by the classifier of its level, and as in `image_logits` they differ only in their
        gradients; a loss of weight 0 is left out of the backward pass. Every classifier runs, if
        need be on no rows: all of them take part in each step, as DistributedDataParallel expects.
        """
        factors = (-self.instance_reversal, self.consistency_scale * self.instance_reversal)
        if self.instance_weight == 0 or self.consistency_weight == 0:
            factors = (factors[0 if self.instance_weight > 0 else 1],)
        if len(self.instance_heads) == 1:
            logits = fork(self.instance_heads[0], box_features, factors)
            return logits[0].flatten(), logits[-1].flatten()
        rows = [(levels == level).nonzero().flatten() for level in range(len(self.instance_heads))]
        parts = [
            fork(head, box_features[each], factors)
            for head, each in zip(self.instance_heads, rows, strict=True)
        ]
        back = torch.cat(rows).argsort()
        logits = [torch.cat(each).flatten()[back] for each in zip(*parts, strict=True)]
        return logits[0], logits[-1]

    def _count_image_hits(
        self, maps: Sequence[Tensor], image_sizes: Sequence[tuple[int, int]], label: float
    ) -> None:
        """Share of positions of each level's map that are told apart right, padding left out."""
        for level, stride in zip(maps, self.strides, strict=True):
            right = (level.detach() > 0) == (label == SOURCE)
            for part in _insides(right, image_sizes, stride):
                self._count("image", stride, label, part.float().mean() * len(part), len(part))

    def _count_instance_hits(self, logits: Tensor, levels: Tensor, label: float) -> None:
        """The same for the proposals of each ROI-pooler level, or of all under the first's name."""
        right = (logits.detach() > 0) == (label == SOURCE)
        if len(self.instance_heads) == 1:
            levels = torch.zeros_like(levels)
        for level, stride in enumerate(self.strides[: len(self.instance_heads)]):
            here = levels == level
            self._count("instance", stride, label, (right & here).sum(), here.sum())

    def _count(
        self, part: str, stride: int, label: float, total: Tensor, weight: Tensor | float
    ) -> None:
        domain = "source" if label == SOURCE else "target"
        name = f"domain_accuracy_{part}/p{round(math.log2(stride))}/{domain}"
        self.health.add(name, total, weight)

    def domain_losses(
        self,
        label: float,
        features: Sequence[Tensor],
        image_sizes: Sequence[tuple[int, int]],
        boxes: Sequence[Boxes],
        box_features: Tensor | None,
        levels: Tensor | None,
        image_logits: ImageLogits | None = None,
        instance_logits: tuple[Tensor, Tensor] | None = None,
    ) -> dict[str, Tensor]:
        """The three losses of the images of one domain, not yet weighted.

        Args:
            label: SOURCE or TARGET.
            features: maps of the image levels, finest first, (N, C, H_l, W_l).
            image_sizes: (height, width) of each image, before padding.
            boxes: proposals of each image, R in all.
            box_features: (R, D), or None when no loss uses instances.
            levels: (R,) ROI-pooler level of each proposal, or None likewise.
            image_logits, instance_logits: what the methods of these names made of ``features`` and
                of ``box_features``, if they were called already.
        """
        losses = {}
        aligned, consistent = image_logits or self.image_logits(features)
        if self.image_weight > 0:
            self._count_image_hits(aligned, image_sizes, label)
            losses["loss_da_image"] = image_domain_loss(
                aligned, image_sizes, self.strides[0], label
            )
        if not self.uses_instances:
            return losses
        to_classify, to_compare = instance_logits or self.instance_logits(box_features, levels)
        count = max(len(to_classify), 1)
        if self.instance_weight > 0:
            self._count_instance_hits(to_classify, levels, label)
            loss = F.binary_cross_entropy_with_logits(
                to_classify.float(), torch.full_like(to_classify, label).float(), reduction="sum"
            )
            losses["loss_da_instance"] = loss / count
        if self.consistency_weight > 0:
            strides = self.strides[: self.consistent_levels]
            image = mean_probability_in_boxes(consistent, boxes, levels, strides)
            distance = (torch.sigmoid(to_compare.float()) - image).abs().sum()
            losses["loss_da_consistency"] = distance / count
        return losses

    def forward(self, source: dict, target: dict) -> dict[str, Tensor]:
        """Weighted losses ``loss_da_image``, ``loss_da_instance``, ``loss_da_consistency``.

        ``source`` and ``target`` are keyword arguments of `domain_losses`. The two domains count
        the same whatever their numbers of images: each loss is the mean of the domains' means,
        which for 1 + 1 images is the mean over both.
        """
        if self.uses_instances:
            source, target = self._with_instance_logits([source, target])
        of_source = self.domain_losses(SOURCE, **source)
        of_target = self.domain_losses(TARGET, **target)
        weights = {
            "loss_da_image": self.image_weight,
            "loss_da_instance": self.instance_weight,
            "loss_da_consistency": self.consistency_weight,
        }
        return {
            name: weights[name] * 0.5 * (of_source[name] + of_target[name]) for name in of_source
        }

    def _with_instance_logits(self, sides: Sequence[dict]) -> list[dict]:
        """Both domains through each classifier at once: its gradients are then made once."""
        rows = torch.cat([each["box_features"] for each in sides])
        joint = self.instance_logits(rows, torch.cat([each["levels"] for each in sides]))
        counts = [len(each["levels"]) for each in sides]
        parts = zip(*(each.split(counts) for each in joint), strict=True)
        return [side | {"instance_logits": part} for side, part in zip(sides, parts, strict=True)]
