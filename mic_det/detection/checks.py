"""Whether the data of a configuration are there and fit the detector."""

from __future__ import annotations

import logging

from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog

from mic_det.config import ConfigError
from mic_det.data.catalog import (
    evaluation_json,
    fit_classes,
    labelled_dicts,
    missing_data_message,
    require_domain,
)
from mic_det.data.register import register_from_config
from mic_det.data.shared_images import warn_of_shared_images

logger = logging.getLogger(__name__)


def check_classes(cfg: CfgNode, *, training: bool = True) -> list[str]:
    """Register what ``cfg`` names, find the classes to train, and bring all labelled sets to them.

    The classes are those of the first of ``DATASETS.TRAIN``. Those of the other sets are matched by
    name, whatever their order and ids (`mic_det.data.catalog.fit_classes`).

    Args:
        training: whether source and target have to be there; for evaluation alone they need not.

    Raises:
        ConfigError: if MODEL.ROI_HEADS.NUM_CLASSES is another number.
        DataError: if data are missing or broken, a set has a class that is none of the model's, or
            the cache cannot be written.
    """
    register_from_config(cfg)
    sources, tests = tuple(cfg.DATASETS.TRAIN), tuple(cfg.DATASETS.TEST)
    for name in cfg.DATASETS.TARGET if training else ():
        require_domain(name, labelled=False)
    for name in (*sources, *tests) if training else tests:
        require_domain(name)
    first = sources[0] if sources and (training or not missing_data_message([sources[0]])) else None
    if first is None and not tests:
        return []
    if first is None:
        logger.warning("No source data here: the model's classes are taken to be %s's.", tests[0])
    classes = fit_classes(sources if first else tests[:1], tests)
    expected = cfg.MODEL.ROI_HEADS.NUM_CLASSES
    if len(classes) != expected:
        raise ConfigError(
            f"{first or tests[0]} has {len(classes)} classes ({', '.join(classes)}), but "
            f"MODEL.ROI_HEADS.NUM_CLASSES is {expected}. Set it to {len(classes)}, or list the "
            "classes to train where the source is registered."
        )
    records = {}
    for name in (*sources, *tests) if training else tests:
        records[name] = labelled_dicts(name)
        found = list(MetadataCatalog.get(name).thing_classes)
        if found != classes:  # only sets that are registered with Detectron2 alone
            raise ConfigError(
                f"{name} has the classes {found}, {first} has {classes}: they must be the same in "
                "the same order. Register it with mic_det.data.register_domain: then classes are "
                "matched by name."
            )
    warn_of_shared_images(records, sources, tests)
    for name in tests:
        evaluation_json(name)  # the error for a cache that cannot be written, before training
    return classes
