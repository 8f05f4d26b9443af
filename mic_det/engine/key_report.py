"""How a file's tensors differ from a model's, in a table short enough to read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tabulate import tabulate
from torch import nn

from mic_det.tasks import Classifier

ROWS = 12
MEANING = {
    "missing": "not in the file, starts as initialised",
    "unexpected": "not in the model, left out",
    "mis-shaped": "left out, starts as initialised",
}
Shapes = Sequence[tuple[str, tuple[int, ...], tuple[int, ...]]]


def key_report(
    missing: Sequence[str] = (), unexpected: Sequence[str] = (), mis_shaped: Shapes = ()
) -> str:
    """Rows of (difference, module, tensors, what it means), the modules' tensors taken together.

    ``mis_shaped``: (name, shape in the file, shape in the model).
    """
    rows = [
        ["mis-shaped", name, f"{_size(in_file)} in the file, {_size(in_model)} in the model"]
        for name, in_file, in_model in mis_shaped
    ]
    for kind, names in (("missing", missing), ("unexpected", unexpected)):
        groups: dict[str, int] = {}
        for name in sorted(names):
            module = _module(name)
            groups[module] = groups.get(module, 0) + 1
        rows += [[kind, f"{module}.*", f"{count} tensors"] for module, count in groups.items()]
    shown = [[kind, name, detail, MEANING[kind]] for kind, name, detail in rows[:ROWS]]
    table = tabulate(shown, headers=["", "tensor", "", "so"], tablefmt="simple")
    return table + (f"\n… and {len(rows) - ROWS} more rows" if len(rows) > ROWS else "")


@dataclass(frozen=True)
class ClassCounts:
    """Numbers of classes of a file and of a model, and the config key of the model's."""

    in_file: int
    in_model: int
    key: str


def class_counts(mis_shaped: Shapes, model: nn.Module) -> ClassCounts | None:
    """How many classes file and model have, if the model's classifier differs in it.

    Which tensor that is, the model says itself (`mic_det.tasks.Classifier`).
    """
    classifier = getattr(model, "classifier", None)
    if not isinstance(classifier, Classifier):
        return None
    for name, in_file, in_model in mis_shaped:
        if name == classifier.tensor and in_file and in_file[0] != in_model[0]:
            rows = (in_file[0] - classifier.background, in_model[0] - classifier.background)
            return ClassCounts(*rows, classifier.key)
    return None


def _module(name: str) -> str:
    """The first three parts of a tensor's name without its last."""
    return ".".join(name.split(".")[:-1][:3]) or name


def _size(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) or "scalar"
