"""KITTI labels to COCO: published lines, against numbers worked out by hand; broken ones."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from benchmark_trees import draw_kitti

from mic_det.data.formats.coco import DataError
from mic_det.data.formats.kitti import CLASSES, convert_kitti, kitti_to_coco

LABELS = "training/label_2/000001.txt"
LINE = "Car 0.00 0 1.85 38.76 18.13 42.38 20.32 1.67 1.87 3.69 -16.53 2.39 58.49 1.57"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    draw_kitti(tmp_path)
    return tmp_path


def rows(data: dict) -> list[tuple]:
    files = {image["id"]: image["file_name"] for image in data["images"]}
    names = {category["id"]: category["name"] for category in data["categories"]}
    return [
        (files[a["image_id"]], names[a["category_id"]], a["bbox"], a["iscrowd"])
        for a in data["annotations"]
    ]


def test_published_lines(root: Path):
    path, report = convert_kitti(root)
    assert path == root / "annotations/kitti_train.json"
    data = json.loads(path.read_text())
    assert data["images"][1] == {"id": 2, "file_name": "000001.png", "height": 37, "width": 124}
    assert tuple(c["name"] for c in data["categories"]) == CLASSES
    assert rows(data) == [
        ("000000.png", "pedestrian", [71.24, 14.3, 9.83, 16.49], 0),
        ("000001.png", "truck", [59.94, 15.64, 2.98, 3.28], 0),
        ("000001.png", "car", [38.76, 18.13, 3.62, 2.19], 0),
        ("000001.png", "cyclist", [67.66, 16.36, 1.23, 3.03], 0),
        ("000002.png", "misc", [80.4, 16.78, 19.11, 16.01], 0),
        ("000002.png", "car", [0.0, 19.24, 40.28, 17.76], 0),  # cut at the border
    ]
    assert data["annotations"][2]["area"] == pytest.approx(3.62 * 2.19)
    assert report.left_out == {"dontcare": 2}
    assert len(report.clipped) == 1 and "000002.txt: line 2 (Car)" in report.clipped[0]
    assert report.boxes["car"] == 2 and report.boxes["van"] == 0


def test_one_class_and_regions_that_do_not_matter(root: Path):
    folders = [root / "training" / name for name in ("image_2", "label_2")]
    data, report = kitti_to_coco(*folders, classes=["car", "pedestrian"], dont_care="crowd")
    found = rows(data)
    assert [row[1:] for row in found if row[0] == "000001.png"] == [
        ("car", [38.76, 18.13, 3.62, 2.19], 0),
        ("car", [50.3, 16.91, 8.78, 1.99], 1),
        ("pedestrian", [50.3, 16.91, 8.78, 1.99], 1),
        ("car", [51.11, 17.46, 1.4, 2.33], 1),
        ("pedestrian", [51.11, 17.46, 1.4, 2.33], 1),
    ]
    assert report.boxes == {"car": 2, "pedestrian": 1}, "regions are no objects"
    assert report.left_out == {"truck": 1, "cyclist": 1, "misc": 1}


def test_images_without_labels_are_left_out_and_said(root: Path):
    (root / LABELS).unlink()
    path, report = convert_kitti(root)
    assert [i["file_name"] for i in json.loads(path.read_text())["images"]] == [
        "000000.png",
        "000002.png",
    ]
    assert report.notes == ["1 images have no label file and are left out"]


def test_an_empty_label_file_is_an_image_without_boxes(root: Path):
    (root / LABELS).write_text("\n")
    path, report = convert_kitti(root)
    assert len(json.loads(path.read_text())["images"]) == 3
    assert report.images_without_boxes == 1


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Car 0.00 0 1.85 38.76", "line 1: has 5 values instead of 15"),
        (LINE + "\n" + LINE.replace("Car", "Auto"), "line 2: type 'Auto' is none of Car, Van"),
        (LINE.replace("38.76", "x"), "line 1: bounding box: 'x' is not a number"),
        (LINE.replace("38.76", "nan"), "line 1: bounding box: 'nan' is not a number"),
        ("Fußgänger", "cannot be read as text"),
    ],
)
def test_broken_label_files(root: Path, text: str, words: str):
    (root / LABELS).write_text(text, encoding="utf-8")
    with pytest.raises(DataError) as info:
        convert_kitti(root)
    assert str(info.value).startswith(f"{root / LABELS}: ") and words in str(info.value)
    assert not (root / "annotations").exists()


def test_missing_and_broken_images(root: Path):
    image = root / "training/image_2/000001.png"
    image.write_bytes(b"")
    with pytest.raises(DataError, match=r"000001\.png: cannot be read as an image"):
        convert_kitti(root)
    image.unlink()
    with pytest.raises(DataError, match=r"000001\.txt: there is no image 000001 in"):
        convert_kitti(root)


def test_missing_folders_and_bad_arguments(root: Path, tmp_path: Path):
    with pytest.raises(DataError) as info:
        convert_kitti(tmp_path / "nowhere")
    for words in ("training/image_2", "training/label_2", "data_object_label_2.zip"):
        assert words in str(info.value)
    folders = [root / "training" / name for name in ("image_2", "label_2")]
    for classes in (["car", "car"], ["horse"], []):
        with pytest.raises(DataError, match="classes: "):
            kitti_to_coco(*folders, classes=classes)
    with pytest.raises(DataError, match="'maybe' is none of leave-out, crowd"):
        convert_kitti(root, dont_care="maybe")
