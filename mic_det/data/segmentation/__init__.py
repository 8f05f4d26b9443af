"""Data of semantic segmentation: label images, their classes, checks, rare classes, batches.

A domain is a folder of images and, if it has labels, a folder of label images. Labels reach a
model as ids of its own classes, 0, 1, ... in the order of `check_segmentation`, and `IGNORE`.
"""

from mic_det.data.catalog import unlabelled_dicts
from mic_det.data.segmentation.coding import IGNORE
from mic_det.data.segmentation.colours import class_colours
from mic_det.data.segmentation.config_check import check_segmentation
from mic_det.data.segmentation.loader import segmentation_batches
from mic_det.data.segmentation.mapper import SegmentationMapper
from mic_det.data.segmentation.records import label_loader, labelled_seg_dicts

__all__ = [
    "IGNORE",
    "SegmentationMapper",
    "check_segmentation",
    "class_colours",
    "label_loader",
    "labelled_seg_dicts",
    "segmentation_batches",
    "unlabelled_dicts",
]
