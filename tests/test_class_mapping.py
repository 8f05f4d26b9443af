"""Source and target with classes of other names, orders and ids."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances
from detectron2.evaluation import COCOEvaluator
from detectron2.structures import Boxes, BoxMode, Instances
from small_domain import make_domain, write_coco_file

from mic_det.data.catalog import evaluation_json, fit_classes, labelled_dicts, register_domain
from mic_det.data.errors import DataError
from mic_det.data.formats.coco import read_coco

pytestmark = pytest.mark.usefixtures("clean_catalogs")


def renamed(*pairs: tuple[int, str]):
    """Give the categories car and person these ids and names, in this order in the file."""

    def change(data: dict) -> None:
        data["categories"] = [{"id": number, "name": name} for number, name in pairs]
        for each in data["annotations"]:
            each["category_id"] = pairs[each["category_id"] - 1][0]

    return change


def domain(root: Path, name: str, change=lambda data: None, **more) -> None:
    folder = make_domain(root / name)
    write_coco_file(folder, change)
    register_domain(name, folder / "images", folder / "boxes.json", **more)


def labels(name: str) -> list[str]:
    """The class of each box by name, as Detectron2's metadata have it."""
    classes = MetadataCatalog.get(name).thing_classes
    return [
        classes[each["category_id"]]
        for record in labelled_dicts(name)
        for each in record["annotations"]
    ]


def test_other_order_and_ids_are_matched_by_name(tmp_path):
    domain(tmp_path, "source")
    domain(tmp_path, "val", renamed((9, "car"), (4, "person")))
    labelled_dicts("val")
    assert MetadataCatalog.get("val").thing_classes == ["person", "car"]  # its own, by id
    assert fit_classes(["source"], ["val"]) == ["car", "person"]
    assert labels("val") == labels("source") == ["car", "person", "car"]
    ids = [[a["category_id"] for a in d["annotations"]] for d in labelled_dicts("val")]
    assert ids == [[0, 1], [0], []]
    assert DatasetCatalog.get("val") == labelled_dicts("val")
    data = json.loads(Path(evaluation_json("val")).read_text())
    assert [c["name"] for c in sorted(data["categories"], key=lambda c: c["id"])] == [
        *("car", "person")
    ]
    assert MetadataCatalog.get("val").json_file == evaluation_json("val")


def test_aliases_rename_and_merge(tmp_path):
    domain(
        tmp_path,
        "source",
        classes=["vehicle", "human"],
        aliases={"car": "vehicle", "person": "human"},
    )
    both = {"truck": "vehicle", "bus": "vehicle"}
    domain(tmp_path, "val", renamed((1, "truck"), (2, "bus")), aliases=both)
    fit_classes(["source"], ["val"])
    assert labels("source") == ["vehicle", "human", "vehicle"]
    assert labels("val") == ["vehicle"] * 3
    assert MetadataCatalog.get("val").thing_classes == ["vehicle", "human"]


def test_classes_of_a_source_without_a_list_are_those_of_its_file_after_aliases(tmp_path):
    domain(tmp_path, "source", renamed((7, "car"), (3, "person")), aliases={"person": "human"})
    assert fit_classes(["source"]) == ["human", "car"]
    assert labels("source") == ["car", "human", "car"]


def test_names_that_are_swapped_by_aliases(tmp_path):
    domain(tmp_path, "source")
    domain(tmp_path, "val", aliases={"car": "person", "person": "car"})
    fit_classes(["source"], ["val"])
    assert labels("val") == ["person", "car", "person"]


def test_class_that_the_model_lacks_is_an_error_with_the_remedy(tmp_path):
    domain(tmp_path, "source", classes=["car"])
    domain(tmp_path, "val", renamed((1, "car"), (2, "Car wash")))
    fit_classes(["source"], ["val"])
    with pytest.raises(DataError) as info:
        labelled_dicts("val")
    for text in (
        f"{tmp_path}/val/boxes.json: categories: 'Car wash' (1 boxes)",
        "no class of the model, which has 'car'",
        "aliases: {Car wash: car}",
        "classes: [car]",
    ):
        assert text in str(info.value)
    with pytest.raises(DataError, match="'Car wash'"):
        evaluation_json("val")


def test_a_class_without_boxes_loses_nothing(tmp_path):
    domain(tmp_path, "source", classes=["car", "person"])
    domain(tmp_path, "val", lambda d: d["categories"].append({"id": 3, "name": "tram"}))
    fit_classes(["source"], ["val"])
    assert labels("val") == ["car", "person", "car"]


def test_listed_classes_are_a_choice_and_said(tmp_path, caplog):
    domain(tmp_path, "source", classes=["person", "car"])
    domain(tmp_path, "val", classes=["car"])
    fit_classes(["source"], ["val"])
    with caplog.at_level(logging.INFO, logger="mic_det"):
        assert labels("val") == ["car", "car"]
    assert "val: left out, as not among its classes: person (1 annotations)" in caplog.text
    assert MetadataCatalog.get("val").thing_classes == ["person", "car"]
    domain(tmp_path, "wrong", renamed((1, "car"), (2, "tram")), classes=["car", "tram"])
    fit_classes(["source"], ["wrong"])
    with pytest.raises(DataError, match=r"'tram' \(1 boxes\): no class of the model"):
        labelled_dicts("wrong")


