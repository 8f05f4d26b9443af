"""Cityscapes and Foggy Cityscapes to COCO detection json, as the UDA detection benchmark has it.

Needs only what the published archives hold: ``leftImg8bit``, ``gtFine`` and, for fog,
``leftImg8bit_foggy``. A foggy image has the boxes of the clear image that it was made from.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from mic_det.data.formats.coco import DataError, write_coco
from mic_det.data.parallel import parallel_map

#: Cityscapes label id of each class, in the order of the COCO category ids 1..8.
LABEL_IDS = {
    "person": 24,
    "rider": 25,
    "car": 26,
    "truck": 27,
    "bus": 28,
    "train": 31,
    "motorcycle": 32,
    "bicycle": 33,
}
CLASSES = tuple(LABEL_IDS)
BETAS = ("0.005", "0.01", "0.02")
GROUPS = ("leave-out", "crowd")

_CATEGORY_IDS = {label: number for number, label in enumerate(LABEL_IDS.values(), 1)}
_IS_DETECTED = np.isin(np.arange(1 << 16) // 1000, list(LABEL_IDS.values()))
_IS_GROUP = np.isin(np.arange(1 << 16), list(LABEL_IDS.values()))

_CLEAR_SUFFIX = "_leftImg8bit.png"
_FOGGY_NAME = re.compile(r"(.+)_leftImg8bit_foggy_beta_([0-9.]+)\.png")
_LAYOUT = (
    "{folder} has to hold leftImg8bit/{{train,val}}/<city>/ and gtFine/{{train,val}}/<city>/. "
    "Download leftImg8bit_trainvaltest.zip and gtFine_trainvaltest.zip from "
    "cityscapes-dataset.com (after registration) and unpack both in {folder}. For fog: "
    "leftImg8bit_trainvaltest_foggy.zip from the same site, unpacked there too, "
    "gives leftImg8bit_foggy/."
)


def download_remedy(root: Path) -> str:
    """What to download for the Cityscapes folder ``root``, and where it goes."""
    return _LAYOUT.format(folder=root)


@dataclass(frozen=True)
class Scene:
    """One clear image, the instance ids that belong to it, and its foggy images by beta."""

    image: Path
    instances: Path
    foggy: dict[str, Path]


@dataclass(frozen=True)
class SceneBoxes:
    """Height and width of a scene in pixels, and its annotations without ``id``, ``image_id``."""

    height: int
    width: int
    annotations: list[dict]


@dataclass(frozen=True)
class Report:
    """What `convert_cityscapes` wrote (path, images, boxes), and what the user should know."""

    written: list[tuple[Path, int, int]]
    notes: list[str]


def convert_cityscapes(
    root: Path,
    splits: Sequence[str] = ("train", "val"),
    *,
    groups: str = "leave-out",
    workers: int = 1,
    progress: Callable[[Iterable, int, str], Iterable] | None = None,
) -> Report:
    """Write ``<root>/annotations/cityscapes*_<split>.json``.

    Args:
        root: the Cityscapes folder.
        splits: folders of leftImg8bit to convert.
        groups: what becomes of groups, regions in which instances could not be told apart:
            "leave-out", as in the UDA detection benchmark, or "crowd", annotations with iscrowd 1.
        workers: processes that read instance files.
        progress: wraps the iterable of results, given its length and a title (a progress bar).

    Raises:
        DataError: if folders or files are missing, unreadable or do not fit together.
    """
    if groups not in GROUPS:
        raise DataError(f"groups: {groups!r} is none of {', '.join(GROUPS)}.")
    report = Report([], [])
    scenes_of = {split: find_scenes(root, split, report.notes) for split in splits}
    for split, scenes in scenes_of.items():
        with parallel_map(workers, chunk=4) as mapped:
            results: Iterable = mapped(partial(read_scene, groups=groups), scenes)
            if progress is not None:
                results = progress(results, len(scenes), split)
            boxes = list(results)
        _write_split(root, split, scenes, boxes, report)
    return report


def find_scenes(root: Path, split: str, notes: list[str]) -> list[Scene]:
    """The scenes of a split, sorted by image path, checked for completeness.

    Args:
        root: the Cityscapes folder.
        split: such as "train".
        notes: what the user should know is appended here.

    Raises:
        DataError: if a folder or file is missing.
    """
    folders = [root / "leftImg8bit" / split, root / "gtFine" / split]
    absent = [str(folder) for folder in folders if not folder.is_dir()]
    if absent:
        raise DataError(f"{' and '.join(absent)}: no such folder. {download_remedy(root)}")
    images = sorted(folders[0].glob(f"*/*{_CLEAR_SUFFIX}"))
    if not images:
        raise DataError(f"{folders[0]}: no <city>/*{_CLEAR_SUFFIX} inside. {download_remedy(root)}")
    foggy = _find_foggy(root, split, [_scene_id(image) for image in images], notes)
    scenes = [
        Scene(
            image,
            folders[1] / f"{_scene_id(image)}_gtFine_instanceIds.png",
            {beta: of_scene[_scene_id(image)] for beta, of_scene in foggy.items()},
        )
        for image in images
    ]
    unlabelled = [scene.instances for scene in scenes if not scene.instances.is_file()]
    if unlabelled:
        raise DataError(
            f"{unlabelled[0]}: no such file (of {len(unlabelled)} that are missing in gtFine). "
            "Unpack gtFine_trainvaltest.zip again, all of it."
        )
    return scenes


def _scene_id(image: Path) -> str:
    """``aachen/aachen_000000_000019``: city folder and the part of the name all files share."""
    return f"{image.parent.name}/{image.name.removesuffix(_CLEAR_SUFFIX)}"


def _find_foggy(
    root: Path, split: str, scene_ids: Sequence[str], notes: list[str]
) -> dict[str, dict[str, Path]]:
    """For each beta that is on disk, the foggy image of every scene."""
    folder = root / "leftImg8bit_foggy" / split
    found: dict[str, dict[str, Path]] = {beta: {} for beta in BETAS}
    for path in sorted(folder.glob("*/*.png")):
        match = _FOGGY_NAME.fullmatch(path.name)
        if match and match[2] in found:
            found[match[2]][f"{path.parent.name}/{match[1]}"] = path
    if not any(found.values()):
        notes.append(
            f"{split}: no foggy images in {folder}, so only the clear files are made. For fog, "
            f"unpack leftImg8bit_trainvaltest_foggy.zip (cityscapes-dataset.com) in {root}."
        )
        return {}
    for beta, of_scene in found.items():
        if not of_scene:
            notes.append(f"{split}: no foggy images of beta {beta} in {folder}; left out.")
            continue
        absent = [scene for scene in scene_ids if scene not in of_scene]
        if absent:
            raise DataError(
                f"{folder / absent[0]}_leftImg8bit_foggy_beta_{beta}.png: no such file (of "
                f"{len(absent)} that are missing). Unpack leftImg8bit_trainvaltest_foggy.zip "
                "again, all of it."
            )
    return {beta: of_scene for beta, of_scene in found.items() if of_scene}


def read_scene(scene: Scene, groups: str = "leave-out") -> SceneBoxes:
    """The boxes of a scene, and the check that all its images have one size.

    Raises:
        DataError: if a file cannot be read or has a wrong size or type.
    """
    ids = _read_instance_ids(scene.instances)
    height, width = ids.shape
    for image in (scene.image, *scene.foggy.values()):
        image_size = _read_size(image)
        if image_size != (width, height):
            raise DataError(
                f"{scene.instances}: size {width}x{height}, but {image} is {image_size[0]}x"
                f"{image_size[1]}. One of the two is damaged: unpack its archive again."
            )
    return SceneBoxes(height, width, boxes_of(ids, groups))


def _read_size(path: Path) -> tuple[int, int]:
    """Width and height from the header alone."""
    try:
        with Image.open(path) as image:
            return image.size
    except OSError as error:
        raise DataError(
            f"{path}: cannot be read as an image ({error}). Unpack its archive again."
        ) from error


def _read_instance_ids(path: Path) -> np.ndarray:
    try:
        with Image.open(path) as image:
            ids = np.asarray(image)
    except (OSError, SyntaxError) as error:  # Pillow reports a broken PNG chunk as SyntaxError
        raise DataError(
            f"{path}: cannot be read as an image ({error}). "
            "Unpack gtFine_trainvaltest.zip again, or delete and restore this file."
        ) from error
    # Older releases of Pillow give 16-bit PNG as 32-bit integers.
    if ids.ndim != 2 or ids.dtype.itemsize < 2:
        raise DataError(
            f"{path}: is no 16-bit, one-channel PNG, so it cannot hold instance ids "
            f"(found {ids.dtype}, shape {ids.shape}). Restore it from gtFine_trainvaltest.zip."
        )
    return ids.astype(np.uint16)


def boxes_of(ids: np.ndarray, groups: str = "leave-out") -> list[dict]:
    """Tight boxes of the instances in an image of instance ids.

    Args:
        ids: (H, W) uint16: label id * 1000 + n for an instance; below 1000 the label id of stuff
            or of a group.
        groups: "leave-out" or "crowd" (groups are given with iscrowd 1).

    Returns:
        Annotations by ascending id value, without ``id`` and ``image_id``: ``category_id`` 1..8,
        ``bbox`` [x, y, width, height] and ``area`` in pixels, ``iscrowd``.
    """
    wanted = _IS_DETECTED | _IS_GROUP if groups == "crowd" else _IS_DETECTED
    ys, xs = np.nonzero(wanted[ids])
    values, index, areas = np.unique(ids[ys, xs], return_inverse=True, return_counts=True)
    first_x, first_y = (np.full(len(values), max(ids.shape)) for _ in range(2))
    last_x, last_y = (np.full(len(values), -1) for _ in range(2))
    np.minimum.at(first_x, index, xs)
    np.minimum.at(first_y, index, ys)
    np.maximum.at(last_x, index, xs)
    np.maximum.at(last_y, index, ys)
    return [
        {
            "category_id": _CATEGORY_IDS[value if value < 1000 else value // 1000],
            "bbox": [x, y, right - x + 1, bottom - y + 1],
            "area": area,
            "iscrowd": int(value < 1000),
        }
        for value, x, y, right, bottom, area in zip(
            *(a.tolist() for a in (values, first_x, first_y, last_x, last_y, areas)), strict=True
        )
    ]


def _write_split(
    root: Path, split: str, scenes: list[Scene], boxes: list[SceneBoxes], report: Report
) -> None:
    clear = root / "leftImg8bit" / split
    foggy = root / "leftImg8bit_foggy" / split
    betas = [beta for beta in BETAS if beta in scenes[0].foggy]
    files = {
        f"cityscapes_{split}": (clear, [[scene.image] for scene in scenes]),
        f"cityscapes_foggy_{split}": (foggy, [[s.foggy[b] for b in betas] for s in scenes]),
    }
    if "0.02" in betas:
        name = f"cityscapes_foggy_beta_0.02_{split}"
        files[name] = (foggy, [[scene.foggy["0.02"]] for scene in scenes])
    for name, (folder, images_of) in files.items():
        if not any(images_of):
            continue
        data = _coco(folder, images_of, boxes, f"{name}, boxes of gtFine instance ids")
        path = root / "annotations" / f"{name}.json"
        write_coco(path, data)
        report.written.append((path, len(data["images"]), len(data["annotations"])))


def _coco(
    folder: Path, images_of: list[list[Path]], boxes: list[SceneBoxes], description: str
) -> dict:
    """COCO content; ``images_of`` has the images in ``folder`` of each scene of ``boxes``."""
    pairs = [
        (path, of_scene) for paths, of_scene in zip(images_of, boxes, strict=True) for path in paths
    ]
    images, annotations = [], []
    for image_id, (path, of_scene) in enumerate(pairs, 1):
        file_name = path.relative_to(folder).as_posix()
        size = {"height": of_scene.height, "width": of_scene.width}
        images.append({"id": image_id, "file_name": file_name, **size})
        for annotation in of_scene.annotations:
            number = len(annotations) + 1
            annotations.append({"id": number, "image_id": image_id, **annotation})
    return {
        "info": {"description": description},
        "images": images,
        "annotations": annotations,
        "categories": [{"id": i, "name": name} for i, name in enumerate(CLASSES, 1)],
    }
