"""Upright stuff beside the road: buildings, trees, lamps, signs, fences, overhead lines."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from .camera import Pose
from .canvas import Canvas, Colour
from .layout import LANE, Street
from .solids import Sun, tint
from .spec import BUILDING, FENCE, POLE, TRAFFIC_LIGHT, TRAFFIC_SIGN, VEGETATION, VOID

_WALLS = (
    (178, 160, 138),
    (150, 104, 84),
    (196, 190, 178),
    (138, 140, 146),
    (202, 178, 128),
    (120, 92, 80),
    (170, 176, 182),
)
_LIT: Colour = (230, 190, 110)
_METAL: Colour = (92, 94, 98)
_WIRE_HEIGHT = 5.4


def draw_surroundings(canvas: Canvas, street: Street, rng: np.random.Generator, sun: Sun) -> None:
    """Draw the upright stuff of a street; depth decides what hides what."""
    for side in (-1, 1):
        wall = street.wall_left if side < 0 else street.wall_right
        _building_row(canvas, street, side, wall, rng, sun)
        kerb = street.walk_left if side < 0 else street.walk_right
        for z in np.arange(rng.uniform(9, 20), 55, rng.uniform(9, 16)):
            if street.cross is not None and abs(z - street.cross) < 6:
                continue
            x = kerb + side * rng.uniform(0.3, 0.5)
            draw = rng.random()
            if draw < 0.4:
                _tree(canvas, Pose(kerb + side * rng.uniform(0.5, 1.0), z, 0.0), rng)
            elif draw < 0.65:
                _lamp(canvas, Pose(x, z, 0.0), -side)
            elif draw < 0.85:
                _sign(canvas, Pose(x, z, 0.0), rng)
    if street.cross is not None and rng.random() < 0.6:
        _traffic_light(canvas, Pose(street.walk_right + 0.4, street.cross - 5.5, 0.0), rng)
    if street.track is not None or street.cross_track:
        _overhead_line(canvas, street)


def _building_row(
    canvas: Canvas, street: Street, side: int, wall: float, rng: np.random.Generator, sun: Sun
) -> None:
    z = rng.uniform(2, 8)
    green = rng.random() < 0.2
    while z < 90:
        depth = rng.uniform(9, 15) + 0.22 * z
        end = z + depth
        if street.cross is not None and z < street.cross + 6 and end > street.cross - 6:
            if z < street.cross - 9:
                end = street.cross - 6
            else:
                z = street.cross + 6 + rng.uniform(0, 2)
                continue
        if green and rng.random() < 0.7:
            _hedge(canvas, side, wall, z, end, rng)
        else:
            _building(canvas, side, wall + side * rng.uniform(0, 0.6), z, end, rng, sun)
        z = end + (rng.uniform(1.5, 5) if rng.random() < 0.25 else 0.0)


def _upright(x0: float, z0: float, x1: float, z1: float, low: float, high: float) -> NDArray:
    """(4, 3) world corners of an upright rectangle over the ground line (x0, z0)-(x1, z1)."""
    return np.array([(x0, low, z0), (x0, high, z0), (x1, high, z1), (x1, low, z1)], dtype=float)


def _building(
    canvas: Canvas,
    side: int,
    x: float,
    z0: float,
    z1: float,
    rng: np.random.Generator,
    sun: Sun,
) -> None:
    floors = int(rng.integers(2, 6))
    storey = rng.uniform(2.8, 3.5)
    top = 0.8 + floors * storey
    back = x + side * 12
    colour = tint(_WALLS[int(rng.integers(len(_WALLS)))], rng.uniform(0.8, 1.1))
    face, end = sun.shade(-side, 0, 0), sun.shade(0, 0, -1)
    outline = np.array([(x, z0), (back, z0), (back, z1), (x, z1)], dtype=float)
    pitch = rng.uniform(1.9, 3.0)
    with canvas.element(BUILDING, outline):
        canvas.polygon(_upright(x, z0, back, z0, 0, top), tint(colour, end))
        canvas.polygon(_upright(x, z0, x, z1, 0, top), tint(colour, face))
        canvas.polygon(_upright(x, z0, x, z1, top - 0.4, top), tint(colour, face * 0.7))
        canvas.polygon(_upright(x, z0, x, z1, 0, 0.5), tint(colour, face * 0.65))
        starts = np.arange(z0 + 0.6, z1 - 1.3, pitch)
        if len(starts) == 0:
            return
        shop = rng.random() < 0.45
        lows = 1.0 + storey * np.arange(1 if shop else 0, floors)
        z, low = np.tile(starts, len(lows)), np.repeat(lows, len(starts))
        quads = np.full((len(z), 4, 3), x)
        quads[..., 1] = low[:, None] + storey * np.array([0, 0.55, 0.55, 0])
        quads[..., 2] = z[:, None] + pitch * np.array([0, 0, 0.5, 0.5])
        glass = tint((66, 74, 86), rng.uniform(0.7, 1.3))
        canvas.polygons(quads, glass)
        lit = quads[rng.random(len(quads)) < 0.16]
        for quad, light in zip(lit, rng.uniform(0.3, 0.8, len(lit)).tolist(), strict=True):
            canvas.glow(quad, tint(_LIT, light))
        if shop:
            window = _upright(x, z0 + 0.5, x, z1 - 0.5, 0.5, 2.6)
            canvas.polygon(window, tint(glass, 0.8))
            canvas.glow(window, tint(_LIT, rng.uniform(0.15, 0.45)))
            banner = tint(_WALLS[int(rng.integers(len(_WALLS)))], 0.8)
            canvas.polygon(_upright(x, z0 + 0.3, x, z1 - 0.3, 2.6, 3.2), banner)


def _hedge(
    canvas: Canvas, side: int, x: float, z0: float, z1: float, rng: np.random.Generator
) -> None:
    """A fence with bushes and trees behind it, in place of a building."""
    back = x + side * 6
    outline = np.array([(x + side, z0), (back, z0), (back, z1), (x + side, z1)], dtype=float)
    green = tint((74, 100, 58), rng.uniform(0.8, 1.2))
    with canvas.element(VEGETATION, outline):
        count = 26
        at = np.column_stack(
            [
                x + side * rng.uniform(1, 3, count),
                rng.uniform(0.6, 4.5, count),
                rng.uniform(z0, z1, count),
            ]
        )
        colours = np.array(green) * rng.uniform(0.7, 1.2, (count, 1))
        canvas.discs(at, rng.uniform(0.7, 1.4, count), colours)
    flat = np.array([(x, z0), (x + side * 0.1, z0), (x + side * 0.1, z1), (x, z1)], dtype=float)
    with canvas.element(FENCE, flat):
        for up in (0.3, 0.7, 1.1):
            canvas.stroke(np.array([(x, up, z0), (x, up, z1)]), 0.05, (104, 92, 78))
        posts = [_upright(x, z, x, z + 0.15, 0, 1.2) for z in np.arange(z0, z1, 1.2)]
        canvas.polygons(np.array(posts), (92, 80, 68))


def _tree(canvas: Canvas, pose: Pose, rng: np.random.Generator) -> None:
    height = rng.uniform(4.5, 7.5)
    crown = rng.uniform(1.0, 1.7)
    green = np.array((70, 98, 52), float) * rng.uniform(0.75, 1.2) + rng.uniform(-10, 10, 3)
    with canvas.element(VEGETATION, pose.footprint(0.4, 0.4)):
        trunk = np.array([(pose.x, 0, pose.z), (pose.x, height - crown, pose.z)])
        canvas.stroke(trunk, rng.uniform(0.1, 0.18), (84, 68, 54))
        count = 22
        angle, reach = rng.uniform(0, 2 * math.pi, count), crown * np.sqrt(rng.random(count))
        at = np.full((count, 3), (pose.x, height - crown, pose.z))
        at[:, 0] += reach * np.cos(angle)
        at[:, 1] += reach * np.sin(angle)
        light = 0.72 + 0.016 * np.arange(count) + 0.14 * np.sin(angle)
        canvas.discs(at, crown * rng.uniform(0.22, 0.42, count), green * light[:, None])


def _lamp(canvas: Canvas, pose: Pose, toward: int) -> None:
    arm = np.array(
        [
            (pose.x, 0, pose.z),
            (pose.x, 6.2, pose.z),
            (pose.x + toward * 0.5, 6.7, pose.z),
            (pose.x + toward * 1.6, 6.8, pose.z),
        ]
    )
    with canvas.element(POLE, pose.footprint(0.2, 0.2)):
        canvas.stroke(arm, 0.075, _METAL)
        head = np.array(
            [
                (pose.x + toward * d, 6.8 + u, pose.z)
                for d, u in ((1.2, -0.1), (2.0, -0.1), (2.0, 0.08), (1.2, 0.08))
            ]
        )
        canvas.polygon(head, (150, 152, 150))
        canvas.glow(head, (900, 720, 420))


def _sign(canvas: Canvas, pose: Pose, rng: np.random.Generator) -> None:
    height = rng.uniform(2.2, 2.7)
    with canvas.element(POLE, pose.footprint(0.1, 0.1)):
        canvas.stroke(np.array([(pose.x, 0, pose.z), (pose.x, height, pose.z)]), 0.045, _METAL)
    with canvas.element(TRAFFIC_SIGN, pose.footprint(0.1, 0.1), nearer=0.1):
        at = np.array([pose.x, height, pose.z])
        kind = int(rng.integers(3))
        if kind == 0:
            canvas.disc(at, 0.36, (190, 30, 34))
            canvas.disc(at, 0.25, (232, 232, 228))
        elif kind == 1:
            shape = np.array([(-0.4, -0.3, 0), (0.4, -0.3, 0), (0, 0.42, 0)])
            canvas.polygon(at + shape, (190, 30, 34))
            canvas.polygon(at + shape * 0.6, (232, 232, 228))
        else:
            shape = np.array(
                [(-0.33, -0.33, 0), (0.33, -0.33, 0), (0.33, 0.33, 0), (-0.33, 0.33, 0)]
            )
            canvas.polygon(at + shape, (34, 74, 160))


def _traffic_light(canvas: Canvas, pose: Pose, rng: np.random.Generator) -> None:
    with canvas.element(POLE, pose.footprint(0.2, 0.2)):
        canvas.stroke(np.array([(pose.x, 0, pose.z), (pose.x, 3.4, pose.z)]), 0.07, _METAL)
    lit = int(rng.integers(3))
    colours = ((230, 40, 36), (240, 180, 40), (50, 210, 110))
    with canvas.element(TRAFFIC_LIGHT, pose.footprint(0.3, 0.3), nearer=0.1):
        box = np.array([(-0.18, 2.5), (-0.18, 3.5), (0.18, 3.5), (0.18, 2.5)])
        canvas.polygon(
            np.column_stack([pose.x + box[:, 0], box[:, 1], np.full(4, pose.z)]), (28, 28, 30)
        )
        for i, up in enumerate((3.33, 3.0, 2.67)):
            colour = colours[i] if i == lit else tint(colours[i], 0.25)
            canvas.disc((pose.x, up, pose.z), 0.12, colour)
            if i == lit:
                spot = box * 0.5 + (0, up - 1.5)
                glow = np.column_stack([pose.x + spot[:, 0], spot[:, 1], np.full(4, pose.z)])
                canvas.glow(glow, tint(colour, 2.5))


def _overhead_line(canvas: Canvas, street: Street) -> None:
    """Contact wire over the rails with its masts."""
    wire: Colour = (62, 62, 66)
    if street.track is not None:
        x = street.track
        side = 1 if x > 0 else -1
        for z in np.arange(14.0, 80.0, 16.0):
            mast = x + side * 2.3
            with canvas.element(POLE, Pose(mast, z, 0.0).footprint(0.2, 0.2)):
                canvas.stroke(np.array([(mast, 0, z), (mast, 6.2, z)]), 0.08, _METAL)
                canvas.stroke(np.array([(mast, 6.0, z), (x, 5.8, z)]), 0.05, _METAL)
        ends = np.array([(x, _WIRE_HEIGHT, 6.0), (x, _WIRE_HEIGHT, 90.0)])
        flat = np.array([(x - 0.05, 6.0), (x + 0.05, 6.0), (x + 0.05, 90.0), (x - 0.05, 90.0)])
    else:
        z = street.cross or 0.0
        for x in (street.wall_left - 1, street.wall_right + 1, -LANE * 5, LANE * 5):
            with canvas.element(POLE, Pose(x, z + 2.4, 0.0).footprint(0.2, 0.2)):
                canvas.stroke(np.array([(x, 0, z + 2.4), (x, 6.2, z + 2.4)]), 0.08, _METAL)
        ends = np.array([(-60.0, _WIRE_HEIGHT, z), (60.0, _WIRE_HEIGHT, z)])
        flat = np.array([(-60, z - 0.05), (60, z - 0.05), (60, z + 0.05), (-60, z + 0.05)], float)
    with canvas.element(VOID, flat):
        canvas.stroke(ends, 0.03, wire)
        canvas.stroke(ends + (0, 0.7, 0), 0.025, wire)
