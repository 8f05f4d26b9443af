"""Cars, trucks, buses and trains as extruded bodies with windows, wheels and lamps."""

from __future__ import annotations

import numpy as np

from .camera import Pose
from .canvas import Canvas, Colour
from .solids import Solid, Sun, box_profile, draw_solid, panel, side_shape, tint, wheel

GLASS: Colour = (52, 62, 74)
RUBBER: Colour = (20, 20, 22)
RED_LAMP: Colour = (190, 26, 22)
WHITE_LAMP: Colour = (240, 238, 220)
RED_GLOW: Colour = (420, 40, 25)
WHITE_GLOW: Colour = (900, 860, 700)
WINDOW_GLOW: Colour = (112, 102, 72)

_CAR_COLOURS = (
    (28, 29, 32),
    (196, 198, 202),
    (232, 232, 230),
    (120, 124, 130),
    (150, 28, 30),
    (34, 58, 120),
    (40, 92, 70),
    (190, 160, 60),
    (96, 74, 58),
    (80, 120, 160),
)
_LARGE_COLOURS = (
    (190, 40, 36),
    (226, 178, 40),
    (232, 232, 228),
    (40, 84, 150),
    (60, 130, 90),
    (90, 94, 102),
    (210, 110, 40),
    (120, 160, 190),
)


def _pick(rng: np.random.Generator, colours: tuple[Colour, ...], spread: float = 18.0) -> Colour:
    base = colours[int(rng.integers(len(colours)))]
    r, g, b = np.clip(np.asarray(base) + rng.uniform(-spread, spread, 3), 8, 250)
    return (float(r), float(g), float(b))


def _under(canvas: Canvas, pose: Pose, length: float, half: float, sun: Sun) -> None:
    """Dark underbody and the lower part of the tyres as seen from the ends."""
    body = Solid(pose, box_profile(length * 0.9, 0.14, 0.4), np.full(4, half * 0.82))
    draw_solid(canvas, body, (22, 22, 24), sun)
    for end in (-0.36, 0.36):
        for across in (-half * 0.8, half * 0.8):
            tyre = np.array([[0, -0.11, 0], [0, 0.11, 0], [0, 0.11, 0.42], [0, -0.11, 0.42]])
            canvas.polygon(pose.world(tyre + (end * length, across, 0.0)), RUBBER)


def draw_car(canvas: Canvas, pose: Pose, rng: np.random.Generator, sun: Sun) -> None:
    """A saloon, hatchback, off-roader or small van at a pose."""
    kind = int(rng.integers(4))
    length = (4.6, 4.0, 4.6, 4.7)[kind] * rng.uniform(0.94, 1.06)
    top = (1.44, 1.5, 1.72, 1.92)[kind] * rng.uniform(0.97, 1.03)
    half = 0.92 * rng.uniform(0.96, 1.05)
    belt = (0.92, 0.96, 1.05, 1.08)[kind]
    rear_belt, rear_top, front_top, front_belt = (
        (-0.37, -0.2, 0.07, 0.25),
        (-0.485, -0.4, 0.09, 0.27),
        (-0.49, -0.43, 0.08, 0.23),
        (-0.495, -0.48, 0.24, 0.37),
    )[kind]
    profile = np.array(
        [
            (-0.5 * length, 0.28),
            (-0.5 * length, belt - 0.04),
            (rear_belt * length, belt),
            (rear_top * length, top),
            (front_top * length, top),
            (front_belt * length, belt),
            (0.47 * length, belt - 0.16),
            (0.5 * length, belt - 0.3),
            (0.5 * length, 0.28),
        ]
    )
    widths = half * np.array([0.97, 1, 0.98, 0.8, 0.8, 0.98, 0.97, 0.97, 0.95])
    if kind == 3:
        widths[3:5] = half * 0.9
    colour = _pick(rng, _CAR_COLOURS)
    glass = tint(GLASS, rng.uniform(0.7, 1.3))
    solid = Solid(pose, profile, widths)
    _under(canvas, pose, length, half, sun)
    draw_solid(canvas, solid, colour, sun)
    panel(canvas, solid, 2, (0.1, 0.9), (0.14, 0.88), tint(glass, 0.9))
    panel(canvas, solid, 4, (0.07, 0.93), (0.1, 0.92), tint(glass, 1.15))
    sill = belt + 0.04
    glazing = np.array(
        [
            (rear_belt * length + 0.2, sill),
            (rear_top * length + 0.12, top - 0.1),
            (front_top * length - 0.08, top - 0.1),
            (front_belt * length - 0.2, sill),
        ]
    )
    side_shape(canvas, solid, glazing, glass)
    middle = (front_top + rear_top) / 2 * length
    for at in (middle, middle - 0.28 * length) if kind else (middle,):
        pillar = np.array([(at, sill), (at, top - 0.1), (at + 0.09, top - 0.1), (at + 0.09, sill)])
        side_shape(canvas, solid, pillar, tint(colour, 0.6))
    seam = np.array([(middle, 0.4), (middle, sill), (middle + 0.04, sill), (middle + 0.04, 0.4)])
    side_shape(canvas, solid, seam, tint(colour, 0.5))
    hub = tint((150, 152, 156), rng.uniform(0.5, 1.2))
    for at in (-0.31 * length, 0.31 * length):
        wheel(canvas, solid, at, 0.33, hub)
    panel(canvas, solid, 0, (0.0, 1.0), (0.0, 0.28), tint(colour, 0.45))
    panel(canvas, solid, 0, (0.34, 0.66), (0.42, 0.62), (222, 220, 200))
    for span in ((0.02, 0.2), (0.8, 0.98)):
        panel(canvas, solid, 0, span, (0.6, 0.95), RED_LAMP, RED_GLOW)
    panel(canvas, solid, 7, (0.25, 0.75), (0.08, 0.6), (26, 26, 28))
    panel(canvas, solid, 7, (0.0, 1.0), (0.75, 1.0), tint(colour, 0.4))
    panel(canvas, solid, 7, (0.34, 0.66), (0.5, 0.72), (222, 220, 200))
    for span in ((0.02, 0.22), (0.78, 0.98)):
        panel(canvas, solid, 7, span, (0.0, 0.4), WHITE_LAMP, WHITE_GLOW)


