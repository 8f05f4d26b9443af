"""Sky, ground and rails: everything flat that things stand on or in front of."""

from __future__ import annotations

import math

import cv2
import numpy as np
from numpy.typing import NDArray

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


def rectangle(x0: float, x1: float, z0: float, z1: float, up: float = 0.0) -> NDArray[np.float64]:
    """(4, 3) world corners of a level rectangle, metres."""
    return np.array([(x0, up, z0), (x1, up, z0), (x1, up, z1), (x0, up, z1)], dtype=float)


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
    canvas.pixels[:rows, :, :3] = cv2.resize(sky, (width, rows), interpolation=cv2.INTER_LINEAR)

    line = canvas.register(VEGETATION)
    base = tint((98, 112, 104), rng.uniform(0.8, 1.15))
    columns = np.arange(0, width, 4)
    rise = cv2.resize(rng.uniform(1.5, 12, (1, 24)), (len(columns), 1))[0]
    outline = np.column_stack([columns, horizon - rise * SUPERSAMPLE * 0.5])
    outline = np.vstack([outline, (width, horizon), (width, horizon + 2), (0, horizon + 2)])
    cv2.fillPoly(canvas.pixels, [outline.astype(np.int32)], (*base, float(line)))
    upper = canvas.depth[:rows]
    upper[canvas.pixels[:rows, :, 3] == line] = _TREE_LINE
    upper[canvas.pixels[:rows, :, 3] == 0] = SKY_DEPTH


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
    below[:] = (*grass, terrain)
    canvas.select(walk)
    for x0, x1 in ((street.wall_left, street.walk_left), (street.walk_right, street.wall_right)):
        canvas.polygon(rectangle(x0 - 0.2, x1 + 0.2, near, far), paving)
        seams = np.arange(4.0, 60.0, 2.2)
        quads = np.stack([rectangle(x0, x1, z, z + 0.07) for z in seams])
        canvas.polygons(quads, tint(paving, 0.86))
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
            dashes = np.stack([rectangle(x, x + 2, z - 0.08, z + 0.08) for x in range(-40, 40, 5)])
            canvas.polygons(dashes, paint)
            canvas.polygon(rectangle(-LANE / 2, LANE / 2, z - 5.2, z - 4.8), paint)
    if street.crosswalk is not None:
        canvas.select(road)
        z = street.crosswalk
        stripes = np.arange(left + 0.3, right - 0.4, 1.0)
        quads = np.stack([rectangle(x, x + 0.5, z - 1.6, z + 1.6) for x in stripes])
        canvas.polygons(quads, paint)
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
            quads = np.stack([rectangle(x - 0.08, x + 0.08, z, z + 3) for z in starts])
            canvas.polygons(quads, paint)
    x = LANE / 2
    canvas.polygon(rectangle(x - 0.06, x + 0.06, _NEAR_Z, _FAR_Z), paint)


def _rails(canvas: Canvas, x: float | None, z: float | None, ground: Colour) -> None:
    """Sleepers and two shining rails, along the road at x or across it at z."""
    offsets = (-_RAIL_GAUGE / 2, _RAIL_GAUGE / 2)
    spots = np.arange(-60.0 if z is not None else 3.0, 70.0, 1.3)
    if x is not None:
        quads = np.stack([rectangle(x - 1.3, x + 1.3, s, s + 0.4) for s in spots])
        rails = [rectangle(x + o - 0.09, x + o + 0.09, _NEAR_Z, _FAR_Z) for o in offsets]
    else:
        middle = z or 0.0
        quads = np.stack([rectangle(s, s + 0.4, middle - 1.3, middle + 1.3) for s in spots])
        rails = [rectangle(-_SIDE, _SIDE, middle + o - 0.1, middle + o + 0.1) for o in offsets]
    canvas.polygons(quads, tint(ground, 0.72))
    axis = 2 if x is None else 0
    for rail in rails:
        canvas.polygon(rail, (58, 54, 52))
        core = rail.copy()
        core[:, axis] = (core[:, axis] + core[:, axis].mean()) / 2
        canvas.polygon(core, (186, 186, 190))
