"""Drawing surface with a depth buffer: world shapes in, colours, depths and element ids out."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from .camera import NEAR, Camera
from .spec import IMAGE_HEIGHT, IMAGE_WIDTH

# Shapes are drawn this many times larger and averaged down, which smooths their edges.
SUPERSAMPLE = 2
_SHIFT = 4
# Far enough out to keep slopes, near enough for OpenCV's fixed point numbers.
_LIMIT = 30000.0

Colour = tuple[float, float, float]
# What is written to the four channels of a pixel: a colour and an element id.
Value = tuple[float, float, float, float]


@dataclass
class Element:
    """One drawn thing: semantic train id and class (-1: stuff).

    Of things with a class also the number of pixels before occlusion, and the share of the outline
    that lies inside the image.
    """

    train_id: int
    class_id: int
    full_pixels: int = 0
    in_frame: float = 1.0


@dataclass
class Glow:
    """A shape that shines at night: (K, 2) image polygon in px, colour 0..~900, its element."""

    polygon: NDArray[np.float64]
    colour: Colour
    element: int


class _Polygons(NamedTuple):
    """Polygons of the same value that do not overlap: world points (M * corners, 3)."""

    points: NDArray
    corners: int
    value: Value

    def split(self) -> list[_Polygons]:
        """The polygons one by one."""
        parts = self.points.reshape(-1, self.corners, 3)
        return [_Polygons(part, self.corners, self.value) for part in parts]


class _Stroke(NamedTuple):
    """An open line through world points (K, 3); radius in metres."""

    points: NDArray
    radius: float
    value: Value

    def split(self) -> list[_Stroke]:
        """The stroke itself: it cannot be split."""
        return [self]


class _Balls(NamedTuple):
    """Balls at world points (M, 3) with radii (M,) in metres and a value each."""

    points: NDArray
    radii: NDArray
    values: list[Value]

    def split(self) -> list[_Balls]:
        """The balls one by one."""
        return [
            _Balls(self.points[i : i + 1], self.radii[i : i + 1], [value])
            for i, value in enumerate(self.values)
        ]


@dataclass
class Canvas:
    """Colours, depths and element ids of a scene, SUPERSAMPLE times the image's size.

    ``pixels`` is (H, W, 4) uint8: RGB and element id; ``depth`` is (H, W) float32 forward metres.
    """

    camera: Camera
    elements: list[Element] = field(default_factory=list)

    def __post_init__(self) -> None:
        shape = (IMAGE_HEIGHT * SUPERSAMPLE, IMAGE_WIDTH * SUPERSAMPLE)
        self.pixels = np.zeros((*shape, 4), np.uint8)
        rows = (np.arange(shape[0]) + 0.5) / SUPERSAMPLE
        column = self.camera.ground_depth(rows).astype(np.float32)
        self.depth = np.repeat(column[:, None], shape[1], axis=1)
        self._columns = (np.arange(shape[1]) + 0.5) / SUPERSAMPLE
        self._scratch = np.zeros((*shape, 4), np.uint8)
        self._shapes: list[_Polygons | _Stroke | _Balls] = []
        self._glows: list[tuple[NDArray, Colour, int]] = []
        self._id = 0

    def register(self, train_id: int, class_id: int = -1) -> int:
        """Add an element and make it the one that following shapes belong to; returns its id."""
        if len(self.elements) > 255:
            raise ValueError("a scene holds at most 256 elements")
        self.elements.append(Element(train_id, class_id))
        self._id = len(self.elements) - 1
        return self._id

    def select(self, element: int) -> None:
        """Let following shapes belong to an element registered before."""
        self._id = element

    @contextmanager
    def element(
        self, train_id: int, footprint: NDArray, class_id: int = -1, nearer: float = 0.0
    ) -> Iterator[int]:
        """Draw one upright thing and merge it into the scene by depth when the block ends.

        Args:
            train_id: semantic train id of its pixels.
            footprint: (K, 2) world X, Z outline on the ground that gives its depth, metres.
            class_id: index in STREETS_CLASSES, or -1 for stuff.
            nearer: metres taken off its depth, to order things that share a footprint.
        """
        identity = self.register(train_id, class_id)
        yield identity
        outline = self._paint(self._scratch)
        if outline is not None and len(outline):
            self._merge(self.elements[identity], outline, footprint, nearer)

    def element_map(self) -> NDArray[np.uint8]:
        """(H, W) uint8 ids of the elements seen in the drawing's pixels."""
        return cv2.extractChannel(self.pixels, 3)

    def flush(self) -> None:
        """Draw the flat shapes given since the last flush straight onto the scene."""
        self._paint(self.pixels)

    def _paint(self, target: NDArray[np.uint8]) -> NDArray[np.float64] | None:
        """Draw the waiting shapes in order; returns the image points that bound them.

        Projecting all shapes of an element in one go is much faster than one by one.
        """
        if not self._shapes:
            return None
        shapes, self._shapes = self._shapes, []
        flat, depth = self.camera.project(np.concatenate([shape.points for shape in shapes]))
        fixed = _fixed(flat)
        near = bool(depth.min() < NEAR)
        if near:
            shapes = [part for shape in shapes for part in shape.split()]
        grow = np.zeros((len(flat), 1))
        clipped: list[NDArray] = []
        begin = 0
        for shape in shapes:
            part = slice(begin, begin + len(shape.points))
            begin = part.stop
            if near and depth[part].min() < NEAR:
                flat[part] = np.nan
                if isinstance(shape, _Polygons):
                    clipped += self._paint_clipped(target, shape)
            elif isinstance(shape, _Polygons):
                outlines = fixed[part].reshape(-1, shape.corners, 2)
                cv2.fillPoly(target, outlines, shape.value, cv2.LINE_8, _SHIFT)
            elif isinstance(shape, _Stroke):
                pixels = shape.radius * self.camera.focal / float(depth[begin - 1])
                grow[part] = pixels
                thick = max(1, round(2 * pixels * SUPERSAMPLE))
                cv2.polylines(target, [fixed[part]], False, shape.value, thick, cv2.LINE_8, _SHIFT)
            else:
                pixels = shape.radii * self.camera.focal / depth[part]
                grow[part, 0] = pixels
                _paint_balls(target, fixed[part], pixels, shape.values)
        bounds = np.concatenate([flat - grow, flat + grow, *clipped])
        return bounds[np.isfinite(bounds[:, 0])] if near else bounds

    def _paint_clipped(self, target: NDArray[np.uint8], shape: _Polygons) -> list[NDArray]:
        """Draw what one polygon shows beyond the near plane; returns its outline in px, if any."""
        cam = _clip_near(self.camera.to_camera(shape.points))
        if len(cam) < 3:
            return []
        outline = self.camera.to_image(cam)
        cv2.fillPoly(target, [_fixed(outline)], shape.value, cv2.LINE_8, _SHIFT)
        return [outline]

    def _merge(self, element: Element, points: NDArray, footprint: NDArray, nearer: float) -> None:
        x0, y0, x1, y1 = self._frame_around(points)
        if x0 >= x1 or y0 >= y1:
            element.in_frame = 0.0
            return
        region = (slice(y0, y1), slice(x0, x1))
        drawn = self._scratch[region]
        # Whole pixels as one number: the id in the fourth byte is never 0 in the scratch.
        mask = drawn.view(np.uint32)[..., 0] != 0
        if element.class_id >= 0:
            element.full_pixels = int(np.count_nonzero(mask))
            element.in_frame = _share_in_frame(points)
            _shade_to_the_ground(drawn)
        depth = self.camera.footprint_depth(footprint, self._columns[x0:x1])
        depth = depth.astype(np.float32) - nearer
        mask &= depth < self.depth[region]
        # OpenCV's masked copy takes a tenth of the time of NumPy's.
        win = mask.view(np.uint8)
        cv2.copyTo(drawn, win, self.pixels[region])
        cv2.copyTo(cv2.repeat(depth[None], y1 - y0, 1), win, self.depth[region])
        drawn[...] = 0

    def _frame_around(self, points: NDArray) -> tuple[int, int, int, int]:
        """Canvas pixels x0, y0, x1, y1 around image points (K, 2), with room for their edges."""
        height, width = self.depth.shape
        x0, y0 = points.min(axis=0).tolist()
        x1, y1 = points.max(axis=0).tolist()
        return (
            max(math.floor(x0 * SUPERSAMPLE) - 3, 0),
            max(math.floor(y0 * SUPERSAMPLE) - 3, 0),
            min(math.ceil(x1 * SUPERSAMPLE) + 4, width),
            min(math.ceil(y1 * SUPERSAMPLE) + 4, height),
        )

    def _value(self, colour: Colour) -> Value:
        r, g, b = colour
        return (min(r, 255.0), min(g, 255.0), min(b, 255.0), float(self._id))

    def polygon(self, points: NDArray, colour: Colour) -> None:
        """Fill the polygon of world points (K, 3) with a colour (RGB, 0..255)."""
        self._shapes.append(_Polygons(points, len(points), self._value(colour)))

    def polygons(self, points: NDArray, colour: Colour) -> None:
        """Fill many polygons (M, K, 3) of the same colour; they must not overlap in the image."""
        if len(points):
            flat = points.reshape(-1, 3)
            self._shapes.append(_Polygons(flat, points.shape[1], self._value(colour)))

    def stroke(self, points: NDArray, radius: float, colour: Colour) -> None:
        """Draw the open line through world points (K, 3) with round ends; radius in metres."""
        self._shapes.append(_Stroke(points, radius, self._value(colour)))

    def disc(self, point: Sequence[float], radius: float, colour: Colour) -> None:
        """Draw a ball at a world point (3,); radius in metres."""
        self._shapes.append(_Balls(np.array([point]), np.array([radius]), [self._value(colour)]))

    def discs(self, points: NDArray, radii: NDArray, colours: NDArray) -> None:
        """Draw balls at world points (M, 3) in order; radii (M,) in metres, colours (M, 3)."""
        values = [(*colour, float(self._id)) for colour in np.minimum(colours, 255.0).tolist()]
        self._shapes.append(_Balls(points, radii, values))

    def glow(self, points: NDArray, colour: Colour) -> None:
        """Remember that the world polygon (K, 3) shines at night, as part of this element."""
        self._glows.append((points, colour, self._id))

    def glows(self) -> list[Glow]:
        """The shapes remembered by ``glow`` that lie beyond the near plane, projected in one go."""
        if not self._glows:
            return []
        flat, depth = self.camera.project(np.concatenate([points for points, _, _ in self._glows]))
        depths = depth.tolist()
        found, begin = [], 0
        for points, colour, element in self._glows:
            part = slice(begin, begin + len(points))
            begin = part.stop
            if min(depths[part]) > NEAR:
                found.append(Glow(flat[part], colour, element))
        return found

    def darken(self, points: NDArray, factor: float) -> None:
        """Multiply what is already drawn within the world polygon (K, 3): a shadow."""
        flat, depth = self.camera.project(points)
        if depth.min() < NEAR:
            return
        x0, y0, x1, y1 = self._frame_around(flat)
        if x0 >= x1 or y0 >= y1:
            return
        mask = np.zeros((y1 - y0, x1 - x0), np.uint8)
        corners = _fixed(flat - np.array([x0, y0]) / SUPERSAMPLE)
        cv2.fillPoly(mask, [corners], 255, cv2.LINE_8, _SHIFT)
        soft = cv2.blur(mask, (5, 3)).astype(np.float32) / 255
        light = 1 - (1 - factor) * soft
        part = self.pixels[y0:y1, x0:x1]
        # The id is kept by a factor of 1; four channels of their own multiply fast.
        part[...] = part * cv2.merge([light, light, light, np.ones_like(light)])


