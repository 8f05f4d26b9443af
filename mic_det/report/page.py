"""The page: sections in order, one style sheet, one small script, nothing from elsewhere."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from datetime import datetime
from html import escape
from importlib.resources import files
from pathlib import Path
from statistics import mean

from mic_det import __version__
from mic_det.data.files import write_text_atomically

from . import curves, tables
from .comparison import BASELINE, ENDS, ORACLE, comparisons
from .html import grid, problem_list
from .runs import RunRecord, by_group, first_of_groups, scores
from .svg import style_class

# What a page shows of predictions, by MODEL.TASK: modules with ``NOTE``, on the table of results,
# and ``sections(runs, dataset, images)``, (title, HTML) each.
SECTIONS = {
    "classification": "mic_det.report.classification",
    "detection": "mic_det.report.detection",
    "segmentation": "mic_det.report.segmentation",
}
CURVES_NOTE = (
    "By iteration of the run itself: one that starts from another's checkpoint counts from 0 again."
)
COMPARED_NOTE = (
    "Only runs are compared that were trained for as many iterations in all, from the same "
    "weights, and with the same settings but for those of the method. Nothing is bold if the runs "
    "that no other started from differ in length."
)
TRAINING_NOTE = (
    "In all: the run's own iterations, up to the model that its results are of, and those of the "
    "runs that it started from (MODEL.WEIGHTS)."
)


def write_report(runs: Sequence[RunRecord], path: Path, images: int = 8) -> None:
    """Write the page about ``runs``, with ``images`` example images of each test set."""
    write_text_atomically(path, render(runs, images))


def render(runs: Sequence[RunRecord], images: int = 8) -> str:
    """The page as text."""
    datasets = list(dict.fromkeys(name for run in runs for name in run.datasets))
    several = len(datasets) > 1
    kind = importlib.import_module(SECTIONS[runs[0].task_name])
    sections: list[tuple[str, str]] = []
    for dataset in datasets:
        suffix = f" on {dataset}" if several else ""
        sections.append((f"Results{suffix}", _results(runs, dataset, kind.NOTE)))
    for dataset in datasets:
        suffix = f" on {dataset}" if several else ""
        sections += [(f"{t}{suffix}", html) for t, html in kind.sections(runs, dataset, images)]
    note = f'<p class="note">{TRAINING_NOTE}</p>'
    sections.append(("Starts and lengths", note + tables.training_table(runs)))
    health = curves.health_cards(runs)
    if health:
        sections.append(("Health of the adaptation", grid(health, CURVES_NOTE)))
    sections.append(("Learning curves", _learning(runs)))
    sections.append(("Settings and versions", _settings(runs)))
    return _page(runs, datasets, sections)


def _results(runs: Sequence[RunRecord], dataset: str, note: str) -> str:
    bars = []
    for group in by_group(runs):
        values = scores(group, dataset, group[0].task.headline)
        if values:
            first = group[0]
            style = style_class(first.style)
            bars.append(
                f'<div class="bar"><span>{tables.key(first)}{escape(first.label)}</span>'
                f'<div><b class="{style}" style="width:{mean(values):.1f}%"></b></div>'
                f"<strong>{tables.text_of(values)}</strong></div>"
            )
    table = tables.results_table(runs, dataset)
    pairs = "".join(f"<li>{escape(str(pair))}</li>" for pair in comparisons(runs, dataset))
    pairs = f"<ul>{pairs}</ul>" if pairs else ""
    notes = f'<p class="note">{note} {COMPARED_NOTE}</p>'
    return f'<div class="bars">{"".join(bars)}</div>{pairs}{notes}{table}'


def _learning(runs: Sequence[RunRecord]) -> str:
    """What sums a run up, and each loss by itself, folded."""
    losses = curves.loss_cards(runs)
    folded = f'<div class="cards">{"".join(losses)}</div>'
    folded = f"<details><summary>Each of the {len(losses)} losses</summary>{folded}</details>"
    return grid(curves.learning_cards(runs), CURVES_NOTE) + (folded if losses else "")


def _settings(runs: Sequence[RunRecord]) -> str:
    problems = [f"{run.folder}: {problem}" for run in runs for problem in run.problems]
    details = "".join(map(tables.full_settings, first_of_groups(runs)))
    note = '<p class="note">Tinted rows differ between the runs.</p>' if len(runs) > 1 else ""
    return problem_list(problems) + note + tables.settings_table(runs) + details


def headline(runs: Sequence[RunRecord], dataset: str) -> str:
    """The result in a sentence, compared as far as `comparisons` are fair."""
    groups = [
        (group[0], scores(group, dataset, group[0].task.headline)) for group in by_group(runs)
    ]
    found = [(mean(values), first) for first, values in groups if values]
    if not found:
        return "Nothing was measured."
    title = runs[0].task.title
    adapted = [pair for pair in found if pair[1].method not in ENDS]
    if not adapted:
        listed = ", ".join(f"{run.label} {score:.1f}" for score, run in found)
        return f"{title} on {dataset}: {listed}."
    best, run = max(adapted, key=lambda pair: pair[0])
    parts = [f"{run.label} reaches {best:.1f} {title} on {dataset}"]
    fair = [pair for pair in comparisons(runs, dataset) if pair.method[0] is run]
    fair = [pair for pair in fair if not pair.reasons]
    against, bounds = (
        [pair.scores[1] for pair in fair if pair.baseline[0].method == name]
        for name in (BASELINE, ORACLE)
    )
    if against:
        lowest = max(against)
        parts.append(f"{best - lowest:+.1f} against source-only ({lowest:.1f})")
        bound = max(bounds, default=lowest)
        if bound > lowest:
            share = 100 * (best - lowest) / (bound - lowest)
            parts.append(f"{share:.0f} % of the way to the oracle ({bound:.1f})")
    elif any(other.method == BASELINE for _, other in found):
        parts.append("not comparable with source-only (see Results)")
    return ", ".join(parts) + "."


def _page(
    runs: Sequence[RunRecord], datasets: Sequence[str], sections: Sequence[tuple[str, str]]
) -> str:
    here = files("mic_det.report")
    style, script = ((here / n).read_text(encoding="utf-8") for n in ("page.css", "page.js"))
    title = _title(runs)
    links = "".join(f'<a href="#part{i}">{escape(t)}</a>' for i, (t, _) in enumerate(sections))
    body = "".join(
        f'<section id="part{i}"><h2>{escape(t)}</h2>{html}</section>'
        for i, (t, html) in enumerate(sections)
    )
    legend = "".join(
        f"<span>{tables.key(run)}{escape(run.label)}</span>" for run in first_of_groups(runs)
    )
    lead = " ".join(headline(runs, name) for name in datasets) or "Nothing was measured yet."
    count = f"{len(runs)} run{'s' if len(runs) > 1 else ''}"
    date = datetime.now().strftime("%d %B %Y")
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark">'
        f"<title>{escape(title)}</title><style>{style}</style></head><body>"
        f'<header><h1>{escape(title)}</h1><p class="lead">{escape(lead)}</p><nav>{links}</nav>'
        f'</header><div class="legend" id="runs">{legend}</div><main>{body}</main>'
        f"<footer>{count}, {date}, mic_det {__version__}</footer>"
        f"<script>{script}</script></body></html>\n"
    )


def _title(runs: Sequence[RunRecord]) -> str:
    """Source and target of the adaptation, or of whatever there is."""
    order = sorted(runs, key=lambda run: run.method == "oracle")
    source, target = (
        ", ".join(order[0].setting(f"DATASETS.{name}") or ()) for name in ("TRAIN", "TARGET")
    )
    return f"{source} → {target}" if source and target else source or "Runs"