def draw_truck(canvas: Canvas, pose: Pose, rng: np.random.Generator, sun: Sun) -> None:
    """A lorry: a cab with a gap and then a closed box or an open load bed."""
    length = rng.uniform(6.4, 9.0)
    half = rng.uniform(1.12, 1.25)
    cab_top = rng.uniform(2.3, 2.7)
    cab_length = rng.uniform(1.7, 2.0)
    start = length / 2 - cab_length
    cab_colour = _pick(rng, _LARGE_COLOURS)
    cab = Solid(
        pose,
        np.array(
            [
                (start, 0.45),
                (start, cab_top),
                (length / 2 - 0.35, cab_top),
                (length / 2 - 0.08, 1.35),
                (length / 2, 1.3),
                (length / 2, 0.4),
            ]
        ),
        half * np.array([0.94, 0.9, 0.88, 0.94, 0.94, 0.94]),
    )
    bed_length = length - cab_length - 0.35
    closed = rng.random() < 0.7
    bed_top = rng.uniform(3.0, 3.6) if closed else rng.uniform(1.6, 1.9)
    bed = Solid(pose, box_profile(bed_length, 0.95, bed_top, -length / 2), np.full(4, half))
    bed_colour = _pick(rng, _LARGE_COLOURS)

    def paint_cab() -> None:
        draw_solid(canvas, cab, cab_colour, sun)
        panel(canvas, cab, 2, (0.08, 0.92), (0.2, 0.95), tint(GLASS, 1.1))
        low, high = 1.4, cab_top - 0.3
        side_shape(
            canvas,
            cab,
            np.array(
                [
                    (start + 0.45, low),
                    (start + 0.5, high),
                    (length / 2 - 0.45, high),
                    (length / 2 - 0.2, low),
                ]
            ),
            GLASS,
        )
        panel(canvas, cab, 4, (0.2, 0.8), (0.1, 0.55), (34, 34, 36))
        for span in ((0.03, 0.2), (0.8, 0.97)):
            panel(canvas, cab, 4, span, (0.55, 0.85), WHITE_LAMP, WHITE_GLOW)
        wheel(canvas, cab, length / 2 - 0.75, 0.48, (130, 130, 132))

    def paint_bed() -> None:
        draw_solid(canvas, bed, bed_colour, sun)
        _truck_bed_details(canvas, bed, closed, bed_colour, rng)

    _under(canvas, pose, length, half, sun)
    frame = Solid(pose, box_profile(length - 0.6, 0.55, 0.97), np.full(4, half * 0.75))
    draw_solid(canvas, frame, (40, 40, 43), sun)
    # The nearer of the two bodies hides the other one.
    if pose.camera_local(canvas.camera)[0] > start:
        paint_bed()
        paint_cab()
    else:
        paint_cab()
        paint_bed()
    wheels = [-length / 2 + 1.1]
    if length > 7.5:
        wheels.append(-length / 2 + 2.15)
    for at in wheels:
        wheel(canvas, bed, at, 0.48, (110, 110, 112))
    for span in ((0.02, 0.16), (0.84, 0.98)):
        panel(canvas, bed, 0, span, (0.0, 0.09), RED_LAMP, RED_GLOW)


