"""The page's section on label maps: the same test images as each run labels them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from mic_det.data.errors import DataError
from mic_det.data.images import read_image
from mic_det.segmentation.drawing import overlay, read_labels
from mic_det.segmentation.evaluation import TEST_SET
from mic_det.segmentation.separation import AFTER, BEFORE, read_distances, shown

from .examples import data_uri
from .html import problem_list
from .runs import RunRecord, first_of_groups
from .tables import key, scrolling

NOTE = (
    "Intersection over union in percent, pixels of all test images together; mIoU is the mean over "
    "the classes that the test set shows. The model that is served (TEST.SERVE) comes first, the "
    "other of student and teacher in grey below. Bold: best without the oracle, which is trained "
    "on the target's labels."
)
MAPS_NOTE = (
    "Spread evenly over the test images, not picked. Percent: pixels of the image that are right, "
    "of those with a label."
)

DISTANCES_NOTE = (
    "How far features of a class are from their mean, over how far that is from the means of the "
    "others (smaller is better), on the test set: of the model that the run started from, and of "
    "its student at the end. Measured in runs with prototypes (MODEL.SEG.SPCL.CLASS_DISTANCE)."
)


def sections(runs: Sequence[RunRecord], dataset: str, images: int) -> list[tuple[str, str]]:
    """Titles and HTML of the sections on one test set."""
    return [*_label_maps(runs, dataset, images), *_distances(runs, dataset)]


def _distances(runs: Sequence[RunRecord], dataset: str) -> list[tuple[str, str]]:
    """Class centre distances before and after, of each run that measured them."""
    rows, classes = [], []
    for run in runs:
        found = read_distances(run.folder)
        for when in (BEFORE, AFTER):
            values = found.get(when, {}).get(dataset)
            if values is None:
                continue
            classes = classes or list(values["classes"])
            cells = [values["mean"], *(values["classes"].get(name) for name in classes)]
            title = f"{key(run)}{escape(run.label)} ({escape(run.name)})" if when == BEFORE else ""
            row = "".join(f"<td>{shown(cell)}</td>" for cell in cells)
            rows.append(f"<tr><th>{title}</th><td>{when}</td>{row}</tr>")
    if not rows:
        return []
    heads = "".join(f"<th>{escape(name)}</th>" for name in ("mean", *classes))
    table = scrolling(f"<thead><tr><th></th><th></th>{heads}</tr></thead>{''.join(rows)}", "ap")
    return [("Class centre distance", f'<p class="note">{DISTANCES_NOTE}</p>{table}')]


def _label_maps(runs: Sequence[RunRecord], dataset: str, images: int) -> list[tuple[str, str]]:
    """The same test images as each run labels them."""
    problems: list[str] = []
    shown: list[tuple[RunRecord, Path, dict[str, Any]]] = []
    for run in first_of_groups(run for run in runs if run.metrics(dataset)):
        folder = run.inference_folder(dataset)
        try:
            shown.append((run, folder, json.loads((folder / TEST_SET).read_text("utf-8"))))
        except (OSError, ValueError):
            problems.append(
                f"{run.label} ({run.folder}): no saved label maps of its {run.served}. They are "
                "written by evaluation; tools/report.py --evaluate does it now."
            )
    if not shown:
        return [("Label maps", problem_list(problems))]
    described = shown[0][2]
    rows = []
    for each in _spread(described["images"], images):
        try:
            rows.append(_row(each, described, [(run, folder) for run, folder, _ in shown]))
        except (DataError, OSError, ValueError) as error:
            problems.append(f"{each['file_name']}: cannot be shown: {error}")
    legend = "".join(
        f'<span><i class="key" style="background:rgb({r},{g},{b})"></i>{escape(name)}</span>'
        for name, (r, g, b) in zip(described["classes"], described["colours"], strict=True)
    )
    note = f'<p class="note">{MAPS_NOTE}</p><div class="legend">{legend}</div>'
    return [("Label maps", problem_list(problems) + note + "".join(rows))]


def _spread(images: Sequence[dict[str, Any]], count: int) -> list[dict[str, Any]]:
    if len(images) <= count:
        return list(images)
    return [images[int(k)] for k in np.linspace(0, len(images) - 1, count)]


def _row(
    each: dict[str, Any], described: dict[str, Any], runs: Sequence[tuple[RunRecord, Path]]
) -> str:
    """The image, the label maps of all runs on it, and the true one."""
    image = read_image(Path(each["file_name"]), "RGB")
    colours = [tuple(colour) for colour in described["colours"]]
    truth = read_labels(runs[0][1] / each["truth"])
    panels = [_panel(image, "image")]
    for run, folder in runs:
        labels = read_labels(folder / each["predicted"])
        known = truth < len(colours)
        right = f"{100 * (labels == truth)[known].mean():.0f} %" if known.any() else "no labels"
        title = f"{key(run)}{escape(run.label)}: {right}"
        panels.append(_panel(overlay(_fitted(image, labels), labels, colours), title))
    panels.append(_panel(overlay(_fitted(image, truth), truth, colours), "labels"))
    return f'<div class="strip">{"".join(panels)}</div>'


def _fitted(image: np.ndarray, labels: np.ndarray) -> np.ndarray:
    if image.shape[:2] == labels.shape:
        return image
    return cv2.resize(image, labels.shape[::-1], interpolation=cv2.INTER_AREA)


def _panel(image: np.ndarray, title: str) -> str:
    height, width = image.shape[:2]
    return (
        f"<figure><figcaption>{title}</figcaption>"
        f'<svg viewBox="0 0 {width} {height}"><image href="{data_uri(image)}" '
        f'width="{width}" height="{height}"/></svg></figure>'
    )
