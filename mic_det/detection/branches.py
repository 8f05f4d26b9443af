"""What classifiers with one logit for several losses share on their ways there and back."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def computing_dtype(x: Tensor) -> torch.dtype:
    """What to compute in: autocast's dtype where that is on, that of ``x`` elsewhere."""
    kind = x.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype


def merged(
    grads: Sequence[Tensor | None], factors: Sequence[float], dtype: torch.dtype
) -> tuple[Tensor, Tensor] | None:
    """Sum of what flows back from all losses, and the same with each times its factor.

    The one is for the parameters, the other for what goes into the classifier. None: no loss looks.
    """
    pairs = [(f, g.to(dtype)) for f, g in zip(factors, grads, strict=True) if g is not None]
    if not pairs:
        return None
    return sum(grad for _, grad in pairs), sum(factor * grad for factor, grad in pairs)
