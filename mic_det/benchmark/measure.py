"""Interleaved timing of a step and of its floor, and the step's parts, whatever the task."""

from __future__ import annotations

import contextlib
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from .workload import Work, step_of

Clock = Callable[[], float]
Spot = tuple[Any, str, str]
ARRANGEMENTS = (("batched", True), ("one by one", False))


@dataclass
class Measurement:
    """What was measured of one case; times in seconds, medians over interleaved repeats.

    Args:
        overhead: ``mic_seconds / floor_seconds``.
        overhead_spread: quartiles of the ratio, each repeat against its own floor.
        floor: the parts of the floor, each in the faster of its arrangements.
        arrangement: "batched" or "one by one", for each part.
        ratios: a MIC step against one of its host method alone and against a source-only step, and
            what else is compared.
        inference_ratio: inference of the adapted model against the plain one's.
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


def measurement(
    name: str,
    times: dict[str, list[float]],
    parts_of_floor: Mapping[str, str],
    **found: Any,
) -> Measurement:
    """What ``times`` say of the step "mic" and its floor; ``found``: the rest of `Measurement`."""
    floor, arrangement = faster_arrangements(times, parts_of_floor)
    per_repeat = [
        mic / sum(times[key(part, arrangement[part])][i] for part in floor)
        for i, mic in enumerate(times["mic"])
    ]
    mic = statistics.median(times["mic"])
    lower, _, upper = (
        statistics.quantiles(per_repeat, n=4) if len(per_repeat) > 1 else per_repeat * 3
    )
    return Measurement(
        name=name,
        overhead=mic / sum(floor.values()),
        overhead_spread=(lower, upper),
        mic_seconds=mic,
        floor_seconds=sum(floor.values()),
        floor=floor,
        arrangement=arrangement,
        **found,
    )


def key(part: str, arrangement: str) -> str:
    """Under which a part of the floor is timed."""
    return f"{part}, {arrangement}"


def in_arrangements(works: Mapping[str, Callable[[bool], Work]], single: bool) -> dict[str, Work]:
    """Each part of the floor batched and, unless its images are ``single``, image by image.

    ``works``: from the part's name to what makes its work, told whether to batch.
    """
    return {
        key(part, arrangement): make(batched)
        for arrangement, batched in ARRANGEMENTS
        if batched or not single
        for part, make in works.items()
    }


def faster_arrangements(
    times: dict[str, list[float]], parts: Mapping[str, str]
) -> tuple[dict[str, float], dict[str, str]]:
    """Median seconds of each part of the floor, and which arrangement they are of.

    ``parts``: under which name each is timed; equal work is measured once and counts for several.
    ``times`` gets an entry for each part.
    """
    floor, chosen = {}, {}
    for part, timed in parts.items():
        found = {
            name.removeprefix(f"{timed}, "): statistics.median(values)
            for name, values in times.items()
            if name.startswith(f"{timed}, ")
        }
        best = min(found, key=found.__getitem__)
        floor[part], chosen[part] = found[best], best
        times.setdefault(key(part, best), times[key(timed, best)])
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
    spots: Sequence[Spot],
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


def part_times(
    trainer: Any, spots: Sequence[Spot], repeats: int, clock: Clock = time.perf_counter
) -> dict[str, float]:
    """Mean seconds of the parts of a step of ``trainer``; the rest is "other".

    ``spots``: (owner, method, part) of those inside the student's losses, apart from one another.
    """
    device = trainer.device.type
    spots = [
        (trainer, "next_batches", "data"),
        (trainer.teacher, "pseudo_label", "teacher"),
        (trainer, "mask_target", "augment and mask"),
        *spots,
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
