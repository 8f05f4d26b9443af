"""No adaptation: cross-entropy on the source."""

from __future__ import annotations

from torch import Tensor

from .base import HOST_REGISTRY, Host, Step


@HOST_REGISTRY.register("source_only")
class SourceOnly(Host):
    """Source-only training, and the oracle's when the source is the labelled target."""

    def losses(self, step: Step) -> dict[str, Tensor]:
        output = step.student.supervised(step.source_images, step.source_labels)
        return {"loss_source": output.loss}
