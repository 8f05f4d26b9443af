"""Means over many steps that a GPU is not waited for."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn


class RunningMeans:
    """Weighted sums by name, kept where they arise and read once in a while.

    `add` never waits for a GPU: a tensor stays on its device. `pop` reads all of them in one go.
    """

    def __init__(self) -> None:
        self._sums: dict[str, list] = {}
        self.paused = False

    def add(self, name: str, total: Tensor | float, weight: Tensor | float) -> None:
        """Add ``total``, a sum over ``weight`` cases; a tensor must hold one number."""
        if self.paused:
            return
        sums = self._sums.setdefault(name, [0.0, 0.0])
        for i, value in enumerate((total, weight)):
            sums[i] = sums[i] + (value.detach().float() if torch.is_tensor(value) else value)

    def pop(self) -> dict[str, tuple[float, float]]:
        """``{name: (sum, weight)}`` of all that was added since the last call, and start anew."""
        values = [value for sums in self._sums.values() for value in sums]
        tensors = [value for value in values if torch.is_tensor(value)]
        read = iter(torch.stack(tensors).tolist() if tensors else [])
        numbers = iter([next(read) if torch.is_tensor(value) else value for value in values])
        found = {name: (next(numbers), next(numbers)) for name in self._sums}
        self._sums = {}
        return found


def running_means(model: nn.Module) -> list[RunningMeans]:
    """The `RunningMeans` named ``health`` of all modules of ``model``."""
    found = [getattr(module, "health", None) for module in model.modules()]
    return [means for means in found if isinstance(means, RunningMeans)]


@contextlib.contextmanager
def uncounted(model: nn.Module) -> Iterator[None]:
    """Inside, passes through ``model`` add nothing to its running means."""
    means = running_means(model)
    for mean in means:
        mean.paused = True
    try:
        yield
    finally:
        for mean in means:
            mean.paused = False
