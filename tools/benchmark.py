#!/usr/bin/env python
"""How long an adaptation step takes, against the arithmetic that it cannot do without.

Detection: ``floor = T_sup(s) + T_sup(t) + T_feat(t) + T_inf(t)``: a plain Detectron2 training step
on the source and on the target images, forward and backward of the features of the target, and
inference on it; ``overhead = MIC(SADA) step / floor``. Segmentation (names that begin with "seg"):
``floor = T_sup(s) + 2 T_grad(t) + T_inf(t)``: a supervised step on the source images, forward and
backward of one on the mixed and on the masked images, and inference on the target; HRDA also
against plain training at full resolution. Each part counts in the faster of its arrangements. All
are measured in one process, one after the other, again and again; memory in processes of its own.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

import torch
from tabulate import tabulate

from mic_det.benchmark import (
    CASES,
    SEGMENTATION_CASES,
    Case,
    Measurement,
    SegmentationCase,
    measure_case,
)
from mic_det.cli import run_tool
from mic_det.data.files import write_text_atomically
from mic_det.env import describe
from mic_det.errors import UserError

ALL_CASES: list[Case | SegmentationCase] = [*CASES, *SEGMENTATION_CASES]


def chosen_cases(quick: bool, names: list[str]) -> list[Case | SegmentationCase]:
    """Those of the device that is here, by name if any are named."""
    devices = {"cpu"} if not torch.cuda.is_available() else {"cpu", "cuda"}
    cases = [case for case in ALL_CASES if case.device in devices and (case.quick or not quick)]
    if names:
        cases = [case for case in ALL_CASES if any(name in case.name for name in names)]
    return cases


HEAD = ["case", "overhead", "quartiles", "step, s", "floor, s", "memory"]


def tables(measured: list[Measurement]) -> str:
    """Overheads by task, then where the time of each step goes."""
    detection = [each for each in measured if "sada_to_mic" in each.ratios]
    segmentation = [each for each in measured if "sada_to_mic" not in each.ratios]
    text = []
    if detection:
        heads = {"sada_to_mic": "/ SADA", "source_to_mic": "/ source"}
        text += [
            overheads(detection, heads),
            "memory: over a supervised step on source + 2 target images and one more set of\n"
            "weights; / SADA: SADA -> MIC (the paper's authors: 1.75); / source: source-only ->\n"
            "MIC; inference: the adapted model's over plain Detectron2's.",
        ]
    if segmentation:
        heads = {
            "self_training_to_mic": "/ self-training",
            "source_to_mic": "/ source",
            "hrda_time_to_full_resolution": "HRDA: time",
            "hrda_memory_to_full_resolution": "memory",
        }
        text += [
            overheads(segmentation, heads),
            "memory: over a supervised step on source + 2 target images and one more set of\n"
            "weights; / self-training: self-training -> MIC; / source: source-only -> MIC; HRDA:\n"
            "a supervised step on the source images, and its memory, over one of the same\n"
            "network at full resolution; inference: the adapted model's over the network's.",
        ]
    for each in measured:
        floor = [
            [part, f"{value:.3f}", each.arrangement[part]] for part, value in each.floor.items()
        ]
        parts = [[part, f"{value:.3f}", ""] for part, value in each.parts.items()]
        heads = [f"{each.name}: part", "seconds", "arrangement"]
        text.append(tabulate([*floor, *parts], headers=heads, disable_numparse=True))
    return "\n\n".join(text)


def overheads(measured: list[Measurement], ratios: dict[str, str]) -> str:
    """A row for each case; ``ratios``: those shown and what the columns are called."""
    rows = [
        [
            each.name,
            f"{each.overhead:.2f}",
            "{:.2f} to {:.2f}".format(*each.overhead_spread),
            f"{each.mic_seconds:.3f}",
            f"{each.floor_seconds:.3f}",
            f"{each.memory_ratio:.2f}",
            *(f"{each.ratios[name]:.2f}" if name in each.ratios else "" for name in ratios),
            f"{each.inference_ratio:.2f}",
        ]
        for each in measured
    ]
    headers = [*HEAD, *ratios.values(), "inference"]
    return tabulate(rows, headers=headers, disable_numparse=True)


def show(line: str) -> None:
    if sys.stderr.isatty():
        print(f"\r\033[K{line}", end="", file=sys.stderr, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("cases", nargs="*", help="parts of the names of cases; all if none")
    parser.add_argument("--quick", action="store_true", help="fewer cases and repeats")
    parser.add_argument("--repeats", type=int, help="of each case; default 9, 3 with --quick")
    parser.add_argument(
        "--clock",
        choices=["wall", "cpu"],
        default="wall",
        help="cpu: seconds that this process computes, for a CPU that others use as well",
    )
    parser.add_argument("--output", type=Path, help="write the figures to this json file")
    parser.add_argument("--list", action="store_true", help="name the cases and stop")
    arguments = parser.parse_args()
    cases = chosen_cases(arguments.quick, arguments.cases)
    if arguments.list or not cases:
        print("\n".join(case.name for case in ALL_CASES))
        return
    if not torch.cuda.is_available() and (gpus := [c.name for c in cases if c.device != "cpu"]):
        raise UserError(
            f"{gpus[0]}: there is no GPU here. Name cases of the CPU (seg-cpu, cpu-r18)."
        )
    repeats = arguments.repeats or (3 if arguments.quick else 9)
    warmup = 1 if arguments.quick else 2
    clock = {"wall": time.perf_counter, "cpu": time.process_time}[arguments.clock]
    if arguments.clock == "cpu" and any(case.device != "cpu" for case in cases):
        raise UserError("--clock cpu cannot time a GPU: name cases of the CPU, or leave it out.")
    measured = []
    for number, case in enumerate(cases, 1):
        title = f"[{number}/{len(cases)}] {case.name}"
        print(title, file=sys.stderr, flush=True)
        measured.append(
            measure_case(
                case,
                repeats,
                warmup=warmup,
                report=lambda what, title=title: show(f"{title}: {what}"),
                clock=clock,
            )
        )
        show("")
        # After each case: what has been measured is not lost with a run that is stopped.
        data = {
            "cases": [each.as_dict() for each in measured],
            "clock": arguments.clock,
            "environment": describe(),
        }
        if arguments.output:
            write_text_atomically(arguments.output, json.dumps(data, indent=2) + "\n")
    print(tables(measured))
    if arguments.output:
        print(f"\nWritten to {arguments.output}")


if __name__ == "__main__":
    run_tool(main)
