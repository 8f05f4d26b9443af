"""Data of a configuration, checked before anything expensive starts."""

from __future__ import annotations

from detectron2.config import CfgNode


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
        ConfigError: if MODEL.SEM_SEG_HEAD.NUM_CLASSES is another number.
        DataError: if data are missing, or a set has a class that is none of the model's.
    """
    raise NotImplementedError
