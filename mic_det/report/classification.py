"""The page's sections on classes: examples side by side, and confusions."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

import numpy as np

from mic_det.classification.evaluation import COLUMNS, PREDICTIONS, TEST_SET
from mic_det.data.errors import DataError
from mic_det.data.images import read_image

from . import tables
from .examples import data_uri
from .html import problem_list
from .runs import RunRecord, first_of_groups

NOTE = (
    "Accuracy in percent; image_accuracy is of all images, class_accuracy the mean over classes, "
    "and accuracy the one of the two that the benchmark counts (TEST.ACCURACY_OF). The model that "
    "is served (TEST.SERVE) comes first, the other of student and teacher in grey below. Bold: "
    "best without the oracle, which is trained on the target's labels."
)
EXAMPLES_NOTE = (
    "Spread evenly over the test images, not picked: what each run calls them, and how sure it is."
)
CONFUSION_NOTE = "Rows are labels, columns what they were taken for. Shading: share of the row."
# A matrix of more classes than this is too large to read: the worst confusions are listed.
MOST_CLASSES = 40
LISTED = 40


@dataclass
class Found:
    """Predictions of one run on a test set: by file (label, predicted, confidence)."""

    run: RunRecord
    by_file: dict[str, tuple[str, str, float]]

    def confusion(self, classes: Sequence[str]) -> np.ndarray:
        """Counts (K, K), rows are labels."""
        number = {name: k for k, name in enumerate(classes)}
        matrix = np.zeros((len(classes), len(classes)), dtype=int)
        for label, predicted, _ in self.by_file.values():
            matrix[number[label], number[predicted]] += 1
        return matrix


def read_predictions(folder: Path, classes: Sequence[str]) -> dict[str, tuple[str, str, float]]:
    """What evaluation wrote, by file.

    Raises DataError if it is no such table, or names a class that is none of ``classes``.
    """
    path = folder / PREDICTIONS
    found = {}
    with path.open(newline="", encoding="utf-8") as file:
        rows = csv.reader(file)
        if tuple(next(rows, ())) != COLUMNS:
            raise DataError(f"{path}: its columns are not {', '.join(COLUMNS)}")
        for line, row in enumerate(rows, 2):
            try:
                name, label, predicted, confidence = row
                if not {label, predicted} <= set(classes):
                    raise ValueError(f"no class {label!r} or {predicted!r}")
                found[name] = (label, predicted, float(confidence))
            except ValueError as error:
                raise DataError(f"{path}: line {line}: {error}") from error
    return found


def sections(runs: Sequence[RunRecord], dataset: str, images: int) -> list[tuple[str, str]]:
    """Title and HTML of the sections on one test set."""
    found, problems = [], []
    described: dict = {}
    for run in first_of_groups(run for run in runs if run.metrics(dataset)):
        folder = run.inference_folder(dataset)
        if not run.has_predictions(dataset):
            problems.append(
                f"{run.label} ({run.folder}): no saved predictions of its {run.served}. They are "
                "written by evaluation; tools/report.py --evaluate does it now."
            )
            continue
        try:
            theirs = json.loads((folder / TEST_SET).read_text(encoding="utf-8"))
            described = described or theirs
            if theirs["classes"] != described["classes"]:
                raise DataError("its classes are others than those of the first run")
            found.append(Found(run, read_predictions(folder, theirs["classes"])))
        except (DataError, OSError, ValueError, KeyError) as error:
            problems.append(f"{run.label}: {error}")
    if not found:
        return [("Predictions", problem_list(problems))]
    classes = described["classes"]
    strips = [_example(found, Path(described["images"]), file) for file in _spread(found, images)]
    shown = "".join(strips) or problem_list(
        [f"The images of {dataset} are not at {described['images']} any more."]
    )
    confusions = "".join(_confusion(each, classes) for each in found)
    note = f'<p class="note">{EXAMPLES_NOTE}</p>'
    return [
        ("Examples", f"{problem_list(problems)}{note}{shown}"),
        (
            "Confusions",
            f'<p class="note">{CONFUSION_NOTE}</p><div class="pairs">{confusions}</div>',
        ),
    ]


def _spread(found: Sequence[Found], count: int) -> list[str]:
    files = sorted(set.intersection(*(set(each.by_file) for each in found)))
    if len(files) <= count:
        return files
    return [files[int(k)] for k in np.linspace(0, len(files) - 1, count)]


def _example(found: Sequence[Found], images: Path, file: str) -> str:
    """A picture with its label, and what each run makes of it; "" if it is gone."""
    try:
        image = read_image(images / file)
    except DataError:
        return ""
    label = found[0].by_file[file][0]
    rows = []
    for each in found:
        _, predicted, confidence = each.by_file[file]
        right = predicted == label
        mark = "right" if right else "false"
        rows.append(
            f"<tr><th>{tables.key(each.run)}{escape(each.run.label)}</th>"
            f'<td><i class="mark {mark}"></i>{escape(predicted)}</td>'
            f"<td>{100 * confidence:.0f} %</td></tr>"
        )
    picture = f'<img src="{data_uri(image)}" width="128" alt="{escape(label)}">'
    title = f"{escape(label)} <small>{escape(file)}</small>"
    return (
        f'<div class="strip"><figure><figcaption>{title}</figcaption>{picture}</figure>'
        f"<figure>{tables.scrolling(''.join(rows))}</figure></div>"
    )


def _confusion(found: Found, classes: Sequence[str]) -> str:
    matrix = found.confusion(classes)
    if len(classes) <= MOST_CLASSES:
        table = tables.confusion_table(matrix, classes, background=False)
    else:
        table = _worst(matrix, classes)
    caption = f"{tables.key(found.run)}{escape(found.run.label)}"
    return f'<figure class="card wide"><figcaption>{caption}</figcaption>{table}</figure>'


def _worst(matrix: np.ndarray, classes: Sequence[str]) -> str:
    """The most frequent confusions of many classes."""
    wrong = matrix.copy()
    np.fill_diagonal(wrong, 0)
    rows = []
    for place in np.argsort(-wrong, axis=None, kind="stable")[:LISTED]:
        k, j = np.unravel_index(place, wrong.shape)
        if wrong[k, j]:
            rows.append(
                f"<tr><th>{escape(classes[k])}</th><td>{escape(classes[j])}</td>"
                f"<td>{wrong[k, j]} of {matrix[k].sum()}</td></tr>"
            )
    heads = "<thead><tr><th>label</th><th>taken for</th><th>images</th></tr></thead>"
    return tables.scrolling(heads + "".join(rows))
