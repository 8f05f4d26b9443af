"""Evaluation files of domains: the own file or a narrowed copy, and right in Detectron2."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from coco_folder import make_folder, register, sample
from detectron2.data import MetadataCatalog
from detectron2.evaluation import COCOEvaluator
from detectron2.structures import Boxes, BoxMode, Instances

from mic_det.config import get_cfg
from mic_det.data.catalog import (
    evaluation_json,
    labelled_dicts,
    unlabelled_dicts,
    unregister_domain,
)
from mic_det.data.classification.digits import ensure_digits
from mic_det.data.formats.coco import DataError, read_coco
from mic_det.data.streets import ensure_streets
from mic_det.detection.checks import check_classes

pytestmark = pytest.mark.usefixtures("clean_catalogs")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make_folder(tmp_path)


@pytest.mark.parametrize("classes", [None, ["person", "car", "tram"]])
def test_evaluation_uses_the_own_file_if_nothing_is_narrowed(folder: Path, classes):
    register(folder, classes=classes)
    assert evaluation_json("t") == str(folder / "boxes.json")
    assert MetadataCatalog.get("t").json_file == str(folder / "boxes.json")
    assert not (folder / "cache").exists()


def test_evaluation_json_is_written_once_for_the_same_content(folder: Path):
    register(folder, classes=["tram", "car"])
    register(folder, "other", classes=["car", "tram"])
    path = Path(MetadataCatalog.get("t").json_file)  # asked for before anything was loaded
    before = path.stat()
    assert path.parent == folder / "cache"
    data = read_coco(path)
    assert [c["name"] for c in sorted(data["categories"], key=lambda c: c["id"])] == ["tram", "car"]
    assert len(data["images"]) == 2 and len(data["annotations"]) == 3
    assert evaluation_json("t") == str(path) != evaluation_json("other")
    unregister_domain("t")
    register(folder, "again", classes=["tram", "car"])
    assert evaluation_json("again") == str(path)
    after = path.stat()
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)
    path.unlink()  # somebody cleans the cache
    assert evaluation_json("again") == str(path) and path.is_file()
    assert len(list((folder / "cache").iterdir())) == 2
    json_of_changed = sample()
    json_of_changed["annotations"].pop(0)
    (folder / "boxes.json").write_text(json.dumps(json_of_changed))
    register(folder, "changed", classes=["tram", "car"])
    assert evaluation_json("changed") != str(path)


def test_evaluation_json_is_what_the_source_says_not_what_lies_in_the_cache(folder: Path):
    register(folder, classes=["car"])
    path = Path(evaluation_json("t"))
    before = path.read_text()
    path.write_text(before.replace("400", "300"))  # the same name, another content
    assert evaluation_json("t") == str(path) and path.read_text() == before
    changed = sample()
    changed["annotations"].pop(0)
    (folder / "boxes.json").write_text(json.dumps(changed))
    assert len(read_coco(Path(evaluation_json("t")))["annotations"]) == 1
    assert MetadataCatalog.get("t").json_file == evaluation_json("t")


def test_a_cache_that_cannot_be_written_is_named_before_training(folder: Path, monkeypatch):
    (folder / "file").touch()
    monkeypatch.setenv("MIC_DET_CACHE", str(folder / "file"))
    register(folder, classes=["car"])
    changes = ["DATASETS.TRAIN", ("t",), "DATASETS.TEST", ("t",), "MODEL.ROI_HEADS.NUM_CLASSES", 1]
    cfg = get_cfg()
    cfg.merge_from_list(changes)
    for write in (lambda: check_classes(cfg), ensure_digits, ensure_streets):
        with pytest.raises(DataError) as info:
            write()
        assert f"{folder / 'file'}" in str(info.value)
        assert "cannot be written" in str(info.value) and "Set MIC_DET_CACHE" in str(info.value)


def evaluate(name: str, keep: str) -> dict:
    """COCOEvaluator on a detector that finds exactly the objects of one class."""
    evaluator = COCOEvaluator(name, tasks=("bbox",), use_fast_impl=False)
    evaluator.reset()
    for record in labelled_dicts(name):
        classes = MetadataCatalog.get(name).thing_classes
        found = [a for a in record["annotations"] if classes[a["category_id"]] == keep]
        boxes = BoxMode.convert(
            torch.tensor([a["bbox"] for a in found]).reshape(-1, 4).float(),
            BoxMode.XYWH_ABS,
            BoxMode.XYXY_ABS,
        )
        instances = Instances((record["height"], record["width"]))
        instances.pred_boxes = Boxes(boxes)
        instances.scores = torch.ones(len(found))
        instances.pred_classes = torch.tensor([a["category_id"] for a in found], dtype=torch.long)
        evaluator.process([record], [{"instances": instances}])
    return evaluator.evaluate()["bbox"]


@pytest.mark.parametrize("classes", [None, ["car", "person"], ["person", "car"], ["car"]])
def test_detectron2_evaluates_each_class_under_its_name(folder: Path, classes):
    register(folder, classes=classes)
    result = evaluate("t", "car")
    if classes != ["car"]:  # Detectron2 gives results by class only if there are several
        assert result["AP-car"] == pytest.approx(100)
        assert result["AP-person"] == pytest.approx(0)
    assert result["AP50"] == pytest.approx(100 if classes == ["car"] else 50)


def test_files_without_area_iscrowd_and_with_id_0_are_evaluated_right(folder: Path):
    data = sample()
    del data["info"]
    for annotation in data["annotations"]:
        annotation["id"] -= 1
        del annotation["area"], annotation["iscrowd"]
    (folder / "boxes.json").write_text(json.dumps(data))
    register(folder)
    assert evaluate("t", "car")["AP-car"] == pytest.approx(100)
    completed = read_coco(Path(evaluation_json("t")))["annotations"]
    assert [(a["area"], a["iscrowd"]) for a in completed] == [(200, 0), (60, 0), (400, 0), (81, 0)]
    for annotation in data["annotations"]:
        del annotation["id"]
    (folder / "boxes.json").write_text(json.dumps(data))
    register(folder, "without_ids")
    assert evaluate("without_ids", "car")["AP-car"] == pytest.approx(100)


def test_pattern_narrows_labels_and_evaluation_too(folder: Path):
    register(folder, pattern="*.png")
    assert [d["image_id"] for d in labelled_dicts("t")] == [7]
    assert [d["image_id"] for d in unlabelled_dicts("t")] == ["sub/b.png"]
    assert [i["id"] for i in read_coco(Path(evaluation_json("t")))["images"]] == [7]
    register(folder, "none", pattern="*.gif")
    with pytest.raises(DataError, match=r"boxes\.json: images: lists no image of the domain"):
        labelled_dicts("none")
