"""Which pixels of a pseudo label are believed: a confidence threshold for each class."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .losses import IGNORED

BINS = 10_000


def predicted(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Class int64 and its softmax probability float32, both (N, H, W), of logits (N, K, H, W)."""
    confidence, labels = logits.detach().float().softmax(1).max(1)
    return labels, confidence


class ConfidenceHistograms:
    """How confident predictions are, by predicted class, over a whole set in little memory.

    Confidences are counted in ``bins`` equal bins of [0, 1]: K x bins integers, whatever the size
    of the set. A median read from them is the lower edge of its bin: never above the true one, and
    less than 1 / bins (by default 0.0001) below it.
    """

    def __init__(self, num_classes: int, bins: int = BINS, device: torch.device | str = "cpu"):
        self.counts = torch.zeros(num_classes, bins, dtype=torch.int64, device=device)

    def add(self, labels: Tensor, confidence: Tensor) -> None:
        """Count predictions: ``labels`` integer in [0, K), ``confidence`` in [0, 1], same shape."""
        classes, bins = self.counts.shape
        # In double precision: a confidence is never put into a bin that begins above it.
        column = (confidence.double() * bins).long().clamp_(0, bins - 1)
        flat = (labels.long() * bins + column).flatten()
        self.counts += torch.bincount(flat, minlength=classes * bins).view(classes, bins)

    def medians(self) -> Tensor:
        """float32 (K,): the median of each class (the lower of the two middle ones); NaN if empty.

        At least half of a class's predictions are at or above it.
        """
        cumulative = self.counts.cumsum(1)
        total = cumulative[:, -1:]
        column = (cumulative < (total + 1) // 2).sum(1)
        medians = column.double() / self.counts.shape[1]
        return medians.masked_fill(total[:, 0] == 0, float("nan")).float()


def median_thresholds(medians: Tensor, ceiling: float = 0.9) -> Tensor:
    """SPCL's rule (Xie et al., 2021): ``ceiling`` where the median is above it, else the median.

    A class that was never predicted (NaN) has ``ceiling``.
    """
    return torch.nan_to_num(medians, nan=ceiling).clamp_max(ceiling)


class ClassThresholds(nn.Module):
    """The threshold of each class, saved with the model; what reaches it is believed.

    Args:
        num_classes: K.
        ceiling: the highest threshold there is, and that of all classes to begin with; in [0, 1].

    Raises ValueError if ``ceiling`` is out of range.
    """

    def __init__(self, num_classes: int, ceiling: float = 0.9) -> None:
        super().__init__()
        if not 0.0 <= ceiling <= 1.0:
            raise ValueError(f"ceiling must be in [0, 1], got {ceiling}")
        self.ceiling = float(ceiling)
        self.register_buffer("values", torch.full((num_classes,), self.ceiling))

    def assign(self, histograms: ConfidenceHistograms) -> None:
        """Take the thresholds that follow from ``histograms``."""
        self.values.copy_(median_thresholds(histograms.medians(), self.ceiling))

    def forward(self, labels: Tensor, confidence: Tensor) -> Tensor:
        """``labels`` (N, H, W) int64, 255 where ``confidence`` is below the class's threshold."""
        return torch.where(confidence >= self.values[labels], labels, IGNORED)
