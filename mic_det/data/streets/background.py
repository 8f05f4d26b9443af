"""Sky, ground and rails: everything flat that things stand on or in front of."""

from __future__ import annotations

import math

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from .camera import SKY_DEPTH
from .canvas import SUPERSAMPLE, Canvas, Colour
from .layout import LANE, TRACK_WIDTH, Street
from .solids import tint
from .spec import ROAD, SIDEWALK, SKY, TERRAIN, VEGETATION, VOID

# The bottom row of the image shows the road at 4.7 m or more.
_NEAR_Z, _FAR_Z, _SIDE = 4.0, 2500.0, 90.0
_RAIL_GAUGE = 1.435
_TREE_LINE = 160.0


def _grey(rng: np.random.Generator, low: float, high: float, spread: float = 6.0) -> Colour:
    r, g, b = rng.uniform(low, high) + rng.uniform(-spread, spread, 3)
    return (float(r), float(g), float(b))


def rectangles(x0: ArrayLike, x1: ArrayLike, z0: ArrayLike, z1: ArrayLike) -> NDArray[np.float64]:
    """(M, 4, 3) world corners of M level rectangles on the ground, metres; numbers are repeated."""
    quads = np.zeros((max(np.size(v) for v in (x0, x1, z0, z1)), 4, 3))
    quads[:, 0, 0] = quads[:, 3, 0] = x0
    quads[:, 1, 0] = quads[:, 2, 0] = x1
    quads[:, 0, 2] = quads[:, 1, 2] = z0
    quads[:, 2, 2] = quads[:, 3, 2] = z1
    return quads


def rectangle(x0: float, x1: float, z0: float, z1: float) -> NDArray[np.float64]:
    """(4, 3) world corners of a level rectangle on the ground, metres."""
    return np.array([(x0, 0.0, z0), (x1, 0.0, z0), (x1, 0.0, z1), (x0, 0.0, z1)])


def draw_sky(canvas: Canvas, rng: np.random.Generator) -> None:
    """Sky with clouds over the whole image, and a far line of trees or roofs at the horizon."""
    canvas.register(SKY)
    width = canvas.depth.shape[1]
    horizon = canvas.camera.horizon * SUPERSAMPLE
    rows = math.ceil(horizon) + 1
    clear = rng.random() < 0.5
    top = np.array((96, 142, 205) if clear else (176, 182, 190), float) + rng.uniform(-15, 15, 3)
    low = np.array((205, 216, 228) if clear else (214, 216, 218), float) + rng.uniform(-8, 8, 3)
    share = np.linspace(0, 1, 32)[:, None, None]
    sky = top + (low - top) * share
    cloud = cv2.resize(rng.random((3, 9)), (64, 32), interpolation=cv2.INTER_CUBIC)
    weight = np.clip((cloud - 0.5) * 1.6, 0, 0.85)[..., None]
    sky = np.clip(sky + (238 - sky) * weight, 0, 255).astype(np.float32)
    # The fourth channel is the sky's id, 0.
    sky = cv2.cvtColor(sky, cv2.COLOR_RGB2RGBA)
    sky[..., 3] = 0
    canvas.pixels[:rows] = cv2.resize(sky, (width, rows), interpolation=cv2.INTER_LINEAR)

    line = canvas.register(VEGETATION)
    base = tint((98, 112, 104), rng.uniform(0.8, 1.15))
    columns = np.arange(0, width, 4)
    rise = cv2.resize(rng.uniform(1.5, 12, (1, 24)), (len(columns), 1))[0]
    outline = np.column_stack([columns, horizon - rise * SUPERSAMPLE * 0.5])
    outline = np.vstack([outline, (width, horizon), (width, horizon + 2), (0, horizon + 2)])
    cv2.fillPoly(canvas.pixels, [outline.astype(np.int32)], (*base, float(line)))
    trees = cv2.extractChannel(canvas.pixels[:rows], 3) == line
    canvas.depth[:rows] = np.where(trees, np.float32(_TREE_LINE), np.float32(SKY_DEPTH))


