"""Domain-adaptive Faster R-CNN: domain heads, pseudo labels, masked loss, meta-architecture."""

from mic_det.env import require_detectron2

require_detectron2()

from . import backbone  # noqa: E402, F401  (registers itself)
from .domain_heads import SADAHeads  # noqa: E402
from .masked_loss import MaskedDetectionLoss  # noqa: E402
from .meta_arch import AdaptiveRCNN  # noqa: E402
from .pseudo_labels import as_pseudo_labels  # noqa: E402

__all__ = ["AdaptiveRCNN", "MaskedDetectionLoss", "SADAHeads", "as_pseudo_labels"]
