"""Keeps the classes of pseudo labels in the proportions of the labelled data."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class ClassShares(nn.Module):
    """Bring predicted classes nearer to the shares that they have among the labels.

    Distribution alignment (ReMixMatch: Berthelot et al., ICLR 2020, section 3.1): a probability is
    multiplied by its class's share among the source's labels over its share among the pseudo
    labels, and all of them are scaled back to the sum that they had. So a teacher that takes trucks
    for buses in fog does not teach the student that there are buses only. It supposes that classes
    are about as frequent in the target as in the source.

    Both shares are of sums over the last steps, which older ones leave by ``momentum`` a step; they
    are buffers, so that an EMA teacher follows them and a checkpoint keeps them. Pseudo labels are
    counted as they are after the correction, so it goes half the way: at rest a class's share is
    the geometric mean of its share before and its share among the labels.

    Args:
        num_classes: K, without the background.
        momentum: what remains of the sums in a step, in [0, 1).
        limit: the largest factor, and one over the smallest, before scaling; at least 1.
        prior: added to each class's sum, so that few observations change little; positive.
    """

    def __init__(
        self, num_classes: int, momentum: float = 0.99, limit: float = 5.0, prior: float = 1.0
    ) -> None:
        super().__init__()
        if not 0.0 <= momentum < 1.0:
            raise ValueError(f"momentum must be in [0, 1), got {momentum}")
        if limit < 1.0 or prior <= 0.0:
            raise ValueError(f"limit must be at least 1 and prior positive, got {limit}, {prior}")
        self.momentum = momentum
        self.limit = limit
        self.prior = prior
        self.register_buffer("labelled", torch.zeros(num_classes))
        self.register_buffer("predicted", torch.zeros(num_classes))

    @torch.no_grad()
    def observe(self, labels: Tensor, predictions: Tensor, scores: Tensor) -> None:
        """Count a step's labels and pseudo labels, over all processes.

        Args:
            labels: (N,) int64 classes of the source's labels.
            predictions: (M,) int64 classes of the pseudo labels.
            scores: (M,) in [0, 1], what each of them counts.
        """
        counts = torch.zeros(2, len(self.labelled), device=self.labelled.device)
        counts[0].index_add_(0, labels, torch.ones_like(labels, dtype=counts.dtype))
        counts[1].index_add_(0, predictions, scores.to(counts.dtype))
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.all_reduce(counts)
        for sums, new in zip((self.labelled, self.predicted), counts, strict=True):
            sums.mul_(self.momentum).add_(new)

    def factors(self) -> Tensor:
        """(K,) what probabilities are multiplied by, in [1 / limit, limit]."""
        labelled, predicted = self.labelled + self.prior, self.predicted + self.prior
        ratio = (labelled / labelled.sum()) / (predicted / predicted.sum())
        return ratio.clamp(1.0 / self.limit, self.limit)

    @torch.no_grad()
    def forward(self, probabilities: Tensor) -> Tensor:
        """(..., K) probabilities with the shares corrected; sums over K stay as they are."""
        changed = probabilities * self.factors().to(probabilities.dtype)
        total = changed.sum(-1, keepdim=True)
        tiny = torch.finfo(changed.dtype).tiny
        return changed * (probabilities.sum(-1, keepdim=True) / total.clamp(min=tiny))
