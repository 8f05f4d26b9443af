"""What stands where: the plan of a street and the things on it."""

from __future__ import annotations

import math
from bisect import bisect_right
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from .camera import Camera, Pose
from .spec import IMAGE_HEIGHT, IMAGE_WIDTH

LANE = 3.3
TRACK_WIDTH = 4.2


@dataclass(frozen=True)
class Street:
    """Plan of the street; all values metres in world X (lateral) or Z (along the road).

    The road runs along Z between ``road_left`` and ``road_right``; the pavements reach from the
    road (or the track beside it) to ``wall_left`` and ``wall_right``. ``track`` is the X of the
    centre of rails along the road, ``cross`` the Z of a crossing road's centre, ``cross_track``
    whether rails run along that crossing road instead, ``crosswalk`` the Z of a zebra crossing.
    """

    road_left: float
    road_right: float
    walk_left: float
    walk_right: float
    wall_left: float
    wall_right: float
    parking: bool
    track: float | None
    cross: float | None
    cross_track: bool
    crosswalk: float | None


@dataclass(frozen=True)
class Thing:
    """One thing of the scene; riders stand for themselves and the cycle under them."""

    kind: str
    pose: Pose
    length: float
    width: float
    height: float


# x0, y0, x1, y1 in the image or on the ground.
Box = tuple[float, float, float, float]


class _Placed(NamedTuple):
    """A thing with its place on the ground (metres) and in the image (px)."""

    thing: Thing
    plan: Box
    image: Box


# kind: length, width, height in metres (rough, for placing), share of draws, boxes per thing
KINDS: dict[str, tuple[float, float, float, float, int]] = {
    "person": (0.5, 0.6, 1.75, 0.19, 1),
    "rider_bicycle": (1.8, 0.6, 1.8, 0.115, 2),
    "rider_motorcycle": (2.1, 0.7, 1.7, 0.105, 2),
    "bicycle": (1.8, 0.5, 1.05, 0.055, 1),
    "motorcycle": (2.1, 0.7, 1.15, 0.07, 1),
    "car": (4.5, 1.85, 1.5, 0.2, 1),
    "truck": (8.0, 2.4, 3.2, 0.125, 1),
    "bus": (11.0, 2.55, 3.1, 0.125, 1),
    "train": (18.0, 2.6, 3.4, 0.0, 1),
}
_TRAIN_CHANCE = 0.72
_NAMES = list(KINDS)
_SHARE = np.array([kind[3] for kind in KINDS.values()])
# As numpy.random.Generator.choice adds shares up, whose sum may be just below 1.
_SHARE_SUMS = (_SHARE / _SHARE.sum()).cumsum()
_CUMULATIVE_SHARE = (_SHARE_SUMS / _SHARE_SUMS[-1]).tolist()


def make_camera(rng: np.random.Generator) -> Camera:
    """A camera as on a car's roof, with small changes of height, pitch and direction."""
    return Camera(
        focal=rng.uniform(225.0, 245.0),
        height=rng.uniform(1.7, 2.3),
        horizon=rng.uniform(48.0, 58.0),
        yaw=rng.uniform(-0.07, 0.07),
    )


def make_street(rng: np.random.Generator) -> Street:
    """Draw a street plan. Rails lie in about four of ten streets, with or without a train."""
    parking = bool(rng.random() < 0.5)
    left = -LANE / 2 - LANE * (1 if rng.random() < 0.75 else 2)
    right = LANE / 2 + (2.3 if parking else rng.uniform(0.3, 0.9))
    walk_left, walk_right = left, right
    track = None
    cross = float(rng.uniform(12, 22)) if rng.random() < 0.45 else None
    rails = rng.random() < 0.42
    cross_track = bool(rails and cross is not None and rng.random() < 0.6)
    if rails and not cross_track:
        if rng.random() < 0.6:
            track, walk_left = left - TRACK_WIDTH / 2, left - TRACK_WIDTH
        else:
            track, walk_right = right + TRACK_WIDTH / 2, right + TRACK_WIDTH
    walk_at = float(rng.uniform(8.5, 20)) if rng.random() < 0.3 else None
    if walk_at is not None and cross is not None and abs(walk_at - cross) < 6:
        walk_at = None
    return Street(
        road_left=left,
        road_right=right,
        walk_left=walk_left,
        walk_right=walk_right,
        wall_left=walk_left - rng.uniform(2.6, 5.0),
        wall_right=walk_right + rng.uniform(2.6, 5.0),
        parking=parking,
        track=track,
        cross=cross,
        cross_track=cross_track,
        crosswalk=walk_at,
    )


