"""Bicycles and motorcycles, drawn from strokes and discs in their own upright plane."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike

from .camera import Pose
from .canvas import Canvas, Colour
from .solids import circle, tint

BICYCLE_LENGTH = 1.8
MOTORCYCLE_LENGTH = 2.15

_FRAMES = (
    (180, 34, 36),
    (36, 60, 140),
    (30, 32, 34),
    (200, 200, 204),
    (50, 120, 70),
    (220, 150, 40),
)


def _colour(rng: np.random.Generator) -> Colour:
    r, g, b = np.asarray(_FRAMES[int(rng.integers(len(_FRAMES)))]) + rng.uniform(-15, 15, 3)
    return (float(r), float(g), float(b))


def _plane(pose: Pose, points: ArrayLike, right: float = 0.0) -> np.ndarray:
    """World points of (forward, up) pairs in the thing's own plane, moved to the right."""
    local = np.full((len(points), 3), right)
    local[:, ::2] = points
    return pose.world(local)


def _wheel(canvas: Canvas, pose: Pose, at: float, radius: float, tyre: float, fill: Colour) -> None:
    """A wheel: filled disc, tyre ring, and a bar as wide as the tyre for views from the end."""
    rim = circle(at, radius, radius - tyre / 2)
    ring = _plane(pose, np.vstack([rim, rim[:1]]))
    canvas.polygon(ring, fill)
    canvas.stroke(ring, tyre / 2, (22, 22, 24))
    if abs(math.sin(pose.heading - math.atan2(pose.x, pose.z))) < 0.3:
        upright = _plane(pose, [(at, tyre / 2), (at, 2 * radius - tyre / 2)])
        canvas.stroke(upright, tyre * 0.75, (22, 22, 24))


def draw_bicycle(canvas: Canvas, pose: Pose, rng: np.random.Generator) -> None:
    """A bicycle 1.8 m long; its wheels are filled with what shines through the spokes."""
    frame = _colour(rng)
    radius = 0.34
    fill = tint((142, 142, 144), rng.uniform(0.8, 1.15))
    for at in (-0.54, 0.54):
        _wheel(canvas, pose, at, radius, 0.085, fill)
    crank, seat, head = (-0.08, 0.32), (-0.24, 0.84), (0.4, 0.86)
    low = rng.random() < 0.35
    bar_start = (-0.16, 0.55) if low else (-0.21, 0.78)
    for path in (
        [(-0.54, radius), crank, head],
        [(-0.54, radius), bar_start, head],
        [crank, seat],
        [head, (0.54, radius)],
    ):
        canvas.stroke(_plane(pose, path), 0.035, frame)
    canvas.stroke(_plane(pose, [head, (0.37, 1.0)]), 0.035, (60, 60, 64))
    canvas.stroke(_plane(pose, [(-0.36, 0.92), (-0.12, 0.92)]), 0.055, (26, 24, 24))
    bars = np.array([(0.34, -0.3, 1.02), (0.38, 0.0, 1.0), (0.34, 0.3, 1.02)])
    canvas.stroke(pose.world(bars), 0.035, (48, 48, 52))
    if rng.random() < 0.3:
        canvas.polygon(
            _plane(pose, [(0.45, 0.72), (0.45, 0.98), (0.8, 0.98), (0.76, 0.72)]), (104, 82, 58)
        )
    if rng.random() < 0.5:
        canvas.stroke(_plane(pose, [(-0.85, 0.74), (-0.4, 0.74)]), 0.03, (50, 50, 52))


def draw_motorcycle(canvas: Canvas, pose: Pose, rng: np.random.Generator) -> None:
    """A motorcycle or scooter 2.15 m long."""
    paint = _colour(rng)
    dark: Colour = (34, 34, 37)
    scooter = rng.random() < 0.3
    radius = 0.25 if scooter else 0.31
    reach = 0.62 if scooter else 0.74
    front = math.cos(pose.heading - math.atan2(pose.x, pose.z)) < 0
    for at in (reach, -reach) if not front else (-reach, reach):
        _wheel(canvas, pose, at, radius, 0.17, (70, 70, 74))
    canvas.stroke(_plane(pose, [(reach, radius), (reach - 0.26, 0.95)]), 0.055, (120, 122, 126))
    if scooter:
        body = [(-0.85, 0.45), (-0.8, 0.82), (-0.1, 0.8), (0.0, 0.38), (0.35, 0.36), (0.3, 0.2)]
        canvas.polygon(_plane(pose, [*body, (-0.5, 0.25)]), paint)
        canvas.stroke(_plane(pose, [(0.34, 0.36), (0.48, 0.95)]), 0.11, paint)
        canvas.stroke(_plane(pose, [(-0.75, 0.84), (-0.1, 0.83)]), 0.07, dark)
    else:
        engine = [(-0.35, 0.25), (-0.4, 0.62), (0.32, 0.66), (0.3, 0.25)]
        canvas.polygon(_plane(pose, engine), (74, 75, 79))
        canvas.stroke(_plane(pose, [(-0.85, 0.3), (0.15, 0.3)]), 0.06, (150, 150, 154))
        tank = [(-0.1, 0.7), (-0.05, 0.95), (0.3, 1.0), (0.48, 0.8), (0.35, 0.62)]
        canvas.polygon(_plane(pose, tank), paint)
        canvas.stroke(_plane(pose, [(-0.75, 0.84), (-0.4, 0.78), (-0.08, 0.79)]), 0.09, dark)
        canvas.stroke(_plane(pose, [(-0.95, 0.82), (-0.7, 0.8)]), 0.07, paint)
        canvas.stroke(_plane(pose, [(-reach, radius), (-0.2, 0.5)]), 0.05, dark)
    trunk = np.array([(0.1, 0, 0.4), (0.12, 0, 0.82)])
    canvas.stroke(pose.world(trunk), 0.17, tint(paint, 0.85))
    bars = np.array([(0.36, -0.38, 1.06), (0.46, 0.0, 1.0), (0.36, 0.38, 1.06)])
    canvas.stroke(pose.world(bars), 0.045, dark)
    for side in (-0.4, 0.4):
        canvas.disc(pose.world(np.array([0.42, side, 1.2])), 0.075, dark)
    if front:
        lamp = pose.world(np.array([(0.6, -0.1, 0.8), (0.6, 0.1, 0.8), (0.6, 0.1, 1.0)]))
        canvas.disc(pose.world(np.array([0.6, 0, 0.9])), 0.13, (240, 238, 220))
        canvas.glow(lamp, (900, 860, 700))
    else:
        canvas.disc(pose.world(np.array([-0.95, 0, 0.72])), 0.085, (190, 26, 22))
