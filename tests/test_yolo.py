"""YOLO labels to COCO: boxes, polygons, where class names come from. Bad ones: test_bad_input."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from small_domain import CLASSES, OBJECTS, make_domain, write_yolo

from mic_det.data.errors import DataError
from mic_det.data.formats.coco import validate_coco
from mic_det.data.formats.yolo import yolo_to_coco


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return make_domain(tmp_path)


def convert(root: Path, **more):
    return yolo_to_coco(root / "images", root / "txt", **more)


def boxes(data: dict) -> list[tuple]:
    files = {i["id"]: i["file_name"] for i in data["images"]}
    names = {c["id"]: c["name"] for c in data["categories"]}
    return [
        (files[a["image_id"]], names[a["category_id"]], *a["bbox"]) for a in data["annotations"]
    ]


def test_boxes_in_pixels(root):
    data, report = convert(root)
    validate_coco(data, root)
    expected = [
        (name, label, x0, y0, x1 - x0, y1 - y0)
        for name in sorted(OBJECTS)
        for label, x0, y0, x1, y1 in OBJECTS[name]
    ]
    assert boxes(data) == expected
    assert [c["name"] for c in data["categories"]] == list(CLASSES)
    assert report.boxes == {"car": 2, "person": 1}
    assert (report.images, report.images_without_boxes) == (3, 1)
    assert all(a["area"] == a["bbox"][2] * a["bbox"][3] for a in data["annotations"])


def test_polygons_give_their_box(root):
    (root / "txt/a.txt").write_text("1 0.25 0.5 0.5 0.25 0.75 0.5 0.5 1.0\n")
    data, _ = convert(root)
    assert boxes(data)[0] == ("a.png", "person", 16, 12, 32, 36)


def test_images_without_label_file_have_no_objects_and_are_counted(root):
    (root / "txt/sub/b.txt").unlink()
    data, report = convert(root)
    assert len(data["images"]) == 3 and len(data["annotations"]) == 2
    assert "1 of 3 images have no label file" in report.text()


@pytest.mark.parametrize("names", ["data.yaml", "classes.txt", "obj.names"])
@pytest.mark.parametrize("place", ["txt", "."])
def test_names_beside_the_labels_or_above(root, names, place):
    shutil.rmtree(root / "txt")
    write_yolo(root, names)
    (root / "txt" / names).rename(root / place / names)
    data, _ = convert(root)
    assert [c["name"] for c in data["categories"]] == ["car", "person"]
    data, report = convert(root, classes=["person"])  # with names on file, classes choose
    assert [b[1] for b in boxes(data)] == ["person"] and report.left_out == {"car": 2}
    with pytest.raises(DataError, match="names: has no class 'lorry'; it has 'car', 'person'"):
        convert(root, classes=["lorry"])


def test_classes_name_the_numbers_where_no_file_does(root):
    (root / "txt/classes.txt").unlink()
    data, _ = convert(root, classes=["vehicle", "human"])
    assert [b[1] for b in boxes(data)] == ["vehicle", "human", "vehicle"]


def test_names_as_a_list_in_yaml(root):
    (root / "txt/data.yaml").write_text("nc: 2\nnames: [auto, mensch]\n")
    assert [c["name"] for c in convert(root)[0]["categories"]] == ["auto", "mensch"]


def test_boxes_beyond_the_border_are_cut_and_said(root):
    (root / "txt/a.txt").write_text("0 0.95 0.5 0.2 0.5\n0 0.5 0.5 0.0 0.5\n")
    data, report = convert(root)
    assert boxes(data)[0] == ("a.png", "car", 54.4, 12, 9.6, 24)
    assert len(report.clipped) == len(report.empty) == 1
    assert f"{root}/txt/a.txt: line 1: car (0.95 0.5 0.2 0.5): beyond 64x48" in report.clipped


def test_labels_in_one_folder_for_images_in_sub_folders(root):
    (root / "txt/sub/b.txt").rename(root / "txt/b.txt")
    assert len(boxes(convert(root)[0])) == 3
    shutil.copy(root / "images/sub/b.jpg", root / "images/b.jpg")
    assert boxes(convert(root)[0])[2][0] == "b.jpg"  # the one in the same place
    (root / "images/b.jpg").rename(root / "images/sub/c.jpg")
    (root / "images/other").mkdir()
    shutil.copy(root / "images/sub/b.jpg", root / "images/other/b.jpg")
    with pytest.raises(DataError, match=r"txt/b\.txt: may belong to .*other/b\.jpg or .*sub/b\.jp"):
        convert(root)


def test_labels_beside_their_images_and_lists_among_them(root):
    for path in (root / "txt").rglob("*.txt"):
        path.rename(root / "images" / path.relative_to(root / "txt"))
    (root / "images/train.txt").write_text("images/a.png\n")
    data, _ = yolo_to_coco(root / "images", root / "images")
    assert len(data["annotations"]) == 3
