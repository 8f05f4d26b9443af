"""BDD100K labels to COCO, in both published formats, by day; broken ones."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from benchmark_trees import draw_bdd100k

from mic_det.data.formats.bdd100k import CLASSES, bdd100k_to_coco, convert_bdd100k
from mic_det.data.formats.coco import DataError

FIRST = "0000f77c-6257be58.jpg"
LABELS = "labels/det_20/det_train.json"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    draw_bdd100k(tmp_path, splits=["train"])
    return tmp_path


@pytest.mark.parametrize("release", ["det_20", "2018"])
def test_both_formats_give_the_same_boxes(tmp_path: Path, release: str):
    draw_bdd100k(tmp_path, release=release)
    written = convert_bdd100k(tmp_path)
    assert [path.name for path, _ in written] == [
        "bdd100k_daytime_train.json",
        "bdd100k_daytime_val.json",
    ]
    for path, report in written:
        data = json.loads(path.read_text())
        assert [c["name"] for c in data["categories"]] == [
            *("person", "rider", "car", "truck", "bus", "motorcycle", "bicycle")
        ]
        names = [image["file_name"] for image in data["images"]]
        assert names == [FIRST, "0001542f-5ce3cf52.jpg"], "by day alone"
        assert path.with_suffix(".txt").read_text().split() == names
        assert all((i["width"], i["height"]) == (128, 72) for i in data["images"])
        assert [(CLASSES[a["category_id"] - 1], a["bbox"]) for a in data["annotations"]] == [
            ("person", [10.5, 20.0, 4.0, 12.25]),
            ("rider", [30.0, 20.0, 6.0, 20.0]),
            ("motorcycle", [28.0, 30.0, 12.0, 18.0]),
            ("bicycle", [50.0, 40.0, 10.0, 10.0]),
            ("car", [100.0, 30.0, 28.0, 30.0]),  # cut at the border
            ("truck", [60.0, 20.0, 20.0, 20.0]),
            ("bus", [82.0, 22.0, 16.0, 22.0]),
        ]
        assert report.left_out == {"train": 1, "traffic light": 1}
        assert (report.images, report.images_without_boxes) == (2, 1)
        assert report.notes == ["2 images of other times are left out"]
        assert len(report.clipped) == 1


def test_other_times_and_classes(root: Path):
    folders = root / "images/100k/train", root / LABELS
    data, report = bdd100k_to_coco(*folders, timeofday="night", classes=["car"])
    assert len(data["images"]) == 1 and report.boxes == {"car": 1}
    data, report = bdd100k_to_coco(*folders, classes=["train", "car"])
    assert len(data["images"]) == 4 and report.boxes == {"train": 1, "car": 3}


def _frames(change):
    def damage(root: Path) -> None:
        frames = json.loads((root / LABELS).read_text())
        change(frames)
        (root / LABELS).write_text(json.dumps(frames))

    return damage


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda root: (root / LABELS).write_text("["), "cannot be read as JSON"),
        (lambda root: (root / LABELS).write_text('{"images": []}'), "holds no list of images"),
        (
            lambda root: (root / LABELS).write_text('[{"labels": [], "labels": []}]'),
            "the key 'labels' occurs twice",
        ),
        (_frames(lambda f: f[1].pop("name")), "entry 2: name: None is no file name"),
        (_frames(lambda f: f.append(f[0])), f"entry 5: name: '{FIRST}' occurs twice"),
        (_frames(lambda f: f[0].update(labels=3)), f"{FIRST}: attributes is no object or labels"),
        (_frames(lambda f: f[0]["labels"][1].pop("category")), "label 2: category: None is no"),
        (_frames(lambda f: f[0]["labels"][1]["box2d"].pop("x2")), "label 2: box2d: "),
        (_frames(lambda f: f[0]["labels"][0].update(box2d=[1])), "label 1: box2d: [1] lacks"),
        (
            _frames(lambda f: [frame["attributes"].clear() for frame in f]),
            "attributes.timeofday: no image has 'daytime'; found None: 4",
        ),
    ],
)
def test_broken_label_files(root: Path, damage, words: str):
    damage(root)
    with pytest.raises(DataError) as info:
        convert_bdd100k(root, ["train"])
    assert str(info.value).startswith(f"{root / LABELS}: ") and words in str(info.value)
    assert not (root / "annotations").exists()


def test_missing_and_broken_images(root: Path):
    image = root / "images/100k/train" / FIRST
    image.write_bytes(b"x")
    with pytest.raises(DataError, match=f"{FIRST}: cannot be read as an image"):
        convert_bdd100k(root, ["train"])
    image.unlink()
    with pytest.raises(DataError, match=r"no such file \(of 1 that .* names and that are missing"):
        convert_bdd100k(root, ["train"])


def test_missing_folders_and_bad_arguments(root: Path):
    with pytest.raises(DataError) as info:
        convert_bdd100k(root)  # there is no val
    for words in (
        str(root / "images/100k/val"),
        str(root / "labels/det_20/det_val.json"),
        str(root / "labels/bdd100k_labels_images_val.json"),
        "bdd100k_det_20_labels_trainval.zip",
        f"python tools/convert_bdd100k.py --root {root}",
    ):
        assert words in str(info.value)
    assert not (root / "annotations").exists()
    folders = root / "images/100k/train", root / LABELS
    with pytest.raises(DataError, match="timeofday: 'noon' is none of"):
        bdd100k_to_coco(*folders, timeofday="noon")
    with pytest.raises(DataError, match="classes: "):
        bdd100k_to_coco(*folders, classes=["car", "car"])
