"""Drawn street scenes with eight Cityscapes classes in clear air, in fog and at night."""

from .build import ensure_streets
from .scene import Scene, render_scene
from .spec import STREETS_CLASSES, STREETS_DOMAINS, STREETS_SPLITS, SplitSpec

__all__ = [
    "STREETS_CLASSES",
    "STREETS_DOMAINS",
    "STREETS_SPLITS",
    "Scene",
    "SplitSpec",
    "ensure_streets",
    "render_scene",
]
