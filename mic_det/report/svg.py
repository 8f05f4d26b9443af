"""Line charts as SVG; colours come from the page's style sheet (classes s0, s1, …)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 360, 210
LEFT, RIGHT, TOP, BOTTOM = 44, 14, 10, 38
STYLES = 8
# Shapes tell apart what comes round to the same colour.
ROUNDS = 3
Points = Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Line:
    """A curve. ``style`` picks the colour, ``note`` is told when a pointer rests on it."""

    points: Points
    style: int
    note: str
    dashed: bool = False
    smooth: bool = False


def chart(
    lines: Sequence[Line],
    x_title: str,
    y_range: tuple[float | None, float | None] = (None, None),
    x_range: tuple[float | None, float | None] = (0.0, None),
    guide: float | None = None,
    percent: bool = False,
) -> str:
    """An SVG of the lines, with axes; a fixed end of a range is kept, None follows the data.

    ``guide``: a horizontal line to compare with. A ``smooth`` line of many points is drawn pale,
    with its moving average on top.
    """
    lines = [line for line in lines if line.points]
    x_low, x_high = _range([x for line in lines for x, _ in line.points], x_range)
    ys = [y for line in lines for _, y in line.points]
    y_low, y_high = _range(ys if guide is None else [*ys, guide], y_range)

    def place(point: tuple[float, float]) -> tuple[float, float]:
        x = LEFT + (point[0] - x_low) / (x_high - x_low) * (WIDTH - LEFT - RIGHT)
        y = HEIGHT - BOTTOM - (point[1] - y_low) / (y_high - y_low) * (HEIGHT - TOP - BOTTOM)
        return x, y

    parts = [f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img">']
    for value in ticks(y_low, y_high):
        _, y = place((x_low, value))
        text = f"{100 * value:g}" if percent else _short(value)
        parts.append(f'<path class="grid" d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}"/>')
        parts.append(f'<text class="tick" x="{LEFT - 6}" y="{y + 3.5:.1f}">{text}</text>')
    for value in ticks(x_low, x_high):
        x, _ = place((value, y_low))
        text = f"{100 * value:g}" if percent else _short(value)
        at = f'x="{x:.1f}" y="{HEIGHT - BOTTOM + 14}"'
        parts.append(f'<text class="tick middle" {at}>{text}</text>')
    at = f'x="{WIDTH - RIGHT}" y="{HEIGHT - 3}"'
    parts.append(f'<text class="axis" {at}>{escape(x_title)}</text>')
    if guide is not None:
        _, y = place((x_low, guide))
        parts.append(f'<path class="guide" d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}"/>')
    for line in lines:
        parts += _drawn(line, place)
    return "".join([*parts, "</svg>"])


def style_class(style: int) -> str:
    """CSS classes of the colour and the shape of a run's marks and lines."""
    again = style // STYLES % ROUNDS
    return f"s{style % STYLES}" + (f" k{again}" if again else "")


def _drawn(line: Line, place) -> list[str]:
    kind = style_class(line.style) + (" dashed" if line.dashed else "")
    title = f"<title>{escape(line.note)}</title>"
    if len(line.points) == 1:
        x, y = place(line.points[0])
        return [f'<circle class="dot {kind}" cx="{x:.1f}" cy="{y:.1f}" r="3.5">{title}</circle>']
    smooth = line.smooth and len(line.points) >= 20
    pale = [f'<path class="line pale {kind}" d="{_path(line.points, place)}"/>'] if smooth else []
    points = moving_average(line.points) if smooth else line.points
    return [*pale, f'<path class="line {kind}" d="{_path(points, place)}">{title}</path>']


def _path(points: Points, place) -> str:
    return "M" + "L".join("{:.1f} {:.1f}".format(*place(point)) for point in points)


def moving_average(points: Points) -> list[tuple[float, float]]:
    """Each value averaged with its neighbours, a tenth of the curve in all."""
    half = max(1, len(points) // 20)
    values = [y for _, y in points]
    return [
        (x, sum(part) / len(part))
        for i, (x, _) in enumerate(points)
        if (part := values[max(0, i - half) : i + half + 1])
    ]


def _range(
    values: Sequence[float], fixed: tuple[float | None, float | None]
) -> tuple[float, float]:
    low = min(values, default=0.0) if fixed[0] is None else fixed[0]
    high = max(values, default=1.0) if fixed[1] is None else fixed[1]
    if high <= low:
        high = low + (abs(low) * 0.1 or 1.0)
    margin = 0.05 * (high - low)
    low -= margin if fixed[0] is None else 0.0
    return low, high + (margin if fixed[1] is None else 0.0)


def ticks(low: float, high: float, count: int = 4) -> list[float]:
    """Round numbers in [low, high], about ``count`` of them."""
    raw = (high - low) / count
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(f * power for f in (1, 2, 2.5, 5, 10) if f * power >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [round(k * step, 12) for k in range(first, last + 1)]


def _short(value: float) -> str:
    for size, letter in ((1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:g}{letter}"
    return f"{value:.6g}"
