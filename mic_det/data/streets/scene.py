"""From a seed to a finished scene with image, depth, semantic map and boxes."""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from .background import draw_ground, draw_sky
from .camera import Pose
from .canvas import SUPERSAMPLE, Canvas
from .draw_cycles import draw_bicycle, draw_motorcycle
from .draw_people import draw_person, draw_rider
from .draw_vehicles import draw_bus, draw_car, draw_train, draw_truck
from .layout import Thing, make_camera, make_street, make_things
from .solids import Sun
from .spec import (
    BICYCLE,
    BUS,
    CAR,
    FIRST_THING,
    IMAGE_HEIGHT,
    IMAGE_WIDTH,
    MIN_BOX_SIDE,
    MIN_VISIBLE_PIXELS,
    MIN_VISIBLE_SHARE,
    MOTORCYCLE,
    PERSON,
    RIDER,
    STREETS_DOMAINS,
    TRAIN,
    TRUCK,
)
from .surroundings import draw_surroundings
from .weather import Radiance, photograph

_CLASS_OF = {"person": PERSON, "car": CAR, "truck": TRUCK, "bus": BUS, "train": TRAIN}
# Separate random streams, so that the domain cannot change what stands where.
_GEOMETRY_STREAM, _DOMAIN_STREAM = 0, 1


@dataclass(frozen=True)
class Scene:
    """One image with its annotations; H = 128, W = 256.

    image: (H, W, 3) uint8 RGB.
    depth: (H, W) float32, metres from the camera along the line of sight.
    semantic: (H, W) uint8 Cityscapes train ids, 255 for void.
    boxes: (N, 4) float32 XYXY in px around the visible part of each instance; x2, y2 exclusive.
    classes: (N,) int64 indices into STREETS_CLASSES.
    instances: (H, W) int16, i + 1 where instance i is seen, 0 elsewhere.
    """

    image: NDArray[np.uint8]
    depth: NDArray[np.float32]
    semantic: NDArray[np.uint8]
    boxes: NDArray[np.float32]
    classes: NDArray[np.int64]
    instances: NDArray[np.int16]


def _sun(rng: np.random.Generator) -> Sun:
    around, up = rng.uniform(-math.pi, math.pi), rng.uniform(0.4, 1.1)
    flat = math.cos(up)
    return Sun(
        flat * math.cos(around), math.sin(up), flat * math.sin(around), rng.uniform(0.6, 0.8)
    )


def _shadow(canvas: Canvas, thing: Thing, sun: Sun) -> None:
    """A soft contact shadow, moved away from the sun."""
    pose = thing.pose
    shift = min(0.35, 0.1 * thing.height)
    moved = Pose(pose.x - sun.x * shift, pose.z - sun.z * shift, pose.heading)
    flat = moved.footprint(thing.length * 1.02, thing.width * 1.05)
    points = np.column_stack([flat[:, 0], np.zeros(4), flat[:, 1]])
    canvas.darken(points, 0.45 if thing.height > 1.2 and thing.width > 1.5 else 0.6)


def _draw_cycle(canvas: Canvas, thing: Thing, rng: np.random.Generator) -> None:
    motor = thing.kind.endswith("motorcycle")
    class_id = MOTORCYCLE if motor else BICYCLE
    footprint = thing.pose.footprint(thing.length, thing.width)
    ridden = thing.kind.startswith("rider")
    seen_from = thing.pose.heading - math.atan2(thing.pose.x, thing.pose.z)
    # From the side the near leg hides the frame; from the ends a wheel hides the legs.
    rider_nearer = 0.3 if abs(math.sin(seen_from)) > 0.5 else -0.3
    with canvas.element(FIRST_THING + class_id, footprint, class_id):
        (draw_motorcycle if motor else draw_bicycle)(canvas, thing.pose, rng)
    if ridden:
        with canvas.element(FIRST_THING + RIDER, footprint, RIDER, nearer=rider_nearer):
            draw_rider(canvas, thing.pose, rng, motor)


def _draw_thing(canvas: Canvas, thing: Thing, rng: np.random.Generator, sun: Sun) -> None:
    if thing.kind.endswith("cycle"):
        _draw_cycle(canvas, thing, rng)
        return
    class_id = _CLASS_OF[thing.kind]
    footprint = thing.pose.footprint(thing.length, thing.width)
    with canvas.element(FIRST_THING + class_id, footprint, class_id):
        if class_id == PERSON:
            draw_person(canvas, thing.pose, rng)
        elif class_id == CAR:
            draw_car(canvas, thing.pose, rng, sun)
        elif class_id == TRUCK:
            draw_truck(canvas, thing.pose, rng, sun)
        elif class_id == BUS:
            draw_bus(canvas, thing.pose, rng, sun)
        else:
            draw_train(canvas, thing.pose, rng, sun, thing.length)


