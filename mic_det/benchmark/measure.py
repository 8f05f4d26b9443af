"""Interleaved timing of a step and of its floor, and the step's parts."""

from __future__ import annotations

import contextlib
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from mic_det.detection import meta_arch

from .cases import Case
from .memory import memory_ratio
from .workload import PlainDetector, Work, adaptation, step_of

# Adding MIC to adversarial training makes a step 1.75 times as long, its authors report.
PAPER_SADA_TO_MIC = 1.75
Clock = Callable[[], float]
SOURCE_ONLY = ("MODEL.SADA.ENABLED", "False", "MODEL.MIC.ENABLED", "False")
SADA_ONLY = ("MODEL.MIC.ENABLED", "False")


@dataclass
class Measurement:
    """What was measured of one case; times in seconds, medians over interleaved repeats.

    Args:
        overhead: ``mic_seconds / floor_seconds``.
        overhead_spread: quartiles of the ratio, each repeat against its own floor.
        floor: the parts of the floor, each in the faster of its arrangements.
        arrangement: "batched" or "one by one", for each part.
        ratios: a MIC step against a SADA step (with the paper's figure) and against a source-only
            step.
        inference_ratio: inference of the adapted model against plain Detectron2's.
        memory_ratio: peak memory of the step over that of a supervised step on source + 2 target
            images and one more set of weights; ``memory`` has the bytes.
        parts: where the step's time goes, measured in separate repeats.
    """

    name: str
    overhead: float
    overhead_spread: tuple[float, float]
    mic_seconds: float
    floor_seconds: float
    memory_ratio: float
    floor: dict[str, float]
    arrangement: dict[str, str]
    ratios: dict[str, float]
    inference_ratio: float
    memory: dict[str, int]
    parts: dict[str, float]

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def measure(
    case: Case,
    repeats: int,
    warmup: int = 2,
    report: Callable[[str], None] = lambda _: None,
    clock: Clock = time.perf_counter,
) -> Measurement:
    """Measure one case; ``report`` is told what is being done.

    ``clock`` returns seconds; `time.process_time` counts this process's own, which is what counts
    on a CPU that others use as well.
    """
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
    plain_inference = statistics.median(times[_key("T_inf(t)", "batched")])
    floor, arrangement = faster_arrangements(times, case)
    per_repeat = [
        mic / sum(times[_key(part, arrangement[part])][i] for part in floor)
        for i, mic in enumerate(times["mic"])
    ]
    report("parts")
    parts = part_times(trainers["mic"], max(2, repeats // 3), clock)
    mic = statistics.median(times["mic"])
    lower, _, upper = statistics.quantiles(per_repeat, n=4) if repeats > 1 else per_repeat * 3
    return Measurement(
        name=case.name,
        overhead=mic / sum(floor.values()),
        overhead_spread=(lower, upper),
        mic_seconds=mic,
        floor_seconds=sum(floor.values()),
        memory_ratio=memory[0],
        floor=floor,
        arrangement=arrangement,
        ratios={
            "sada_to_mic": mic / statistics.median(times["sada"]),
            "sada_to_mic_in_the_paper": PAPER_SADA_TO_MIC,
            "source_to_mic": mic / statistics.median(times["source"]),
        },
        inference_ratio=statistics.median(times["adapted inference"]) / plain_inference,
        memory=memory[1],
        parts=parts,
    )


def _key(part: str, arrangement: str) -> str:
    return f"{part}, {arrangement}"


def floor_works(plain: PlainDetector) -> dict[str, Work]:
    """The four parts of the floor, each batched and image by image."""
    s, t = plain.case.source, plain.case.target
    works = {}
    for arrangement, batched in (("batched", True), ("one by one", False)):
        if not batched and s == t == 1:
            continue
        works |= {
            _key("T_sup(s)", arrangement): plain.supervised(s, batched),
            _key("T_feat(t)", arrangement): plain.features(t, batched),
            _key("T_inf(t)", arrangement): plain.inference(t, batched),
        }
        if s != t:
            works[_key("T_sup(t)", arrangement)] = plain.supervised(t, batched)
    return works


def faster_arrangements(
    times: dict[str, list[float]], case: Case
) -> tuple[dict[str, float], dict[str, str]]:
    """Median seconds of each part of the floor, and which arrangement they are of."""
    floor, chosen = {}, {}
    for part in ("T_sup(s)", "T_sup(t)", "T_feat(t)", "T_inf(t)"):
        # With as many source as target images the two supervised steps are one measurement.
        timed = "T_sup(s)" if part == "T_sup(t)" and case.source == case.target else part
        found = {
            name.removeprefix(f"{timed}, "): statistics.median(values)
            for name, values in times.items()
            if name.startswith(timed)
        }
        best = min(found, key=found.__getitem__)
        floor[part], chosen[part] = found[best], best
        times.setdefault(_key(part, best), times[_key(timed, best)])
    return floor, chosen


def interleave(
    works: dict[str, Work],
    repeats: int,
    warmup: int,
    device: str,
    report: Callable[[str], None] = lambda _: None,
    clock: Clock = time.perf_counter,
) -> dict[str, list[float]]:
    """Seconds of each work in each repeat; all works run once before any runs again."""
    times: dict[str, list[float]] = {name: [] for name in works}
    for repeat in range(-warmup, repeats):
        report("warm-up" if repeat < 0 else f"repeat {repeat + 1} of {repeats}")
        for name, work in works.items():
            synchronize(device)
            begin = clock()
            work()
            synchronize(device)
            if repeat >= 0:
                times[name].append(clock() - begin)
    return times


def synchronize(device: str) -> None:
    """Wait for a GPU to finish what it was given."""
    if device == "cuda":
        torch.cuda.synchronize()


@contextlib.contextmanager
def stopwatch(
    spots: Sequence[tuple[Any, str, str]],
    seconds: dict[str, float],
    device: str,
    clock: Clock = time.perf_counter,
) -> Iterator[None]:
    """Add to ``seconds[part]`` how long each call of ``owner.method`` takes, for the while."""
    kept = [(owner, method, owner.__dict__.get(method)) for owner, method, _ in spots]
    for owner, method, part in spots:
        setattr(owner, method, _timed(getattr(owner, method), part, seconds, device, clock))
    try:
        yield
    finally:
        for owner, method, former in kept:
            if former is None:
                delattr(owner, method)
            else:
                setattr(owner, method, former)


def _timed(
    function: Callable,
    part: str,
    seconds: dict[str, float],
    device: str,
    clock: Clock = time.perf_counter,
) -> Callable:
    def timed(*args: Any, **kwargs: Any) -> Any:
        synchronize(device)
        begin = clock()
        result = function(*args, **kwargs)
        synchronize(device)
        seconds[part] = seconds.get(part, 0.0) + clock() - begin
        return result

    return timed


def part_times(trainer: Any, repeats: int, clock: Clock = time.perf_counter) -> dict[str, float]:
    """Mean seconds of the parts of a step of ``trainer``; the rest is "other"."""
    student = trainer.student
    device = trainer.device.type
    spots = [
        (trainer, "next_batches", "data"),
        (trainer.teacher, "pseudo_label", "teacher"),
        (trainer, "mask_target", "augment and mask"),
        (student, "extract_all", "student: features"),
        (student, "source_regions", "student: source proposals and RPN losses"),
        (student, "target_regions", "student: target proposals"),
        (student.masked_loss, "regions", "student: masked proposals and RPN loss"),
        (meta_arch, "run_box_head", "student: box head"),
        (student, "roi_losses", "student: source ROI losses"),
        (student, "domain_losses", "student: domain losses"),
        (student.masked_loss, "roi_losses", "student: masked ROI loss"),
        (torch.Tensor, "backward", "backward"),
        (trainer.optimizer, "step", "optimizer"),
        (trainer.teacher, "update", "EMA"),
    ]
    seconds: dict[str, float] = {}
    total: dict[str, float] = {}
    work = step_of(trainer)
    with stopwatch(spots, seconds, device, clock):
        for _ in range(repeats):
            _timed(work, "step", total, device, clock)()
    parts = {name: value / repeats for name, value in seconds.items()}
    parts["other"] = total["step"] / repeats - sum(parts.values())
    return parts
