"""Interleaved timing of a step and of its floor, the step's parts, and peak memory."""

from __future__ import annotations

import contextlib
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn

from mic_det.detection import meta_arch

from .cases import Case
from .workload import PlainDetector, Work, adaptation, step_of

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
        ratios: a MIC step against a SADA step and against a source-only step.
        memory_ratio: peak memory of the step over that of a supervised step on source + 2 target
            images and one more set of weights.
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
    parts: dict[str, float]

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def measure(
    case: Case, repeats: int, warmup: int = 2, report: Callable[[str], None] = lambda _: None
) -> Measurement:
    """Measure one case; ``report`` is told what is being done."""
    plain = PlainDetector(case)
    trainers = {"mic": adaptation(case)}
    trainers["sada"] = adaptation(case, *SADA_ONLY)
    trainers["source"] = adaptation(case, *SOURCE_ONLY)
    works: dict[str, Work] = {name: step_of(trainer) for name, trainer in trainers.items()}
    works |= floor_works(plain)
    times = interleave(works, repeats, warmup, case.device, report)
    floor, arrangement = faster_arrangements(times, case)
    per_repeat = [
        mic / sum(times[_key(part, arrangement[part])][i] for part in floor)
        for i, mic in enumerate(times["mic"])
    ]
    report("parts")
    parts = part_times(trainers["mic"], max(3, repeats // 3))
    report("memory")
    mic = statistics.median(times["mic"])
    lower, _, upper = statistics.quantiles(per_repeat, n=4) if repeats > 1 else per_repeat * 3
    return Measurement(
        name=case.name,
        overhead=mic / sum(floor.values()),
        overhead_spread=(lower, upper),
        mic_seconds=mic,
        floor_seconds=sum(floor.values()),
        memory_ratio=memory_ratio(case, trainers["mic"], plain),
        floor=floor,
        arrangement=arrangement,
        ratios={
            "sada_to_mic": mic / statistics.median(times["sada"]),
            "source_to_mic": mic / statistics.median(times["source"]),
        },
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
) -> dict[str, list[float]]:
    """Seconds of each work in each repeat; all works run once before any runs again."""
    times: dict[str, list[float]] = {name: [] for name in works}
    for repeat in range(-warmup, repeats):
        report("warm-up" if repeat < 0 else f"repeat {repeat + 1} of {repeats}")
        for name, work in works.items():
            synchronize(device)
            begin = time.perf_counter()
            work()
            synchronize(device)
            if repeat >= 0:
                times[name].append(time.perf_counter() - begin)
    return times


def synchronize(device: str) -> None:
    """Wait for a GPU to finish what it was given."""
    if device == "cuda":
        torch.cuda.synchronize()


@contextlib.contextmanager
def stopwatch(
    spots: Sequence[tuple[Any, str, str]], seconds: dict[str, float], device: str
) -> Iterator[None]:
    """Add to ``seconds[part]`` how long each call of ``owner.method`` takes, for the while."""
    kept = [(owner, method, owner.__dict__.get(method)) for owner, method, _ in spots]
    for owner, method, part in spots:
        setattr(owner, method, _timed(getattr(owner, method), part, seconds, device))
    try:
        yield
    finally:
        for owner, method, former in kept:
            if former is None:
                delattr(owner, method)
            else:
                setattr(owner, method, former)


def _timed(function: Callable, part: str, seconds: dict[str, float], device: str) -> Callable:
    def timed(*args: Any, **kwargs: Any) -> Any:
        synchronize(device)
        begin = time.perf_counter()
        result = function(*args, **kwargs)
        synchronize(device)
        seconds[part] = seconds.get(part, 0.0) + time.perf_counter() - begin
        return result

    return timed


def part_times(trainer: Any, repeats: int) -> dict[str, float]:
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
    with stopwatch(spots, seconds, device):
        for _ in range(repeats):
            _timed(work, "step", total, device)()
    parts = {name: value / repeats for name, value in seconds.items()}
    parts["other"] = total["step"] / repeats - sum(parts.values())
    return parts


def memory_ratio(case: Case, trainer: Any, plain: PlainDetector) -> float:
    """Peak bytes of a MIC step over a supervised step's on source + 2 target and the weights."""
    of_step = peak_bytes(step_of(trainer), case.device)
    of_step += resident(trainer.student, trainer.optimizer, trainer.teacher.model)
    work = plain.supervised(case.source + 2 * case.target, batched=True)
    work()
    of_plain = peak_bytes(work, case.device) + resident(plain.model, plain.optimizer)
    return of_step / (of_plain + resident(plain.model))


def resident(*owners: Any) -> int:
    """Bytes of weights, buffers and optimizer state."""
    tensors: list[torch.Tensor] = []
    for owner in owners:
        if isinstance(owner, nn.Module):
            tensors += [*owner.parameters(), *owner.buffers()]
        else:
            tensors += [
                value
                for state in owner.state.values()
                for value in state.values()
                if isinstance(value, torch.Tensor)
            ]
    return sum(each.numel() * each.element_size() for each in tensors)


def peak_bytes(work: Work, device: str) -> int:
    """Largest sum of bytes that ``work`` holds at once beyond what was there before it."""
    if device == "cuda":
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        work()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    activities = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activities, profile_memory=True) as profile:
        work()
    held = peak = 0
    for event in profile.profiler.kineto_results.events():
        if event.name() == "[memory]":
            held += event.nbytes()
            peak = max(peak, held)
    return peak
