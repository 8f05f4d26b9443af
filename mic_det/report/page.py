"""The page: sections in order, one style sheet, one small script, nothing from elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from html import escape
from importlib.resources import files
from pathlib import Path
from statistics import mean

from mic_det import __version__
from mic_det.data.coco import DataError, write_text_atomically

from . import curves, examples, tables
from .matching import IOU, Matches, TestSet, confusion_matrix, read_matches, read_test_set
from .runs import RunRecord, first_of_groups
from .svg import style_class

METHOD_NOTE = (
    "AP50 in percent: average precision at IoU 0.5, as COCO's tool computes it. The model that is "
    "served (TEST.SERVE) comes first, the other of student and teacher in grey below. Bold: best "
    "without the oracle, which is trained on the target's labels."
)
CURVES_NOTE = (
    "By iteration of the run itself: one that starts from another's checkpoint counts from 0 again."
)
EXAMPLES_NOTE = (
    "Spread evenly over the test images, not picked. A detection is right when it meets a label of "
    "its class at IoU 0.5 that no surer one has taken."
)
PRECISION_NOTE = "Precision in percent over recall, at IoU 0.5; the numbers are AP50."
CONFUSION_NOTE = (
    "Rows are labels, columns what they were found as; detections of nothing are in the row "
    "“background”. Shading: share of the row. Detections first go to labels of their own class; "
    f"the rest, surest first, to the free label they overlap most (IoU ≥ {IOU:g}). "
    f"Score ≥ {examples.THRESHOLD:g}."
)


@dataclass
class Compared:
    """What is known of one test set: its labels, if at hand, and detections of some runs."""

    name: str
    test_set: TestSet | None
    found: list[tuple[RunRecord, Matches]]
    problems: list[str]


def compare(runs: Sequence[RunRecord], dataset: str) -> Compared:
    """Read the saved detections on a test set, of one run of each group of seeds."""
    compared = Compared(dataset, None, [], [])
    for run in first_of_groups(run for run in runs if run.metrics(dataset)):
        if not run.has_detections(dataset):
            compared.problems.append(
                f"{run.label} ({run.folder}): no saved detections of its {run.served}. They are "
                "written by evaluation; tools/report.py --evaluate does it now."
            )
            continue
        folder = run.inference_folder(dataset)
        try:
            if compared.test_set is None:
                compared.test_set = read_test_set(folder)
            compared.found.append((run, read_matches(folder, compared.test_set)))
        except DataError as error:
            compared.problems.append(f"{run.label}: {error}")
    return compared


def write_report(runs: Sequence[RunRecord], path: Path, images: int = 8) -> None:
    """Write the page about ``runs``, with ``images`` example images of each test set."""
    write_text_atomically(path, render(runs, images))


def render(runs: Sequence[RunRecord], images: int = 8) -> str:
    """The page as text."""
    datasets = list(dict.fromkeys(name for run in runs for name in run.datasets))
    several = len(datasets) > 1
    sections: list[tuple[str, str]] = []
    for dataset in datasets:
        suffix = f" on {dataset}" if several else ""
        sections.append((f"Results{suffix}", _results(runs, dataset)))
    for dataset in datasets:
        suffix = f" on {dataset}" if several else ""
        sections += [(f"{t}{suffix}", html) for t, html in _detections(runs, dataset, images)]
    health = curves.health_cards(runs)
    if health:
        sections.append(("Health of the adaptation", _grid(health, CURVES_NOTE)))
    sections.append(("Learning curves", _learning(runs)))
    sections.append(("Settings and versions", _settings(runs)))
    return _page(runs, datasets, sections)


def _results(runs: Sequence[RunRecord], dataset: str) -> str:
    bars = []
    for group in tables.by_group(runs):
        values = tables.scores(group, dataset, "AP50")
        if values:
            first = group[0]
            style = style_class(first.style)
            bars.append(
                f'<div class="bar"><span>{tables.key(first)}{escape(first.label)}</span>'
                f'<div><b class="{style}" style="width:{mean(values):.1f}%"></b></div>'
                f"<strong>{tables.text_of(values)}</strong></div>"
            )
    table = tables.results_table(runs, dataset)
    return f'<div class="bars">{"".join(bars)}</div><p class="note">{METHOD_NOTE}</p>{table}'


def _detections(runs: Sequence[RunRecord], dataset: str, images: int) -> list[tuple[str, str]]:
    compared = compare(runs, dataset)
    problems = _problems(compared.problems)
    if not compared.found or compared.test_set is None:
        return [("Detections", problems)]
    test_set = compared.test_set
    cards = curves.precision_cards(test_set.classes, compared.found)
    rows = examples.example_rows(test_set, compared.found, images)
    shown = _slider() + "".join(rows)
    if not rows:
        shown = _problems([f"The images of {dataset} are not at {test_set.images} any more."])
    confusions = [
        f'<figure class="card wide"><figcaption>{tables.key(run)}{escape(run.label)}</figcaption>'
        + tables.confusion_table(
            confusion_matrix(matches, len(test_set.classes), examples.THRESHOLD), test_set.classes
        )
        + "</figure>"
        for run, matches in compared.found
    ]
    return [
        ("Detections side by side", f'{problems}<p class="note">{EXAMPLES_NOTE}</p>{shown}'),
        ("Precision and recall", _grid(cards, PRECISION_NOTE)),
        (
            "Confusions",
            f'<p class="note">{CONFUSION_NOTE}</p><div class="pairs">{"".join(confusions)}</div>',
        ),
    ]


def _learning(runs: Sequence[RunRecord]) -> str:
    """What sums a run up, and each loss by itself, folded."""
    losses = curves.loss_cards(runs)
    folded = f'<div class="cards">{"".join(losses)}</div>'
    folded = f"<details><summary>Each of the {len(losses)} losses</summary>{folded}</details>"
    return _grid(curves.learning_cards(runs), CURVES_NOTE) + (folded if losses else "")


def _slider() -> str:
    return (
        '<div class="controls"><label>Score at least <output>0.50</output>'
        f'<input type="range" min="{examples.LEAST_SCORE}" max="0.95" step="0.05" '
        f'value="{examples.THRESHOLD}"></label>'
        '<label><input type="checkbox" checked> names</label>'
        '<span class="marks"><i class="mark right"></i>right <i class="mark false"></i>false '
        '<i class="mark missed"></i>missed <i class="mark truth"></i>label</span></div>'
    )


def _settings(runs: Sequence[RunRecord]) -> str:
    problems = [f"{run.folder}: {problem}" for run in runs for problem in run.problems]
    details = "".join(map(tables.full_settings, first_of_groups(runs)))
    note = '<p class="note">Tinted rows differ between the runs.</p>' if len(runs) > 1 else ""
    return _problems(problems) + note + tables.settings_table(runs) + details


def _grid(cards: Sequence[str], note: str) -> str:
    if not cards:
        return _problems(["None of these runs has curves."])
    return f'<p class="note">{escape(note)}</p><div class="cards">{"".join(cards)}</div>'


def _problems(problems: Sequence[str]) -> str:
    items = "".join(f"<li>{escape(each)}</li>" for each in problems)
    return f'<ul class="problems">{items}</ul>' if items else ""


def headline(runs: Sequence[RunRecord], dataset: str) -> str:
    """The result in a sentence, as far as there are a baseline, a method and a bound."""
    found = {}
    for group in tables.by_group(runs):
        values = tables.scores(group, dataset, "AP50")
        if values:
            found.setdefault(group[0].method, []).append((mean(values), group[0].label))
    if not found:
        return "Nothing was measured."
    rows = [(method, *pair) for method, pairs in found.items() for pair in pairs]
    adapted = [row for row in rows if row[0] not in ("source-only", "oracle")]
    if not adapted:
        scores = ", ".join(f"{label} {score:.1f}" for _, score, label in rows)
        return f"mAP50 on {dataset}: {scores}."
    _, best, label = max(adapted, key=lambda row: row[1])
    parts = [f"{label} reaches {best:.1f} mAP50 on {dataset}"]
    if "source-only" in found:
        lowest = max(found["source-only"])[0]
        parts.append(f"{best - lowest:+.1f} against source-only ({lowest:.1f})")
        bound = max(found["oracle"])[0] if "oracle" in found else lowest
        if bound > lowest:
            share = 100 * (best - lowest) / (bound - lowest)
            parts.append(f"{share:.0f} % of the way to the oracle ({bound:.1f})")
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
