"""Detections against labels at IoU 0.5: precision and recall, hits and misses, confusions."""

from __future__ import annotations

import contextlib
import io
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from pycocotools.mask import iou as box_iou

from mic_det.data.formats.coco import DataError
from mic_det.detection.evaluation import DETECTIONS, TEST_SET

IOU = 0.5


@dataclass
class TestSet:
    """Labels of a test set: a COCO file, its folder of images (None: unknown), its classes."""

    __test__ = False  # no test of pytest's

    name: str
    coco: COCO
    images: Path | None
    classes: list[str]

    @property
    def category_ids(self) -> list[int]:
        """Ids of the classes in the COCO file, in the classes' order."""
        by_name = {each["name"]: each["id"] for each in self.coco.dataset["categories"]}
        return [by_name[name] for name in self.classes]

    def image_file(self, image_id: int) -> Path | None:
        """The file of an image, if it is there."""
        path = (self.images or Path()) / self.coco.imgs[image_id]["file_name"]
        return path if path.is_file() else None


@dataclass
class Matches:
    """One model's detections and what they met; boxes are XYWH in pixels.

    ``detections``: dicts ``image_id, class, box, score, hit`` (True, False, or None where a crowd
    region excuses it). ``labels``: dicts ``image_id, class, box, found``, the score of the
    detection that found it or None. Both without crowd regions.
    """

    detections: list[dict[str, Any]] = field(default_factory=list)
    labels: list[dict[str, Any]] = field(default_factory=list)
    precision: dict[str, np.ndarray] = field(default_factory=dict)
    """Of each class: precision (101,) at recall 0, 0.01, … 1, whose mean is its AP50; a class
    without labels is missing."""


def read_test_set(folder: Path) -> TestSet:
    """What a folder of detections belongs to. Raises DataError if that is gone or broken."""
    try:
        described = json.loads((folder / TEST_SET).read_text(encoding="utf-8"))
        with contextlib.redirect_stdout(io.StringIO()):
            coco = COCO(described["annotations"])
        images = described["images"]
        found = TestSet(
            described["name"], coco, None if images is None else Path(images), described["classes"]
        )
        found.category_ids  # noqa: B018  raises KeyError if the file has other classes now
        return found
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{folder / TEST_SET}: its labels cannot be read: {error!r}") from error


def read_matches(folder: Path, test_set: TestSet) -> Matches:
    """A model's saved detections, matched. Raises DataError if they are broken."""
    path = folder / DETECTIONS
    try:
        return match(test_set, json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError, TypeError, AssertionError) as error:
        raise DataError(f"{path}: cannot be used: {error!r}") from error


def match(test_set: TestSet, results: list[dict[str, Any]]) -> Matches:
    """Match detections, a list of COCO result records, as COCO's AP50 does (pycocotools itself)."""
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = COCOeval(test_set.coco, _load(test_set.coco, results), "bbox")
        parameters = evaluation.params
        parameters.iouThrs = np.array([IOU])
        parameters.areaRng, parameters.areaRngLbl = parameters.areaRng[:1], ["all"]
        parameters.maxDets = parameters.maxDets[-1:]
        parameters.catIds = test_set.category_ids
        evaluation.evaluate()
        evaluation.accumulate()
    found = Matches()
    index = {number: k for k, number in enumerate(test_set.category_ids)}
    for each in filter(None, evaluation.evalImgs):
        _add(found, each, evaluation, index[each["category_id"]])
    columns = list(evaluation.params.catIds)  # sorted by pycocotools
    for name, number in zip(test_set.classes, test_set.category_ids, strict=True):
        precision = evaluation.eval["precision"][0, :, columns.index(number), 0, 0]
        if precision.max() > -1:
            found.precision[name] = precision
    return found


def _load(coco: COCO, results: list[dict[str, Any]]) -> COCO:
    if results:
        return coco.loadRes(results)
    # pycocotools cannot load an empty list.
    empty = COCO()
    empty.dataset = {**coco.dataset, "annotations": []}
    empty.createIndex()
    return empty


def _add(found: Matches, each: dict[str, Any], evaluation: COCOeval, k: int) -> None:
    """Take over what pycocotools says of one image and class."""
    scores = dict(zip(each["dtIds"], each["dtScores"], strict=True))
    rows = zip(each["dtIds"], each["dtMatches"][0], each["dtIgnore"][0], strict=True)
    for number, met, ignored in rows:
        box = evaluation.cocoDt.anns[number]["bbox"]
        hit = None if ignored else bool(met)
        found.detections.append(
            {"image_id": each["image_id"], "class": k, "box": box, "score": scores[number]}
            | {"hit": hit}
        )
    rows = zip(each["gtIds"], each["gtMatches"][0], each["gtIgnore"], strict=True)
    for number, met, ignored in rows:
        if not ignored:
            box = evaluation.cocoGt.anns[number]["bbox"]
            by = scores.get(met) if met else None
            found.labels.append({"image_id": each["image_id"], "class": k, "box": box, "found": by})


def confusion_matrix(matches: Matches, classes: int, threshold: float) -> np.ndarray:
    """Counts (classes + 1, classes + 1): row the label's class, column the detection's.

    The last row is background (detections of nothing), the last column what was missed. Detections
    of at least ``threshold`` are first given to labels of their own class, as for AP50; then, best
    first, each of the others to the free label of any class that it overlaps most, by IoU >= 0.5.
    """
    matrix = np.zeros((classes + 1, classes + 1), dtype=np.int64)
    free: dict[Any, list[dict[str, Any]]] = {}
    for label in matches.labels:
        if label["found"] is not None and label["found"] >= threshold:
            matrix[label["class"], label["class"]] += 1
        else:
            free.setdefault(label["image_id"], []).append(label)
    wrong = [d for d in matches.detections if d["hit"] is False and d["score"] >= threshold]
    for detection in sorted(wrong, key=lambda d: -d["score"]):
        candidates = free.get(detection["image_id"], [])
        row = classes
        if candidates:
            overlaps = box_iou(
                [detection["box"]], [c["box"] for c in candidates], [0] * len(candidates)
            )
            best = int(np.argmax(overlaps[0]))
            if overlaps[0][best] >= IOU:
                row = candidates.pop(best)["class"]
        matrix[row, detection["class"]] += 1
    for labels in free.values():
        for label in labels:
            matrix[label["class"], classes] += 1
    return matrix