def _truck_bed_details(
    canvas: Canvas, bed: Solid, closed: bool, colour: Colour, rng: np.random.Generator
) -> None:
    (a, low), (_, high) = bed.profile[0], bed.profile[1]
    length = bed.profile[2, 0] - a
    dark = tint(colour, 0.55)
    if closed:
        panel(canvas, bed, 0, (0.485, 0.515), (0.04, 0.97), dark)
        panel(canvas, bed, 0, (0.0, 1.0), (0.96, 1.0), dark)
        for at in (0.3, 0.7):
            panel(canvas, bed, 0, (at, at + 0.02), (0.04, 0.95), tint(colour, 0.75))
        if rng.random() < 0.6:
            stripe = tint(_pick(rng, _LARGE_COLOURS), 0.9)
            y0, y1 = low + (high - low) * 0.35, low + (high - low) * rng.uniform(0.5, 0.7)
            x0, x1 = a + length * 0.15, a + length * rng.uniform(0.6, 0.9)
            side_shape(canvas, bed, np.array([(x0, y0), (x0, y1), (x1, y1), (x1, y0)]), stripe)
    else:
        for at in np.arange(a + 0.5, a + length, 0.9):
            rib = np.array([(at, low), (at, high), (at + 0.1, high), (at + 0.1, low)])
            side_shape(canvas, bed, rib, dark)
        load = Solid(
            bed.pose,
            np.array(
                [
                    (a + 0.2, high),
                    (a + length * 0.3, high + 0.55),
                    (a + length * 0.7, high + 0.5),
                    (a + length - 0.2, high),
                ]
            ),
            bed.half_width * 0.8,
        )
        draw_solid(canvas, load, (128, 104, 76), Sun(0.0, 1.0, 0.0, 0.6))
        panel(canvas, bed, 0, (0.0, 1.0), (0.9, 1.0), dark)


def draw_bus(canvas: Canvas, pose: Pose, rng: np.random.Generator, sun: Sun) -> None:
    """A city bus or coach on road wheels."""
    length, half, top = rng.uniform(9.0, 12.0), 1.27, rng.uniform(2.95, 3.25)
    a, b = -length / 2, length / 2
    profile = np.array(
        [(a, 0.35), (a, 1.7), (a + 0.1, top), (b - 0.15, top), (b, 1.1), (b, 0.35)], dtype=float
    )
    solid = Solid(pose, profile, half * np.array([1, 1, 0.95, 0.95, 1, 1]))
    colour = _pick(rng, _LARGE_COLOURS)
    glass = tint(GLASS, rng.uniform(0.75, 1.2))
    _under(canvas, pose, length, half, sun)
    draw_solid(canvas, solid, colour, sun)
    low, high = rng.uniform(1.25, 1.45), top - 0.45
    if rng.random() < 0.6:
        band = tint(_pick(rng, _LARGE_COLOURS), 0.9)
        strip = np.array([(a, 0.75), (a, 1.05), (b, 1.05), (b, 0.75)])
        side_shape(canvas, solid, strip, band)
    _windows(canvas, solid, a + 0.4, b - 0.3, low, high, rng.uniform(1.2, 1.7), glass)
    for at in (b - 1.5, -0.4):
        door = np.array([(at, 0.42), (at, high), (at + 1.1, high), (at + 1.1, 0.42)])
        side_shape(canvas, solid, door, tint(glass, 0.8))
        leaf = np.array([(at + 0.5, 0.42), (at + 0.5, high), (at + 0.6, high), (at + 0.6, 0.42)])
        side_shape(canvas, solid, leaf, tint(colour, 0.7))
    for at in (a + 2.4, b - 2.6):
        wheel(canvas, solid, at, 0.48, (120, 120, 122))
    panel(canvas, solid, 1, (0.12, 0.88), (0.15, 0.72), glass)
    panel(canvas, solid, 0, (0.2, 0.8), (0.12, 0.5), tint(colour, 0.6))
    for span in ((0.02, 0.14), (0.86, 0.98)):
        panel(canvas, solid, 0, span, (0.4, 0.85), RED_LAMP, RED_GLOW)
    panel(canvas, solid, 3, (0.05, 0.95), (0.22, 0.98), tint(glass, 1.1))
    panel(canvas, solid, 3, (0.18, 0.82), (0.04, 0.18), (236, 150, 40), (500, 300, 60))
    panel(canvas, solid, 4, (0.0, 1.0), (0.75, 1.0), tint(colour, 0.5))
    for span in ((0.04, 0.2), (0.8, 0.96)):
        panel(canvas, solid, 4, span, (0.3, 0.6), WHITE_LAMP, WHITE_GLOW)


