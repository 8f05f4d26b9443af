"""A figure of pairs: each method without and with an addition, over several seeds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from statistics import mean, stdev

from .svg import ticks

WIDTH, ROW, TOP, BOTTOM, LEFT, RIGHT = 640, 34, 34, 40, 230, 60
COLOURS = ("#8a8f98", "#1f6fd1")


@dataclass(frozen=True)
class Pair:
    """A method's values, one a seed, ``without`` the addition and ``added`` with it, or none."""

    title: str
    without: Sequence[float]
    added: Sequence[float]


def pairs_figure(pairs: Sequence[Pair], axis: str, legend: tuple[str, str]) -> str:
    """A stand-alone SVG: a line for each method from its mean without to that with the addition.

    Bars are one standard deviation to either side, small dots the seeds.
    """
    values = [value for pair in pairs for value in (*pair.without, *pair.added)]
    low, high = min(values, default=0.0), max(values, default=1.0)
    margin = 0.08 * (high - low) or 1.0
    low, high = low - margin, high + margin
    bottom = TOP + ROW * len(pairs)

    def x(value: float) -> float:
        return LEFT + (value - low) / (high - low) * (WIDTH - LEFT - RIGHT)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {bottom + BOTTOM}" '
        f'width="{WIDTH}" font-family="sans-serif" font-size="13" role="img">',
        f'<rect width="{WIDTH}" height="{bottom + BOTTOM}" fill="#ffffff"/>',
    ]
    for i, text in enumerate(legend):
        at = LEFT + 130 * i
        parts.append(f'<circle cx="{at}" cy="14" r="5" fill="{COLOURS[i]}"/>')
        parts.append(f'<text x="{at + 10}" y="18.5" fill="#222222">{escape(text)}</text>')
    for tick in ticks(low, high, 6):
        line = f"M{x(tick):.1f} {TOP}V{bottom}"
        parts.append(f'<path d="{line}" stroke="#e3e5e8"/>')
        parts.append(_label(x(tick), bottom + 16, f"{tick:g}", "middle"))
    parts.append(_label(WIDTH - RIGHT, bottom + 33, axis, "end"))
    for i, pair in enumerate(pairs):
        y = TOP + ROW * (i + 0.5)
        parts.append(_label(LEFT - 12, y + 4.5, pair.title, "end"))
        parts += _drawn(pair, y, x)
    return "\n".join([*parts, "</svg>", ""])


def _drawn(pair: Pair, y: float, x) -> list[str]:
    parts = []
    if pair.without and pair.added:
        line = f"M{x(mean(pair.without)):.1f} {y:.1f}H{x(mean(pair.added)):.1f}"
        parts.append(f'<path d="{line}" stroke="#1f6fd1" stroke-width="2" opacity="0.35"/>')
    for values, colour, shift in ((pair.without, COLOURS[0], -5), (pair.added, COLOURS[1], 5)):
        if not values:
            continue
        centre, at = mean(values), y + (shift if pair.added else 0)
        if len(values) > 1:
            wide = stdev(values)
            line = f"M{x(centre - wide):.1f} {at:.1f}H{x(centre + wide):.1f}"
            parts.append(f'<path d="{line}" stroke="{colour}" stroke-width="2"/>')
        for value in values:
            dot = f'cx="{x(value):.1f}" cy="{at:.1f}" r="2"'
            parts.append(f'<circle {dot} fill="{colour}" opacity="0.6"/>')
        title = f"<title>{centre:.1f}</title>"
        parts.append(f'<circle cx="{x(centre):.1f}" cy="{at:.1f}" r="5" fill="{colour}">')
        parts.append(f"{title}</circle>")
    if pair.added:
        change = mean(pair.added) - mean(pair.without)
        parts.append(_label(WIDTH - 8, y + 4.5, f"{round(change, 1) + 0.0:+.1f}", "end"))
    return parts


def _label(x: float, y: float, text: str, anchor: str) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" fill="#222222" text-anchor="{anchor}">{escape(text)}</text>'
    )
