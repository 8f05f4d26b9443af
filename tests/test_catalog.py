"""Registering domains: nothing read too early, target labels never, classes, names."""

from __future__ import annotations

import json
import logging
import os
import re
from pathlib import Path

import pytest
from coco_folder import make_folder, register, sample
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import load_coco_json, register_coco_instances
from detectron2.structures import BoxMode

from mic_det.data.builtin import register_builtin
from mic_det.data.catalog import (
    evaluation_json,
    labelled_dicts,
    missing_data_message,
    register_domain,
    require_domain,
    unlabelled_dicts,
    unregister_domain,
)
from mic_det.data.formats.coco import DataError, read_coco, write_coco

pytestmark = pytest.mark.usefixtures("clean_catalogs")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make_folder(tmp_path)


def test_labelled_dicts_are_what_detectron2_reads_itself(folder: Path):
    register(folder)
    own = labelled_dicts("t")
    assert own == DatasetCatalog.get("t")
    theirs = load_coco_json(str(folder / "boxes.json"), str(folder / "images"), "t_theirs")
    for record in theirs:
        for annotation in record["annotations"]:
            assert annotation["bbox_mode"] == BoxMode.XYWH_ABS
    assert own == theirs
    assert [d["image_id"] for d in own] == [3, 7]
    assert [a["category_id"] for a in own[1]["annotations"]] == [1, 0, 1, 2]
    for key in ("thing_classes", "thing_dataset_id_to_contiguous_id"):
        assert MetadataCatalog.get("t").get(key) == MetadataCatalog.get("t_theirs").get(key)
    assert MetadataCatalog.get("t").thing_classes == ["person", "car", "tram"]
    assert MetadataCatalog.get("t").evaluator_type == "coco"
    assert MetadataCatalog.get("t").image_root == str(folder / "images")


def test_each_load_gives_dicts_of_its_own(folder: Path):
    register(folder)
    labelled_dicts("t")[1]["annotations"].clear()
    assert len(labelled_dicts("t")[1]["annotations"]) == 4


def test_class_subset_in_the_given_order(folder: Path, caplog: pytest.LogCaptureFixture):
    register(folder, classes=["tram", "car"])
    assert MetadataCatalog.get("t").thing_classes == ["tram", "car"]  # before any file is read
    with caplog.at_level(logging.INFO, logger="mic_det"):
        dicts = labelled_dicts("t")
    assert [m.getMessage() for m in caplog.records] == [
        "t: left out, as not among its classes: person (1 annotations)"
    ]
    annotations = dicts[1]["annotations"]
    assert [(a["category_id"], a["iscrowd"]) for a in annotations] == [(1, 0), (1, 0), (0, 1)]
    assert [a["bbox"] for a in annotations] == [[1, 2, 10, 20], [30, 10, 20, 20], [0, 0, 9, 9]]


def test_class_that_the_file_does_not_have(folder: Path):
    register(folder, classes=["car", "lorry"])
    text = "boxes.json: categories: has no class 'lorry'; it has 'person', 'car', 'tram'"
    with pytest.raises(DataError, match=re.escape(text)):
        labelled_dicts("t")
    for number, classes in enumerate([[], ["car", "car"], "car"]):
        with pytest.raises(DataError, match="classes: "):
            register(folder, f"t{number}", classes=classes)


def test_boxes_without_area_are_left_out_and_said(folder: Path, caplog: pytest.LogCaptureFixture):
    data = sample()
    data["annotations"][0]["bbox"] = [1, 2, 0, 5]
    data["annotations"][1]["bbox"] = [1, 2, 5, 0]
    (folder / "boxes.json").write_text(json.dumps(data))
    register(folder)
    assert len(labelled_dicts("t")[1]["annotations"]) == 2
    assert "bbox has no area: 2 times, first [1, 2, 0, 5] (annotations[0], id 1)" in caplog.text
    assert [a["id"] for a in read_coco(Path(evaluation_json("t")))["annotations"]] == [3, 4]


# ---- target domains --------------------------------------------------------------------------


def trap_directory(path: Path) -> None:
    path.mkdir()


def trap_fifo(path: Path) -> None:
    os.mkfifo(path)  # whoever opens it to read hangs


def trap_garbage(path: Path) -> None:
    path.write_bytes(b"\xff\x00 no json")


@pytest.mark.parametrize("classes", [None, ["car"]])
@pytest.mark.parametrize("trap", [trap_directory, trap_fifo, trap_garbage])
def test_unlabelled_dicts_never_open_the_annotations(folder: Path, trap, classes, opened):
    (folder / "boxes.json").unlink()
    trap(folder / "boxes.json")
    opened.clear()
    register(folder, classes=classes)
    require_domain("t", labelled=False)
    dicts = unlabelled_dicts("t")
    assert dicts == [
        {"file_name": str(folder / "images/a.jpg"), "image_id": "a.jpg"},
        {"file_name": str(folder / "images/sub/b.png"), "image_id": "sub/b.png"},
    ]
    assert MetadataCatalog.get("t").get("thing_classes") == classes
    assert MetadataCatalog.get("t").image_root == str(folder / "images")
    assert str(folder / "boxes.json") not in opened


