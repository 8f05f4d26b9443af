#!/usr/bin/env python
"""Classification: digits drawn from fonts (labelled) -> digits that people wrote (images only).

``make demo TASK=classification`` runs this: source-only, CDAN, + MCC + SDAT, + MIC and the oracle,
a table and a report. Finished parts are reused; ``--fresh`` starts anew.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tabulate import tabulate

from mic_det.cli import SAME_COMMAND, run_tool
from mic_det.data.classification.digits import ensure_digits
from mic_det.engine.demo import Demo
from mic_det.engine.runs import REPOSITORY, Run
from mic_det.report import find_runs, write_report

CONFIGS = REPOSITORY / "configs" / "cls"
TITLES = {
    "source": "source-only",
    "cdan": "CDAN",
    "sdat": "CDAN + MCC + SDAT",
    "mic": "CDAN + MCC + SDAT + MIC",
    "oracle": "oracle",
}


def demo_runs(output: Path, overrides: Sequence[str]) -> list[Run]:
    """Burn-in on the source; what starts from it, the dearest first; oracle."""
    burn_in = output / "burn_in" / "model_final.pth"
    untested = ["DATASETS.TEST", "()", *overrides]
    runs = [
        Run("burn_in", CONFIGS / "digits_burn_in.yaml", output / "burn_in", untested),
        Run("oracle", CONFIGS / "digits_oracle.yaml", output / "oracle", overrides),
    ]
    for name in ("mic", "sdat", "cdan", "source"):
        start = ["MODEL.WEIGHTS", str(burn_in), *overrides]
        config = CONFIGS / f"digits_{name}.yaml"
        runs.append(Run(name, config, output / name, start, needs=burn_in, after=runs[0]))
    return runs


def row(run: Run) -> dict[str, Any]:
    """Accuracies of student and teacher on the target's test images, in percent."""
    (name,) = run.cfg.DATASETS.TEST
    found = run.results()
    return {which: round(found[which][name]["accuracy"], 2) for which in found}


def table(rows: dict[str, dict]) -> str:
    cells = [[TITLES[name], *each.values()] for name, each in rows.items()]
    headers = ["accuracy", *next(iter(rows.values()))]
    text = tabulate(cells, headers=headers, floatfmt=".1f")
    return f"Accuracy in percent on handwritten test images:\n\n{text}"


def files(folder: Path, runs: dict[str, Run]) -> dict[str, Path]:
    page = folder / "report.html"
    write_report(find_runs([runs[name].folder for name in runs if name in TITLES]), page, images=8)
    return {"Report": page}


DEMO = Demo(
    domains="printed digits (labelled) -> handwritten digits (images only).",
    folder="demo_classification",
    data=ensure_digits,
    runs=demo_runs,
    titles=TITLES,
    row=row,
    table=table,
    files=files,
    # SDAT takes two passes, MIC has a masked branch besides.
    costs={"cdan": 2.0, "sdat": 4.0, "mic": 6.0},
)

if __name__ == "__main__":
    run_tool(lambda: DEMO.main(__doc__.splitlines()[0]), SAME_COMMAND)
