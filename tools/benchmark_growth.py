#!/usr/bin/env python
"""How step time, memory and loading grow, as figures for docs/performance.md.

Batches of 1 to 16 images a domain, image sizes, and loader workers with and without the cache of
resized images; writes ``growth.json`` and ``growth.svg``.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")
from matplotlib import pyplot as plt

from mic_det.benchmark import CASES
from mic_det.benchmark.growth import by_batch, by_side, loading, step_growth
from mic_det.cli import run_tool
from mic_det.data.files import write_text_atomically
from mic_det.env import describe

CASE = "cpu-r18-128x256-4+4"


def draw(found: dict, path: Path) -> None:
    """Seconds a step by batch and by size, peak memory, the loader's rate; what there is of it."""
    labels = {"batch": "images a domain, 128x256", "side": "short side, 1+1 images"}
    grown = {key: found[key] for key in labels if found[key]}
    count = len(grown) + 2
    figure, panels = plt.subplots(1, count, figsize=(3.3 * count, 3.1), layout="constrained")
    *steps, memory, loader = panels
    for panel, (key, rows) in zip(steps, grown.items(), strict=True):
        x = [row["images" if key == "batch" else "height"] for row in rows]
        spread = [
            [row["seconds"] - row["fastest"] for row in rows],
            [row["slowest"] - row["seconds"] for row in rows],
        ]
        panel.errorbar(x, [row["seconds"] for row in rows], spread, marker="o", capsize=3)
        panel.set(xlabel=labels[key], ylabel=f"{found['clock']} seconds a step", xticks=x)
        memory.plot(
            [row["images"] * row["height"] * row["width"] / 1e6 for row in rows],
            [row["peak_bytes"] / 2**20 for row in rows],
            marker="o",
            label={"batch": "more images", "side": "larger images"}[key],
        )
    memory.set(xlabel="megapixels a domain", ylabel="peak memory, MiB")
    for cache, label in ((False, "PNG 1024x2048"), (True, "resized cache")):
        rows = [row for row in found["loading"] if row["cache"] == cache]
        x = [row["workers"] for row in rows]
        loader.plot(x, [row["per_second"] for row in rows], marker="o", label=label)
        loader.set(xlabel="workers", ylabel="images a second", xticks=x)
    for panel in panels:
        panel.set_ylim(bottom=0)
        panel.spines[["top", "right"]].set_visible(False)
    memory.legend(frameon=False)
    loader.legend(frameon=False)
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("docs/figures"), help="folder")
    parser.add_argument("--case", default=CASE, help="of tools/benchmark.py, to grow")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 2, 4, 8, 16])
    parser.add_argument("--sides", type=int, nargs="+", default=[256, 384, 512, 768, 1024])
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--images", type=int, default=24, help="that each loader is timed on")
    parser.add_argument("--clock", choices=["wall", "cpu"], default="wall")
    parser.add_argument("--redraw", action="store_true", help="draw an earlier growth.json")
    arguments = parser.parse_args()
    file = arguments.output / "growth.json"
    if not arguments.redraw:
        (case,) = [case for case in CASES if case.name == arguments.case]
        clock = {"wall": time.perf_counter, "cpu": time.process_time}[arguments.clock]
        repeats = arguments.repeats

        def report(what: str) -> None:
            print(what, file=sys.stderr, flush=True)

        found = {
            "case": case.name,
            "clock": arguments.clock,
            "environment": describe(),
            "loading": loading(arguments.workers, arguments.images, report),
            "batch": [],
            "side": [],
        }
        grown = {
            "batch": by_batch(case, arguments.batches),
            "side": by_side(case, arguments.sides),
        }
        for key, cases in grown.items():
            # After each row: what has been measured is not lost with a run that is stopped.
            for row in step_growth(cases, repeats, clock, report):
                found[key].append(row)
                write_text_atomically(file, json.dumps(found, indent=2) + "\n")
    draw(json.loads(file.read_text(encoding="utf-8")), arguments.output / "growth.svg")
    print(f"Written to {file} and {arguments.output / 'growth.svg'}")


if __name__ == "__main__":
    run_tool(main)