def test_the_trap_is_one(folder: Path, opened):
    trap_garbage(folder / "boxes.json")
    opened.clear()
    register(folder)
    with pytest.raises(DataError, match=r"boxes\.json: is not JSON"):
        labelled_dicts("t")
    assert str(folder / "boxes.json") in opened


def test_domain_without_annotations(folder: Path):
    register_domain("t", folder / "images")
    assert DatasetCatalog.get("t") == unlabelled_dicts("t")
    for use in (labelled_dicts, evaluation_json, require_domain):
        with pytest.raises(DataError, match="'t': has no annotations, so it serves as an unlab"):
            use("t")
    require_domain("t", labelled=False)


def test_images_are_sorted_and_of_all_kinds_in_any_case(tmp_path: Path):
    names = ["z.PNG", "a/9.Jpeg", "a/10.jpg", "b.bmp", "c.TIF", "d.tiff", "e.webp"]
    for name in [*names, "notes.txt", "._z.PNG", "a/x.json", "jpg"]:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    register_domain("t", tmp_path)
    assert [d["image_id"] for d in unlabelled_dicts("t")] == sorted(names)
    register_domain("t_jpg", tmp_path, pattern="*.[jJ]p*g")
    assert [d["image_id"] for d in unlabelled_dicts("t_jpg")] == ["a/10.jpg", "a/9.Jpeg"]


def test_folder_without_images_is_named(tmp_path: Path):
    (tmp_path / "empty").mkdir()
    register_domain("t", tmp_path / "empty")
    with pytest.raises(DataError, match=re.escape(f"{tmp_path / 'empty'}: holds no image")):
        unlabelled_dicts("t")
    (tmp_path / "empty" / "a.png").touch()
    assert len(unlabelled_dicts("t")) == 1
    register_domain("t_foggy", tmp_path / "empty", pattern="*_foggy.png")
    with pytest.raises(DataError, match=r"empty: holds no image named like '\*_foggy\.png'"):
        unlabelled_dicts("t_foggy")
    register_domain("t_gone", tmp_path / "gone")
    with pytest.raises(DataError, match=re.escape(f"{tmp_path / 'gone'}: not there.")):
        unlabelled_dicts("t_gone")


# ---- broken files ----------------------------------------------------------------------------


def test_broken_file_ends_in_one_message_with_all_kinds(folder: Path):
    data = sample()
    data["images"] = [
        {"id": "_semantic", "file_name": "_semantic", "height": 48, "width": 64},
        {"id": "_semantic", "file_name": "_semantic", "height": 48, "width": 64},
        {"id": 7, "file_name": "sub/b.png", "height": 48},
    ]
    data["annotations"][0]["image_id"] = "_semantic"
    data["annotations"][1]["image_id"] = 99
    data["annotations"][2]["bbox"] = [1, 2, float("nan"), 4]
    (folder / "boxes.json").write_text(json.dumps(data))
    register(folder)
    with pytest.raises(DataError) as info:
        labelled_dicts("t")
    for text in (
        f"{folder / 'boxes.json'}: is not a sound COCO detection file",
        "images[].id is not an integer: 2 times, first '_semantic'",
        "images[].id occurs twice: 1 time, first '_semantic'",
        "images[].file_name occurs twice: 1 time, first '_semantic'",
        "images[].width is not a positive integer: 1 time, first None",
        "annotations[].image_id names no entry of the file: 1 time, first 99",
        "annotations[].bbox is not [x, y, width, height]: 1 time, first [1, 2, nan, 4]",
    ):
        assert text in str(info.value)
    with pytest.raises(DataError, match="is not a sound COCO"):
        MetadataCatalog.get("t").json_file  # noqa: B018


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": None}, "field 'images' is not a list"),
        ({"annotations": {}}, "field 'annotations' is not a list"),
        ({"categories": [1]}, "field 'categories' is not a list of objects"),
        ({"categories": [], "annotations": []}, "field 'categories' is empty"),
        ({"images": [], "annotations": []}, "images: lists no image"),
        ({"categories": [{"id": i, "name": "car"} for i in (10, 20, 30)]}, "name occurs twice"),
        ({"categories": [{"id": 10, "name": n} for n in "ab"]}, "id occurs twice"),
        ({"annotations": [{"id": 1}, {"id": 1}]}, "annotations[].id occurs twice"),
    ],
)
def test_broken_fields(folder: Path, change: dict, message: str):
    (folder / "boxes.json").write_text(json.dumps(sample() | change))
    register(folder)
    with pytest.raises(DataError, match=re.escape(message)) as info:
        labelled_dicts("t")
    assert str(folder / "boxes.json") in str(info.value)


