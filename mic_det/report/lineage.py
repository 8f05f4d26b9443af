"""Which weights a run started from, and how many iterations a model has had in all."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mic_det.engine.checkpoint import NUMBERED

from .runs import FINAL, RunRecord, Start, is_run, read_run


def start_of(run: RunRecord) -> Start:
    """Where ``run`` started; looked up once, and kept with it."""
    if run.start is None:
        run.start = _find_start(run)
    return run.start


def _find_start(run: RunRecord, later: Sequence[Path] = ()) -> Start:
    """The start of a run; ``later`` are the folders of runs that started from it."""
    weights = run.setting("MODEL.WEIGHTS") or ""
    if not weights or "://" in weights:
        return Start(weights, weights)
    first = run.starts[0] if run.starts else {}
    path = Path(first.get("directory", ""), weights).resolve()
    identity = first.get("weights") or str(path)
    later = (*later, run.folder)
    if path.parent in later:  # that run was overwritten by one that started from it
        return Start(identity, str(path), None, None)
    if not is_run(path.parent):
        return Start(identity, str(path), None, 0 if path.is_file() else None)
    parent = read_run(path.parent)
    counts = (_iterations_at(parent, path.name), _find_start(parent, later).iterations)
    return Start(identity, str(path), parent.folder, None if None in counts else sum(counts))


def own_iterations(run: RunRecord) -> int | None:
    """Iterations of the run itself in the model that its results are of, or so far."""
    return _iterations_at(run, run.measured_file) if run.results else run.iterations_done


def total_iterations(run: RunRecord) -> int | None:
    """`own_iterations` and those of the weights that it started from."""
    counts = (own_iterations(run), start_of(run).iterations)
    return None if None in counts else sum(counts)


def _iterations_at(run: RunRecord, checkpoint: str) -> int | None:
    """Iterations of ``run`` in a file of its folder; None where the name does not tell."""
    if not run.recorded:
        return None
    number = NUMBERED.fullmatch(checkpoint)
    if number:
        return int(number[1]) + 1
    return run.max_iter if checkpoint == FINAL else None