def _depth(rng: np.random.Generator, near: float, far: float) -> float:
    """A distance with more draws at the near end, where a metre covers more of the image."""
    return near + (far - near) * float(rng.beta(1.15, 1.5))


def _place_small(kind: str, street: Street, rng: np.random.Generator) -> Pose:
    """People and cycles: on the pavements, at crossings and along the edge of the road."""
    if kind == "person":
        if street.crosswalk is not None and rng.random() < 0.45:
            x = rng.uniform(street.road_left, street.road_right)
            across = math.pi / 2 if rng.random() < 0.5 else -math.pi / 2
            return Pose(x, street.crosswalk + rng.uniform(-1.2, 1.2), across)
        z = _depth(rng, 7.0, 17)
        heading = rng.uniform(-math.pi, math.pi)
        return Pose(_on_walk(street, rng), z, heading)
    if kind in ("bicycle", "motorcycle"):
        heading = rng.uniform(0.5, math.pi - 0.5) * (1 if rng.random() < 0.5 else -1)
        return Pose(_on_walk(street, rng), _depth(rng, 7.0, 14), heading)
    z = _depth(rng, 8.0, 17)
    draw = rng.random()
    if draw < 0.35 and street.cross is not None and not street.cross_track:
        side = 1 if rng.random() < 0.5 else -1
        x = rng.uniform(-0.45, 0.45) * street.cross
        return Pose(x, street.cross + side * 1.8, side * math.pi / 2)
    slant = rng.uniform(-0.9, 0.9)
    if draw < 0.7:
        return Pose(rng.uniform(-0.8, LANE / 2 - 0.1), z, slant)
    return Pose(rng.uniform(street.road_left + 0.6, -LANE / 2 - 0.5), z, math.pi + slant)


def _on_walk(street: Street, rng: np.random.Generator) -> float:
    if rng.random() < 0.5:
        return rng.uniform(street.wall_left + 0.7, street.walk_left - 0.5)
    return rng.uniform(street.walk_right + 0.5, street.wall_right - 0.7)


def _place_vehicle(kind: str, street: Street, rng: np.random.Generator) -> Pose:
    """Cars, trucks and buses: in a lane, parked at the edge, or on the crossing road."""
    near, far = (9.0, 24.0) if kind == "car" else (13.0, 27.0)
    draw = rng.random()
    if draw < 0.4 and street.cross is not None and not street.cross_track:
        side = 1 if rng.random() < 0.5 else -1
        x = rng.uniform(-0.4, 0.4) * street.cross
        return Pose(x, street.cross + side * 1.8, side * math.pi / 2 + rng.uniform(-0.12, 0.12))
    turn = rng.uniform(-0.05, 0.05)
    z = _depth(rng, near, far)
    if street.parking and kind == "car" and draw < 0.65:
        return Pose(LANE / 2 + 1.1, z, turn + (math.pi if rng.random() < 0.2 else 0.0))
    if draw < 0.6:
        return Pose(rng.uniform(-0.3, 0.4), z, turn)
    lanes = round((-LANE / 2 - street.road_left) / LANE)
    lane = LANE * (1 + int(rng.integers(lanes)))
    return Pose(-lane + rng.uniform(-0.3, 0.3), z, math.pi + turn)