def _fixed(flat: NDArray) -> NDArray[np.int32]:
    fixed = flat * (SUPERSAMPLE * (1 << _SHIFT)) - 0.5 * (1 << _SHIFT)
    np.maximum(fixed, -_LIMIT * (1 << _SHIFT), out=fixed)
    np.minimum(fixed, _LIMIT * (1 << _SHIFT), out=fixed)
    np.rint(fixed, out=fixed)
    return fixed.astype(np.int32)


def _paint_balls(
    target: NDArray[np.uint8], centres: NDArray[np.int32], pixels: NDArray, values: list[Value]
) -> None:
    """Draw discs at fixed point places (M, 2) with radii (M,) in image px."""
    sizes = np.maximum(np.rint(pixels * (SUPERSAMPLE * (1 << _SHIFT))), 1).astype(int)
    for at, size, value in zip(centres.tolist(), sizes.tolist(), values, strict=True):
        cv2.circle(target, at, size, value, -1, cv2.LINE_8, _SHIFT)


def _shade_to_the_ground(drawn: NDArray[np.uint8]) -> None:
    """Darken an upright thing (H, W, 4) downwards, where less light falls; keeps the ids."""
    ids = cv2.extractChannel(drawn, 3)
    ramp = np.linspace(1.05, 0.88, len(drawn), dtype=np.float32)[:, None]
    shaded = drawn.reshape(len(drawn), -1) * ramp
    np.minimum(shaded, 255, out=shaded)
    drawn[...] = shaded.reshape(drawn.shape)
    cv2.insertChannel(ids, drawn, 3)


def _clip_near(cam: NDArray) -> NDArray[np.float64]:
    """Cut a camera-axes polygon (K, 3) at the near plane."""
    kept = []
    for a, b in zip(cam, np.roll(cam, -1, axis=0), strict=True):
        if a[2] >= NEAR:
            kept.append(a)
        if (a[2] >= NEAR) != (b[2] >= NEAR):
            kept.append(a + (b - a) * (NEAR - a[2]) / (b[2] - a[2]))
    return np.array(kept).reshape(-1, 3)


def _share_in_frame(points: NDArray) -> float:
    """Share of the outline of image points (K, 2) that lies inside the image."""
    hull = cv2.convexHull(np.clip(points, -_LIMIT, _LIMIT).astype(np.float32))
    total = cv2.contourArea(hull)
    if total <= 0:
        return 1.0
    w, h = IMAGE_WIDTH, IMAGE_HEIGHT
    frame = np.array([[0, 0], [w, 0], [w, h], [0, h]], np.float32)
    inside, _ = cv2.intersectConvexConvex(hull, frame)
    return min(1.0, float(inside) / total)
