"""Distance along the line of sight, in metres, from disparity, from depth, or from a guess.

A pixel (u, v) of a camera with focal lengths fx, fy and principal point (u0, v0) looks along
((u - u0) / fx, (v - v0) / fy, 1), so that a point at depth z is z times that vector's length away.
"""

from __future__ import annotations

import math

import cv2
import numpy as np
from numpy.typing import NDArray

_SKY_BLUE = 0.85


def ray_lengths(
    shape: tuple[int, int], fx: float, fy: float, u0: float, v0: float
) -> NDArray[np.float64]:
    """What depth is multiplied by to give distance: (H, W), 1 at the principal point.

    Args:
        shape: height and width in pixels.
        fx, fy: focal lengths in pixels, positive.
        u0, v0: principal point in pixels, column and row, from 0.

    Raises:
        ValueError: if a focal length is not positive.
    """
    if not (fx > 0 and fy > 0):
        raise ValueError(f"focal lengths must be positive, got {fx} and {fy}")
    rows, columns = np.arange(shape[0])[:, None], np.arange(shape[1])[None, :]
    return np.sqrt(1.0 + ((columns - u0) / fx) ** 2 + ((rows - v0) / fy) ** 2)


def decode_disparity(raw: NDArray[np.uint16]) -> NDArray[np.float64]:
    """Disparity in pixels from a Cityscapes disparity image: ``(p - 1) / 256``; NaN where p is 0.

    Raises:
        ValueError: if ``raw`` is not (H, W) uint16.
    """
    if raw.ndim != 2 or raw.dtype != np.uint16:
        raise ValueError(f"disparity must be (H, W) uint16, got {raw.dtype} {raw.shape}")
    return np.where(raw == 0, np.nan, (raw.astype(np.float64) - 1.0) / 256.0)


def fill_missing(disparity: NDArray[np.floating]) -> NDArray[np.floating]:
    """Fill in NaN: what the camera pair cannot match belongs to what lies behind.

    A gap takes, row by row, the smaller (farther) of the values at its two ends, since a gap next
    to an object is the background that the object hides from one of the cameras. A gap at the end
    of a row takes the one neighbour it has. A row with no value takes the nearest row that has.

    Args:
        disparity: (H, W), >= 0 or NaN; inverse depth will do.

    Returns:
        (H, W), without NaN.

    Raises:
        ValueError: if there is no value at all.
    """
    known = ~np.isnan(disparity)
    if not known.any():
        raise ValueError("no pixel has a value")
    height, width = disparity.shape
    columns = np.broadcast_to(np.arange(width), disparity.shape)
    before = np.maximum.accumulate(np.where(known, columns, -1), axis=1)
    after = np.minimum.accumulate(np.where(known, columns, width)[:, ::-1], axis=1)[:, ::-1]
    padded = np.pad(disparity, ((0, 0), (1, 1)), constant_values=np.inf)
    ends = [np.take_along_axis(padded, place + 1, axis=1) for place in (before, after)]
    filled = np.where(known, disparity, np.minimum(*ends))
    with_values = np.flatnonzero(known.any(axis=1))
    nearest = np.abs(np.arange(height)[:, None] - with_values).argmin(axis=1)
    return filled[with_values[nearest]]