def _place_train(street: Street, rng: np.random.Generator) -> Thing | None:
    _, width, height, _, _ = KINDS["train"]
    if street.track is not None:
        length = float(rng.uniform(14, 24))
        # Closer than this the near end would leave the image sideways.
        nearest = max(9.0, abs(street.track) / 0.42)
        z = rng.uniform(nearest, nearest + 8) + length / 2
        heading = 0.0 if rng.random() < 0.5 else math.pi
        return Thing("train", Pose(street.track, z, heading), length, width, height)
    if street.cross_track and street.cross is not None:
        length = float(rng.uniform(10, 16))
        x = rng.uniform(-0.45, 0.45) * street.cross
        side = 1 if rng.random() < 0.5 else -1
        pose = Pose(x, street.cross, side * math.pi / 2)
        return Thing("train", pose, length, width, height)
    return None


def _plan_box(thing: Thing) -> Box:
    """X and Z around a thing on the ground, metres."""
    s, c = abs(math.sin(thing.pose.heading)), abs(math.cos(thing.pose.heading))
    dx = thing.length / 2 * s + thing.width / 2 * c
    dz = thing.length / 2 * c + thing.width / 2 * s
    x, z = thing.pose.x, thing.pose.z
    return x - dx, z - dz, x + dx, z + dz


def _image_box(thing: Thing, camera: Camera) -> Box | None:
    """Columns and rows around a thing in the image, px; None if it comes too near."""
    corners = np.zeros((2, 4, 3))
    corners[..., ::2] = thing.pose.footprint(thing.length, thing.width)
    corners[1, :, 1] = thing.height
    flat, depth = camera.project(corners.reshape(8, 3))
    if depth.min() < 3.0:
        return None
    x0, y0 = flat.min(axis=0).tolist()
    x1, y1 = flat.max(axis=0).tolist()
    return x0, y0, x1, y1


def _common_area(a: Box, b: Box) -> float:
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    return max(0.0, width) * max(0.0, height)


def _near(a: Box, b: Box, gap: float) -> bool:
    return a[0] < b[2] + gap and b[0] < a[2] + gap and a[1] < b[3] + gap and b[1] < a[3] + gap


def _place(thing: Thing, others: list[_Placed], camera: Camera) -> bool:
    """Add a thing to the others if it is well in view, apart from them, and neither hides another.

    Returns:
        Whether the thing was added.
    """
    plan = _plan_box(thing)
    if any(_near(plan, other.plan, 0.35) for other in others):
        return False
    image = _image_box(thing, camera)
    if image is None:
        return False
    area = _common_area(image, image)
    if _common_area(image, (0.0, 0.0, IMAGE_WIDTH, IMAGE_HEIGHT)) < 0.65 * area:
        return False
    for other in others:
        smaller = min(area, _common_area(other.image, other.image))
        if _common_area(image, other.image) > 0.42 * smaller:
            return False
    others.append(_Placed(thing, plan, image))
    return True


def _on_rails(thing: Thing, street: Street) -> bool:
    """Whether a vehicle stands on crossing rails, which are the train's alone."""
    if not street.cross_track or street.cross is None or thing.height < 2:
        return False
    return abs(thing.pose.z - street.cross) < thing.length / 2 + 2.5


def make_things(street: Street, camera: Camera, rng: np.random.Generator) -> list[Thing]:
    """Draw 1 to about 6 boxes' worth of things that fit the street; may come out empty."""
    placed: list[_Placed] = []
    if rng.random() < _TRAIN_CHANCE:
        for _ in range(8):
            train = _place_train(street, rng)
            if train is not None and _place(train, placed, camera):
                break
    budget = int(rng.integers(2, 7)) - len(placed)
    for _ in range(48):
        if budget <= 0:
            break
        kind = _NAMES[bisect_right(_CUMULATIVE_SHARE, rng.random())]
        length, width, height, _, boxes = KINDS[kind]
        if boxes > budget:
            continue
        for _ in range(6):
            small = kind in ("person", "bicycle", "motorcycle") or kind.startswith("rider")
            pose = (_place_small if small else _place_vehicle)(kind, street, rng)
            thing = Thing(kind, pose, length, width, height)
            if not _on_rails(thing, street) and _place(thing, placed, camera):
                budget -= boxes
                break
    return [each.thing for each in placed]
