"""The page's sections on detections: examples, precision and recall, confusions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from mic_det.data.errors import DataError

from . import curves, examples, tables
from .html import grid, problem_list
from .matching import IOU, Matches, TestSet, confusion_matrix, read_matches, read_test_set
from .runs import RunRecord, first_of_groups

NOTE = (
    "AP50 in percent: average precision at IoU 0.5, as COCO's tool computes it. The model that is "
    "served (TEST.SERVE) comes first, the other of student and teacher in grey below. Bold: best "
    "without the oracle, which is trained on the target's labels."
)
EXAMPLES_NOTE = (
    "Spread evenly over the test images, not picked. A detection is right when it meets a label of "
    "its class at IoU 0.5 that no surer one has taken."
)
PRECISION_NOTE = "Precision in percent over recall, at IoU 0.5; the numbers are AP50."
CONFUSION_NOTE = (
    "Rows are labels, columns what they were found as; detections of nothing are in the row "
    "“background”. Shading: share of the row. Detections first go to labels of their own class; "
    f"the rest, surest first, to the free label they overlap most (IoU ≥ {IOU:g}). "
    f"Score ≥ {examples.THRESHOLD:g}."
)


@dataclass
class Compared:
    """What is known of one test set: its labels, if at hand, and detections of some runs."""

    name: str
    test_set: TestSet | None
    found: list[tuple[RunRecord, Matches]]
    problems: list[str]


def compare(runs: Sequence[RunRecord], dataset: str) -> Compared:
    """Read the saved detections on a test set, of one run of each group of seeds."""
    compared = Compared(dataset, None, [], [])
    for run in first_of_groups(run for run in runs if run.metrics(dataset)):
        if not run.has_predictions(dataset):
            compared.problems.append(
                f"{run.label} ({run.folder}): no saved detections of its {run.served}. They are "
                "written by evaluation; tools/report.py --evaluate does it now."
            )
            continue
        folder = run.inference_folder(dataset)
        try:
            if compared.test_set is None:
                compared.test_set = read_test_set(folder)
            compared.found.append((run, read_matches(folder, compared.test_set)))
        except DataError as error:
            compared.problems.append(f"{run.label}: {error}")
    return compared


def sections(runs: Sequence[RunRecord], dataset: str, images: int) -> list[tuple[str, str]]:
    """Title and HTML of the sections on one test set."""
    compared = compare(runs, dataset)
    problems = problem_list(compared.problems)
    if not compared.found or compared.test_set is None:
        return [("Detections", problems)]
    test_set = compared.test_set
    cards = curves.precision_cards(test_set.classes, compared.found)
    rows = examples.example_rows(test_set, compared.found, images)
    shown = _slider() + "".join(rows)
    if not rows:
        shown = problem_list([f"The images of {dataset} are not at {test_set.images} any more."])
    confusions = [
        f'<figure class="card wide"><figcaption>{tables.key(run)}{escape(run.label)}</figcaption>'
        + tables.confusion_table(
            confusion_matrix(matches, len(test_set.classes), examples.THRESHOLD), test_set.classes
        )
        + "</figure>"
        for run, matches in compared.found
    ]
    return [
        ("Detections side by side", f'{problems}<p class="note">{EXAMPLES_NOTE}</p>{shown}'),
        ("Precision and recall", grid(cards, PRECISION_NOTE)),
        (
            "Confusions",
            f'<p class="note">{CONFUSION_NOTE}</p><div class="pairs">{"".join(confusions)}</div>',
        ),
    ]


def _slider() -> str:
    return (
        '<div class="controls"><label>Score at least <output>0.50</output>'
        f'<input type="range" min="{examples.LEAST_SCORE}" max="0.95" step="0.05" '
        f'value="{examples.THRESHOLD}"></label>'
        '<label><input type="checkbox" checked> names</label>'
        '<span class="marks"><i class="mark right"></i>right <i class="mark false"></i>false '
        '<i class="mark missed"></i>missed <i class="mark truth"></i>label</span></div>'
    )
