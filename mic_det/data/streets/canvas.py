"""Drawing surface with a depth buffer: world shapes in, colours, depths and element ids out."""

from __future__ import annotations

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


@dataclass
class Element:
    """One drawn thing: semantic train id, class (-1: stuff), its pixels before occlusion."""

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


class _Shape(NamedTuple):
    """World points (K, 3) of a polygon (radius None), a stroke, or a ball (one point)."""

    points: NDArray
    radius: float | None
    value: tuple[float, float, float, float]


@dataclass
class Canvas:
    """Colours, depths and element ids of a scene, SUPERSAMPLE times the image's size.

    ``pixels`` is (H, W, 4) uint8: RGB and element id; ``depth`` is (H, W) float32 forward metres.
    """

    camera: Camera
    elements: list[Element] = field(default_factory=list)
    glows: list[Glow] = field(default_factory=list)

    def __post_init__(self) -> None:
        shape = (IMAGE_HEIGHT * SUPERSAMPLE, IMAGE_WIDTH * SUPERSAMPLE)
        self.pixels = np.zeros((*shape, 4), np.uint8)
        rows = (np.arange(shape[0]) + 0.5) / SUPERSAMPLE
        column = self.camera.ground_depth(rows).astype(np.float32)
        self.depth = np.repeat(column[:, None], shape[1], axis=1)
        self._scratch = np.zeros((*shape, 4), np.uint8)
        self._shapes: list[_Shape] = []
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
        grow = np.zeros(len(flat))
        clipped: list[NDArray] = []
        begin = 0
        for shape in shapes:
            part = slice(begin, begin + len(shape.points))
            begin = part.stop
            outline = fixed[part]
            if near and depth[part].min() < NEAR:
                flat[part] = np.nan
                cam = _clip_near(self.camera.to_camera(shape.points))
                if shape.radius is not None or len(cam) < 3:
                    continue
                clipped.append(self.camera.to_image(cam))
                outline = _fixed(clipped[-1])
            if shape.radius is None:
                cv2.fillPoly(target, [outline], shape.value, cv2.LINE_8, _SHIFT)
                continue
            pixels = shape.radius * self.camera.focal / float(depth[begin - 1])
            grow[part] = pixels
            if len(outline) == 1:
                size = max(1, round(pixels * SUPERSAMPLE * (1 << _SHIFT)))
                at = outline[0].tolist()
                cv2.circle(target, at, size, shape.value, -1, cv2.LINE_8, _SHIFT)
            else:
                thick = max(1, round(2 * pixels * SUPERSAMPLE))
                cv2.polylines(target, [outline], False, shape.value, thick, cv2.LINE_8, _SHIFT)
        bounds = np.concatenate([flat - grow[:, None], flat + grow[:, None], *clipped])
        return bounds[np.isfinite(bounds[:, 0])] if near else bounds

    def _merge(self, element: Element, points: NDArray, footprint: NDArray, nearer: float) -> None:
        height, width = self.depth.shape
        low = np.floor(points.min(axis=0) * SUPERSAMPLE).astype(int) - 3
        high = np.ceil(points.max(axis=0) * SUPERSAMPLE).astype(int) + 4
        x0, y0 = np.maximum(low, 0).tolist()
        x1, y1 = np.minimum(high, (width, height)).tolist()
        if x0 >= x1 or y0 >= y1:
            element.in_frame = 0.0
            return
        region = (slice(y0, y1), slice(x0, x1))
        drawn = self._scratch[region]
        if element.class_id >= 0:
            # Upright things catch less light towards the ground.
            ramp = np.linspace(1.05, 0.88, y1 - y0, dtype=np.float32)[:, None, None]
            drawn[..., :3] = np.minimum(drawn[..., :3] * ramp, 255)
        # Whole pixels as one number: the id in the fourth byte is never 0 in the scratch.
        source = drawn.view(np.uint32)[..., 0]
        mask = source != 0
        columns = (np.arange(x0, x1) + 0.5) / SUPERSAMPLE
        depth = self.camera.footprint_depth(footprint, columns).astype(np.float32) - nearer
        win = depth < self.depth[region]
        win &= mask
        np.copyto(self.pixels.view(np.uint32)[..., 0][region], source, where=win)
        np.copyto(self.depth[region], depth, where=win)
        element.full_pixels = int(np.count_nonzero(mask))
        element.in_frame = _share_in_frame(points) if element.class_id >= 0 else 1.0
        drawn[...] = 0

    def _value(self, colour: Colour) -> tuple[float, float, float, float]:
        r, g, b = colour
        return (min(r, 255.0), min(g, 255.0), min(b, 255.0), float(self._id))

    def polygon(self, points: NDArray, colour: Colour) -> None:
        """Fill the polygon of world points (K, 3) with a colour (RGB, 0..255)."""
        self._shapes.append(_Shape(points, None, self._value(colour)))

    def polygons(self, points: NDArray, colour: Colour) -> None:
        """Fill many polygons (M, K, 3) of the same colour."""
        value = self._value(colour)
        self._shapes += [_Shape(part, None, value) for part in points]

    def stroke(self, points: NDArray, radius: float, colour: Colour) -> None:
        """Draw the open line through world points (K, 3) with round ends; radius in metres."""
        self._shapes.append(_Shape(points, radius, self._value(colour)))

    def disc(self, point: Sequence[float], radius: float, colour: Colour) -> None:
        """Draw a ball at a world point (3,); radius in metres."""
        self._shapes.append(_Shape(np.array([point]), radius, self._value(colour)))

    def discs(self, points: NDArray, radii: NDArray, colours: Sequence[Colour]) -> None:
        """Draw balls at world points (M, 3) in order; radii (M,) in metres."""
        for i, (radius, colour) in enumerate(zip(radii.tolist(), colours, strict=True)):
            self._shapes.append(_Shape(points[i : i + 1], radius, self._value(colour)))

    def glow(self, points: NDArray, colour: Colour) -> None:
        """Remember that the world polygon (K, 3) shines at night, as part of this element."""
        flat, depth = self.camera.project(points)
        if depth.min() > NEAR:
            self.glows.append(Glow(flat, colour, self._id))

    def darken(self, points: NDArray, factor: float) -> None:
        """Multiply what is already drawn within the world polygon (K, 3): a shadow."""
        flat, depth = self.camera.project(points)
        if depth.min() < NEAR:
            return
        height, width = self.depth.shape
        x0, y0 = np.maximum(np.floor(flat.min(axis=0) * SUPERSAMPLE).astype(int) - 3, 0).tolist()
        x1, y1 = (np.ceil(flat.max(axis=0) * SUPERSAMPLE).astype(int) + 4).tolist()
        x1, y1 = min(x1, width), min(y1, height)
        if x0 >= x1 or y0 >= y1:
            return
        mask = np.zeros((y1 - y0, x1 - x0), np.uint8)
        corners = _fixed(flat - np.array([x0, y0]) / SUPERSAMPLE)
        cv2.fillPoly(mask, [corners], 255, cv2.LINE_8, _SHIFT)
        soft = cv2.blur(mask, (5, 3)).astype(np.float32) / 255
        part = self.pixels[y0:y1, x0:x1, :3]
        part[...] = part * (1 - (1 - factor) * soft)[..., None]


def _fixed(flat: NDArray) -> NDArray[np.int32]:
    fixed = flat * (SUPERSAMPLE * (1 << _SHIFT)) - 0.5 * (1 << _SHIFT)
    np.maximum(fixed, -_LIMIT * (1 << _SHIFT), out=fixed)
    np.minimum(fixed, _LIMIT * (1 << _SHIFT), out=fixed)
    np.rint(fixed, out=fixed)
    return fixed.astype(np.int32)


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
