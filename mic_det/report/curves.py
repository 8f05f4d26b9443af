"""The page's charts: learning, health of the adaptation, precision and recall."""

from __future__ import annotations

import re
from collections.abc import Sequence
from html import escape

import numpy as np

from mic_det.engine.health_curves import PREFIX

from .matching import Matches
from .runs import RunRecord
from .svg import Line, chart, style_class

# (title, scalar under "health/", range of y, what a reader should look for)
HEALTH = (
    (
        "Pseudo boxes an image",
        "pseudo_boxes_per_image",
        (0.0, None),
        "Should settle near the number of objects there are. Falling to 0: the teacher is sure of "
        "nothing. Growing without end: it labels what is not there.",
    ),
    (
        "Target images with pseudo boxes",
        "images_with_pseudo_boxes",
        (0.0, 1.0),
        "The share that the masked loss learns from.",
    ),
    (
        "Mean score of pseudo boxes",
        "teacher_score",
        (None, 1.0),
        "Never below MODEL.MIC.SCORE_THRESH. Close to 1 with few boxes: only the easiest objects.",
    ),
    (
        "Distance of teacher and student",
        "teacher_distance",
        (0.0, None),
        "Relative L2 of the weights. Falls with the learning rate; a sudden rise: training broke.",
    ),
)
DOMAIN_PARTS = (("image", "Image level"), ("instance", "Proposals"))
DOMAIN_NOTE = (
    "Share of positions or proposals whose domain the classifier of a pyramid level tells right, "
    "both domains counting the same. 0.5 is chance, where aligned features should lead; at 1 the "
    "features still give the domain away."
)


def card(title: str, svg: str, note: str = "") -> str:
    """A chart with its title, and what to look for."""
    note = f'<p class="note">{escape(note)}</p>' if note else ""
    return f'<figure class="card"><figcaption>{escape(title)}</figcaption>{svg}{note}</figure>'


def _legend(lines: Sequence[tuple[Line, str]]) -> str:
    """Small marks with texts, for a single chart."""
    marks = "".join(
        f'<span><i class="key {style_class(line.style)}"></i>{escape(text)}</span>'
        for line, text in lines
    )
    return f'<div class="legend small">{marks}</div>'


def _line(run: RunRecord, name: str, smooth: bool = True) -> Line:
    return Line(run.curve(name), run.style, run.label, run.method == "oracle", smooth)


def learning_cards(runs: Sequence[RunRecord]) -> list[str]:
    """The headline metric where it was measured more than once, and the total loss."""
    cards = []
    names = {name for run in runs for name in run.scalars()}
    headline = runs[0].task.headline
    measured = re.compile(rf"(student|teacher)/.+/{re.escape(headline)}")
    for name in sorted(filter(measured.fullmatch, names)):
        lines = [_line(run, name, smooth=False) for run in runs]
        if any(len(line.points) > 1 for line in lines):
            which, dataset, _ = name.split("/", 2)
            svg = chart(lines, "iteration", (0, None))
            cards.append(card(f"{headline} of the {which}, {dataset}", svg))
    return [*cards, *_loss_cards(runs, {"total_loss": "Total loss"})]


def loss_cards(runs: Sequence[RunRecord]) -> list[str]:
    """Every single loss of any run."""
    names = sorted({name for run in runs for name in run.scalars() if name.startswith("loss_")})
    return _loss_cards(runs, dict(zip(names, names, strict=True)))


def _loss_cards(runs: Sequence[RunRecord], titles: dict[str, str]) -> list[str]:
    cards = []
    for name, title in titles.items():
        lines = [_line(run, name) for run in runs]
        if any(line.points for line in lines):
            cards.append(card(title, chart(lines, "iteration", (0, None))))
    return cards


def health_cards(runs: Sequence[RunRecord]) -> list[str]:
    """What tells whether the adaptation is healthy; nothing for runs that do not adapt."""
    cards = []
    for title, name, y_range, note in HEALTH:
        lines = [_line(run, PREFIX + name) for run in runs]
        if any(line.points for line in lines):
            cards.append(card(title, chart(lines, "iteration", y_range), note))
    for run in runs:
        for part, title in DOMAIN_PARTS:
            lines = _domain_lines(run, part)
            if lines:
                svg = chart(lines, "iteration", (None, 1.0), guide=0.5)
                legend = _legend([(line, line.note) for line in lines])
                cards.append(
                    card(f"{title}: domain accuracy, {run.label}", legend + svg, DOMAIN_NOTE)
                )
    return cards


def _domain_lines(run: RunRecord, part: str) -> list[Line]:
    lines = []
    for name in run.scalars():
        if name.startswith(f"{PREFIX}domain_accuracy_{part}/"):
            level = name.rpartition("/")[2]
            lines.append(Line(run.curve(name), len(lines) + 1, level, smooth=True))
    return lines


def precision_cards(
    classes: Sequence[str], found: Sequence[tuple[RunRecord, Matches]]
) -> list[str]:
    """Precision over recall at IoU 0.5: the mean over classes, then each class."""
    recall = np.linspace(0.0, 1.0, 101)
    cards = []
    for name in (None, *classes):
        lines = []
        for run, matches in found:
            curves = matches.precision
            if name is None:
                curve = np.mean(list(curves.values()), axis=0) if curves else None
            else:
                curve = curves.get(name)
            if curve is not None:
                note = f"{run.label}: AP50 {100 * curve.mean():.1f}"
                points = list(zip(recall.tolist(), curve.tolist(), strict=True))
                lines.append(Line(points, run.style, note, run.method == "oracle"))
        if not lines:
            continue
        scores = _legend([(line, line.note.rpartition(" ")[2]) for line in lines])
        svg = chart(lines, "recall %", (0.0, 1.0), (0.0, 1.0), percent=True)
        cards.append(card(name or "All classes", scores + svg))
    return cards
