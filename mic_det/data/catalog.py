"""Domains by name: folders of images, with or without annotations, for Detectron2's catalogs.

Nothing is read when a domain is registered. A domain used as an unlabelled target goes through
`unlabelled_dicts`, which lists image files and never opens the annotations.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.catalog import Metadata

from mic_det.data.classes import Selection, select
from mic_det.data.dicts import raise_if_no_such_images, to_detectron2
from mic_det.data.domain import DEFAULT_REMEDY, Domain, check_told
from mic_det.data.errors import DataError
from mic_det.data.files import keep_text
from mic_det.data.formats.annotations import read_annotations

logger = logging.getLogger(__name__)


_DOMAINS: dict[str, Domain] = {}
# Classes of the model that a domain is used with, if `fit_classes` was told.
_TRAINED: dict[str, tuple[str, ...]] = {}
# What was said about a domain once is not said again each time its labels are read.
_SAID: set[str] = set()


class _DomainMetadata(Metadata):
    """Detectron2's metadata; two entries are worked out when somebody first asks for them.

    ``COCOEvaluator`` asks for ``json_file``. Setting it when the domain is registered would mean
    reading the annotations of every domain, target domains included.
    """

    def __getattr__(self, key: str):
        domain = _DOMAINS.get(self.__dict__.get("name", ""))
        if domain and key == "image_root":
            self.__dict__[key] = str(domain.folder())
            return self.__dict__[key]
        if domain and key == "json_file" and domain.annotations is not None:
            return _write_evaluation_json(domain)
        return super().__getattr__(key)


def register_domain(
    name: str,
    images: str | Path,
    annotations: str | Path | None = None,
    classes: Sequence[str] | None = None,
    pattern: str = "*",
    *,
    aliases: Mapping[str, str] | None = None,
    one_based: bool = False,
    prepare: Callable[[], Path] | None = None,
    remedy: str = DEFAULT_REMEDY,
    image_list: str | Path | None = None,
) -> None:
    """Make a folder of images known to Detectron2 under ``name``; no file is read.

    Args:
        name: the name for configs.
        images: folder of images, sub-folders included. As an unlabelled target the domain is
            *all* images in it that fit ``pattern`` and are on ``image_list``, whatever the
            annotations list.
        annotations: a COCO json file whose file names are relative to ``images``, a folder of
            Pascal-VOC ``.xml`` files or one of YOLO ``.txt`` files; None if there are none.
        classes: names of the classes to keep; contiguous ids 0, 1, ... follow this order.
            None takes all of the annotations, by ascending id (VOC: by name). YOLO labels without
            a file of class names: the names of the class numbers.
        pattern: shell pattern for file names, such as ``*_foggy_beta_0.02.png``; with a slash,
            for paths relative to ``images``. Other images are no part of the domain.
        aliases: what classes of the annotations are called here, ``{"car": "vehicle"}``; several
            may be called the same. ``classes`` are names after this.
        one_based: Pascal-VOC boxes count pixels from 1 and include the last one, as PASCAL's own.
        prepare: makes the data when they are first needed and returns the folder that
            ``images`` and ``annotations`` are relative to.
        remedy: told to the user when files are missing.
        image_list: text file with a name on each line, if the domain is these images of the
            folder alone (as PASCAL's ``ImageSets/Main/train.txt``), with labels or without.

    Raises:
        DataError: if the name is taken by something else, or ``classes`` or ``aliases`` are none.
    """
    check_told(name, classes, aliases)
    domain = Domain(
        name,
        _path(images, prepare),
        None if annotations is None else _path(annotations, prepare),
        None if classes is None else tuple(classes),
        tuple((aliases or {}).items()),
        pattern,
        one_based,
        prepare,
        remedy,
        image_list=None if image_list is None else _path(image_list, None),
    )
    metadata: dict[str, object] = {}
    if annotations is not None:
        metadata["evaluator_type"] = "coco"
    if domain.classes is not None:
        metadata["thing_classes"] = list(domain.classes)
    add_domain(domain, labelled_dicts if annotations is not None else unlabelled_dicts, metadata)


def add_domain(
    domain: Domain, load: Callable[[str], list[dict]], metadata: Mapping[str, object]
) -> None:
    """Put a domain into Detectron2's catalogs, unless it is there.

    Args:
        load: from its name to its dicts, Detectron2's way to read it.
        metadata: of Detectron2, by name.

    Raises:
        DataError: if other data have its name.
    """
    name = domain.name
    if name in DatasetCatalog:
        if _DOMAINS.get(name) == domain:
            return
        raise DataError(
            f"Domain {name!r}: the name is taken already, by other data. Choose another name, or "
            "call mic_det.data.unregister_domain first."
        )
    _DOMAINS[name] = domain
    DatasetCatalog.register(name, lambda: load(name))
    MetadataCatalog[name] = _DomainMetadata(name=name)
    MetadataCatalog[name].set(**metadata)


def _path(path: str | Path, prepare: Callable | None) -> Path:
    return Path(path) if prepare else Path(path).expanduser().absolute()


def unregister_domain(name: str) -> None:
    """Forget a domain of `register_domain`, in Detectron2's catalogs too, if it is known."""
    _TRAINED.pop(name, None)
    if _DOMAINS.pop(name, None) is not None:
        DatasetCatalog.pop(name, None)
        MetadataCatalog.pop(name, None)


def get_domain(name: str) -> Domain:
    """The domain of this name.

    A data set that the user registered with Detectron2 alone is taken as a folder of images if
    its metadata tell ``image_root``, so that it can be a target.
    """
    if name in _DOMAINS:
        return _DOMAINS[name]
    if name not in DatasetCatalog:
        close = difflib.get_close_matches(name, DatasetCatalog.list(), n=3)
        hint = f" Did you mean {' or '.join(map(repr, close))}?" if close else ""
        raise DataError(
            f"Domain {name!r}: not registered.{hint} Register your own data with "
            "mic_det.data.register_domain(name, images, annotations), or in a YAML file that the "
            "config names under DATASETS.REGISTER."
        )
    image_root = MetadataCatalog.get(name).get("image_root")
    if image_root is None:
        raise DataError(
            f"Domain {name!r}: registered with Detectron2, but its metadata lack 'image_root', so "
            "its images cannot be listed without its labels. Use register_domain for it."
        )
    return Domain(name, Path(image_root))


def unlabelled_dicts(name: str) -> list[dict]:
    """The images of a domain as Detectron2 dicts with ``file_name`` and ``image_id`` alone.

    The annotation file, if the domain has one, is never opened. The order is that of the sorted
    paths; ``image_id`` is the path relative to the folder.

    Raises:
        DataError: if the domain is unknown or its folder holds no images.
    """
    domain = get_domain(name)
    folder = domain.folder()
    _raise_if_missing(domain, labelled=False)
    return [
        {"file_name": str(path), "image_id": path.relative_to(folder).as_posix()}
        for path in domain.image_files()
    ]


def labelled_dicts(name: str) -> list[dict]:
    """The images and boxes of an annotated domain as standard Detectron2 dicts, by image id.

    Each has ``file_name, height, width, image_id`` and ``annotations``, a list of dicts with
    ``bbox`` (x, y, width, height in pixels), ``bbox_mode``, contiguous ``category_id`` and
    ``iscrowd``. Boxes without area are left out.

    Raises:
        DataError: if the domain is unknown or has no annotations, or files are missing or broken,
            or none of its images has a box of a single object.
    """
    if name not in _DOMAINS and name in DatasetCatalog:
        return DatasetCatalog.get(name)
    dicts, selection = load_labels(name)
    for note in selection.notes:
        say_once(logging.WARNING, f"{name}: {note}")
    if selection.left_out:
        counts = ", ".join(f"{c} ({n} annotations)" for c, n in sorted(selection.left_out.items()))
        say_once(logging.INFO, f"{name}: left out, as not among its classes: {counts}")
    return dicts


def load_labels(name: str) -> tuple[list[dict], Selection]:
    """What `labelled_dicts` gives, and the classes and notes, of a domain of `register_domain`."""
    domain = get_domain(name)
    selection = _select(domain)
    dicts = to_detectron2(selection, domain.folder())
    raise_if_no_such_images(domain, dicts)
    if not selection.data["annotations"]:
        raise DataError(
            f"{domain.annotation_path()}: annotations: there is no box of "
            f"{', '.join(map(repr, selection.classes))} at all. Check the labels and the classes; "
            "as an unlabelled target the domain needs no annotations."
        )
    if all(annotation["iscrowd"] for annotation in selection.data["annotations"]):
        raise DataError(
            f"{domain.annotation_path()}: annotations: iscrowd is 1 in every box of the domain, so "
            "there is nothing to train on or to find. A box around a single object has iscrowd 0."
        )
    return dicts, selection


def _select(domain: Domain) -> Selection:
    """Read the domain's annotations, and tell Detectron2's metadata what classes they have."""
    domain.annotation_path()  # the error for a domain without annotations
    _raise_if_missing(domain, labelled=True)
    keeps = domain.chooser()
    found = read_annotations(domain, keeps)
    choice = replace(found.choice, trained=_TRAINED.get(domain.name))
    selection = select(found.data, found.source, choice, keeps)
    selection = replace(selection, notes=(*found.notes, *selection.notes))
    # Not by attribute: Detectron2 forbids another value, and an edited file may have other ids.
    MetadataCatalog.get(domain.name).__dict__.update(
        thing_classes=list(selection.classes),
        thing_dataset_id_to_contiguous_id={
            number: index for index, number in enumerate(selection.category_ids)
        },
    )
    return selection


def say_once(level: int, message: str) -> None:
    """Log a message, unless it was said before."""
    if message not in _SAID:
        _SAID.add(message)
        logger.log(level, message)


def is_domain(name: str) -> bool:
    """Whether this is a domain of mic_det, not a data set that Detectron2 alone knows."""
    return name in _DOMAINS


def has_label_images(name: str) -> bool:
    """Whether a domain was registered with label images, for segmentation."""
    return is_domain(name) and _DOMAINS[name].labels is not None


def trained_classes(name: str) -> tuple[str, ...] | None:
    """Classes of the model that a domain was brought to, None if it was to none."""
    return _TRAINED.get(name)


def bring_to(name: str, classes: Sequence[str] | None) -> None:
    """Tell a domain what classes the model has; None: its own."""
    if classes is None:
        _TRAINED.pop(name, None)
    else:
        _TRAINED[name] = tuple(classes)


def fit_classes(sources: Sequence[str], others: Sequence[str] = ()) -> list[str]:
    """The classes to train, those of the first source, and all domains brought to them.

    From then on `labelled_dicts` and `evaluation_json` of these domains give the classes of the
    first source in its order, whatever names, order and ids their own files have. Classes are
    matched by name, after each domain's aliases. Nothing is read of ``others`` here, and nothing
    of the first source if it was registered with ``classes``.

    Args:
        sources: labelled training domains, at least one.
        others: domains to evaluate on.

    Raises:
        DataError: if the first source cannot be read.
    """
    first, *rest = sources
    if _TRAINED.pop(first, None) is not None:
        MetadataCatalog.get(first).__dict__.pop("json_file", None)
    classes = _own_classes(first)
    if first in _DOMAINS:
        MetadataCatalog.get(first).__dict__["thing_classes"] = list(classes)
    for name in (*rest, *others):
        if name in _DOMAINS and name != first and _TRAINED.get(name) != tuple(classes):
            _TRAINED[name] = tuple(classes)
            metadata = MetadataCatalog.get(name).__dict__
            metadata.pop("json_file", None)
            metadata["thing_classes"] = list(classes)
    return classes


def _own_classes(name: str) -> list[str]:
    domain = get_domain(name)
    if name not in _DOMAINS:
        DatasetCatalog.get(name)  # Detectron2's own, which sets the metadata
        return list(MetadataCatalog.get(name).thing_classes)
    if domain.classes is not None and not domain.aliases:
        return list(domain.classes)
    return list(_select(domain).classes)


def evaluation_json(name: str) -> str:
    """Path of the COCO file to evaluate this domain with; Detectron2's metadata point to it too.

    That is the domain's own file if it has just the domain's classes in their order, and
    otherwise a narrowed copy in $MIC_DET_CACHE (default ~/.cache/mic_det).

    Raises:
        DataError: if the domain is unknown or has no annotations, files are missing or broken, or
            the cache cannot be written.
    """
    if name not in _DOMAINS and name in DatasetCatalog:
        json_file = MetadataCatalog.get(name).get("json_file")
        if json_file is None:
            raise DataError(f"Domain {name!r}: its metadata lack 'json_file'. Set it.")
        return json_file
    domain = get_domain(name)
    domain.annotation_path()  # the error for a domain without annotations
    return _write_evaluation_json(domain)


def _write_evaluation_json(domain: Domain) -> str:
    selection = _select(domain)
    path = domain.annotation_path()
    if selection.changed or path.is_dir():
        text = json.dumps(selection.data)
        digest = hashlib.sha256(text.encode()).hexdigest()[:24]
        path = keep_text(f"{path.stem}-{digest}.json", text)
    MetadataCatalog.get(domain.name).__dict__["json_file"] = str(path)
    return str(path)


def _missing_line(domain: Domain, labelled: bool) -> str:
    paths = " and ".join(map(str, domain.missing(labelled)))
    if paths:
        return f"Domain {domain.name!r}: {paths}: not there."
    if not domain.prepare and not domain.images.is_dir():
        return f"Domain {domain.name!r}: images: {domain.images}: is a file, not a folder."
    return ""


def _raise_if_missing(domain: Domain, labelled: bool) -> None:
    line = _missing_line(domain, labelled)
    if line:
        raise DataError(f"{line}\n{domain.remedy}")


def require_domain(name: str, *, labelled: bool = True) -> None:
    """Make sure that a domain can be used, before anything expensive starts; opens no file.

    Args:
        name: the domain.
        labelled: whether its annotations are needed (source, evaluation) or not (target).

    Raises:
        DataError: if it is unknown (with close matches) or files are missing (with the remedy).
    """
    if labelled and name not in _DOMAINS and name in DatasetCatalog:
        return  # registered with Detectron2 alone: its own loader knows what it needs
    _raise_if_missing(get_domain(name), labelled)


def missing_data_message(labelled: Iterable[str], unlabelled: Iterable[str] = ()) -> str | None:
    """One message for all that is missing for these domains, or None if nothing is.

    Args:
        labelled: names of domains whose annotations are needed (source, evaluation).
        unlabelled: names of domains of which only the images are needed (target).
    """
    wanted = [(name, True) for name in labelled] + [(name, False) for name in unlabelled]
    lines: dict[str, list[str]] = {}  # by remedy, which many domains share
    for name, with_labels in dict.fromkeys(wanted):
        try:
            require_domain(name, labelled=with_labels)
        except DataError as error:
            line, _, remedy = str(error).partition("\n")
            lines.setdefault(remedy, []).append(line)
    messages = ["\n".join([*found, remedy]).rstrip() for remedy, found in lines.items()]
    return "\n\n".join(messages) or None
