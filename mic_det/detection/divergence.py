"""What a detector whose predictions are no numbers any more does in training."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from typing import Any

logger = logging.getLogger(__name__)


def nan_loss_on_divergence(forward: Callable[..., Any]) -> Callable[..., Any]:
    """Decorate a training ``forward``: Detectron2's FloatingPointError becomes a loss of NaN.

    Detectron2 raises it where proposals contain Inf or NaN. In one of several processes that would
    leave the others waiting for its gradients. A NaN that depends on every trainable parameter
    reaches all of them through those gradients, and all skip the step together (see
    `mic_det.engine.health`).
    """

    @functools.wraps(forward)
    def guarded(self: Any, *args: Any, **kwargs: Any) -> Any:
        try:
            return forward(self, *args, **kwargs)
        except FloatingPointError as error:
            if not self.training:
                raise
            logger.warning("%s", error)
            anchor = sum(p.float().sum() for p in self.parameters() if p.requires_grad)
            return {"loss_diverged": anchor * float("nan")}

    return guarded
