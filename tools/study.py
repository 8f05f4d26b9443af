#!/usr/bin/env python
"""Compare methods over several seeds: mean, standard deviation, share of the gap closed.

    python tools/study.py --setting streets --seeds 1 2 3
    python tools/study.py --setting cls/digits --methods source cdan sdat mic oracle
    python tools/study.py --setting seg/day2dusk

Each run is a process of its own; an interrupted study goes on where it was when it is called again.
Further variants of MIC: ``--variant NAME KEY VALUE [KEY VALUE …]``, as often as wanted.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from statistics import mean, stdev

from scipy.stats import spearmanr
from tabulate import tabulate

from mic_det.cli import SAME_COMMAND, run_tool
from mic_det.config_checks import TEST_MODELS
from mic_det.data.errors import DataError
from mic_det.engine.report import result_rows
from mic_det.engine.runs import REPOSITORY, ProgressPrinter, Run, run_all
from mic_det.errors import ConfigError
from mic_det.tasks import task_of

CONFIGS = REPOSITORY / "configs"
# Method: (config, overrides). A plain mean teacher is MIC that hides nothing.
METHODS = {
    "burn_in": ("burn_in", ()),
    "source": ("source", ()),
    "sada": ("sada", ()),
    "mean_teacher": ("mic", ("MODEL.MIC.RATIO", "0.0")),
    "mic": ("mic", ()),
    "oracle": ("oracle", ()),
}
CLASSIFICATION = {
    "burn_in": ("burn_in", ()),
    "source": ("source", ()),
    "dann": ("dann", ()),
    "cdan": ("cdan", ()),
    "cdan_mcc": ("cdan_mcc", ()),
    "sdat": ("sdat", ()),
    "mic": ("mic", ()),
    "oracle": ("oracle", ()),
}
SEGMENTATION = {
    name: (name, ())
    for name in ("burn_in", "source", "adversarial", "self_training", "mic", "hrda", "hrda_mic")
} | {"oracle": ("oracle", ())}
# By the folder of a setting's configs.
BY_FOLDER = {"cls": CLASSIFICATION, "seg": SEGMENTATION}
COSTS = {"self_training": 2.5, "hrda": 6.0, "hrda_mic": 9.0, "adversarial": 2.2}
COSTS |= {"mic": 2.2, "mean_teacher": 2.2, "sada": 2.2, "sdat": 2.2}


def chosen_methods(setting: str, names: Sequence[str] | None) -> dict[str, tuple]:
    """The methods of these names, and the burn-in where the setting has one; all if None."""
    known = BY_FOLDER.get(str(Path(setting).parent), METHODS)
    known = {k: v for k, v in known.items() if (CONFIGS / f"{setting}_{v[0]}.yaml").is_file()}
    if not known:
        raise ConfigError(f"--setting: there is no {CONFIGS}/{setting}_….yaml of a method")
    unknown = [name for name in names or () if name not in known]
    if unknown:
        raise ConfigError(f"--methods: {unknown[0]!r} is none of {', '.join(known)}")
    chosen = dict.fromkeys([*(["burn_in"] if "burn_in" in known else []), *(names or known)])
    return {name: known[name] for name in chosen}


def build_runs(
    setting: str,
    methods: dict[str, tuple[str, Sequence[str]]],
    seeds: Sequence[int],
    output: Path,
    overrides: Sequence[str],
) -> list[Run]:
    """A run for each method and seed; what starts from a burn-in, from that of the same seed."""
    runs: list[Run] = []
    for seed in seeds:
        by_method: dict[str, Run] = {}
        for method, (config, extra) in methods.items():
            path = CONFIGS / f"{setting}_{config}.yaml"
            folder = output / f"{method}_{seed}"
            # The table is of what training ends with.
            settings = ["SEED", str(seed), "TEST.EVAL_PERIOD", "0", *extra, *overrides]
            run = Run(folder.name, path, folder, settings)
            if run.cfg.MODEL.WEIGHTS:
                burn_in = output / f"burn_in_{seed}" / Path(run.cfg.MODEL.WEIGHTS).name
                settings = [*settings, "MODEL.WEIGHTS", str(burn_in)]
                origin = by_method.get("burn_in")
                run = Run(folder.name, path, folder, settings, needs=burn_in, after=origin)
            by_method[method] = run
            runs.append(run)
    return runs


def collect(runs: Sequence[Run]) -> dict[str, dict[str, list[float]]]:
    """The headline metric of each method's seeds: ``{method: {model: [AP50, …]}}``."""
    metric = task_of(runs[0].cfg).headline
    found: dict[str, dict[str, list[float]]] = {}
    for run in runs:
        method = run.name.rsplit("_", 1)[0]
        for which, _, metrics in result_rows(run.results()):
            found.setdefault(method, {}).setdefault(which, []).append(metrics[metric])
    return found


