"""A step of detection, against ``floor = T_sup(s) + T_sup(t) + T_feat(t) + T_inf(t)``."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from mic_det.detection import meta_arch

from .cases import Case
from .measure import (
    Clock,
    Measurement,
    Spot,
    in_arrangements,
    interleave,
    key,
    measurement,
    part_times,
)
from .memory import memory_ratio
from .workload import PlainDetector, Work, adaptation, step_of

# Adding MIC to adversarial training makes a step 1.75 times as long, its authors report.
PAPER_SADA_TO_MIC = 1.75
SOURCE_ONLY = ("MODEL.SADA.ENABLED", "False", "MODEL.MIC.ENABLED", "False")
SADA_ONLY = ("MODEL.MIC.ENABLED", "False")


def measure_detection(
    case: Case,
    repeats: int,
    warmup: int = 2,
    report: Callable[[str], None] = lambda _: None,
    clock: Clock = time.perf_counter,
) -> Measurement:
    """See `mic_det.benchmark.measure_case`."""
    report("memory")
    memory = memory_ratio(case)
    plain = PlainDetector(case)
    trainers = {"mic": adaptation(case)}
    trainers["sada"] = adaptation(case, *SADA_ONLY)
    trainers["source"] = adaptation(case, *SOURCE_ONLY)
    works: dict[str, Work] = {name: step_of(trainer) for name, trainer in trainers.items()}
    works["adapted inference"] = plain.inference(case.target, True, trainers["mic"].student)
    works |= floor_works(plain)
    times = interleave(works, repeats, warmup, case.device, report, clock)
    report("parts")
    parts = part_times(trainers["mic"], student_spots(trainers["mic"]), max(2, repeats // 3), clock)
    median = {name: statistics.median(values) for name, values in times.items()}
    return measurement(
        case.name,
        times,
        parts_of_floor(case),
        ratios={
            "sada_to_mic": median["mic"] / median["sada"],
            "sada_to_mic_in_the_paper": PAPER_SADA_TO_MIC,
            "source_to_mic": median["mic"] / median["source"],
        },
        inference_ratio=median["adapted inference"] / median[key("T_inf(t)", "batched")],
        memory_ratio=memory[0],
        memory=memory[1],
        parts=parts,
    )


def floor_works(plain: PlainDetector) -> dict[str, Work]:
    """What the parts of the floor are timed as; see `parts_of_floor`."""
    s, t = plain.case.source, plain.case.target
    works: dict[str, Callable[[bool], Work]] = {
        "T_sup(s)": partial(plain.supervised, s),
        "T_feat(t)": partial(plain.features, t),
        "T_inf(t)": partial(plain.inference, t),
    }
    if s != t:
        works["T_sup(t)"] = partial(plain.supervised, t)
    return in_arrangements(works, single=s == t == 1)


def parts_of_floor(case: Case) -> dict[str, str]:
    """The parts, and as what each is timed: with s = t the supervised steps are one work."""
    supervised = "T_sup(s)" if case.source == case.target else "T_sup(t)"
    parts = {part: part for part in ("T_sup(s)", "T_sup(t)", "T_feat(t)", "T_inf(t)")}
    return parts | {"T_sup(t)": supervised}


def student_spots(trainer: Any) -> list[Spot]:
    """Where the student's time goes."""
    student = trainer.student
    return [
        (student, "extract_all", "student: features"),
        (student, "source_regions", "student: source proposals and RPN losses"),
        (student, "target_regions", "student: target proposals"),
        (student.masked_loss, "regions", "student: masked proposals and RPN loss"),
        (meta_arch, "run_box_head", "student: box head"),
        (student, "roi_losses", "student: source ROI losses"),
        (student.domain_heads, "image_logits", "student: image-level domain heads"),
        (student, "domain_losses", "student: instance-level domain heads, domain losses"),
        (student.masked_loss, "roi_losses", "student: masked ROI loss"),
    ]