def test_alias_that_does_nothing_is_said_with_a_close_name(tmp_path, caplog):
    domain(tmp_path, "source", aliases={"persn": "human"})
    labelled_dicts("source")
    text = "aliases: has no class 'persn' (did you mean 'person'?); this alias does nothing"
    assert text in caplog.text


def test_a_second_source_is_brought_to_the_first(tmp_path):
    domain(tmp_path, "one", renamed((1, "car"), (2, "person")))
    domain(tmp_path, "two", renamed((2, "car"), (1, "person")))
    fit_classes(["one", "two"])
    assert labels("two") == ["car", "person", "car"]
    assert labelled_dicts("two")[0]["annotations"][0]["category_id"] == 0


def test_the_same_test_set_for_two_models_in_one_process(tmp_path):
    domain(tmp_path, "a", classes=["car", "person"])
    domain(tmp_path, "b", classes=["person", "car"])
    domain(tmp_path, "val")
    first_ids = []
    for source in ("a", "b", "a"):
        fit_classes([source], ["val"])
        data = json.loads(Path(evaluation_json("val")).read_text())
        in_file = [c["name"] for c in sorted(data["categories"], key=lambda c: c["id"])]
        assert in_file == MetadataCatalog.get("val").thing_classes
        first_ids.append(labelled_dicts("val")[0]["annotations"][0]["category_id"])
    assert first_ids == [0, 1, 0]


def test_a_source_that_was_a_test_set_has_its_own_classes_again(tmp_path):
    domain(tmp_path, "a", classes=["car"])
    domain(tmp_path, "b", renamed((1, "car"), (2, "car wash")))
    fit_classes(["a"], ["b"])
    with pytest.raises(DataError):
        evaluation_json("b")
    assert fit_classes(["b"]) == ["car", "car wash"]
    assert len(read_coco(Path(evaluation_json("b")))["categories"]) == 2
    domain(tmp_path, "c", classes=["person", "car"])
    fit_classes(["a"], ["c"])
    assert fit_classes(["c"]) == MetadataCatalog.get("c").thing_classes == ["person", "car"]


@pytest.mark.parametrize("labelling", ["xml", "txt"])
def test_voc_and_yolo_are_mapped_alike(tmp_path, labelling):
    domain(tmp_path, "source", classes=["human", "car"], aliases={"person": "human"})
    root = make_domain(tmp_path / "val")
    register_domain("val", root / "images", root / labelling, aliases={"person": "human"})
    fit_classes(["source"], ["val"])
    assert labels("val") == ["car", "human", "car"]
    assert labelled_dicts("val")[0]["annotations"][0]["category_id"] == 1


def test_a_voc_split_may_lack_a_class(tmp_path, caplog):
    root = make_domain(tmp_path)
    register_domain("val", root / "images", root / "xml", ["car", "person", "tram"])
    assert labels("val") == ["car", "person", "car"]
    assert "no box of class 'tram'; it has 'car', 'person'" in caplog.text
    register_domain("none", root / "images", root / "xml", ["tram", "bus"])
    with pytest.raises(DataError, match="has no class 'tram', 'bus'; it has 'car', 'person'"):
        labelled_dicts("none")


def test_evaluation_counts_under_the_model_s_names(tmp_path):
    """Detectron2's evaluator, a detector with the model's ids, a test file with other ids."""
    names = {"car": "vehicle", "person": "human"}

    def with_tram(data: dict) -> None:
        data["categories"].append({"id": 3, "name": "tram"})

    domain(tmp_path, "source", with_tram, classes=["human", "vehicle", "tram"], aliases=names)
    domain(
        tmp_path,
        "val",
        renamed((30, "car"), (20, "person")),
        aliases=names,
    )
    fit_classes(["source"], ["val"])
    evaluation_json("val")
    evaluator = COCOEvaluator("val", tasks=("bbox",), use_fast_impl=False)
    evaluator.reset()
    for record in labelled_dicts("val"):
        found = [a for a in record["annotations"] if a["category_id"] == 1]  # vehicles alone
        boxes = torch.tensor([a["bbox"] for a in found]).reshape(-1, 4).float()
        boxes = BoxMode.convert(boxes, BoxMode.XYWH_ABS, BoxMode.XYXY_ABS)
        instances = Instances((record["height"], record["width"]), pred_boxes=Boxes(boxes))
        instances.scores = torch.ones(len(found))
        instances.pred_classes = torch.full((len(found),), 1)
        evaluator.process([record], [{"instances": instances}])
    results = evaluator.evaluate()["bbox"]
    assert results["AP-vehicle"] == pytest.approx(100)
    assert results["AP-human"] == pytest.approx(0)
    assert results["AP50"] == pytest.approx(50)  # tram, which the test set lacks, does not count


def test_sets_of_detectron2_alone_keep_their_classes(tmp_path):
    root = make_domain(tmp_path)
    register_coco_instances("d2", {}, str(root / "boxes.json"), str(root / "images"))
    assert fit_classes(["d2"]) == ["car", "person"]