def gap_closed(scores: dict[str, float], method: str) -> float:
    """Share of the distance from source-only to oracle, in percent; nan where there is none."""
    source, oracle = scores["source"], scores["oracle"]
    if source == oracle:
        return float("nan")
    return 100.0 * (scores[method] - source) / (oracle - source)


def rank_correlation(runs: Sequence[Run]) -> tuple[float, int]:
    """Spearman's rho between label-free stability and the task's metric over all models."""
    metric = task_of(runs[0].cfg).headline
    pairs = [
        (of_model["stability"], metrics[metric])
        for run in runs
        for of_model in run.results().values()
        if "stability" in of_model
        for metrics in of_model.values()
        if isinstance(metrics, dict)
    ]
    if len(pairs) < 3:
        return float("nan"), len(pairs)
    return float(spearmanr(*zip(*pairs, strict=True)).statistic), len(pairs)


def report(runs: Sequence[Run], served: str) -> dict:
    """Print the table; return what it is made of."""
    found = collect(runs)
    models = [which for which in TEST_MODELS if any(which in each for each in found.values())]
    scores = {method: mean(each[served]) for method, each in found.items() if served in each}
    rows = []
    for method, each in found.items():
        row = [method]
        for which in models:
            values = each.get(which, [])
            spread = f" ± {stdev(values):.1f}" if len(values) > 1 else ""
            row.append(f"{mean(values):.1f}{spread}" if values else "")
        if {"source", "oracle", method} <= scores.keys():
            row.append(f"{gap_closed(scores, method):.0f} %")
        rows.append(row)
    task = task_of(runs[0].cfg)
    headers = ["", *(f"{task.title} {which}" for which in models), "gap closed"]
    print(tabulate(rows, headers=headers[: len(rows[0])], disable_numparse=True))
    rho, count = rank_correlation(runs)
    against = f"Label-free stability against {task.title}"
    print(f"\n{against}: Spearman's rho {rho:.2f} over {count} models.")
    return {
        task.headline: found,
        "served": served,
        "label_free_spearman": rho,
        "models_ranked": count,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--setting", default="streets", help="prefix of the configs' names")
    parser.add_argument("--methods", nargs="+", help="names of configs; default: all of them")
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3])
    parser.add_argument("--variant", nargs="+", action="append", default=[], metavar="NAME")
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of each run")
    parser.add_argument("--output", type=Path)
    parser.add_argument("overrides", nargs="*", help="KEY VALUE for all runs, after --")
    arguments = parser.parse_args()
    methods = chosen_methods(arguments.setting, arguments.methods)
    methods |= {name: ("mic", tuple(pairs)) for name, *pairs in arguments.variant}
    output = arguments.output or REPOSITORY / "output" / "study" / arguments.setting
    output = output.resolve()
    output.mkdir(parents=True, exist_ok=True)
    runs = build_runs(arguments.setting, methods, arguments.seeds, output, arguments.overrides)
    missing = [task_of(run.cfg).missing_data_message(run.cfg, training=True) for run in runs]
    message = "\n\n".join(dict.fromkeys(filter(None, missing)))
    if message:
        raise DataError(message)
    costs = {run.name: COSTS.get(run.name.rsplit("_", 1)[0], 1.0) for run in runs}
    printer = ProgressPrinter(costs, every=60.0)
    run_all(runs, arguments.jobs, arguments.threads, printer)
    found = report(runs, runs[0].cfg.TEST.SERVE)
    (output / "study.json").write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    print(f"Written to {output / 'study.json'}")


if __name__ == "__main__":
    run_tool(main, SAME_COMMAND)
