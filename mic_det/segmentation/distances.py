"""How well classes are separated in feature space: the class centre distance."""

from __future__ import annotations

import torch
from torch import Tensor

from .centres import class_sums
from .losses import resize_labels


class ClassCentreDistance:
    """Intra-class over inter-class distance, over a whole set in one pass.

    For class i of C that occur, with S_i its features and mu_i their mean,
    CCD(i) = 1/(C-1) sum_{j != i} (1/|S_i| sum_{x in S_i} |x - mu_i|^2) / |mu_i - mu_j|^2
    (Wang et al., FADA, ECCV 2020, section 4; SPCL's appendix): small where classes are compact and
    far apart. Features are L2-normalised, so that networks compare, and
    1/|S_i| sum |x - mu_i|^2 = 1 - |mu_i|^2: sums are all that has to be kept.
    """

    def __init__(self, num_classes: int, channels: int, device: torch.device | str = "cpu"):
        self.sums = torch.zeros(num_classes, channels, dtype=torch.float64, device=device)
        self.counts = torch.zeros(num_classes, dtype=torch.float64, device=device)

    @torch.no_grad()
    def add(self, features: Tensor, labels: Tensor) -> None:
        """Count ``features`` (N, D, h, w) of ``labels`` (N, H, W); other labels are left out."""
        labels = resize_labels(labels, features.shape[-2:])
        unit = torch.nn.functional.normalize(features.float(), dim=1)
        sums, counts = class_sums(unit, labels, len(self.counts))
        self.sums += sums
        self.counts += counts

    def result(self) -> tuple[list[float], float]:
        """CCD of each class, NaN for those that do not occur, and the mean over the others.

        The mean is NaN if fewer than two classes occur.
        """
        occur = self.counts > 0
        means = self.sums[occur] / self.counts[occur, None]
        values = torch.full_like(self.counts, float("nan"))
        if len(means) >= 2:
            within = 1.0 - means.square().sum(1)
            between = torch.cdist(means, means).square().fill_diagonal_(float("inf"))
            values[occur] = (within[:, None] / between).sum(1) / (len(means) - 1)
        return values.tolist(), float(values.nanmean())
