"""Data of the domains: registration, readers, converters, checks, loaders, fog, drawn streets.

What users call most is imported from here; Detectron2 is loaded only when it is used.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mic_det.data.catalog import register_domain, unregister_domain
    from mic_det.data.classification.folders import register_class_folders
    from mic_det.data.register import register_yaml
    from mic_det.data.segmentation.registration import register_segmentation

__all__ = [
    "register_class_folders",
    "register_domain",
    "register_segmentation",
    "register_yaml",
    "unregister_domain",
]

_HOMES = {
    "register_class_folders": "classification.folders",
    "register_domain": "catalog",
    "register_segmentation": "segmentation.registration",
    "register_yaml": "register",
    "unregister_domain": "catalog",
}


def __getattr__(name: str) -> object:
    if name in _HOMES:
        from mic_det.env import require_detectron2

        require_detectron2()
        return getattr(import_module(f"mic_det.data.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
