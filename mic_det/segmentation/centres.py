"""A mean feature for each class: SPCL's prototypes and DiGA's centroids."""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.distributed
import torch.nn.functional as F
from torch import Tensor, nn

from .losses import resize_labels


@torch.no_grad()
def class_sums(features: Tensor, labels: Tensor, num_classes: int) -> tuple[Tensor, Tensor]:
    """Sum of the features of each class's positions, and the number of these positions.

    Args:
        features: (N, D, h, w), floating.
        labels: (N, h, w), integer; what is not in [0, num_classes) is left out.

    Returns:
        float32 sums (K, D) and counts (K,), without gradient.
    """
    with torch.autocast(features.device.type, enabled=False):
        rows = features.detach().float().flatten(2).transpose(1, 2).flatten(0, 1)
        classes = torch.arange(num_classes, device=labels.device)
        # A product, not index_add_: the order of its sums is the same each time on a GPU too.
        belongs = (labels.flatten() == classes[:, None]).float()
        return belongs @ rows, belongs.sum(1)


class ClassCentres(nn.Module):
    """The mean feature of each class, moved a little towards each batch's.

    A class in a batch: ``centre <- keep * centre + (1 - keep) * batch mean``; one that is absent
    keeps its centre, and one that was never seen takes the batch mean as it is. Centres are
    buffers: they are saved with the model, and no gradient flows into or through them. In a run of
    several processes the batch is that of all of them.

    Args:
        num_classes: K.
        channels: D, of the features.
        keep: share of the old centre, in [0, 1]; xi of SPCL (Xie et al., 2021, eq. 4), and 1 - 1e-4
            for DiGA (Shen et al., CVPR 2023, section 3.3).
        normalise: divide each position's feature by its L2 norm first (SPCL).

    Raises ValueError if ``keep`` is out of range.
    """

    def __init__(
        self, num_classes: int, channels: int, keep: float, normalise: bool = True
    ) -> None:
        super().__init__()
        if not 0.0 <= keep <= 1.0:
            raise ValueError(f"keep must be in [0, 1], got {keep}")
        self.keep = float(keep)
        self.normalise = bool(normalise)
        self.register_buffer("means", torch.zeros(num_classes, channels))
        self.register_buffer("seen", torch.zeros(num_classes, dtype=torch.bool))

    @property
    def num_classes(self) -> int:
        return self.means.shape[0]

    def prepare(self, features: Tensor) -> Tensor:
        """``features`` (N, D, h, w) as float32, as the centres are made of and compared with."""
        with torch.autocast(features.device.type, enabled=False):
            features = features.float()
            return F.normalize(features, dim=1) if self.normalise else features

    def sums(self, features: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """`class_sums` of prepared ``features`` (N, D, h, w); ``labels`` (N, H, W) of any size."""
        labels = resize_labels(labels, features.shape[-2:])
        return class_sums(self.prepare(features.detach()), labels, self.num_classes)

    @torch.no_grad()
    def start_from(self, batches: Iterable[tuple[Tensor, Tensor]]) -> None:
        """Start anew from a data set, given as (features, labels) pairs, in one pass."""
        sums = torch.zeros_like(self.means, dtype=torch.float64)
        counts = torch.zeros_like(self.means[:, 0], dtype=torch.float64)
        for features, labels in batches:
            found = self.sums(features, labels)
            sums += found[0]
            counts += found[1]
        self.seen.copy_(counts > 0)
        self.means.copy_(sums / counts.clamp_min(1)[:, None])

    def coverage(self) -> str:
        """How many classes have a centre, and which have none, for the log."""
        missing = (~self.seen).nonzero().flatten().tolist()
        text = f"{self.num_classes - len(missing)} of {self.num_classes} classes"
        return text + (f"; none of {', '.join(map(str, missing))}" if missing else "")

    @torch.no_grad()
    def update(self, *batches: tuple[Tensor, Tensor]) -> None:
        """Move the centres towards the common mean of some (features, labels) pairs."""
        found = [self.sums(features, labels) for features, labels in batches]
        sums, counts = (sum_over_processes(sum(parts)) for parts in zip(*found, strict=True))
        mean = sums / counts.clamp_min(1)[:, None]
        moved = torch.where(self.seen[:, None], self.means.lerp(mean, 1.0 - self.keep), mean)
        present = counts > 0
        self.means.copy_(torch.where(present[:, None], moved, self.means))
        self.seen.logical_or_(present)

    @torch.no_grad()
    def nearest(self, features: Tensor) -> Tensor:
        """Class of the nearest centre (Euclidean) for ``features`` (N, D, h, w): int64 (N, h, w).

        -1 as long as no class has been seen.
        """
        rows = self.prepare(features).flatten(2).transpose(1, 2)
        distances = torch.cdist(rows, self.means.expand(len(rows), -1, -1))
        distances = distances.masked_fill(~self.seen, float("inf"))
        found = distances.argmin(2).unflatten(1, features.shape[-2:])
        return torch.where(self.seen.any(), found, -1)


def sum_over_processes(values: Tensor) -> Tensor:
    """The sum of ``values`` over all processes of a distributed run; themselves in any other."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.all_reduce(values)
    return values
