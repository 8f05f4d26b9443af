"""Host methods of semantic segmentation, by name in `HOST_REGISTRY`."""

from . import adversarial, self_training, source_only  # noqa: F401  (registers them)
from .base import HOST_REGISTRY, Host, Preparation, Step, build_host, host_class

__all__ = ["HOST_REGISTRY", "Host", "Preparation", "Step", "build_host", "host_class"]