def draw_train(
    canvas: Canvas, pose: Pose, rng: np.random.Generator, sun: Sun, length: float
) -> None:
    """A light-rail train: slanted noses, coupled sections, skirts to the rails, a pantograph."""
    half, top = 1.3, rng.uniform(3.2, 3.5)
    a, b = -length / 2, length / 2
    nose = rng.uniform(0.5, 1.1)
    profile = np.array(
        [
            (a, 0.2),
            (a, 1.3),
            (a + nose, top - 0.15),
            (a + nose + 0.5, top),
            (b - nose - 0.5, top),
            (b - nose, top - 0.15),
            (b, 1.3),
            (b, 0.2),
        ]
    )
    solid = Solid(pose, profile, half * np.array([0.9, 0.95, 0.85, 0.85, 0.85, 0.85, 0.95, 0.9]))
    solid.half_width[2:6] = half * 0.95
    colour = _pick(rng, _LARGE_COLOURS)
    lower = _pick(rng, _LARGE_COLOURS) if rng.random() < 0.5 else tint(colour, 0.8)
    glass = tint(GLASS, rng.uniform(0.7, 1.1))
    draw_solid(canvas, solid, colour, sun)
    shade = np.array([(a, 0.2), (a, 0.95), (b, 0.95), (b, 0.2)])
    side_shape(canvas, solid, shade, tint(lower, 0.8))
    skirt = np.array([(a, 0.2), (a, 0.42), (b, 0.42), (b, 0.2)])
    side_shape(canvas, solid, skirt, (48, 48, 52))
    _windows(canvas, solid, a + nose + 0.4, b - nose - 0.4, 1.35, top - 0.6, 1.9, glass)
    sections = max(2, round(length / 8))
    for i in range(sections):
        at = a + length * (i + 0.5) / sections
        door = np.array([(at, 0.45), (at, top - 0.6), (at + 1.2, top - 0.6), (at + 1.2, 0.45)])
        side_shape(canvas, solid, door, tint(lower, 0.55))
        pane = np.array([(at + 0.15, 1.2), (at + 0.15, top - 0.7), (at + 1.05, top - 0.7)])
        pane = np.vstack([pane, (at + 1.05, 1.2)])
        side_shape(canvas, solid, pane, glass)
        if i:
            joint = a + length * i / sections
            fold = np.array([(-0.25, 0.3), (-0.25, top), (0.25, top), (0.25, 0.3)])
            side_shape(canvas, solid, fold + (joint, 0.0), (42, 42, 46))
    for low_edge, nose_edge, flip in ((0, 1, False), (6, 5, True)):
        span = (0.05, 0.8) if flip else (0.2, 0.95)
        panel(canvas, solid, nose_edge, (0.08, 0.92), span, tint(glass, 0.9))
        top_span = (0.0, 0.05) if flip else (0.95, 1.0)
        panel(canvas, solid, nose_edge, (0.3, 0.7), top_span, (236, 150, 40), (500, 300, 60))
        bumper = (0.6, 1.0) if flip else (0.0, 0.4)
        panel(canvas, solid, low_edge, (0.0, 1.0), bumper, (48, 48, 52))
        lamps = (0.15, 0.45) if flip else (0.55, 0.85)
        lamp, glow = (WHITE_LAMP, WHITE_GLOW) if flip else (RED_LAMP, RED_GLOW)
        for across in ((0.08, 0.26), (0.74, 0.92)):
            panel(canvas, solid, low_edge, across, lamps, lamp, glow)
    _pantograph(canvas, pose, top, a + length * 0.3)


def _windows(
    canvas: Canvas,
    solid: Solid,
    start: float,
    stop: float,
    low: float,
    high: float,
    pitch: float,
    glass: Colour,
) -> None:
    """A row of windows along the visible side, lit at night."""
    side = solid.visible_side(canvas.camera)
    if not side:
        return
    count = max(1, round((stop - start) / pitch))
    pitch = (stop - start) / count
    at = start + pitch * np.arange(count)[:, None]
    forward = at + np.array([[0.06, 0.06, pitch - 0.06, pitch - 0.06]])
    points = np.empty((count, 4, 2))
    points[..., 0] = forward
    points[..., 1] = (low, high, high, low)
    quads = solid.on_side(side, points)
    canvas.polygons(quads, glass)
    for quad in quads:
        canvas.glow(quad, WINDOW_GLOW)


def _pantograph(canvas: Canvas, pose: Pose, top: float, at: float) -> None:
    dark: Colour = (40, 40, 44)
    for across in (-0.4, 0.4):
        arm = np.array([(at, across, top), (at + 0.8, across, top + 0.6), (at, across, top + 1.2)])
        canvas.stroke(pose.world(arm), 0.05, dark)
    bar = np.array([(at, -0.8, top + 1.2), (at, 0.8, top + 1.2)])
    canvas.stroke(pose.world(bar), 0.05, dark)
