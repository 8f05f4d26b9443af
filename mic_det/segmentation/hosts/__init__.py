"""Host methods of semantic segmentation, by name in `HOST_REGISTRY`."""

from . import (  # noqa: F401  (registers them)
    adversarial,
    diga,
    self_training,
    source_only,
    spcl,
)
from .base import HOST_REGISTRY, Host, Preparation, Step, build_host, host_class

__all__ = ["HOST_REGISTRY", "Host", "Preparation", "Step", "build_host", "host_class"]
