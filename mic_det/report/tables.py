"""The page's tables: results by class, confusions, settings."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from statistics import mean, stdev
from typing import Any

import numpy as np
import yaml

from .comparison import rivals
from .lineage import own_iterations, start_of, total_iterations
from .runs import RunRecord, by_group, flat, scores
from .svg import style_class

# Told of every run; whatever else differs between the runs follows.
SETTINGS = (
    *("DATASETS.TRAIN", "DATASETS.TARGET", "DATASETS.TEST", "MODEL.WEIGHTS"),
    *("MODEL.SADA.ENABLED", "MODEL.MIC.ENABLED", "MODEL.MIC.RATIO", "MODEL.MIC.BLOCK_SIZE"),
    *("MODEL.MIC.SCORE_THRESH", "MODEL.MIC.DOUBT_THRESH", "MODEL.TEACHER.ALPHA"),
    *("SOLVER.OPTIMIZER", "SOLVER.BASE_LR", "SOLVER.MAX_ITER", "SOLVER.IMS_PER_BATCH"),
    *("TEST.SERVE", "SEED"),
)

# Where a task's configs name the network.
NETWORKS = {
    "classification": "MODEL.CLASSIFIER.BACKBONE",
    "detection": "MODEL.BACKBONE.NAME",
    "segmentation": "MODEL.SEG.ENCODER",
}


def key(run: RunRecord) -> str:
    """The coloured mark of a run."""
    return f'<i class="key {style_class(run.style)}"></i>'


def text_of(values: Sequence[float]) -> str:
    """A mean, with the standard deviation over seeds if there are several."""
    if not values:
        return "–"
    spread = f"<small> ± {stdev(values):.1f}</small>" if len(values) > 1 else ""
    return f"{mean(values):.1f}{spread}"


def classes_of(runs: Sequence[RunRecord], dataset: str) -> list[str]:
    """Names of the classes that were measured by themselves."""
    prefix = f"{runs[0].task.per_class}-"
    found = [metrics for run in runs if (metrics := run.metrics(dataset))]
    names = dict.fromkeys(name for each in found for name in each if name.startswith(prefix))
    return [name.removeprefix(prefix) for name in names]


def results_table(runs: Sequence[RunRecord], dataset: str) -> str:
    """A row for each method (mean over seeds) and model, the served one first."""
    groups = [g for g in by_group(runs) if any(run.metrics(dataset) for run in g)]
    headline, *others = runs[0].task.columns
    prefix = f"{runs[0].task.per_class}-"
    classes = [f"{prefix}{name}" for name in classes_of(runs, dataset)]
    columns = [headline, *classes, *others]
    best, rivalling = {}, rivals(groups)
    for column in columns:
        values = [mean(found) for g in rivalling if (found := scores(g, dataset, column))]
        best[column] = max(values) if len(values) > 1 else math.inf
    heads = "".join(f"<th>{escape(c.removeprefix(prefix))}</th>" for c in columns)
    rows = []
    for group in groups:
        first = group[0]
        models = sorted(first.results, key=lambda which: which != first.served)
        for which in models:
            served = which == first.served
            cells = []
            for column in columns:
                values = scores(group, dataset, column, which)
                top = served and group in rivalling and values and mean(values) >= best[column]
                shaded = values and column not in others
                shade = f' style="--v:{mean(values) / 100:.3f}"' if shaded else ""
                kind = ' class="best"' if top else ""
                cells.append(f"<td{kind}{shade}>{text_of(values)}</td>")
            name = f"{key(first)}{escape(first.label)}" if served else ""
            rows.append(
                f'<tr class="{"served" if served else "other"}"><th>{name}</th>'
                f"<td>{escape(which)}</td>{''.join(cells)}</tr>"
            )
    return scrolling(f"<thead><tr><th></th><th>model</th>{heads}</tr></thead>{''.join(rows)}", "ap")


def scrolling(inner: str, kind: str = "") -> str:
    """A table that scrolls in its own box on narrow screens."""
    return f'<div class="scroll" tabindex="0"><table class="{kind}">{inner}</table></div>'


def confusion_table(matrix: np.ndarray, classes: Sequence[str], *, background: bool = True) -> str:
    """Counts, each row shaded by its share; see `matching.confusion_matrix`.

    ``background``: whether a last row and column are there for nothing, and what was missed.
    """
    extra = (("background",), ("missed",)) if background else ((), ())
    heads = "".join(f"<th><span>{escape(name)}</span></th>" for name in (*classes, *extra[1]))
    rows = []
    for k, name in enumerate((*classes, *extra[0])):
        total = matrix[k].sum()
        cells = []
        for j, count in enumerate(matrix[k]):
            if k == j == len(classes):
                cells.append("<td></td>")
                continue
            share = count / total if total else 0.0
            kind = "hit" if k == j else "miss"
            title = f"{name}: {count} of {total} ({100 * share:.0f} %)"
            cells.append(
                f'<td class="{kind}" style="--v:{share:.3f}" title="{escape(title)}">'
                f"{count or ''}</td>"
            )
        rows.append(f"<tr><th>{escape(name)}</th>{''.join(cells)}</tr>")
    corner = "<th>label \\ found as</th>"
    return scrolling(f"<thead><tr>{corner}{heads}</tr></thead>{''.join(rows)}", "confusion")


def training_table(runs: Sequence[RunRecord]) -> str:
    """A row for each run: what it started from, and the iterations that it has had."""
    by_folder = {run.folder: run for run in runs}
    rows = []
    for run in runs:
        start = start_of(run)
        parent = by_folder.get(start.folder)
        origin = f"{parent.label}: {start.path}" if parent else start.path
        counts = [start.iterations, own_iterations(run), total_iterations(run)]
        cells = [origin or "no file", *("not known" if n is None else str(n) for n in counts)]
        if not run.results and run.max_iter:
            cells[2] += f" of {run.max_iter}, no results"
        name = f"{key(run)}{escape(run.label)} ({escape(run.name)})"
        rows.append(f"<tr><th>{name}</th>{''.join(f'<td>{escape(c)}</td>' for c in cells)}</tr>")
    heads = "".join(
        f"<th>{name}</th>"
        for name in ("run", "started from", "iterations before", "its own", "in all")
    )
    return scrolling(f"<thead><tr>{heads}</tr></thead>{''.join(rows)}", "settings")


def settings_table(runs: Sequence[RunRecord]) -> str:
    """The settings that matter or differ, and the versions, a column for each run."""
    network = NETWORKS.get(runs[0].task_name, "MODEL.BACKBONE.NAME")
    keys = [
        name
        for name in (*SETTINGS[:4], network, *SETTINGS[4:])
        if any(run.setting(name) is not None for run in runs)
    ]
    everything = [dict(flat(run.settings)) for run in runs]
    names = sorted({name for each in everything for name in each})
    differing = [
        name
        for name in names
        if name not in keys
        and name != "OUTPUT_DIR"
        and len({repr(each.get(name)) for each in everything}) > 1
    ]
    rows = []
    for name in [*keys, *differing]:
        values = [_shown(run.setting(name)) for run in runs]
        mark = ' class="differs"' if len(set(values)) > 1 else ""
        rows.append((name, values, mark))
    rows.append(("training time", [run.duration or "–" for run in runs], ""))
    for name in dict.fromkeys(name for run in runs for name in run.versions):
        values = [run.versions.get(name, "–") for run in runs]
        rows.append((name, values, ' class="differs"' if len(set(values)) > 1 else ""))
    rows.append(("folder", [str(run.folder) for run in runs], ""))
    body = "".join(
        f"<tr{mark}><th>{escape(name)}</th>"
        + "".join(f"<td>{escape(value)}</td>" for value in values)
        + "</tr>"
        for name, values, mark in rows
    )
    heads = "".join(f"<th>{key(run)}{escape(run.label)}{_seed(run, runs)}</th>" for run in runs)
    return scrolling(f"<thead><tr><th></th>{heads}</tr></thead>{body}", "settings")


def _seed(run: RunRecord, runs: Sequence[RunRecord]) -> str:
    several = sum(each.group == run.group for each in runs) > 1
    return f" <small>seed {run.setting('SEED')}</small>" if several else ""


def full_settings(run: RunRecord) -> str:
    """The whole config of a run, folded."""
    text = yaml.safe_dump(run.settings, default_flow_style=None, width=100)
    title = f"All settings of {run.label} ({run.name})"
    return f"<details><summary>{escape(title)}</summary><pre>{escape(text)}</pre></details>"


def _shown(value: Any) -> str:
    if value is None:
        return "not in this version"
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value)) or "none"
    return str(value) if value != "" else "none"
