#!/usr/bin/env python
"""Every segmentation host without and with MIC, over several seeds: a table and a figure.

    python tools/study_hosts.py --setting day2dusk --seeds 1 2 3

All rows of a seed start from that seed's burn-in, if the setting has one, and have the same number
of iterations from there: SPCL's are half adversarial warm-up, DiGA's half distillation. The oracle
has those of the burn-in as well, from random weights. Each run is a process of its own; an
interrupted study goes on where it was when it is called again. A GPU is used if there is one.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import NamedTuple

from tabulate import tabulate

from mic_det.cli import SAME_COMMAND, run_tool
from mic_det.config import ConfigError, load_config
from mic_det.data.errors import DataError
from mic_det.data.files import write_atomically
from mic_det.engine.report import result_rows
from mic_det.engine.runs import REPOSITORY, ProgressPrinter, Run, run_all
from mic_det.report.pairs import Pair, pairs_figure
from mic_det.tasks import task_of

CONFIGS = REPOSITORY / "configs" / "seg"


class Row(NamedTuple):
    """A row of the table: the config's name, and whether there is a run with MIC as well."""

    title: str
    config: str
    with_mic: bool = True


ROWS = {
    "source": Row("source-only", "source"),
    "adversarial": Row("adversarial", "adversarial"),
    "spcl": Row("SPCL", "spcl"),
    # It has no pseudo labels that MIC could use.
    "diga_warmup": Row("DiGA, warm-up alone", "diga", with_mic=False),
    "diga": Row("DiGA", "diga"),
    "self_training": Row("self-training (DACS, DAFormer)", "self_training"),
    "hrda": Row("HRDA", "hrda"),
    "oracle": Row("oracle", "oracle", with_mic=False),
}
# Time of an iteration against source-only's, for the time that is left; roughly, measured on a CPU
# core with the small network of streets. MIC adds a pass of the teacher and one of the student.
COSTS = {
    "adversarial": 3.3,
    "warmup": 3.3,
    "spcl": 2.3,
    "diga_warmup": 3.9,
    "diga": 4.0,
    "self_training": 2.3,
    "hrda": 2.5,
}
MIC_COSTS = {"source": 1.6, "adversarial": 1.6, "diga": 0.5}
OTHER_MIC_COST = 1.1


def split_iterations(row: str, total: int) -> list[str]:
    """Settings that give a row ``total`` iterations in all, warm-up included."""
    half = total // 2
    settings = {
        "spcl": {
            "SOLVER.MAX_ITER": total - half,
            "MODEL.SEG.SPCL.SELF_TRAINING_FROM": (total - half) // 2,
        },
        "warmup": {"SOLVER.MAX_ITER": half},
        "diga_warmup": {"SOLVER.MAX_ITER": total, "MODEL.SEG.DIGA.WARMUP_ITERS": total},
        "diga": {"SOLVER.MAX_ITER": total, "MODEL.SEG.DIGA.WARMUP_ITERS": half},
    }.get(row, {"SOLVER.MAX_ITER": total})
    return [str(each) for pair in settings.items() for each in pair]


def build_runs(
    setting: str,
    rows: Sequence[str],
    seeds: Sequence[int],
    total: int,
    output: Path,
    overrides: Sequence[str] = (),
    burn_in_iterations: int | None = None,
    served: str = "student",
) -> list[Run]:
    """Runs named ``<row>[+mic]_<seed>``, and what they start from, ``burn_in_<seed>`` and SPCL's
    ``warmup_<seed>``. Only the ``served`` model of each is evaluated."""
    runs = []
    evaluated = ["TEST.SERVE", served, "TEST.MODELS", f"('{served}',)"]
    for seed in seeds:
        common = ["SEED", str(seed), "TEST.LABEL_FREE_IMAGES", "0", *evaluated, *overrides]
        start = ["DATASETS.TEST", "()", *common]
        burn_in, before = CONFIGS / f"{setting}_burn_in.yaml", 0
        if burn_in.is_file():
            settings = list(start)
            if burn_in_iterations is not None:
                settings += ["SOLVER.MAX_ITER", str(burn_in_iterations)]
            runs.append(Run(f"burn_in_{seed}", burn_in, output / f"burn_in_{seed}", settings))
            before = runs[-1].max_iter
        if "spcl" in rows:
            settings = [*split_iterations("warmup", total), *start]
            path = CONFIGS / f"{setting}_adversarial.yaml"
            runs.append(run_from(f"warmup_{seed}", path, output, settings, seed, runs))
        for name in rows:
            path = CONFIGS / f"{setting}_{ROWS[name].config}.yaml"
            for mic in (False, True) if ROWS[name].with_mic else (False,):
                length = total + before if name == "oracle" else total
                settings = ["MODEL.MIC.ENABLED", str(mic), *split_iterations(name, length), *common]
                title = f"{name}{'+mic' if mic else ''}_{seed}"
                runs.append(run_from(title, path, output, settings, seed, runs))
    return runs


def cost(name: str) -> float:
    """Time of an iteration of the run ``<row>[+mic]_<seed>`` against source-only's."""
    row, mic, _ = name.rsplit("_", 1)[0].partition("+mic")
    extra = MIC_COSTS.get(row, OTHER_MIC_COST) if mic else 0.0
    return COSTS.get(row, 1.0) + extra