def draw_ground(canvas: Canvas, street: Street, rng: np.random.Generator) -> None:
    """Terrain, pavements, road with marks, crossing road, crosswalk and rails."""
    terrain, walk = canvas.register(TERRAIN), canvas.register(SIDEWALK)
    road, bed = canvas.register(ROAD), canvas.register(VOID)
    far, near = _FAR_Z, _NEAR_Z
    asphalt = _grey(rng, 72, 108)
    paving = _grey(rng, 128, 168, 10)
    paint = _grey(rng, 200, 232)

    grass = (96, 116, 70) if rng.random() < 0.5 else (136, 126, 110)
    below = canvas.pixels[math.ceil(canvas.camera.horizon * SUPERSAMPLE) :]
    cv2.rectangle(below, (0, 0), below.shape[1::-1], (*grass, terrain), cv2.FILLED)
    canvas.select(walk)
    for x0, x1 in ((street.wall_left, street.walk_left), (street.walk_right, street.wall_right)):
        canvas.polygon(rectangle(x0 - 0.2, x1 + 0.2, near, far), paving)
        seams = np.arange(4.0, 60.0, 2.2)
        canvas.polygons(rectangles(x0, x1, seams, seams + 0.07), tint(paving, 0.86))
    canvas.select(road)
    left, right = street.road_left, street.road_right
    canvas.polygon(rectangle(left, right, near, far), asphalt)
    if street.parking:
        canvas.polygon(rectangle(LANE / 2 + 0.1, right, near, far), tint(asphalt, 1.12))
    _patches(canvas, left, right, asphalt, rng)
    _lane_marks(canvas, street, paint, rng)
    canvas.select(walk)
    for edge, side in ((street.road_left, -1), (street.road_right, 1)):
        kerb = rectangle(edge, edge + 0.22 * side, near, far)
        canvas.polygon(kerb, tint(paving, 1.2))
    if street.track is not None:
        canvas.select(bed)
        ground = tint(asphalt, 0.9) if rng.random() < 0.4 else (122, 110, 98)
        half = TRACK_WIDTH / 2 - 0.15
        canvas.polygon(rectangle(street.track - half, street.track + half, near, far), ground)
        _rails(canvas, street.track, None, ground)
    if street.cross is not None:
        canvas.select(road)
        z = street.cross
        canvas.polygon(rectangle(-_SIDE, _SIDE, z - 4.2, z + 4.2), asphalt)
        if street.cross_track:
            canvas.select(bed)
            ground = (122, 110, 98)
            canvas.polygon(rectangle(-_SIDE, _SIDE, z - 2.1, z + 2.1), ground)
            _rails(canvas, None, z, ground)
        else:
            dashes = np.arange(-40.0, 40.0, 5.0)
            canvas.polygons(rectangles(dashes, dashes + 2, z - 0.08, z + 0.08), paint)
            canvas.polygon(rectangle(-LANE / 2, LANE / 2, z - 5.2, z - 4.8), paint)
    if street.crosswalk is not None:
        canvas.select(road)
        z = street.crosswalk
        stripes = np.arange(left + 0.3, right - 0.4, 1.0)
        canvas.polygons(rectangles(stripes, stripes + 0.5, z - 1.6, z + 1.6), paint)
    canvas.flush()


def _patches(
    canvas: Canvas, left: float, right: float, asphalt: Colour, rng: np.random.Generator
) -> None:
    for _ in range(int(rng.integers(2, 7))):
        x, z = rng.uniform(left, right - 1), rng.uniform(5, 30)
        quad = rectangle(x, min(x + rng.uniform(0.4, 2), right), z, z + rng.uniform(0.8, 5))
        canvas.polygon(quad, tint(asphalt, rng.uniform(0.86, 1.1)))


def _lane_marks(canvas: Canvas, street: Street, paint: Colour, rng: np.random.Generator) -> None:
    solid = rng.random() < 0.3
    lanes = round((-LANE / 2 - street.road_left) / LANE)
    for lane in range(lanes):
        x = -LANE / 2 - LANE * lane
        if solid and lane == 0:
            canvas.polygon(rectangle(x - 0.07, x + 0.07, _NEAR_Z, _FAR_Z), paint)
        else:
            starts = np.arange(rng.uniform(0, 6) + 2, 90, 6.0)
            canvas.polygons(rectangles(x - 0.08, x + 0.08, starts, starts + 3), paint)
    x = LANE / 2
    canvas.polygon(rectangle(x - 0.06, x + 0.06, _NEAR_Z, _FAR_Z), paint)


def _rails(canvas: Canvas, x: float | None, z: float | None, ground: Colour) -> None:
    """Sleepers and two shining rails, along the road at x or across it at z."""
    offsets = (-_RAIL_GAUGE / 2, _RAIL_GAUGE / 2)
    spots = np.arange(-60.0 if z is not None else 3.0, 70.0, 1.3)
    if x is not None:
        sleepers = rectangles(x - 1.3, x + 1.3, spots, spots + 0.4)
        rails = [rectangle(x + o - 0.09, x + o + 0.09, _NEAR_Z, _FAR_Z) for o in offsets]
    else:
        middle = z or 0.0
        sleepers = rectangles(spots, spots + 0.4, middle - 1.3, middle + 1.3)
        rails = [rectangle(-_SIDE, _SIDE, middle + o - 0.1, middle + o + 0.1) for o in offsets]
    canvas.polygons(sleepers, tint(ground, 0.72))
    axis = 2 if x is None else 0
    for rail in rails:
        canvas.polygon(rail, (58, 54, 52))
        core = rail.copy()
        core[:, axis] = (core[:, axis] + core[:, axis].mean()) / 2
        canvas.polygon(core, (186, 186, 190))
