"""DiGA's filter: a pseudo label is kept where the classifier and the nearest centroid agree."""

from __future__ import annotations

from torch import Tensor

from .losses import IGNORED


def agreeing(labels: Tensor, nearest: Tensor) -> Tensor:
    """``labels`` int64, 255 where they differ from ``nearest``; both of one shape.

    Bilateral consensus of Shen et al., DiGA, CVPR 2023, section 3.3: no threshold.
    """
    return labels.where(labels == nearest, IGNORED)


def kept_and_correct(kept: Tensor, truth: Tensor | None = None) -> tuple[Tensor, ...]:
    """Counts for the share of pixels kept and its accuracy, as scalar tensors on their device.

    Args:
        kept: filtered pseudo labels, 255 where dropped.
        truth: labels of the same shape, 255 where unknown; for evaluation only.

    Returns:
        (pixels kept, pixels); with ``truth`` also (kept pixels that are right, kept pixels whose
        truth is known).
    """
    believed = kept != IGNORED
    counts = (believed.sum(), believed.new_tensor(believed.numel(), dtype=believed.sum().dtype))
    if truth is None:
        return counts
    known = believed & (truth != IGNORED)
    return (*counts, (known & (kept == truth)).sum(), known.sum())
