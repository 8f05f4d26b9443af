"""Registration of a segmentation domain, by the Python call and what YAML files say."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from mic_det.data.catalog import add_domain, unlabelled_dicts
from mic_det.data.domain import DEFAULT_REMEDY, Domain, check_told
from mic_det.data.errors import DataError
from mic_det.data.segmentation.coding import IGNORE, make_coding
from mic_det.data.segmentation.colours import class_colours
from mic_det.data.segmentation.label_folder import LabelFolder
from mic_det.data.segmentation.records import labelled_seg_dicts


def register_segmentation(
    name: str,
    images: str | Path,
    labels: str | Path | None = None,
    classes: Sequence[str] | None = None,
    label_map: Mapping[object, object] | None = None,
    pattern: str = "*",
    *,
    aliases: Mapping[str, str] | None = None,
    label_suffixes: Sequence[str] | None = None,
    label_channel: int | None = None,
    prepare: Callable[[], Path] | None = None,
    remedy: str = DEFAULT_REMEDY,
    image_list: str | Path | None = None,
) -> None:
    """Make images with label images known to Detectron2 under ``name``; no file is read.

    Args:
        name: the name for configs.
        images: folder of images, sub-folders included. As an unlabelled target the domain is
            *all* images in it that fit ``pattern``, with or without a label.
        labels: folder of label images with the sub-folders of ``images``; None: there are none.
        classes: names of the classes to keep; ids 0, 1, ... follow this order. Pixels of others are
            ignored. None: all of ``label_map``. Without ``label_map``: the names of the values.
        label_map: from values 0..65535, or colours such as "128, 64, 128", of the label images to
            class names or "ignore"; ``"other": "ignore"`` stands for all that are not listed. None:
            values are positions in ``classes``, and 255 is ignored.
        pattern: shell pattern for names of images; with a slash, for paths relative to ``images``.
        aliases: what classes of the labels are called here, ``{"auto": "car"}``.
        label_suffixes: the end of an image's stem and what a label's has in its place, as
            ``("_rgb_anon", "_gt_labelIds")``; None: equal names, and the rules of Cityscapes, ACDC,
            Dark Zurich and CamVid.
        label_channel: which channel of label images with several has the values, from 0.
        prepare: makes the data when they are first needed and returns the folder that ``images``
            and ``labels`` are relative to.
        remedy: told to the user when files are missing.
        image_list: text file with a name on each line, if the domain is these images alone.

    Raises:
        DataError: if the name is taken by something else, or an argument is none.
    """
    check_told(name, classes, aliases)
    told = {
        "classes": classes,
        "label_map": label_map,
        "aliases": aliases,
        "label_suffixes": label_suffixes,
        "label_channel": label_channel,
    }
    folder = None
    if labels is None:
        _refuse_without_labels(name, told)
    else:
        folder = LabelFolder(
            _path(labels, prepare),
            make_coding(name, classes, label_map, aliases),
            _suffixes(name, label_suffixes),
            _channel(name, label_channel),
        )
        if folder.channel is not None and folder.coding.coloured:
            raise DataError(
                f"Domain {name!r}: label_channel: a single channel has values, but label_map gives "
                "colours. Remove the one or the other."
            )
    domain = Domain(
        name,
        _path(images, prepare),
        pattern=pattern,
        prepare=prepare,
        remedy=remedy,
        image_list=None if image_list is None else _path(image_list, None),
        labels=folder,
    )
    if folder is None:
        add_domain(domain, unlabelled_dicts, {})
    else:
        add_domain(domain, labelled_seg_dicts, segmentation_metadata(folder.coding.classes))


def segmentation_metadata(classes: Sequence[str]) -> dict[str, object]:
    """What Detectron2's evaluator and visualizer ask of a segmentation data set."""
    return {
        "evaluator_type": "sem_seg",
        "stuff_classes": list(classes),
        "stuff_colors": [list(colour) for colour in class_colours(classes)],
        "ignore_label": IGNORE,
    }


def _refuse_without_labels(name: str, told: Mapping[str, object]) -> None:
    for key in ("label_map", "label_suffixes", "label_channel"):
        if told[key] is not None:
            raise DataError(
                f"Domain {name!r}: {key}: there are no labels that it could be for. Name their "
                "folder (labels), or leave it out."
            )


def _suffixes(name: str, given: object) -> tuple[str, str] | None:
    if given is None:
        return None
    if (
        not isinstance(given, (list, tuple))
        or len(given) != 2
        or not all(isinstance(each, str) for each in given)
    ):
        raise DataError(
            f"Domain {name!r}: label_suffixes: {given!r} are not two texts. Write [END OF THE "
            "IMAGE'S STEM, END OF THE LABEL'S], such as [_rgb, _mask]; an end may be ''."
        )
    for end in given:
        if Path(end).suffix.lower() in (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff"):
            raise DataError(
                f"Domain {name!r}: label_suffixes: {end!r}: the kind of file is found by itself. "
                f"Write {end.rpartition('.')[0]!r}."
            )
    return (given[0], given[1])


def _channel(name: str, given: object) -> int | None:
    if given is None or (isinstance(given, int) and not isinstance(given, bool) and given >= 0):
        return given
    raise DataError(f"Domain {name!r}: label_channel: {given!r} is no number of a channel, 0, 1, …")


def _path(path: str | Path, prepare: Callable | None) -> Path:
    return Path(path) if prepare else Path(path).expanduser().absolute()
