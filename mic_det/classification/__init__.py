"""Domain-adaptive image classification: alignment, class confusion, masked loss, classifier."""

from mic_det.env import require_detectron2

require_detectron2()

from .alignment import DomainAlignment  # noqa: E402
from .losses import class_confusion, masked_loss  # noqa: E402
from .meta_arch import AdaptiveClassifier  # noqa: E402

__all__ = ["AdaptiveClassifier", "DomainAlignment", "class_confusion", "masked_loss"]
