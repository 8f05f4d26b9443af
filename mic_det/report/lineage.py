"""Which weights a run started from, and how many iterations a model has had in all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mic_det.engine.checkpoint import NUMBERED

from .runs import FINAL, RunRecord, is_run, read_run


@dataclass(frozen=True)
class Start:
    """The weights that a run started from.

    ``identity``: equal for equal weights (the file's hash, else its path; "" for none).
    ``folder``: of the run that wrote them, None if no run did or it is not there any more.
    ``iterations``: that they had been trained for, in that run and those before it; 0 for weights
    from elsewhere, None if it cannot be known.
    """

    identity: str = ""
    path: str = ""
    folder: Path | None = None
    iterations: int | None = 0


def start_of(run: RunRecord, later: Sequence[Path] = ()) -> Start:
    """Where ``run`` started; ``later`` are the folders of runs that started from it."""
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
    counts = (_iterations_at(parent, path.name), start_of(parent, later).iterations)
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
