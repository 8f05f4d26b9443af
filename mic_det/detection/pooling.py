"""ROI pooling in mixed precision."""

from __future__ import annotations

import functools

import torch
from detectron2.modeling.poolers import ROIPooler
from torch import Tensor, nn


def pool_in_one_dtype(model: nn.Module) -> None:
    """Let each `ROIPooler` of ``model`` take pyramid levels of different dtypes.

    Under autocast a level that ends in a normalisation may be float32 and its neighbour bfloat16,
    and Detectron2's pooler cannot put them into one tensor. All are brought to the widest dtype
    among them; levels of one dtype are passed on untouched.
    """
    for module in model.modules():
        if isinstance(module, ROIPooler):
            module.register_forward_pre_hook(_widen)


def _widen(_: nn.Module, inputs: tuple[list[Tensor], list]) -> tuple[list[Tensor], list] | None:
    features, boxes = inputs
    dtypes = {level.dtype for level in features}
    if len(dtypes) == 1:
        return None
    widest = functools.reduce(torch.promote_types, dtypes)
    return [level.to(widest) for level in features], boxes
