"""Matches, precision and confusions of the report: pycocotools' own, and counted by hand."""

from __future__ import annotations

import json

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from run_folders import make_run
from small_runs import config
from tiny_streets import FOGGY

from mic_det.data.formats.coco import DataError
from mic_det.engine.evaluation import inference_folder
from mic_det.report.matching import (
    Matches,
    TestSet,
    confusion_matrix,
    match,
    read_matches,
    read_test_set,
)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    return make_run(config(folder), noise=0.15)


def labels(boxes: list[tuple], classes: int = 2, images: int = 1) -> TestSet:
    """A test set of (image, class, x, y, w, h[, crowd]); category ids are not those of classes."""
    coco = COCO()
    coco.dataset = {
        "images": [{"id": i, "file_name": f"{i}.png"} for i in range(images)],
        "categories": [{"id": 10 - k, "name": f"c{k}"} for k in range(classes)],
        "annotations": [
            {"id": n + 1, "image_id": i, "category_id": 10 - k, "bbox": [x, y, w, h]}
            | {"area": w * h, "iscrowd": int(any(crowd))}
            for n, (i, k, x, y, w, h, *crowd) in enumerate(boxes)
        ],
    }
    coco.createIndex()
    return TestSet("hand", coco, None, [f"c{k}" for k in range(classes)])


def results(found: list[tuple]) -> list[dict]:
    return [
        {"image_id": i, "category_id": 10 - k, "score": score, "bbox": [x, y, w, h]}
        for i, k, score, x, y, w, h in found
    ]


def test_average_precision_is_that_of_the_evaluation(run):
    """What the curves show is what training measured and printed."""
    measured = json.loads((run / "results.json").read_text())["student"][FOGGY]
    folder = inference_folder(run, "student") / FOGGY
    matches = read_matches(folder, read_test_set(folder))
    expected = {
        name.removeprefix("AP50-"): value
        for name, value in measured.items()
        if name.startswith("AP50-") and np.isfinite(value)
    }
    assert 20 < np.mean(list(expected.values())) < 80 and len(set(expected.values())) > 4
    found = {name: 100 * curve.mean() for name, curve in matches.precision.items()}
    assert found == pytest.approx(expected, abs=1e-9)
    assert np.mean(list(found.values())) == pytest.approx(measured["AP50"], abs=1e-9)


def test_average_precision_with_crowds_and_many_detections():
    """Against pycocotools with its own default parameters."""
    draw = np.random.default_rng(3)
    boxes = [
        (i, int(draw.integers(2)), *draw.uniform(0, 80, 2), *draw.uniform(8, 40, 2), k == 0)
        for i in range(6)
        for k in range(8)
    ]
    test_set = labels(boxes, images=6)
    found = [
        (i, k if draw.random() < 0.8 else 1 - k, draw.random(), *(np.array(box[:4]) + shift))
        for i, k, *box in boxes
        for shift in draw.normal(0, 2.5, (20, 4))
    ]
    found = results([(*each[:3], *np.maximum(each[3:], 1.0)) for each in found])
    evaluation = COCOeval(test_set.coco, test_set.coco.loadRes(found), "bbox")
    evaluation.evaluate()
    evaluation.accumulate()
    precision = evaluation.eval["precision"][0, :, :, 0, -1]
    ours = match(test_set, found).precision
    for column, number in enumerate(evaluation.params.catIds):
        assert 0.05 < precision[:, column].mean() < 0.95, "too easy a test"
        assert np.array_equal(ours[f"c{10 - number}"], precision[:, column])


HAND = labels(
    [
        (0, 0, 0, 0, 10, 10),
        (0, 1, 20, 0, 10, 10),
        (0, 0, 40, 0, 10, 10),
        (0, 1, 60, 0, 30, 30, True),
    ]
)
FOUND = results(
    [
        (0, 0, 0.9, 0, 0, 10, 10),  # right
        (0, 0, 0.8, 1, 0, 10, 10),  # a second one of the same object: false
        (0, 0, 0.7, 20, 0, 10, 11),  # an object of class 1 taken for one of class 0
        (0, 1, 0.6, 65, 5, 10, 10),  # in the crowd: neither
        (0, 1, 0.4, 20, 1, 10, 10),  # right, but less sure
        (0, 1, 0.3, 80, 80, 5, 5),  # nothing there
    ]
)


def test_hits_and_misses_by_hand():
    matches = match(HAND, FOUND)
    hits = {each["score"]: each["hit"] for each in matches.detections}
    assert hits == {0.9: True, 0.8: False, 0.7: False, 0.6: None, 0.4: True, 0.3: False}
    found = {tuple(each["box"]): each["found"] for each in matches.labels}
    assert found == {(0, 0, 10, 10): 0.9, (20, 0, 10, 10): 0.4, (40, 0, 10, 10): None}


@pytest.mark.parametrize(
    ("threshold", "expected"),
    [
        # The box of class 1 is found as class 0; the last column is missed, the last row nothing.
        (0.5, [[1, 0, 1], [1, 0, 0], [1, 0, 0]]),
        # Its own class finds it now and goes first, so the confusion is a detection of nothing.
        (0.35, [[1, 0, 1], [0, 1, 0], [2, 0, 0]]),
        (0.2, [[1, 0, 1], [0, 1, 0], [2, 1, 0]]),
        (0.95, [[0, 0, 2], [0, 0, 1], [0, 0, 0]]),
    ],
)
def test_confusions_by_hand(threshold, expected):
    found = confusion_matrix(match(HAND, FOUND), 2, threshold)
    assert found.tolist() == expected


def test_every_label_and_detection_counts_once(run):
    folder = inference_folder(run, "student") / FOGGY
    matches = read_matches(folder, read_test_set(folder))
    matrix = confusion_matrix(matches, 8, 0.5)
    assert matrix[:-1].sum() == len(matches.labels) > 0
    sure = [d for d in matches.detections if d["score"] >= 0.5 and d["hit"] is not None]
    assert matrix[:, :-1].sum() == len(sure)
    assert np.trace(matrix) == sum(d["hit"] for d in sure)


def test_no_detections_at_all():
    matches = match(HAND, [])
    assert matches.detections == [] and len(matches.labels) == 3
    assert matches.precision["c0"].max() == 0.0
    assert confusion_matrix(matches, 2, 0.5)[:, -1].tolist() == [2, 1, 0]
    assert confusion_matrix(Matches(), 2, 0.5).sum() == 0


@pytest.mark.parametrize("text", ["", "[", '{"a": 1}', '[{"image_id": 99}]', "[1]"])
def test_broken_detections_are_named(run, tmp_path, text):
    folder = inference_folder(run, "student") / FOGGY
    (tmp_path / "coco_instances_results.json").write_text(text)
    with pytest.raises(DataError, match="coco_instances_results"):
        read_matches(tmp_path, read_test_set(folder))


@pytest.mark.parametrize("text", ["", "{}", '{"name": "x", "annotations": "/nowhere.json"}'])
def test_labels_that_are_gone_are_named(tmp_path, text):
    (tmp_path / "test_set.json").write_text(text)
    with pytest.raises(DataError, match="test_set"):
        read_test_set(tmp_path)
