"""The frozen first stages of a backbone, whose outputs teacher and student can share."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from detectron2.modeling import FPN, ResNet
from torch import Tensor, nn

# Whose output depends on more than input and weights.
_MOODY = (nn.Dropout, nn.modules.batchnorm._BatchNorm)


def frozen_stages(backbone: nn.Module) -> list[tuple[str, nn.Module]]:
    """The first stages, by name, of a ResNet with FPN that no gradient and no mode changes.

    Empty for any other backbone, and for one whose forward is not Detectron2's.
    """
    if type(backbone).forward is not FPN.forward:
        return []
    resnet = backbone.bottom_up
    if type(resnet).forward is not ResNet.forward or resnet._forward_hooks:
        return []
    found = []
    for name, stage in _stages(resnet):
        trained = any(each.requires_grad for each in stage.parameters())
        if trained or any(isinstance(each, _MOODY) for each in stage.modules()):
            break
        found.append((name, stage))
    return found


def _stages(resnet: ResNet) -> list[tuple[str, nn.Module]]:
    return [("stem", resnet.stem), *zip(resnet.stage_names, resnet.stages, strict=True)]


@dataclass
class StageOutputs:
    """What the first stages made of some images.

    ``outputs``: of the last of them and of those that the pyramid looks at, by name; as many stages
    as ``count``. ``weights``: the tensors of those stages, by name.
    ``images``: what the batch was, one tensor for each image; ``context``: shape and dtype of the
    network's input, and the precision in which it was worked on.
    """

    outputs: dict[str, Tensor]
    count: int
    weights: dict[str, Tensor]
    images: list[Tensor]
    context: tuple


@dataclass
class SharedStages:
    """Hands the outputs of the student's frozen stages from the teacher, as it runs them, to it.

    Each is taken once at most, and only by who would compute the same: the same images, in the same
    shape and precision, by stages with equal weights. That is looked at each time, so a student
    whose stages were thawed, or a teacher with weights of its own, is safe.

    Args:
        count: number of the student's frozen stages (of the teacher's all are).
    """

    count: int = 0
    kept: StageOutputs | None = field(default=None, repr=False)

    def keep(
        self, backbone: nn.Module, batch: Sequence[dict[str, Any]], images: Tensor
    ) -> dict[str, Tensor]:
        """Features of ``images`` by the whole backbone; outputs of frozen stages are kept."""
        self.kept = None
        stages = frozen_stages(backbone)[: self.count]
        if not stages or len(stages) < self.count or images.requires_grad:
            return backbone(images)
        outputs = run_first(backbone, len(stages), images)
        given = [each["image"] for each in batch]
        weights = _tensors(stages)
        self.kept = StageOutputs(outputs, len(stages), weights, given, _context(images))
        return run_from(backbone, len(stages), outputs)

    def take(
        self, backbone: nn.Module, batch: Sequence[dict[str, Any]], images: Tensor
    ) -> StageOutputs | None:
        """What was kept, if it is what the backbone's stages would make of ``images``."""
        kept = self.kept
        if kept is None or len(kept.images) != len(batch) or kept.context != _context(images):
            return None
        if any(each["image"] is not image for each, image in zip(batch, kept.images, strict=True)):
            return None
        mine = _tensors(frozen_stages(backbone)[: kept.count])
        if mine.keys() != kept.weights.keys() or not _all_equal(mine, kept.weights):
            return None
        self.kept = None
        return kept

    def drop(self) -> None:
        """Nothing that is kept will be asked for any more."""
        self.kept = None


def _context(images: Tensor) -> tuple:
    kind = images.device.type
    precision = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else None
    return images.shape, images.dtype, images.device, precision


def _tensors(stages: Sequence[tuple[str, nn.Module]]) -> dict[str, Tensor]:
    found = {}
    for prefix, stage in stages:
        for name, tensor in (*stage.named_parameters(), *stage.named_buffers()):
            found[f"{prefix}.{name}"] = tensor
    return found


def _all_equal(mine: dict[str, Tensor], theirs: dict[str, Tensor]) -> bool:
    """Whether all are equal to the bit; a GPU is asked once."""
    pairs = [(mine[name], theirs[name]) for name in mine]
    if any(a.shape != b.shape or a.device != b.device or a.dtype != b.dtype for a, b in pairs):
        return False
    if not pairs[0][0].is_cuda:
        return all(torch.equal(a, b) for a, b in pairs)
    return bool(torch.stack([(a == b).all() for a, b in pairs]).all())


def run_first(backbone: FPN, count: int, images: Tensor) -> dict[str, Tensor]:
    """Outputs, by name, of the first ``count`` stages: of the last, and of those of the pyramid."""
    resnet, outputs, at = backbone.bottom_up, {}, images
    for number, (name, stage) in enumerate(_stages(resnet)[:count], 1):
        at = stage(at)
        if number == count or name in resnet._out_features:
            outputs[name] = at
    return outputs


def run_from(backbone: FPN, count: int, outputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """The backbone's features, from what `run_first` returned on."""
    resnet = backbone.bottom_up
    stages = _stages(resnet)
    maps = dict(outputs)
    at = maps[stages[count - 1][0]]
    for name, stage in stages[count:]:
        at = stage(at)
        if name in resnet._out_features:
            maps[name] = at
    # The same pyramid on the same weights, whose bottom-up part has been run already.
    pyramid = copy.copy(backbone)
    pyramid._modules = dict(backbone._modules)
    pyramid.bottom_up = nn.Identity()
    return pyramid(maps)


def run_backbone(
    backbone: nn.Module, images: Sequence[Tensor], begun: Sequence[StageOutputs | None]
) -> dict[str, Tensor]:
    """Features of batches ``images`` of one size in one pass; some have been begun already."""
    started = [each for each in begun if each is not None]
    if not started:
        return backbone(images[0] if len(images) == 1 else torch.cat(list(images)))
    count = started[0].count
    fresh = [each for each, done in zip(images, begun, strict=True) if done is None]
    parts: list[dict[str, Tensor]] = [{} for _ in images]
    if fresh:
        outputs = run_first(backbone, count, torch.cat(fresh))
        sizes = [len(each) for each in fresh]
        splits = {name: iter(each.split(sizes)) for name, each in outputs.items()}
    for part, done in zip(parts, begun, strict=True):
        for name in started[0].outputs:
            part[name] = next(splits[name]) if done is None else done.outputs[name]
    joint = parts[0]
    if len(parts) > 1:
        joint = {name: torch.cat([part[name] for part in parts]) for name in joint}
    return run_from(backbone, count, joint)
