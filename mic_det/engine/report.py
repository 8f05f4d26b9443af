"""Results as tables a person reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tabulate import tabulate

MOST_CLASSES = 20


def result_rows(results: Mapping[str, Any]) -> list[tuple[str, str, dict[str, float]]]:
    """(model, data set, metrics) for each evaluated pair of what ``engine.evaluate`` returns."""
    return [
        (which, name, metrics)
        for which, of_model in results.items()
        for name, metrics in of_model.items()
        if isinstance(metrics, Mapping)
    ]


def results_table(
    results: Mapping[str, Any],
    columns: Sequence[str] = ("AP50", "AP"),
    per_class: str = "AP50",
) -> str:
    """Metrics in percent, a row for each model and data set.

    ``columns``: overall metrics; ``per_class``: prefix of those by class, shown for up to
    `MOST_CLASSES` of them.
    """
    rows = result_rows(results)
    if not rows:
        return "Nothing was evaluated: DATASETS.TEST is empty."
    prefix = f"{per_class}-"
    classes = [key.removeprefix(prefix) for key in rows[0][2] if key.startswith(prefix)]
    classes = classes if len(classes) <= MOST_CLASSES else []
    table = [
        [which, name, *(metrics[c] for c in (*columns, *(prefix + c for c in classes)))]
        for which, name, metrics in rows
    ]
    return tabulate(table, headers=["model", "data", *columns, *classes], floatfmt=".1f")