def run_from(
    name: str, path: Path, output: Path, settings: Sequence[str], seed: int, runs: Sequence[Run]
) -> Run:
    """The run ``name``; what its config starts from becomes that of this study and seed, one of
    ``runs``."""
    folder = output / name
    run = Run(name, path, folder, settings)
    origin = Path(run.cfg.MODEL.WEIGHTS).parent.name
    for ending, other in (("_burn_in", "burn_in"), ("_adversarial", "warmup")):
        if origin.endswith(ending):
            (after,) = (each for each in runs if each.name == f"{other}_{seed}")
            needs = after.folder / "model_final.pth"
            given = [*settings, "MODEL.WEIGHTS", str(needs)]
            return Run(name, path, folder, given, needs=needs, after=after)
    return run


def collect(runs: Sequence[Run], served: str) -> dict[str, list[float]]:
    """mIoU of the ``served`` model by row and MIC, in the order of seeds: ``{"spcl+mic": […]}``."""
    found: dict[str, list[float]] = {}
    for run in runs:
        name = run.name.rsplit("_", 1)[0]
        if name in ("burn_in", "warmup"):
            continue
        for which, _, metrics in result_rows(run.results()):
            if which == served:
                found.setdefault(name, []).append(metrics["mIoU"])
    return found


def spread(values: Sequence[float], sign: str = "-") -> str:
    """Mean and standard deviation, as shown; ``sign`` "+" for a change."""
    middle = round(mean(values), 1) + 0.0  # which makes -0.0 one of no sign
    return f"{middle:{sign}.1f}" + (f" ± {stdev(values):.1f}" if len(values) > 1 else "")


def table(found: dict[str, list[float]]) -> str:
    """A row for each host: mIoU without and with MIC, and what MIC changes, seed by seed."""
    lines = []
    for name, row in ROWS.items():
        if name not in found:
            continue
        line = [row.title, spread(found[name])]
        if f"{name}+mic" in found:
            with_mic = found[f"{name}+mic"]
            changes = [b - a for a, b in zip(found[name], with_mic, strict=True)]
            line += [spread(with_mic), spread(changes, "+")]
        lines.append(line)
    headers = ["", "mIoU", "with MIC", "MIC's effect"]
    return tabulate(lines, headers=headers, disable_numparse=True, missingval="")


def figure(found: dict[str, list[float]]) -> str:
    """MIC's effect on each host, as SVG."""
    pairs = [
        Pair(row.title, found[name], found.get(f"{name}+mic", []))
        for name, row in ROWS.items()
        if name in found
    ]
    return pairs_figure(pairs, "mIoU in percent", ("without MIC", "with MIC"))


def existing_rows(setting: str, asked: Sequence[str]) -> list[str]:
    """The rows asked for whose config is there; ConfigError if source-only's is not."""
    if not (CONFIGS / f"{setting}_source.yaml").is_file():
        known = sorted(p.stem.removesuffix("_source") for p in CONFIGS.glob("*_source.yaml"))
        raise ConfigError(f"--setting {setting}: choose from {', '.join(known)}")
    return [name for name in asked if (CONFIGS / f"{setting}_{ROWS[name].config}.yaml").is_file()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--setting", default="streets", help="prefix of names in configs/seg")
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3])
    parser.add_argument("--iterations", type=int, help="in all; the setting's own by default")
    parser.add_argument("--burn-in", type=int, help="its iterations; the setting's own by default")
    parser.add_argument("--served", choices=("student", "teacher"), default="student")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of each run")
    parser.add_argument("--output", type=Path)
    parser.add_argument("overrides", nargs="*", metavar="KEY VALUE", help="for all runs, after --")
    arguments = parser.parse_args()
    setting, rows = arguments.setting, existing_rows(arguments.setting, arguments.rows)
    total = arguments.iterations
    if total is None:
        total = load_config(CONFIGS / f"{setting}_source.yaml").SOLVER.MAX_ITER
    if total < 8 or (arguments.burn_in is not None and arguments.burn_in < 1):
        parser.error("--iterations is at least 8, --burn-in at least 1")
    output = (arguments.output or REPOSITORY / "output" / "study_hosts" / setting).resolve()
    output.mkdir(parents=True, exist_ok=True)
    runs = build_runs(
        setting,
        rows,
        arguments.seeds,
        total,
        output,
        arguments.overrides,
        arguments.burn_in,
        arguments.served,
    )
    for run in runs:
        message = task_of(run.cfg).missing_data_message(run.cfg, True)
        if message:
            raise DataError(message)
    costs = {run.name: cost(run.name) for run in runs}
    run_all(runs, arguments.jobs, arguments.threads, ProgressPrinter(costs, every=60.0))
    found = collect(runs, arguments.served)
    print(table(found))
    for name, text in (
        ("hosts.json", json.dumps({"mIoU": found, "iterations": total}, indent=2) + "\n"),
        ("hosts.svg", figure(found)),
    ):
        write_atomically(output / name, lambda file, text=text: file.write(text.encode()))
        print(f"Written to {output / name}")


if __name__ == "__main__":
    run_tool(main, SAME_COMMAND)
