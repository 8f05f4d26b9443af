"""Running statistics of batch normalisation: kept, given back, and the same in all processes."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn


def running_statistics(model: nn.Module) -> list[Tensor]:
    """The buffers that layers of ``model`` gather in training: means, variances, counters."""
    return [
        buffer
        for layer in model.modules()
        if getattr(layer, "track_running_stats", False) and layer.training
        for buffer in layer.buffers(recurse=False)
    ]


@contextlib.contextmanager
def kept_statistics(model: nn.Module) -> Iterator[None]:
    """Afterwards the running statistics are what they were, whatever went through the model.

    A backward pass through it may still follow.
    """
    tensors = running_statistics(model)
    before = [each.clone() for each in tensors]
    try:
        yield
    finally:
        for tensor, old in zip(tensors, before, strict=True):
            tensor.data.copy_(old)  # autograd counts other changes; gradients do not depend on it


class StepStatistics:
    """The running statistics of a model before a training step, and what becomes of them after it.

    DistributedDataParallel leaves each process with those of its own images. They are averaged
    here, so that students, teachers and a resumed run are the same in all processes: the mean of
    the processes' means, and of their variances, since each normalises by its own. After a step
    that was skipped, for losses or gradients that are not finite, they are what they were before.

    Args:
        model: in training mode, before the step.
    """

    def __init__(self, model: nn.Module) -> None:
        self.tensors = [each for each in running_statistics(model) if each.is_floating_point()]
        self.before = self._as_one()

    @torch.no_grad()
    def settle(self, skipped: Tensor) -> None:
        """Average over the processes; ``skipped``: a number on the model's device, 0 or 1."""
        if self.before is None:
            return
        now = self._as_one()
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.all_reduce(now)
            now /= torch.distributed.get_world_size()
        now = torch.where(skipped > 0, self.before, now)
        parts = now.split([each.numel() for each in self.tensors])
        shaped = [part.view_as(each) for part, each in zip(parts, self.tensors, strict=True)]
        torch._foreach_copy_(self.tensors, shaped)

    def _as_one(self) -> Tensor | None:
        if not self.tensors:
            return None
        return torch.cat([each.detach().reshape(-1) for each in self.tensors])
