"""A model looked at in the midst of its training."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from .masking import PatchMask


@contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    """Inside, ``model`` is in eval mode and gradients are off; afterwards it is as it was."""
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(training)


def masked_pairs(
    records: Iterable[Mapping[str, Any]], mask: PatchMask, seed: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Each record's ``image`` (3, H, W) as it is and masked; masks depend on ``seed`` alone."""
    generator = torch.Generator().manual_seed(seed)
    for record in records:
        yield record["image"], mask(record["image"].float(), generator=generator)
