"""People on foot and on cycles: skeletons of strokes in metres."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from .camera import Pose
from .canvas import Canvas, Colour
from .solids import tint

_CLOTHES = (
    (40, 44, 58),
    (150, 40, 44),
    (36, 70, 128),
    (200, 196, 186),
    (70, 96, 64),
    (196, 150, 54),
    (96, 60, 96),
    (58, 58, 60),
    (120, 150, 180),
    (206, 110, 120),
)
_TROUSERS = ((38, 42, 62), (30, 30, 32), (92, 82, 66), (70, 74, 80), (60, 78, 110))
_SKIN = ((224, 180, 152), (198, 150, 118), (146, 102, 76), (98, 68, 52))
_HAIR = ((30, 24, 22), (84, 58, 38), (170, 136, 84), (120, 118, 116), (20, 20, 22))


def _pick(rng: np.random.Generator, colours: tuple[Colour, ...]) -> Colour:
    r, g, b = np.asarray(colours[int(rng.integers(len(colours)))]) + rng.uniform(-14, 14, 3)
    return (float(r), float(g), float(b))


def _limb(
    canvas: Canvas, pose: Pose, points: NDArray, radius: float, colour: Colour, scale: float
) -> None:
    canvas.stroke(pose.world(points * scale), radius * scale, colour)


def _near_side(canvas: Canvas, pose: Pose) -> int:
    """+1 or -1 for the body's right or left side, whichever is nearer to the camera."""
    return 1 if pose.camera_local(canvas.camera)[1] > 0 else -1


def _torso(
    canvas: Canvas, pose: Pose, hips: NDArray, shoulders: NDArray, colour: Colour, scale: float
) -> None:
    """A trunk that is wider than deep, with a lighter stripe of light on its upper half."""
    spread = np.array([0.0, 1.0, 0.0])
    for across in (-0.12, 0.12, 0.0):
        path = np.stack([hips + spread * across * 0.8, shoulders + spread * across])
        _limb(canvas, pose, path, 0.125, tint(colour, 0.9 if across else 1.0), scale)
    _limb(
        canvas,
        pose,
        np.stack([(hips + 2 * shoulders) / 3, shoulders]),
        0.1,
        tint(colour, 1.12),
        scale,
    )


def _head(
    canvas: Canvas, pose: Pose, at: NDArray, skin: Colour, cover: Colour, scale: float, helmet: bool
) -> None:
    canvas.disc(pose.world(at * scale), 0.135 * scale, skin)
    away = pose.camera_local(canvas.camera)[0] < 0
    lift = np.array([-0.03, 0.0, 0.05 if not helmet else 0.06])
    canvas.disc(pose.world((at + lift) * scale), (0.15 if helmet else 0.125) * scale, cover)
    if not away:
        # The face below the hair line shows only from the front.
        canvas.disc(pose.world((at + (0.05, 0.0, -0.045)) * scale), 0.085 * scale, skin)


def draw_person(canvas: Canvas, pose: Pose, rng: np.random.Generator) -> None:
    """A person who stands or walks in the pose's direction, 1.5 to 1.9 m tall."""
    scale = rng.uniform(1.52, 1.9) / 1.75
    coat, trousers = _pick(rng, _CLOTHES), _pick(rng, _TROUSERS)
    skin, hair = _pick(rng, _SKIN), _pick(rng, _HAIR)
    stride = rng.uniform(0.08, 0.32) * (1 if rng.random() < 0.5 else -1)
    skirt = rng.random() < 0.25
    near = _near_side(canvas, pose)
    legs = skin if skirt else trousers
    for side in (-near, near):
        swing = stride * side
        shade = 0.8 if side != near else 1.0
        leg = np.array(
            [
                (0, 0.1 * side, 0.86),
                (swing * 0.55 + 0.04, 0.11 * side, 0.46),
                (swing, 0.12 * side, 0.07),
            ]
        )
        _limb(canvas, pose, leg, 0.085, tint(legs, shade), scale)
        foot = np.array([(swing, 0.12 * side, 0.05), (swing + 0.14, 0.12 * side, 0.05)])
        _limb(canvas, pose, foot, 0.05, (28, 26, 26), scale)

    def arm(side: int) -> None:
        swing = -stride * side * 0.8
        path = np.array([(0, 0.22 * side, 1.38), (swing * 0.4 - 0.02, 0.27 * side, 1.1)])
        hand = np.array([path[1], (swing + 0.06, 0.27 * side, 0.86)])
        shade = 0.74 if side != near else 0.84
        _limb(canvas, pose, np.vstack([path, hand[1:]]), 0.06, tint(coat, shade), scale)
        canvas.disc(pose.world(hand[1] * scale), 0.055 * scale, skin)

    arm(-near)
    hips, shoulders = np.array([0.0, 0.0, 0.88]), np.array([0.0, 0.0, 1.36])
    if skirt:
        for across in (-0.1, 0.0, 0.1):
            path = np.array([(0, across, 0.9), (0, across * 1.7, 0.58)])
            _limb(canvas, pose, path, 0.12, tint(trousers, 1.1), scale)
    _torso(canvas, pose, hips, shoulders, coat, scale)
    if rng.random() < 0.3:
        pack = np.array([(-0.2, 0, 1.32), (-0.2, 0, 1.0)])
        _limb(canvas, pose, pack, 0.14, _pick(rng, _CLOTHES), scale)
    arm(near)
    _head(canvas, pose, np.array([0.02, 0, 1.62]), skin, hair, scale, helmet=False)


