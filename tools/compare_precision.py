#!/usr/bin/env python
"""Loss curves in fp32, bf16 and fp16: ``python tools/compare_precision.py --config FILE``.

Trains the same iterations, from the same seed, on the same images, once in each precision, and
prints how far the curves lie apart and how long each took; curves go to a JSON file and a picture.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path

from tabulate import tabulate

from mic_det.cli import run_tool
from mic_det.config import load_config
from mic_det.data.builtin import register_builtin
from mic_det.data.formats.coco import write_text_atomically
from mic_det.engine import build_trainer

PRECISIONS = {
    "fp32": ("SOLVER.AMP.ENABLED", "False"),
    "bf16": ("SOLVER.AMP.ENABLED", "True", "SOLVER.AMP.DTYPE", "bfloat16"),
    "fp16": ("SOLVER.AMP.ENABLED", "True", "SOLVER.AMP.DTYPE", "float16"),
}


def curve(arguments: argparse.Namespace, precision: str) -> dict:
    """Total loss, a mean over each ``--every`` iterations, and what else happened."""
    folder = Path(arguments.output) / precision
    usual = load_config(arguments.config, arguments.opts).SOLVER.WARMUP_ITERS
    warmup = min(usual, arguments.iterations // 2)
    overrides = ("SOLVER.MAX_ITER", str(arguments.iterations), "DATASETS.TEST", "()")
    overrides += ("SOLVER.WARMUP_ITERS", str(warmup))
    overrides += ("SOLVER.CHECKPOINT_PERIOD", str(arguments.iterations + 1))
    overrides += ("SOLVER.STEPS", "()", "OUTPUT_DIR", str(folder), *PRECISIONS[precision])
    cfg = load_config(arguments.config, [*arguments.opts, *overrides])
    trainer = build_trainer(cfg, writers=list, log_period=arguments.every)
    begin = time.perf_counter()
    trainer.train()
    seconds = time.perf_counter() - begin
    history = trainer.storage.history("total_loss").values()
    return {
        "device": str(trainer.device),
        "iterations": [iteration for _, iteration in history],
        "total_loss": [loss for loss, _ in history],
        "skipped_steps": trainer.guard.skipped,
        "seconds_an_iteration": seconds / cfg.SOLVER.MAX_ITER,
    }


def table(curves: dict[str, dict]) -> str:
    """A row for each precision; its distance is to the first one's curve, in percent of it."""
    reference = next(iter(curves.values()))["total_loss"]
    rows = []
    for name, found in curves.items():
        apart = [
            100.0 * abs(mine - theirs) / abs(theirs)
            for mine, theirs in zip(found["total_loss"], reference, strict=True)
        ]
        last, seconds = found["total_loss"][-1], found["seconds_an_iteration"]
        rows.append(
            [name, last, statistics.mean(apart), max(apart), found["skipped_steps"], seconds]
        )
    headers = ["", "last loss", "apart, mean %", "apart, max %", "skipped", "s/iteration"]
    return tabulate(rows, headers=headers, floatfmt=".3f")


def draw(curves: dict[str, dict], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4))
    for name, found in curves.items():
        axes.plot(found["iterations"], found["total_loss"], label=name)
    axes.set_xlabel("iteration")
    axes.set_ylabel("total loss")
    axes.legend()
    figure.savefig(path, dpi=120, bbox_inches="tight")
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", default="configs/streets_mic.yaml")
    parser.add_argument("--iterations", type=int, default=200)
    parser.add_argument("--every", type=int, default=10, help="iterations in one point of a curve")
    parser.add_argument("--precisions", nargs="+", choices=PRECISIONS, default=list(PRECISIONS))
    parser.add_argument("--output", default="output/precision")
    parser.add_argument("opts", nargs=argparse.REMAINDER, help="KEY VALUE overrides")
    arguments = parser.parse_args()
    register_builtin()
    curves = {precision: curve(arguments, precision) for precision in arguments.precisions}
    folder = Path(arguments.output)
    write_text_atomically(folder / "curves.json", json.dumps(curves, indent=2) + "\n")
    draw(curves, folder / "curves.png")
    print(table(curves))
    print(f"On {next(iter(curves.values()))['device']}; curves are in {folder}")


if __name__ == "__main__":
    run_tool(main)
