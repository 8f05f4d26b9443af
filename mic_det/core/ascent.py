"""Sharpness-aware minimisation: gradients from the worst point nearby."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterator

import torch
from torch import Tensor, nn

from .averages import uncounted
from .statistics import kept_statistics


class SharpnessAscent:
    """The ascent step of SAM (Foret et al., ICLR 2021, eq. 2), along some of the losses.

    With g the gradient of those losses at the weights w, the step is taken at w + rho * g / ||g||
    and applied to w. Smooth domain adversarial training (SDAT: Rangwani et al., ICML 2022) lets
    the ascent follow the task's losses and never the domain loss.

    Args:
        rho: length of the ascent, above 0.
        losses: names of the losses that it follows, those that a step has of them.
    """

    def __init__(self, rho: float, losses: Collection[str]) -> None:
        if rho <= 0.0:
            raise ValueError(f"rho must be above 0, got {rho}")
        self.rho = float(rho)
        self.losses = frozenset(losses)

    @contextlib.contextmanager
    def __call__(self, student: nn.Module, backward: Callable[..., object]) -> Iterator[None]:
        """Inside, the weights are those at the end of the ascent; after it what they were, exactly.

        Running statistics of normalisation layers, and running means of the health curves, are
        gathered by ``backward`` here, at the weights that are kept, and not inside.

        Args:
            student: whose trainable parameters move; DistributedDataParallel or plain.
            backward: called with ``only``, the losses to follow; leaves their gradients, of any
                common scale, in the parameters.
        """
        # A domain classifier has no gradient here, for which DistributedDataParallel would wait.
        alone = student.no_sync() if hasattr(student, "no_sync") else contextlib.nullcontext()
        with alone:
            backward(only=self.losses)
        moved = [each for each in student.parameters() if each.grad is not None]
        before = [each.detach().clone() for each in moved]
        with torch.no_grad():
            torch._foreach_add_(moved, self._step([each.grad for each in moved]))
        try:
            with kept_statistics(student), uncounted(student):
                yield
        finally:
            with torch.no_grad():
                torch._foreach_copy_(moved, before)

    def _step(self, grads: list[Tensor]) -> list[Tensor]:
        """rho * g / ||g||, of the mean of all processes' gradients: they climb together."""
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            for grad in grads:
                torch.distributed.all_reduce(grad)
        norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(grads)).float())
        return list(torch._foreach_mul(grads, self.rho / (norm + 1e-12)))
