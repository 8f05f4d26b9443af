"""Extruded bodies: a side profile swept across a width, drawn face by face with shading."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from .camera import Camera, Pose
from .canvas import Canvas, Colour


def tint(colour: Colour, factor: float) -> Colour:
    """A colour made lighter or darker by a factor."""
    return (colour[0] * factor, colour[1] * factor, colour[2] * factor)


@dataclass
class Solid:
    """Body with a side profile.

    ``profile`` is (K, 2) forward, up in metres, from the rear's bottom over the top to the front's
    bottom; ``half_width`` is (K,) metres at each of its points. Edge i joins points i and i + 1.
    """

    pose: Pose
    profile: NDArray[np.float64]
    half_width: NDArray[np.float64]

    def faces_camera(self, edge: int, camera: Camera) -> bool:
        """Whether the camera is in front of the swept face of an edge."""
        (l0, h0), (l1, h1) = self.profile[edge : edge + 2].tolist()
        cam = self.pose.camera_local(camera)
        return -(h1 - h0) * (cam[0] - l0) + (l1 - l0) * (cam[2] - h0) > 0

    def visible_side(self, camera: Camera) -> int:
        """+1 or -1 for the right or left side when the camera sees it, else 0."""
        right = self.pose.camera_local(camera)[1]
        widest = float(self.half_width.max())
        return 0 if abs(right) <= widest else (1 if right > 0 else -1)

    def on_edge(
        self, edge: int, across: Sequence[float], along: Sequence[float]
    ) -> NDArray[np.float64]:
        """World points (K, 3) on an edge's face: across 0..1 (left to right), along 0..1."""
        (l0, h0), (l1, h1) = self.profile[edge : edge + 2].tolist()
        w0, w1 = self.half_width[edge : edge + 2].tolist()
        local = [
            (l0 + (l1 - l0) * v, (w0 + (w1 - w0) * v) * (2 * u - 1), h0 + (h1 - h0) * v)
            for u, v in zip(across, along, strict=True)
        ]
        return self.pose.world(np.array(local))

    def on_side(self, side: int, points: NDArray) -> NDArray[np.float64]:
        """World points on a side (+1 right, -1 left) from (..., 2) forward, up in metres."""
        order = self._by_height
        width = np.interp(points[..., 1], self.profile[order, 1], self.half_width[order])
        local = np.empty((*points.shape[:-1], 3))
        local[..., 0] = points[..., 0]
        local[..., 1] = side * (width + 0.005)
        local[..., 2] = points[..., 1]
        return self.pose.world(local)

    @cached_property
    def _by_height(self) -> NDArray[np.intp]:
        return np.argsort(self.profile[:, 1], kind="stable")


@dataclass(frozen=True)
class Sun:
    """Direction to the sun (unit vector X, Y, Z) and the share of light that is not direct."""

    x: float
    y: float
    z: float
    ambient: float

    def shade(self, nx: float, ny: float, nz: float) -> float:
        """Brightness factor of a face with outward unit normal (nx, ny, nz)."""
        direct = max(0.0, nx * self.x + ny * self.y + nz * self.z)
        return self.ambient + (1.15 - self.ambient) * direct + 0.12 * max(0.0, ny)


def draw_solid(canvas: Canvas, solid: Solid, colour: Colour, sun: Sun) -> None:
    """Paint the faces of a body that the camera sees, far ones first."""
    pose = solid.pose
    s, c = math.sin(pose.heading), math.cos(pose.heading)
    seen = [i for i in range(len(solid.profile) - 1) if solid.faces_camera(i, canvas.camera)]
    local = pose.camera_local(canvas.camera)[0]
    profile = solid.profile.tolist()
    seen.sort(key=lambda i: -abs((profile[i][0] + profile[i + 1][0]) / 2 - local))
    for i in seen:
        (l0, h0), (l1, h1) = profile[i : i + 2]
        nl, nh = h0 - h1, l1 - l0
        size = math.hypot(nl, nh) or 1.0
        shade = sun.shade(nl / size * s, nh / size, nl / size * c)
        quad = solid.on_edge(i, (0, 1, 1, 0), (0, 0, 1, 1))
        canvas.polygon(quad, tint(colour, shade))
    side = solid.visible_side(canvas.camera)
    if side:
        outline = np.column_stack(
            [solid.profile[:, 0], side * solid.half_width, solid.profile[:, 1]]
        )
        canvas.polygon(pose.world(outline), tint(colour, sun.shade(side * c, 0.0, -side * s)))


def panel(
    canvas: Canvas,
    solid: Solid,
    edge: int,
    across: tuple[float, float],
    along: tuple[float, float],
    colour: Colour,
    glow: Colour | None = None,
) -> None:
    """Paint a rectangle (spans 0..1) on an edge's face if the camera sees it."""
    if not solid.faces_camera(edge, canvas.camera):
        return
    (u0, u1), (v0, v1) = across, along
    quad = solid.on_edge(edge, (u0, u1, u1, u0), (v0, v0, v1, v1))
    canvas.polygon(quad, colour)
    if glow is not None:
        canvas.glow(quad, glow)


def side_shape(canvas: Canvas, solid: Solid, points: NDArray, colour: Colour) -> None:
    """Paint a polygon (K, 2) forward, up in metres on the side that the camera sees."""
    side = solid.visible_side(canvas.camera)
    if side:
        canvas.polygon(solid.on_side(side, points), colour)


def box_profile(length: float, low: float, high: float, start: float | None = None) -> NDArray:
    """(4, 2) profile of a plain box, centred or beginning at ``start`` metres forward."""
    a = -length / 2 if start is None else start
    return np.array([[a, low], [a, high], [a + length, high], [a + length, low]], dtype=float)


_ANGLES = np.linspace(0, 2 * math.pi, 14, endpoint=False)
_CIRCLE = np.stack([np.cos(_ANGLES), np.sin(_ANGLES)], axis=1)


def wheel(canvas: Canvas, solid: Solid, at: float, radius: float, hub: Colour) -> None:
    """Paint a wheel on the visible side, ``at`` metres forward."""
    centre = np.array([at, radius])
    side_shape(canvas, solid, centre + _CIRCLE * radius * 1.12, (18, 18, 20))
    side_shape(canvas, solid, centre + _CIRCLE * radius * 0.55, hub)


def circle(at: float, up: float, radius: float) -> NDArray[np.float64]:
    """(14, 2) forward, up outline of a circle in metres."""
    return np.array([at, up]) + _CIRCLE * radius
