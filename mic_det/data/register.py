"""Domains from YAML files, and all that a configuration names.

A YAML file of domains needs no code::

    my_source:
      images: day/images          # relative to this file
      annotations: day/boxes.json # or a folder of Pascal-VOC or YOLO labels
      classes: [car, person]      # optional
      aliases: {truck: car}       # optional
    my_target:
      images: night
    my_scenes:                    # for segmentation
      images: scenes/images
      labels: scenes/labels       # label images
      label_map: {0: road, 1: car, 255: ignore}
    my_photos:
      images: photos              # with a folder for each class, for classification
      class_folders: true
"""

from __future__ import annotations

import difflib
from pathlib import Path

import yaml
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog

from mic_det.data.builtin import builtin_entries, default_root, is_registered, register_builtin
from mic_det.data.catalog import register_domain
from mic_det.data.classification.folders import register_class_folders
from mic_det.data.classification.sets import classification_entries
from mic_det.data.errors import DataError
from mic_det.data.segmentation.registration import register_segmentation
from mic_det.data.unique_keys import UniqueKeyLoader

#: Keys of a domain in a YAML file, as `register_domain` takes them.
KEYS = (
    *("images", "annotations", "classes", "aliases", "pattern", "one_based", "image_list"),
    "class_folders",
)
#: Keys that `register_segmentation` takes besides, and those that it does not.
LABEL_KEYS = ("labels", "label_map", "label_suffixes", "label_channel")
BOX_KEYS = ("annotations", "one_based")


def register_from_config(cfg: CfgNode) -> None:
    """Register mic_det's own domains, unless they are, and those of ``DATASETS.REGISTER``.

    Calling it again is harmless. No data set is read.

    Raises:
        DataError: if a file of domains is missing or malformed.
    """
    if not is_registered():
        root = default_root().expanduser().absolute()
        entries = (*builtin_entries(root), *classification_entries(root))
        taken = {str(entry["name"]) for entry in entries} & set(DatasetCatalog)
        register_builtin(root, leave_out=taken)
    for path in cfg.DATASETS.REGISTER:
        register_yaml(path)


def register_yaml(path: str | Path) -> list[str]:
    """Register the domains of a YAML file; paths in it are relative to its folder.

    Returns:
        The names, in the order of the file.

    Raises:
        DataError: if the file is missing or malformed, has an unknown key, or a name is taken.
    """
    path = Path(path).expanduser().absolute()
    entries = {name: dict(_checked(path, name, entry)) for name, entry in _read(path).items()}
    for name, entry in entries.items():
        places = {
            key: path.parent / Path(entry[key]).expanduser()
            for key in ("images", "annotations", "labels", "image_list")
            if entry.get(key) is not None
        }
        register = register_segmentation if set(LABEL_KEYS) & set(entry) else register_domain
        try:
            if entry.pop("class_folders", False):
                _register_class_folders(name, entry, places, path)
                continue
            register(name, **(entry | places), remedy=f"Check the paths in {path}.")
        except DataError as error:
            raise DataError(f"{path}: {error}") from error
    return list(entries)


def _register_class_folders(name: str, entry: dict, places: dict, path: Path) -> None:
    for key in ("annotations", "pattern", "one_based", *LABEL_KEYS):
        if key in entry:
            raise DataError(
                f"{name}: {key}: has no meaning with class_folders, where the folder of an image "
                "is its class. Take one of the two out."
            )
    told = {key: entry[key] for key in ("classes", "aliases") if key in entry}
    told |= {key: place for key, place in places.items() if place is not None}
    register_class_folders(name, **told, remedy=f"Check the paths in {path}.")


def _read(path: Path) -> dict:
    try:
        content = yaml.load(path.read_bytes(), Loader=UniqueKeyLoader)  # plain values only
    except FileNotFoundError:
        raise DataError(
            f"{path}: no such file of domains. Check DATASETS.REGISTER or the path."
        ) from None
    except (OSError, ValueError, TypeError, yaml.YAMLError) as error:
        raise DataError(f"{path}: cannot be read as YAML ({error}). Repair it.") from error
    if not isinstance(content, dict) or not content:
        raise DataError(
            f"{path}: is no mapping of domains. Write NAME: {{images: FOLDER, annotations: …}}."
        )
    return content


def _checked(path: Path, name: object, entry: object) -> dict:
    where = f"{path}: {name}"
    if not isinstance(name, str):
        raise DataError(f"{where}: the name is no text. Write it in quotes.")
    if not isinstance(entry, dict):
        raise DataError(f"{where}: is no mapping. Write {name}: {{images: FOLDER}}.")
    known = (*KEYS, *LABEL_KEYS)
    for key in entry:
        if key not in known:
            close = difflib.get_close_matches(str(key), known, n=1)
            hint = f" (did you mean {close[0]!r}?)" if close else ""
            raise DataError(
                f"{where}: unknown key {key!r}{hint}. A domain has the keys {', '.join(known)}."
            )
    boxes = [key for key in BOX_KEYS if key in entry]
    labels = [key for key in LABEL_KEYS if key in entry]
    if boxes and labels:
        raise DataError(
            f"{where}: has {boxes[0]} (boxes) and {labels[0]} (label images): a domain is for one "
            "task. Register the images twice, under two names."
        )
    if "images" not in entry:
        raise DataError(f"{where}: has no key 'images'. Name the folder of images.")
    for key, kind, what in (
        ("images", str, "path"),
        ("annotations", str | None, "path"),
        ("labels", str, "path"),
        ("image_list", str, "path"),
        ("pattern", str, "text such as '*.png'"),
        ("one_based", bool, "true or false"),
        ("class_folders", bool, "true or false"),
    ):
        if key in entry and not isinstance(entry[key], kind):
            raise DataError(f"{where}: {key}: {entry[key]!r} is no {what}. Correct it.")
    return entry
