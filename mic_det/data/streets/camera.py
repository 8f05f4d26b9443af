"""Pinhole camera over a flat road.

World axes in metres: X to the right, Y up from the road, Z forward along the road. The camera
stands at (0, height, 0), looks along +Z turned by ``yaw`` to the right, and is level: the pitch of
a real camera only shifts the horizon row, which is a parameter of its own.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from .spec import IMAGE_HEIGHT, IMAGE_WIDTH

SKY_DEPTH = 2000.0
NEAR = 0.6
# Footprints smaller than this (metres) count as a single depth.
_THIN = 0.8


@dataclass(frozen=True)
class Camera:
    """focal (px), height (m above the road), horizon (row, px), yaw (radians)."""

    focal: float
    height: float
    horizon: float
    yaw: float
    centre: float = IMAGE_WIDTH / 2

    def to_camera(self, points: NDArray) -> NDArray[np.float64]:
        """World points (..., 3) to camera axes (right, up from the road, forward), metres."""
        c, s = math.cos(self.yaw), math.sin(self.yaw)
        points = np.asarray(points, dtype=np.float64)
        out = np.empty_like(points)
        out[..., 0] = points[..., 0] * c - points[..., 2] * s
        out[..., 1] = points[..., 1]
        out[..., 2] = points[..., 0] * s + points[..., 2] * c
        return out

    def to_image(self, points: NDArray) -> NDArray[np.float64]:
        """Camera-axes points (..., 3) with forward > 0 to image (..., 2): column, row in px."""
        scale = self.focal / np.maximum(points[..., 2], NEAR)
        out = np.empty((*points.shape[:-1], 2))
        out[..., 0] = self.centre + points[..., 0] * scale
        out[..., 1] = self.horizon + (self.height - points[..., 1]) * scale
        return out

    @cached_property
    def _matrix(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """World point p to (column * depth, row * depth, depth) as ``p @ matrix + offset``."""
        c, s = math.cos(self.yaw), math.sin(self.yaw)
        forward = np.array([s, 0.0, c])
        right, up = np.array([c, 0.0, -s]), np.array([0.0, 1.0, 0.0])
        columns = self.centre * forward + self.focal * right
        rows = self.horizon * forward - self.focal * up
        offset = np.array([0.0, self.focal * self.height, 0.0])
        return np.column_stack([columns, rows, forward]), offset

    def project(self, points: NDArray) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """World points (..., 3) to image positions (..., 2) in px and forward depths (...) in m.

        Positions of points nearer than NEAR mean nothing.
        """
        matrix, offset = self._matrix
        out = points @ matrix
        out += offset
        depth = out[..., 2]
        return out[..., :2] / np.maximum(depth, NEAR)[..., None], depth

    def ground_depth(self, rows: NDArray) -> NDArray[np.float64]:
        """Forward depth in metres of the road seen at image rows; SKY_DEPTH above the horizon."""
        below = np.maximum(np.asarray(rows, dtype=np.float64) - self.horizon, 1e-6)
        return np.minimum(self.focal * self.height / below, SKY_DEPTH)

    def footprint_depth(self, footprint: NDArray, columns: NDArray) -> NDArray[np.float64]:
        """Forward depth at which the view through each image column first meets a footprint.

        Args:
            footprint: (K, 2) world X, Z corners of a convex outline on the ground, metres.
            columns: (M,) image columns in px.

        Returns:
            (M,) metres. Columns that miss the outline get the depth of the nearest column that
            hits it, because drawn strokes are a little wider than the outline they belong to.
        """
        s, c = math.sin(self.yaw), math.cos(self.yaw)
        corners = footprint.tolist()
        x = [wx * c - wz * s for wx, wz in corners]
        z = [wx * s + wz * c for wx, wz in corners]
        mean = max(sum(z) / len(z), NEAR)
        if max(max(x) - min(x), max(z) - min(z)) < _THIN:
            return np.full(len(columns), mean)
        slope = (columns - self.centre) / self.focal
        # Row i: where the views meet the edge that ends in corner i.
        edges = [(x[i] - x[i - 1], z[i] - z[i - 1], x[i - 1], z[i - 1]) for i in range(len(x))]
        dx, dz, xa, za = np.array(edges).T[..., None]
        cross = dx - slope * dz
        cross[np.abs(cross) < 1e-9] = 1e-9
        share = (slope * za - xa) / cross
        depth = za + share * dz
        depth[(share < 0) | (share > 1) | (depth < NEAR)] = np.inf
        best = depth.min(axis=0)
        hit = np.isfinite(best)
        if hit.all():
            return best
        return (
            np.interp(columns, columns[hit], best[hit]) if hit.any() else np.full_like(best, mean)
        )

    def ray_length(self) -> NDArray[np.float32]:
        """(H, W) float32: metres along the line of sight per metre of forward depth, >= 1."""
        x = (np.arange(IMAGE_WIDTH) + 0.5 - self.centre) / self.focal
        y = (np.arange(IMAGE_HEIGHT) + 0.5 - self.horizon) / self.focal
        return np.sqrt(1 + x[None, :] ** 2 + y[:, None] ** 2).astype(np.float32)


@dataclass(frozen=True)
class Pose:
    """Place of a thing on the ground: x, z (m) and heading (radians; 0 drives away from us)."""

    x: float
    z: float
    heading: float

    def world(self, local: NDArray) -> NDArray[np.float64]:
        """Local points (..., 3) = (forward, right, up) in metres to world X, Y, Z."""
        matrix, offset = self._matrix
        out = local @ matrix
        out += offset
        return out

    @cached_property
    def _matrix(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        c, s = math.cos(self.heading), math.sin(self.heading)
        return np.array([[s, 0, c], [c, 0, -s], [0, 1.0, 0]]), np.array([self.x, 0.0, self.z])

    def camera_local(self, camera: Camera) -> tuple[float, float, float]:
        """The camera's own place in this thing's (forward, right, up) axes, metres."""
        c, s = math.cos(self.heading), math.sin(self.heading)
        return (-self.x * s - self.z * c, -self.x * c + self.z * s, camera.height)

    def footprint(self, length: float, width: float) -> NDArray[np.float64]:
        """(4, 2) world X, Z corners of a length x width rectangle around this place, metres."""
        a, b = length / 2, width / 2
        corners = np.array([[a, b, 0], [a, -b, 0], [-a, -b, 0], [-a, b, 0]])
        return self.world(corners)[:, ::2]
