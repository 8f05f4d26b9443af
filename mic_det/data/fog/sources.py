"""Where the distances of a folder of images come from, one class for each kind of file."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mic_det.data.formats.coco import DataError

from .distance import (
    decode_disparity,
    distance_from_depth,
    distance_from_disparity,
    fill_missing,
    flat_road_distance,
    sky_mask,
)

_IMAGE_ENDING = "_leftImg8bit"


@dataclass(frozen=True)
class CityscapesDisparity:
    """Disparity images and camera files in the layout and encoding of Cityscapes.

    Missing disparity is sky (infinitely far) where `sky_mask` says so, and otherwise filled by
    `fill_missing`.

    Attributes:
        disparity: folder with ``<same sub-folder>/<scene>_disparity.png``.
        camera: folder with ``<same sub-folder>/<scene>_camera.json``.
    """

    disparity: Path
    camera: Path

    def distance(self, name: Path, image: NDArray[np.uint8]) -> NDArray[np.float64]:
        """Metres (H, W) for the image ``name``, a path relative to the folder of images.

        Raises:
            DataError: if a file is missing, unreadable or does not fit the image.
        """
        scene = name.stem.removesuffix(_IMAGE_ENDING)
        path = self.disparity / name.parent / f"{scene}_disparity.png"
        camera = self.camera / name.parent / f"{scene}_camera.json"
        raw = _read_16_bit(path, "disparity_trainvaltest.zip")
        _check_size(path, raw, image)
        disparity = decode_disparity(raw)
        missing = np.isnan(disparity)
        try:
            filled = fill_missing(disparity)
        except ValueError as error:
            raise DataError(
                f"{path}: {error}: all pixels are 0. Restore the file, or remove its image."
            ) from error
        filled[sky_mask(image, missing)] = 0.0
        return distance_from_disparity(filled, **read_camera(camera))


@dataclass(frozen=True)
class DepthMaps:
    """Depth maps ``<same sub-folder>/<same stem>.npy`` or ``.png``.

    Attributes:
        folder: where they are.
        scale: metres for each unit of a 16-bit PNG; NPY files hold metres.
        fov: horizontal field of view in degrees if they tell depth along the optical axis, None
            if they tell distance along the line of sight.
    """

    folder: Path
    scale: float = 1.0
    fov: float | None = None

    def distance(self, name: Path, image: NDArray[np.uint8]) -> NDArray[np.float64]:
        """See `CityscapesDisparity.distance`."""
        stem = self.folder / name.parent / name.stem
        candidates = [stem.with_name(stem.name + suffix) for suffix in (".npy", ".png")]
        path = next((path for path in candidates if path.is_file()), None)
        if path is None:
            raise DataError(
                f"{candidates[0]}: no such depth map, nor {candidates[1].name}. Add it, or remove "
                f"the image {name}."
            )
        depth = _read_npy(path) if path.suffix == ".npy" else _read_16_bit(path) * self.scale
        _check_size(path, depth, image)
        try:
            return distance_from_depth(depth, self.fov)
        except ValueError as error:
            raise DataError(f"{path}: {error}. Correct the depth map.") from error


@dataclass(frozen=True)
class FlatRoad:
    """No measurement at all: `flat_road_distance`, an approximation; `sky_mask` is ``far`` away.

    Attributes: see `flat_road_distance`.
    """

    horizon: float = 0.45
    camera_height: float = 1.5
    fov: float = 60.0
    half_width: float = 10.0
    far: float = 150.0

    def distance(self, name: Path, image: NDArray[np.uint8]) -> NDArray[np.float64]:
        """See `CityscapesDisparity.distance`; ``name`` does not matter."""
        height, width = image.shape[:2]
        distance = flat_road_distance((height, width), **vars(self))
        above = np.arange(height)[:, None] < self.horizon * (height - 1)
        distance[sky_mask(image, np.broadcast_to(above, distance.shape))] = self.far
        return distance


DistanceSource = CityscapesDisparity | DepthMaps | FlatRoad


def read_camera(path: Path) -> dict[str, float]:
    """``baseline`` (metres), ``fx, fy, u0, v0`` (pixels) of a Cityscapes camera file.

    Raises:
        DataError: if the file is missing or broken, or lacks one of them.
    """
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise DataError(
            f"{path}: no such camera file. Unpack camera_trainvaltest.zip (cityscapes-dataset.com)."
        ) from None
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read as JSON ({error}). Restore it.") from error
    values = {}
    for section, keys in (("extrinsic", ("baseline",)), ("intrinsic", ("fx", "fy", "u0", "v0"))):
        part = content.get(section) if isinstance(content, dict) else None
        for key in keys:
            value = part.get(key) if isinstance(part, dict) else None
            number = isinstance(value, (int, float)) and not isinstance(value, bool)
            positive = key in ("u0", "v0") or (number and value > 0)
            if not (number and math.isfinite(value) and positive):
                raise DataError(
                    f"{path}: {section}.{key}: {value!r} is no "
                    f"{'' if key in ('u0', 'v0') else 'positive '}number. Restore the file."
                )
            values[key] = float(value)
    return values


def _read_16_bit(path: Path, archive: str | None = None) -> NDArray[np.uint16]:
    source = f"Unpack {archive} (cityscapes-dataset.com)" if archive else "Restore the file"
    try:
        with Image.open(path) as image:
            values = np.asarray(image)
    except FileNotFoundError:
        raise DataError(f"{path}: no such file. {source}, or remove its image.") from None
    except (OSError, SyntaxError) as error:  # Pillow reports a broken PNG chunk as SyntaxError
        raise DataError(f"{path}: cannot be read as an image ({error}). {source}.") from error
    # Older releases of Pillow give 16-bit PNG as 32-bit integers.
    if values.ndim != 2 or values.dtype.itemsize < 2 or values.dtype.kind not in "iu":
        raise DataError(
            f"{path}: is no 16-bit, one-channel image (found {values.dtype}, shape "
            f"{values.shape}). {source}."
        )
    return values.astype(np.uint16)


def _read_npy(path: Path) -> NDArray:
    try:
        depth = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"{path}: cannot be read as NPY ({error}). Restore it.") from error
    if not isinstance(depth, np.ndarray) or depth.ndim != 2 or depth.dtype.kind not in "fiu":
        raise DataError(f"{path}: is no array of numbers (height, width). Write it as one.")
    return depth


def _check_size(path: Path, values: NDArray, image: NDArray) -> None:
    if values.shape != image.shape[:2]:
        raise DataError(
            f"{path}: size {values.shape[1]}x{values.shape[0]}, but its image is "
            f"{image.shape[1]}x{image.shape[0]}. Scale one to the other's size."
        )
