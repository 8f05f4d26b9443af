"""Registering domains: nothing read too early, target labels never, classes, evaluation files."""

from __future__ import annotations

import json
import logging
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from cityscapes_tree import draw_cityscapes_tree
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import load_coco_json, register_coco_instances
from detectron2.evaluation import COCOEvaluator
from detectron2.structures import Boxes, BoxMode, Instances
from PIL import Image

from mic_det.data import builtin
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
from mic_det.data.formats.cityscapes import convert_cityscapes
from mic_det.data.formats.coco import DataError, read_coco, write_coco

REPOSITORY = Path(__file__).parents[1]


pytestmark = pytest.mark.usefixtures("clean_catalogs")


def sample() -> dict:
    """Two images; image 7 has one box of each class and a second car, image 3 has none."""
    return {
        "info": {},
        "images": [
            {"id": 7, "file_name": "sub/b.png", "height": 48, "width": 64},
            {"id": 3, "file_name": "a.jpg", "height": 48, "width": 64},
        ],
        "annotations": [
            {"id": n, "image_id": 7, "category_id": c, "bbox": b, "area": b[2] * b[3], "iscrowd": k}
            for n, c, b, k in (
                (1, 20, [1, 2, 10, 20], 0),
                (2, 10, [5, 6, 7.5, 8], 0),
                (3, 20, [30, 10, 20, 20], 0),
                (4, 30, [0, 0, 9, 9], 1),
            )
        ],
        "categories": [
            {"id": 30, "name": "tram"},
            {"id": 10, "name": "person"},
            {"id": 20, "name": "car"},
        ],
    }


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("a.jpg", "sub/b.png"):
        path = tmp_path / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (64, 48)).save(path)
    (tmp_path / "boxes.json").write_text(json.dumps(sample()))
    return tmp_path


def register(folder: Path, name: str = "t", **more) -> None:
    register_domain(name, folder / "images", folder / "boxes.json", **more)


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


# ---- evaluation ------------------------------------------------------------------------------


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
    with pytest.raises(
        DataError, match=r"boxes\.json: images: lists no image named like '\*\.gif'"
    ):
        labelled_dicts("none")


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


# ---- built-in domains ------------------------------------------------------------------------


def test_builtin_cityscapes_from_the_published_layout(tmp_path: Path):
    draw_cityscapes_tree(tmp_path / "cityscapes", size=(32, 64))
    register_builtin(tmp_path)
    assert len(unlabelled_dicts("foggy_cityscapes_train")) == 6  # before the conversion
    assert len(unlabelled_dicts("foggy_cityscapes_beta_0.02_train")) == 2
    assert missing_data_message([], ["foggy_cityscapes_train"]) is None
    assert "convert_cityscapes.py" in missing_data_message(["foggy_cityscapes_train"])
    convert_cityscapes(tmp_path / "cityscapes")
    for name, images in (
        ("cityscapes_det", 2),
        ("foggy_cityscapes", 6),
        ("foggy_cityscapes_beta_0.02", 2),
    ):
        for split in ("train", "val"):
            dicts = labelled_dicts(f"{name}_{split}")
            assert len(dicts) == images
            assert sum(len(d["annotations"]) for d in dicts) == 9 * images // 2
            evaluation = Path(evaluation_json(f"{name}_{split}"))
            assert evaluation.parent == tmp_path / "cityscapes/annotations"
    assert not (tmp_path / "cache").exists()


def test_builtin_carla_and_camvid(folder: Path):
    for path in ("carla/images/train", "camvid/day_val/images", "camvid/dusk_train/images"):
        (folder / path).mkdir(parents=True)
        Image.new("RGB", (64, 48)).save(folder / path / "a.png")
    image = {"id": 1, "file_name": "a.png", "height": 48, "width": 64}
    box = {"id": 1, "image_id": 1, "bbox": [1, 1, 5, 5], "area": 25, "iscrowd": 0}
    names = ("vehicle", "pedestrian", "bicyclist")
    data = {
        "info": {},
        "images": [image],
        "annotations": [{**box, "id": i, "category_id": i} for i in (1, 2, 3)],
        "categories": [{"id": i, "name": name} for i, name in enumerate(names, 1)],
    }
    write_coco(folder / "carla/annotations/train_vehicle.json", data)
    write_coco(folder / "camvid/day_val/boxes.json", data)
    register_builtin(folder)
    for name, classes in (
        ("carla_train", ["vehicle"]),
        ("camvid_day_val", list(names)),
        ("camvid_day_val_vehicle", ["vehicle"]),
    ):
        assert len(labelled_dicts(name)[0]["annotations"]) == len(classes)
        assert MetadataCatalog.get(name).thing_classes == classes
    assert len(unlabelled_dicts("camvid_dusk_train")) == 1
    assert len(unlabelled_dicts("camvid_dusk_train_vehicle")) == 1
    with pytest.raises(DataError, match="has no annotations"):
        labelled_dicts("camvid_dusk_train")