def _develop(canvas: Canvas, rng: np.random.Generator) -> NDArray[np.float32]:
    """Average the drawing down to the image's size with texture, blur and exposure."""
    size = (IMAGE_WIDTH, IMAGE_HEIGHT)
    # OpenCV averages four channels twenty times faster than a strided view of three.
    image = cv2.resize(canvas.pixels, size, interpolation=cv2.INTER_AREA)
    image = cv2.cvtColor(image, cv2.COLOR_RGBA2RGB).astype(np.float32)
    coarse = cv2.resize(
        rng.uniform(-1, 1, (16, 32)).astype(np.float32), size, interpolation=cv2.INTER_LINEAR
    )
    fine = rng.uniform(-1, 1, (IMAGE_HEIGHT, IMAGE_WIDTH)).astype(np.float32)
    texture = 1 + 0.05 * coarse + 0.03 * fine
    image *= cv2.merge([texture, texture, texture])
    image = cv2.GaussianBlur(image, (0, 0), rng.uniform(0.35, 0.6))
    gain = rng.uniform(0.8, 1.12) * (1 + rng.uniform(-0.04, 0.04, 3))
    rows = image.reshape(IMAGE_HEIGHT, -1)
    rows *= np.tile(gain.astype(np.float32), IMAGE_WIDTH)
    return np.clip(image, 0, 255, out=image)


def _draw(seed: int, attempt: int) -> tuple[Canvas, Radiance]:
    rng = np.random.default_rng([_GEOMETRY_STREAM, seed, attempt])
    street, camera, sun = make_street(rng), make_camera(rng), _sun(rng)
    things = make_things(street, camera, rng)
    canvas = Canvas(camera)
    draw_sky(canvas, rng)
    draw_ground(canvas, street, rng)
    for thing in things:
        _shadow(canvas, thing, sun)
    draw_surroundings(canvas, street, rng, sun)
    for thing in things:
        _draw_thing(canvas, thing, rng, sun)
    image = _develop(canvas, rng)
    depth = canvas.depth[::SUPERSAMPLE, ::SUPERSAMPLE] * camera.ray_length()
    elements = canvas.element_map()[::SUPERSAMPLE, ::SUPERSAMPLE].copy()
    return canvas, Radiance(image, depth.astype(np.float32), elements, canvas.glows())


def _annotate(
    canvas: Canvas, elements: NDArray[np.uint8]
) -> tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.int16]]:
    """Boxes, classes and instance map of what is visible enough to count."""
    boxes, classes = [], []
    instances = np.zeros(elements.shape, np.int16)
    full = canvas.element_map()
    for identity, element in enumerate(canvas.elements):
        if element.class_id < 0 or element.full_pixels == 0:
            continue
        mask = elements == identity
        if np.count_nonzero(mask) < MIN_VISIBLE_PIXELS:
            continue
        share = np.count_nonzero(full == identity) / element.full_pixels * element.in_frame
        x, y, width, height = cv2.boundingRect(mask.view(np.uint8))
        if share < MIN_VISIBLE_SHARE or min(width, height) < MIN_BOX_SIDE:
            continue
        boxes.append((x, y, x + width, y + height))
        classes.append(element.class_id)
        instances[mask] = len(boxes)
    return (
        np.array(boxes, np.float32).reshape(-1, 4),
        np.array(classes, np.int64),
        instances,
    )


def render_radiance(
    seed: int,
) -> tuple[Radiance, NDArray[np.float32], NDArray[np.int64], NDArray[np.int16], NDArray[np.uint8]]:
    """Draw a scene before weather: radiance, boxes, classes, instances, semantic map.

    A draw without any visible instance is replaced by the next draw of the same seed.
    """
    attempt = 0
    while True:
        canvas, radiance = _draw(seed, attempt)
        boxes, classes, instances = _annotate(canvas, radiance.elements)
        if len(boxes):
            break
        attempt += 1
    table = np.full(256, 255, np.uint8)
    table[: len(canvas.elements)] = [e.train_id for e in canvas.elements]
    return radiance, boxes, classes, instances, table[radiance.elements]


def domain_rng(seed: int, domain: str) -> np.random.Generator:
    """Random stream of weather and noise; raises ValueError for an unknown domain."""
    if domain not in STREETS_DOMAINS:
        raise ValueError(f"unknown domain {domain!r}: take one of {STREETS_DOMAINS}")
    return np.random.default_rng([_DOMAIN_STREAM, seed, STREETS_DOMAINS.index(domain)])


def render_scene(seed: int, domain: str = "clear") -> Scene:
    """Render one scene; the same seed gives the same geometry in every domain.

    Args:
        seed: >= 0.
        domain: "clear", "foggy" or "night".

    Raises:
        ValueError: for a negative seed or an unknown domain.
    """
    if seed < 0:
        raise ValueError(f"seed must be >= 0, got {seed}")
    rng = domain_rng(seed, domain)
    radiance, boxes, classes, instances, semantic = render_radiance(seed)
    image = photograph(radiance, domain, rng)
    return Scene(image, radiance.depth, semantic, boxes, classes, instances)
