"""Data of semantic segmentation: label images, their classes, checks, rare classes, batches.

A domain is a folder of images and, if it has labels, a folder of label images. Labels reach a
model as ids of its own classes, 0, 1, ... in the order of `check_segmentation`, and `IGNORE`.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mic_det.data.catalog import unlabelled_dicts
    from mic_det.data.segmentation.coding import IGNORE
    from mic_det.data.segmentation.colours import class_colours, colour_map
    from mic_det.data.segmentation.config_check import check_segmentation, missing_segmentation_data
    from mic_det.data.segmentation.loader import segmentation_batches
    from mic_det.data.segmentation.mapper import SegmentationMapper
    from mic_det.data.segmentation.records import label_loader, labelled_seg_dicts
    from mic_det.data.segmentation.registration import register_segmentation

__all__ = [
    "IGNORE",
    "SegmentationMapper",
    "check_segmentation",
    "class_colours",
    "colour_map",
    "label_loader",
    "labelled_seg_dicts",
    "missing_segmentation_data",
    "register_segmentation",
    "segmentation_batches",
    "unlabelled_dicts",
]

# Loaded when they are used: parts of this package are used by modules that others here use.
_HOMES = {
    "IGNORE": "segmentation.coding",
    "SegmentationMapper": "segmentation.mapper",
    "check_segmentation": "segmentation.config_check",
    "class_colours": "segmentation.colours",
    "colour_map": "segmentation.colours",
    "label_loader": "segmentation.records",
    "labelled_seg_dicts": "segmentation.records",
    "missing_segmentation_data": "segmentation.config_check",
    "register_segmentation": "segmentation.registration",
    "segmentation_batches": "segmentation.loader",
    "unlabelled_dicts": "catalog",
}


def __getattr__(name: str) -> object:
    if name in _HOMES:
        from mic_det.env import require_detectron2

        require_detectron2()
        return getattr(import_module(f"mic_det.data.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