def test_builtin_streets_are_made_lazily(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    made = []

    def ensure() -> Path:
        made.append(1)
        (tmp_path / "night/val/images").mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8)).save(tmp_path / "night/val/images/0.png")
        return tmp_path

    monkeypatch.setattr(builtin, "ensure_streets", ensure)
    register_builtin(tmp_path)
    assert "streets_clear_train" in DatasetCatalog and not made
    assert MetadataCatalog.get("streets_foggy_val").thing_classes[0] == "person"
    assert [d["image_id"] for d in unlabelled_dicts("streets_night_val")] == ["0.png"]
    assert made


def test_register_builtin_again_and_with_another_root(tmp_path: Path, monkeypatch):
    register_builtin(tmp_path / "a")
    metadata = MetadataCatalog.get("carla_train")
    register_builtin(tmp_path / "a")
    assert MetadataCatalog.get("carla_train") is metadata
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / "b"))
    register_builtin()
    assert MetadataCatalog.get("carla_train").image_root == str(tmp_path / "b/carla/images/train")
    monkeypatch.delenv("DETECTRON2_DATASETS")
    monkeypatch.chdir(tmp_path)
    register_builtin()
    expected = str(tmp_path / "datasets/carla/images/train")
    assert MetadataCatalog.get("carla_train").image_root == expected


def test_missing_builtin_data_in_one_message(tmp_path: Path):
    register_builtin(tmp_path)
    with pytest.raises(DataError) as info:
        require_domain("foggy_cityscapes_val")
    for text in (
        "Domain 'foggy_cityscapes_val': ",
        str(tmp_path / "cityscapes/leftImg8bit_foggy/val"),
        str(tmp_path / "cityscapes/annotations/cityscapes_foggy_val.json"),
        "leftImg8bit_trainvaltest_foggy.zip",
        f"python tools/convert_cityscapes.py --root {tmp_path / 'cityscapes'}",
    ):
        assert text in str(info.value)
    message = missing_data_message(
        ["cityscapes_det_train", "carla_test", "camvid_day_val", "cityscapes_det_train", "nothing"],
        ["foggy_cityscapes_train"],
    )
    assert message.count("Download leftImg8bit_trainvaltest.zip") == 1
    assert message.count("'cityscapes_det_train'") == 1
    for text in (
        "'foggy_cityscapes_train'",
        "'nothing': not registered",
        f"python tools/convert_voc.py --images {tmp_path / 'carla/images/test'} --labels "
        f"{tmp_path / 'carla/labels/test'} --output "
        f"{tmp_path / 'carla/annotations/test_vehicle.json'} --classes vehicle",
        str(tmp_path / "camvid/day_val/boxes.json"),
    ):
        assert text in message
    assert "cityscapes_foggy_train.json" not in message  # a target needs no annotations
    assert missing_data_message(["streets_clear_train"], ["streets_foggy_train"]) is None


def test_registering_needs_no_data_and_clashes_with_no_name_of_detectron2(tmp_path: Path):
    """In a fresh process, which has all of Detectron2's own data sets registered."""
    code = (
        "from mic_det.data.builtin import register_builtin; register_builtin();"
        "from detectron2.data import DatasetCatalog;"
        "print(sorted(n for n in DatasetCatalog if 'foggy' in n or 'cityscapes_det' in n))"
    )
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "DETECTRON2_DATASETS": "/nowhere"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert eval(done.stdout) == [
        "cityscapes_det_train",
        "cityscapes_det_val",
        "foggy_cityscapes_beta_0.02_train",
        "foggy_cityscapes_beta_0.02_val",
        "foggy_cityscapes_train",
        "foggy_cityscapes_val",
        "streets_foggy_train",
        "streets_foggy_val",
        "streets_sem_foggy_train",
        "streets_sem_foggy_val",
    ]
    assert list(tmp_path.iterdir()) == []
