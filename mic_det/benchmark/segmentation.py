"""A step of MIC on self-training, against the arithmetic that it cannot do without.

    floor(s, t) = T_sup(s) + T_grad(t) + T_grad(t) + T_inf(t)

T_sup(n) is a supervised training step on n images, T_grad(n) forward and backward of one without
the optimizer (the mixed and the masked images), T_inf(n) inference of the network (the teacher's).
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

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
from .memory import in_child, memory_ratio
from .segmentation_cases import SegmentationCase
from .segmentation_workload import WITHOUT_HRDA, PlainSegmentor, segmentation_step
from .workload import Work, step_of

HOST_ONLY = ("MODEL.MIC.ENABLED", "False")
SOURCE_ONLY = (*HOST_ONLY, "MODEL.SEG.HOST", "source_only")
# The floor's parts, and as what each is timed.
FLOOR = {
    "T_sup(source)": "T_sup(s)",
    "T_grad(mixed)": "T_grad(t)",
    "T_grad(masked)": "T_grad(t)",
    "T_inf(target)": "T_inf(t)",
}
FULL_RESOLUTION = "full resolution"


def measure_segmentation(
    case: SegmentationCase,
    repeats: int,
    warmup: int = 2,
    report: Callable[[str], None] = lambda _: None,
    clock: Clock = time.perf_counter,
) -> Measurement:
    """See `mic_det.benchmark.measure_case`."""
    report("memory")
    memory_over_plain, memory = memory_ratio(case)
    ratios = {}
    if case.has_hrda:
        memory |= {work: in_child(case, work)[0] for work in ("source", FULL_RESOLUTION)}
        ratios["hrda_memory_to_full_resolution"] = memory["source"] / memory[FULL_RESOLUTION]
    trainers = {"mic": segmentation_step(case)}
    trainers["host"] = segmentation_step(case, *HOST_ONLY)
    trainers["source"] = segmentation_step(case, *SOURCE_ONLY)
    works: dict[str, Work] = {name: step_of(trainer) for name, trainer in trainers.items()}
    works["adapted inference"] = adapted_inference(trainers["mic"], case)
    works |= floor_works(PlainSegmentor(case))
    if case.has_hrda:
        works[FULL_RESOLUTION] = PlainSegmentor(case, *WITHOUT_HRDA).supervised(case.source, True)
    times = interleave(works, repeats, warmup, case.device, report, clock)
    report("parts")
    parts = part_times(trainers["mic"], student_spots(trainers["mic"]), max(2, repeats // 3), clock)
    median = {name: statistics.median(values) for name, values in times.items()}
    ratios |= {
        "self_training_to_mic": median["mic"] / median["host"],
        "source_to_mic": median["mic"] / median["source"],
    }
    if case.has_hrda:
        of_hrda = median[key("T_sup(s)", "batched")]
        ratios["hrda_time_to_full_resolution"] = of_hrda / median[FULL_RESOLUTION]
    return measurement(
        case.name,
        times,
        FLOOR,
        ratios=ratios,
        inference_ratio=median["adapted inference"] / median[key("T_inf(t)", "batched")],
        memory_ratio=memory_over_plain,
        memory=memory,
        parts=parts,
    )


def floor_works(plain: PlainSegmentor) -> dict[str, Work]:
    """What `FLOOR` is timed as."""
    s, t = plain.case.source, plain.case.target
    works: dict[str, Callable[[bool], Work]] = {
        "T_sup(s)": partial(plain.supervised, s),
        "T_grad(t)": partial(plain.supervised, t, update=False),
        "T_inf(t)": partial(plain.inference, t),
    }
    return in_arrangements(works, single=s == t == 1)


def adapted_inference(trainer: Any, case: SegmentationCase) -> Work:
    """Inference of the model that a user gets, from and to Detectron2's dicts."""
    student = trainer.student
    batch = case.images(case.target, student.network.num_classes, seed=1)

    def work() -> None:
        student.eval()
        with trainer.autocast():
            student(batch)
        student.train()

    return work


def student_spots(trainer: Any) -> list[Spot]:
    """Where the student's time goes."""
    network, host = trainer.student.network, trainer.student.host
    spots = [
        (network.encoder, "forward", "student: encoder"),
        (network.decoder, "forward", "student: decoder"),
        (host, "mixed", "mix"),
    ]
    if hasattr(network, "attention"):
        spots.append((network.attention, "forward", "student: scale attention"))
    return spots