def draw_rider(canvas: Canvas, pose: Pose, rng: np.random.Generator, motor: bool) -> None:
    """Someone who sits on a bicycle, or on a motorcycle if ``motor``, in the same pose."""
    coat, trousers = _pick(rng, _CLOTHES), _pick(rng, _TROUSERS)
    skin, near = _pick(rng, _SKIN), _near_side(canvas, pose)
    if motor:
        seat, shoulder, head = (-0.25, 0.9), (0.0, 1.38), (0.1, 1.62)
        knees, feet, hand = ((0.22, 0.74), (0.22, 0.74)), ((0.0, 0.34), (0.0, 0.34)), (0.36, 1.08)
    else:
        turn = rng.uniform(0, 2 * math.pi)
        seat, shoulder, head = (-0.22, 1.0), (0.1, 1.48), (0.2, 1.72)
        pedals = [
            (-0.08 + 0.17 * math.cos(turn + o), 0.32 + 0.17 * math.sin(turn + o))
            for o in (0.0, math.pi)
        ]
        feet = (pedals[0], pedals[1])
        knees = tuple(((f[0] - 0.22) / 2 + 0.28, (f[1] + 1.0) / 2 + 0.04) for f in feet)
        hand = (0.36, 1.06)
    spread = 0.2 if motor else 0.12
    for i, side in enumerate((-near, near)):
        leg = np.array(
            [
                (seat[0], 0.1 * side, seat[1]),
                (knees[i][0], spread * side, knees[i][1]),
                (feet[i][0], spread * side, feet[i][1]),
            ]
        )
        _limb(canvas, pose, leg, 0.085, tint(trousers, 0.78 if i == 0 else 1.0), 1.0)
        foot = np.array([leg[2], leg[2] + (0.14, 0.0, -0.02)])
        _limb(canvas, pose, foot, 0.05, (28, 26, 26), 1.0)
        if i == 0:
            _arm(canvas, pose, shoulder, hand, side, tint(coat, 0.74), skin)
            hips, top = np.array([seat[0], 0, seat[1]]), np.array([shoulder[0], 0, shoulder[1]])
            _torso(canvas, pose, hips, top, coat, 1.0)
    _arm(canvas, pose, shoulder, hand, near, tint(coat, 0.86), skin)
    helmet = motor or rng.random() < 0.7
    cover = _pick(rng, _CLOTHES if helmet else _HAIR)
    _head(canvas, pose, np.array([head[0], 0, head[1]]), skin, cover, 1.0, helmet)


def _arm(
    canvas: Canvas,
    pose: Pose,
    shoulder: tuple[float, float],
    hand: tuple[float, float],
    side: int,
    colour: Colour,
    skin: Colour,
) -> None:
    elbow = ((shoulder[0] + hand[0]) / 2 - 0.02, (shoulder[1] + hand[1]) / 2 - 0.08)
    path = np.array(
        [
            (shoulder[0], 0.2 * side, shoulder[1] - 0.04),
            (elbow[0], 0.28 * side, elbow[1]),
            (hand[0], 0.27 * side, hand[1]),
        ]
    )
    _limb(canvas, pose, path, 0.06, colour, 1.0)
    canvas.disc(pose.world(path[2]), 0.055, skin)
