"""Data of a configuration, checked before anything expensive starts."""

from __future__ import annotations

import logging

from detectron2.config import CfgNode

from mic_det.config import ConfigError
from mic_det.data.catalog import missing_data_message, require_domain
from mic_det.data.register import register_from_config
from mic_det.data.segmentation.fit import fit_seg_classes
from mic_det.data.segmentation.records import labelled_seg_dicts, own_classes
from mic_det.data.shared_images import warn_of_shared_images

logger = logging.getLogger(__name__)


def check_segmentation(cfg: CfgNode, training: bool = True) -> list[str]:
    """Register what ``cfg`` names, find the classes to train, and bring all labelled sets to them.

    The classes are those of the first of ``DATASETS.TRAIN``, in its order; others are matched by
    name. From then on `labelled_seg_dicts`, `label_loader` and the metadata (``stuff_classes``,
    ``stuff_colors``, ``ignore_label``, ``evaluator_type`` "sem_seg") speak of these.

    Args:
        cfg: with ``DATASETS`` and ``MODEL.SEM_SEG_HEAD.NUM_CLASSES``.
        training: whether source and target have to be there; for evaluation alone they need not.

    Returns:
        Names of the classes by id; empty if there is neither a source nor a test set.

    Raises:
        ConfigError: if MODEL.SEM_SEG_HEAD.NUM_CLASSES is another number, or ``INPUT`` or
            ``DATALOADER.RARE_CLASSES`` cannot be meant.
        DataError: if data are missing, or a set has a class that is none of the model's.
    """
    register_from_config(cfg)
    check_input(cfg)
    sources, tests = tuple(cfg.DATASETS.TRAIN), tuple(cfg.DATASETS.TEST)
    needed = (*sources, *tests) if training else tests
    for name in needed:
        own_classes(name)  # the error for a domain without labels
        require_domain(name)
    for name in cfg.DATASETS.TARGET if training else ():
        require_domain(name, labelled=False)
    if not sources and not tests:
        return []
    # The source's registration names the classes, even where its files are not.
    first = sources or tests[:1]
    classes = fit_seg_classes(first, tests)
    expected = cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES
    if len(classes) != expected:
        raise ConfigError(
            f"{first[0]} has {len(classes)} classes ({', '.join(classes)}), but "
            f"MODEL.SEM_SEG_HEAD.NUM_CLASSES is {expected}. Set it to {len(classes)}, or list the "
            "classes to train where the source is registered."
        )
    # Reading them raises the error where labels do not fit the images.
    warn_of_shared_images({name: labelled_seg_dicts(name) for name in needed}, sources, tests)
    return classes


def missing_segmentation_data(cfg: CfgNode, training: bool = True) -> str | None:
    """One message for all that is missing of the data that ``cfg`` names, None if nothing is."""
    register_from_config(cfg)
    if not training:
        return missing_data_message(cfg.DATASETS.TEST)
    return missing_data_message((*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST), cfg.DATASETS.TARGET)


def check_input(cfg: CfgNode) -> None:
    """Raise ConfigError for settings of the images and of rare classes that cannot be meant."""

    def require(holds: bool, message: str) -> None:
        if not holds:
            raise ConfigError(message)

    crop, rare = cfg.INPUT.CROP, cfg.DATALOADER.RARE_CLASSES
    if crop.ENABLED:
        require(
            crop.TYPE == "absolute",
            f"INPUT.CROP.TYPE is {crop.TYPE!r}; segmentation crops all images alike: set it to "
            "'absolute', and INPUT.CROP.SIZE to [height, width] in pixels.",
        )
        sides = list(crop.SIZE)
        require(
            len(sides) == 2 and all(side >= 1 and side == int(side) for side in sides),
            f"INPUT.CROP.SIZE is {sides}; it is [height, width] in whole pixels.",
        )
        share = crop.SINGLE_CATEGORY_MAX_AREA
        require(
            0.0 < share <= 1.0,
            f"INPUT.CROP.SINGLE_CATEGORY_MAX_AREA is a share in (0, 1], not {share}",
        )
    require(
        cfg.INPUT.RANDOM_FLIP in ("none", "horizontal", "vertical"),
        f"INPUT.RANDOM_FLIP is none, horizontal or vertical, not {cfg.INPUT.RANDOM_FLIP!r}",
    )
    require(
        rare.TEMPERATURE > 0,
        f"DATALOADER.RARE_CLASSES.TEMPERATURE is above 0, not {rare.TEMPERATURE}",
    )
    require(
        rare.MIN_PIXELS >= 1,
        f"DATALOADER.RARE_CLASSES.MIN_PIXELS is at least 1, not {rare.MIN_PIXELS}",
    )
    require(
        rare.MIN_CROP_SHARE >= 0.0,
        f"DATALOADER.RARE_CLASSES.MIN_CROP_SHARE is at least 0, not {rare.MIN_CROP_SHARE}",
    )