def sky_mask(image: NDArray[np.uint8], candidates: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Which of the candidate pixels are taken for sky.

    By day the sky, clear or overcast, is where blue is strongest, and it reaches the upper edge:
    sky is each candidate whose blue is at least 0.85 of the image's 99th percentile of blue and
    which is connected to the top row by such pixels.

    Args:
        image: (H, W, 3) uint8 RGB.
        candidates: (H, W) bool.

    Returns:
        (H, W) bool.
    """
    blue = image[:, :, 2]
    bright = blue >= _SKY_BLUE * np.percentile(blue, 99)
    _, labels = cv2.connectedComponents((candidates & bright).astype(np.uint8), connectivity=4)
    touching = np.unique(labels[0])
    return np.isin(labels, touching[touching > 0])


def distance_from_disparity(
    disparity: NDArray[np.floating],
    baseline: float,
    fx: float,
    fy: float,
    u0: float,
    v0: float,
) -> NDArray[np.float64]:
    """Distance of what two cameras see ``disparity`` pixels apart; depth is fx * baseline / it.

    Args:
        disparity: (H, W) pixels, >= 0 and without NaN; 0 is infinitely far.
        baseline: metres between the cameras, positive.
        fx, fy, u0, v0: see `ray_lengths`.

    Returns:
        (H, W) metres, > 0, infinity included.

    Raises:
        ValueError: for values out of range.
    """
    if not baseline > 0:
        raise ValueError(f"baseline must be positive, got {baseline}")
    if not np.all(disparity >= 0):
        raise ValueError("disparity must be >= 0 everywhere and hold no NaN")
    with np.errstate(divide="ignore"):
        depth = fx * baseline / disparity.astype(np.float64)
    return depth * ray_lengths(disparity.shape, fx, fy, u0, v0)


def focal_length(width: int, fov: float) -> float:
    """Focal length in pixels for a horizontal field of view in degrees, between 0 and 180."""
    if not 0 < fov < 180:
        raise ValueError(f"field of view must be between 0 and 180 degrees, got {fov}")
    return width / (2.0 * math.tan(math.radians(fov) / 2.0))


def distance_from_depth(
    depth: NDArray[np.floating], fov: float | None = None
) -> NDArray[np.float64]:
    """Distance from a depth map; NaN and 0 are missing and filled as `fill_missing` does.

    Args:
        depth: (H, W) metres, >= 0, infinity for the sky, NaN or 0 where unknown.
        fov: horizontal field of view in degrees, if the map tells depth along the optical axis;
            None if it tells distance along the line of sight.

    Returns:
        (H, W) metres, > 0.

    Raises:
        ValueError: for a negative depth, a map without a value, or a field of view out of range.
    """
    if depth.ndim != 2:
        raise ValueError(f"depth must be (H, W), got shape {depth.shape}")
    depth = depth.astype(np.float64)
    if np.any(depth < 0):
        raise ValueError("depth must be >= 0 everywhere")
    with np.errstate(divide="ignore"):
        inverse = fill_missing(np.where(depth == 0, np.nan, 1.0 / depth))
        distance = 1.0 / inverse
    if fov is None:
        return distance
    height, width = depth.shape
    focal = focal_length(width, fov)
    return distance * ray_lengths(depth.shape, focal, focal, (width - 1) / 2, (height - 1) / 2)


def flat_road_distance(
    shape: tuple[int, int],
    horizon: float = 0.45,
    camera_height: float = 1.5,
    fov: float = 60.0,
    half_width: float = 10.0,
    far: float = 150.0,
) -> NDArray[np.float64]:
    """A guess where nothing is measured: a flat, straight road between two rows of houses.

    A level camera with focal length f looks along the middle of the road. The ray of a pixel
    (u, v), with x = (u - u0) / f to the right and y = (v - v_h) / f below the horizon, meets the
    road at depth ``camera_height / y`` (y > 0) and a house front at depth ``half_width / |x|``;
    the nearer of the two counts, and nothing is farther than ``far``. What stands on the road is
    not in the model: its feet are right, its head gets the fog of what is behind it.

    Args:
        shape: height and width in pixels.
        horizon: row of the horizon as a share of the height, 0 the top, 1 the bottom.
        camera_height: metres above the road, positive.
        fov: horizontal field of view in degrees.
        half_width: metres from the middle of the road to what lines it; infinity: an open road,
            all above the horizon is ``far`` away.
        far: metres, positive.

    Returns:
        (H, W) metres, > 0.

    Raises:
        ValueError: for values out of range.
    """
    if not (0 <= horizon <= 1 and camera_height > 0 and half_width > 0 and far > 0):
        raise ValueError(
            "horizon must be in [0, 1], camera_height, half_width and far positive, got "
            f"{horizon}, {camera_height}, {half_width} and {far}"
        )
    height, width = shape
    focal = focal_length(width, fov)
    centre, horizon_row = (width - 1) / 2, horizon * (height - 1)
    below = np.maximum(np.arange(height) - horizon_row, 0.0)[:, None] / focal
    aside = np.abs(np.arange(width) - centre)[None, :] / focal
    with np.errstate(divide="ignore"):
        depth = np.minimum(camera_height / below, half_width / aside)
    return np.minimum(depth * ray_lengths(shape, focal, focal, centre, horizon_row), far)
