"""Results as tables a person reads."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tabulate import tabulate


def ap50_rows(results: Mapping[str, Any]) -> list[tuple[str, str, dict[str, float]]]:
    """(model, data set, metrics) for each evaluated pair of what ``engine.evaluate`` returns."""
    return [
        (which, name, metrics)
        for which, of_model in results.items()
        for name, metrics in of_model.items()
        if isinstance(metrics, Mapping)
    ]


def results_table(results: Mapping[str, Any]) -> str:
    """AP50, AP and AP50 by class, in percent, a row for each model and data set."""
    rows = ap50_rows(results)
    if not rows:
        return "Nothing was evaluated: DATASETS.TEST is empty."
    prefix = "AP50-"
    classes = [key.removeprefix(prefix) for key in rows[0][2] if key.startswith(prefix)]
    table = [
        [which, name, metrics["AP50"], metrics["AP"], *(metrics[prefix + c] for c in classes)]
        for which, name, metrics in rows
    ]
    headers = ["model", "data", "AP50", "AP", *classes]
    return tabulate(table, headers=headers, floatfmt=".1f")
