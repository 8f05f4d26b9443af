"""Which runs may be compared: trained for as long, from the same weights, with the same settings.

The keys of what a method adds may differ, and those that change no result. Anything else would be
credited to the method.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import mean
from typing import Any

from .lineage import own_iterations, start_of, total_iterations
from .runs import SOURCE_ONLY, RunRecord, by_group, flat, lookup, scores

ENDS = BASELINE, ORACLE = "source-only", "oracle"
# Compared by themselves (iterations, weights, the test set), or without an effect on results.
LEFT_OUT = (
    *("OUTPUT_DIR", "SEED", "MODEL.WEIGHTS", "DATASETS.TEST", "SOLVER.MAX_ITER"),
    *("VERSION", "VIS_PERIOD", "VIS_IMAGES", "CUDNN_BENCHMARK", "MODEL.DEVICE", "TEST.MODELS"),
    *("TEST.EVAL_PERIOD", "TEST.LABEL_FREE_IMAGES", "TEST.LABEL_FREE_RATIO"),
    *("SOLVER.CHECKPOINT_PERIOD", "SOLVER.CHECKPOINTS_KEPT", "INPUT.RESIZED_CACHE"),
    *("DATALOADER.NUM_WORKERS", "DATALOADER.PREFETCH_FACTOR", "DATALOADER.CHECK_LABELS"),
)
# What switches a part of a method on, and the keys of the part. They are compared where it is on
# in both runs.
PARTS = {
    "MODEL.MIC.ENABLED": ("MODEL.MIC", "MODEL.SEG.MIC_DOMAINS"),
    "MODEL.SADA.ENABLED": ("MODEL.SADA",),
    "MODEL.CLASSIFIER.ALIGN.METHOD": ("MODEL.CLASSIFIER.ALIGN",),
    "MODEL.CLASSIFIER.MCC.WEIGHT": ("MODEL.CLASSIFIER.MCC",),
    "MODEL.CLASSIFIER.SAM_RHO": ("MODEL.CLASSIFIER.SAM_RHO",),
    "MODEL.SEG.HRDA.ENABLED": ("MODEL.SEG.HRDA",),
    "MODEL.SEG.HOST": (
        *("MODEL.SEG.HOST", "MODEL.SEG.SELF_TRAINING", "MODEL.SEG.ADVERSARIAL"),
        *("MODEL.SEG.SPCL", "MODEL.SEG.DIGA", "MODEL.SEG.PSEUDO"),
    ),
}
OFF = (None, False, 0, "none", SOURCE_ONLY)
SHOWN = 4  # differing keys


@dataclass(frozen=True)
class Comparison:
    """Runs of one method, one a seed, against those of a baseline or the oracle.

    ``scores``: of the two, in percent. ``reasons``: why they are not to be compared; none if they
    are.
    """

    method: list[RunRecord]
    baseline: list[RunRecord]
    scores: tuple[float, float]
    reasons: tuple[str, ...]

    def __str__(self) -> str:
        firsts = (self.method[0], self.baseline[0])
        ours, theirs = (f"{run.method} ({run.stem})" for run in firsts)
        if self.reasons:
            return f"{ours} is not compared with {theirs}: {'; '.join(self.reasons)}."
        iterations = total_iterations(self.method[0])
        length = f"{iterations} iterations in all" if iterations is not None else "the same length"
        first, second = self.scores
        numbers = f"{first:.1f} and {second:.1f}, {first - second:+.1f}"
        return f"{ours} against {theirs}, each after {length}: {numbers}."


def comparisons(runs: Sequence[RunRecord], dataset: str) -> list[Comparison]:
    """Each method against source-only, against itself without MIC, and against the oracle.

    Where several runs are of a baseline, those that may be compared; all of them, with reasons, if
    none may. Of the oracle, which is a bound, nothing is asked but as many iterations.
    """
    groups = [group for group in by_group(runs) if _score(group, dataset) is not None]
    result = []
    for group in groups:
        first = group[0]
        if first.method in ENDS:
            continue
        without = first.parts[:-1] if first.setting("MODEL.MIC.ENABLED") else []
        for name in dict.fromkeys((BASELINE, " + ".join(without) or BASELINE, ORACLE)):
            pairs = [
                Comparison(
                    group,
                    other,
                    (_score(group, dataset), _score(other, dataset)),
                    tuple(_other_length(group, other) if name == ORACLE else _why(group, other)),
                )
                for other in groups
                if other[0].method == name
            ]
            result += [pair for pair in pairs if not pair.reasons] or pairs
    return result


def rivals(groups: Sequence[list[RunRecord]]) -> list[list[RunRecord]]:
    """Of ``groups`` those that a best one may be chosen among; none if they differ in length.

    Neither the oracle nor what another of the runs started from is one.
    """
    starts = {start_of(run).folder for group in groups for run in group}
    chosen = [
        group
        for group in groups
        if group[0].method != ORACLE and not any(run.folder in starts for run in group)
    ]
    lengths = {_length(run) for group in chosen for run in group}
    return chosen if len(lengths) == 1 and None not in lengths else []


def _score(group: Sequence[RunRecord], dataset: str) -> float | None:
    values = scores(group, dataset, group[0].task.headline)
    return mean(values) if values else None


def _why(method: Sequence[RunRecord], baseline: Sequence[RunRecord]) -> Iterable[str]:
    """Why these are not to be compared."""
    yield from _other_length(method, baseline)
    ours, theirs = ({start_of(run).identity for run in group} for group in (method, baseline))
    if {start_of(run).folder for run in method} & {run.folder for run in baseline}:
        yield "it started from its weights"
    elif ours != theirs:
        yield "they started from other weights"
    differing = differing_settings(method[0].settings, baseline[0].settings)
    for run in (*method, *baseline):
        differing |= differing_settings(method[0].measured, run.measured)
    if differing:
        names = sorted(differing)
        more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
        yield f"they differ in {', '.join(names[:SHOWN])}{more}"


def _other_length(method: Sequence[RunRecord], baseline: Sequence[RunRecord]) -> Iterable[str]:
    ours, theirs = ({_length(run) for run in group} for group in (method, baseline))
    unknown = [run for run in (*method, *baseline) if _length(run) is None]
    if unknown:
        yield f"the iterations of {unknown[0].folder} are not known"
    elif ours != theirs or len(ours) > 1:
        numbers = (" or ".join(sorted(map(str, lengths))) for lengths in (ours, theirs))
        yield "{} iterations in all against {}".format(*numbers)


def _length(run: RunRecord) -> int | str | None:
    """Iterations in all; its own with the name of the start where those before are not known."""
    total, own = total_iterations(run), own_iterations(run)
    if total is None and own is not None:
        return f"{own} after {start_of(run).path}"
    return total


def differing_settings(ours: dict[str, Any], theirs: dict[str, Any]) -> set[str]:
    """Keys of settings that are not the same, though they should be."""
    free = list(LEFT_OUT)
    for switch, keys in PARTS.items():
        if lookup(ours, switch) in OFF or lookup(theirs, switch) in OFF:
            free += keys
    first, second = dict(flat(ours)), dict(flat(theirs))
    return {
        key
        for key in first.keys() | second.keys()
        if repr(first.get(key)) != repr(second.get(key))
        and not any(f"{key}.".startswith(f"{prefix}.") for prefix in free)
    }