def test_list_instead_of_object(folder: Path):
    (folder / "boxes.json").write_text("[]")
    register(folder)
    with pytest.raises(DataError, match=r"boxes\.json: holds a list, not a COCO object"):
        labelled_dicts("t")


def test_file_names_that_match_no_image(folder: Path):
    (folder / "images/a.jpg").rename(folder / "images/c.jpg")
    register(folder)
    with pytest.raises(DataError) as info:
        labelled_dicts("t")
    text = "boxes.json: images[].file_name: 1 of 2 are no file in the folder of images, the first"
    assert text in str(info.value) and str(folder / "images/a.jpg") in str(info.value)


def test_write_coco_refuses_what_is_not_sound(tmp_path: Path):
    with pytest.raises(DataError, match="field 'categories' is empty"):
        write_coco(tmp_path / "x.json", {"images": [], "annotations": [], "categories": []})
    assert list(tmp_path.iterdir()) == []
    write_coco(tmp_path / "x.json", sample())
    assert read_coco(tmp_path / "x.json") == sample()
    assert [path.name for path in tmp_path.iterdir()] == ["x.json"]


# ---- names -----------------------------------------------------------------------------------


def test_register_twice(folder: Path):
    register(folder, classes=["car"])
    metadata = MetadataCatalog.get("t")
    register(folder, classes=("car",))
    register_domain("t", str(folder / "images"), str(folder / "boxes.json"), ["car"])
    assert MetadataCatalog.get("t") is metadata
    for change in ({"classes": ["tram"]}, {"pattern": "*.png", "classes": ["car"]}, {}):
        with pytest.raises(DataError, match="'t': the name is taken already"):
            register(folder, **change)
    with pytest.raises(DataError, match="'coco_2017_train': the name is taken already"):
        register(folder, "coco_2017_train")
    assert len(labelled_dicts("t")[1]["annotations"]) == 2


def test_unregistered_and_removed_names_can_be_used_again(folder: Path):
    register(folder)
    unregister_domain("t")
    unregister_domain("t")
    assert "t" not in DatasetCatalog and "t" not in MetadataCatalog
    register(folder, classes=["car"])
    DatasetCatalog.remove("t")
    MetadataCatalog.remove("t")
    register(folder, classes=["tram"])
    assert MetadataCatalog.get("t").thing_classes == ["tram"]


def test_relative_paths_are_meant_from_where_they_were_given(folder: Path, monkeypatch):
    monkeypatch.chdir(folder)
    register_domain("t", "images", "boxes.json")
    monkeypatch.chdir("/")
    assert len(labelled_dicts("t")) == len(unlabelled_dicts("t")) == 2


def test_unknown_name_has_close_matches():
    register_builtin(Path("/nowhere"))
    with pytest.raises(DataError, match=r"'citiscapes_det_train': not registered.*Did you mean 'c"):
        require_domain("citiscapes_det_train")
    for use in (labelled_dicts, unlabelled_dicts, evaluation_json):
        with pytest.raises(DataError, match="'qqq': not registered"):
            use("qqq")


def test_data_sets_registered_with_detectron2_alone(folder: Path):
    register_coco_instances("d2", {}, str(folder / "boxes.json"), str(folder / "images"))
    require_domain("d2")
    assert labelled_dicts("d2") == DatasetCatalog.get("d2")
    assert evaluation_json("d2") == str(folder / "boxes.json")
    (folder / "boxes.json").write_text("broken")
    assert [d["image_id"] for d in unlabelled_dicts("d2")] == ["a.jpg", "sub/b.png"]
    DatasetCatalog.register("bare", list)
    with pytest.raises(DataError, match=r"'bare': .* metadata lack 'image_root'"):
        unlabelled_dicts("bare")
    with pytest.raises(DataError, match="'bare': its metadata lack 'json_file'"):
        evaluation_json("bare")


def test_data_made_on_first_use(folder: Path):
    made = []

    def make() -> Path:
        made.append(1)
        return folder

    for _ in range(2):
        register_domain("t", "images", "boxes.json", ["car"], prepare=make)
    require_domain("t")
    assert missing_data_message(["t"]) is None
    assert not made
    assert unlabelled_dicts("t")[0]["file_name"] == str(folder / "images/a.jpg")
    assert made
    assert labelled_dicts("t")[0]["file_name"] == str(folder / "images/a.jpg")
    assert MetadataCatalog.get("t").image_root == str(folder / "images")
