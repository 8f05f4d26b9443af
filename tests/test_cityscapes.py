"""Cityscapes to COCO: boxes against numbers worked out by hand, layout, failure messages."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from cityscapes_tree import draw_cityscapes_tree
from PIL import Image

from mic_det.data.formats.cityscapes import CLASSES, boxes_of, convert_cityscapes
from mic_det.data.formats.coco import DataError

REPOSITORY = Path(__file__).parents[1]

# Of scene 000000 at 256 x 512, by hand from the cells in cityscapes_tree (16 x 16 pixels each).
EXPECTED = {
    ("person", 0): ([272, 128, 16, 64], 1024, 0),
    ("rider", 0): ([320, 112, 16, 48], 768, 0),
    ("car", 0): (
        [64, 144, 96, 48],
        3840,
        0,
    ),  # one box over both parts; the pole's pixels are not its
    ("car", 1): ([192, 144, 48, 32], 1536, 0),
    ("truck", 0): ([352, 80, 32, 64], 2048, 0),  # the visible part alone
    ("bus", 0): ([384, 64, 64, 96], 6144, 0),
    ("train", 0): ([176, 96, 80, 32], 2560, 0),
    ("motorcycle", 0): ([304, 144, 48, 48], 2048, 0),
    ("bicycle", 0): ([32, 176, 32, 32], 1024, 0),
}
GROUPS = {
    ("person", 0): ([192, 208, 32, 16], 512, 1),
    ("car", 0): ([416, 192, 64, 16], 1024, 1),
}


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("cityscapes")
    draw_cityscapes_tree(root, cities_train=("bochum", "aachen"))
    return root


@pytest.fixture
def tree(drawn: Path, tmp_path: Path) -> Path:
    return shutil.copytree(drawn, tmp_path, dirs_exist_ok=True)


def read(root: Path, name: str) -> dict:
    return json.loads((root / "annotations" / f"{name}.json").read_text())


def boxes_of_image(data: dict, file_name: str) -> list[tuple]:
    (image_id,) = [i["id"] for i in data["images"] if i["file_name"] == file_name]
    names = {c["id"]: c["name"] for c in data["categories"]}
    return sorted(
        (names[a["category_id"]], a["bbox"], a["area"], a["iscrowd"])
        for a in data["annotations"]
        if a["image_id"] == image_id
    )


def as_rows(*tables: dict) -> list[tuple]:
    return sorted((name, *rest) for table in tables for (name, _), rest in table.items())


def run_tool(*arguments: str, cwd: Path | None = None, **env: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, str(REPOSITORY / "tools/convert_cityscapes.py"), *arguments],
        capture_output=True,
        text=True,
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY), **env},
    )


def test_boxes_of_single_pixels_gaps_and_values_at_the_limits():
    ids = np.full((5, 7), 7, np.uint16)
    ids[0, 0] = 24000  # the first pixel, the smallest value of a person
    ids[4, 6] = 33999  # the last pixel, the largest value of a bicycle
    ids[1, 1] = ids[3, 5] = 26013  # two far pixels of one car
    ids[2, 2:4] = 29000, 30001  # caravan and trailer are not among the 8 classes
    ids[2, 0] = 26  # car group
    person = {"category_id": 1, "bbox": [0, 0, 1, 1], "area": 1, "iscrowd": 0}
    car = {"category_id": 3, "bbox": [1, 1, 5, 3], "area": 2, "iscrowd": 0}
    bicycle = {"category_id": 8, "bbox": [6, 4, 1, 1], "area": 1, "iscrowd": 0}
    group = {"category_id": 3, "bbox": [0, 2, 1, 1], "area": 1, "iscrowd": 1}
    assert boxes_of(ids) == [person, car, bicycle]
    assert boxes_of(ids, "crowd") == [group, person, car, bicycle]
    assert boxes_of(np.zeros((5, 7), np.uint16), "crowd") == []


def test_clear_file(tree: Path):
    convert_cityscapes(tree)
    data = read(tree, "cityscapes_train")
    assert [i["file_name"] for i in data["images"]] == [
        "aachen/aachen_000000_000019_leftImg8bit.png",
        "aachen/aachen_000001_000019_leftImg8bit.png",
        "bochum/bochum_000000_000019_leftImg8bit.png",
        "bochum/bochum_000001_000019_leftImg8bit.png",
    ]
    assert [i["id"] for i in data["images"]] == [1, 2, 3, 4]
    assert all((i["height"], i["width"]) == (256, 512) for i in data["images"])
    assert [(c["id"], c["name"]) for c in data["categories"]] == list(enumerate(CLASSES, 1))
    assert CLASSES[0] == "person" and CLASSES[5:] == ("train", "motorcycle", "bicycle")
    for city in ("aachen", "bochum"):
        found = boxes_of_image(data, f"{city}/{city}_000000_000019_leftImg8bit.png")
        assert found == as_rows(EXPECTED)
        assert boxes_of_image(data, f"{city}/{city}_000001_000019_leftImg8bit.png") == []
    assert [a["id"] for a in data["annotations"]] == list(range(1, 19))
    assert len(read(tree, "cityscapes_val")["annotations"]) == 9


def test_groups_become_crowds_on_request(tree: Path):
    convert_cityscapes(tree, ["val"], groups="crowd")
    found = boxes_of_image(
        read(tree, "cityscapes_val"), "frankfurt/frankfurt_000000_000019_leftImg8bit.png"
    )
    assert found == as_rows(EXPECTED, GROUPS)
    with pytest.raises(DataError, match=r"'sometimes' is none of leave-out, crowd"):
        convert_cityscapes(tree, ["val"], groups="sometimes")


def test_foggy_files_have_three_times_the_images_and_the_same_boxes(tree: Path):
    convert_cityscapes(tree)
    clear, foggy = read(tree, "cityscapes_train"), read(tree, "cityscapes_foggy_train")
    dense = read(tree, "cityscapes_foggy_beta_0.02_train")
    assert len(foggy["images"]) == 3 * len(clear["images"]) == 3 * len(dense["images"])
    assert len({i["file_name"] for i in foggy["images"]}) == 12
    for image in clear["images"]:
        expected = boxes_of_image(clear, image["file_name"])
        stem = image["file_name"].removesuffix(".png")
        for beta in ("0.005", "0.01", "0.02"):
            name = f"{stem}_foggy_beta_{beta}.png"
            assert (tree / "leftImg8bit_foggy/train" / name).is_file()
            assert boxes_of_image(foggy, name) == expected
        assert boxes_of_image(dense, name) == expected


def test_instance_files_are_read_once_a_scene(tree: Path, monkeypatch: pytest.MonkeyPatch):
    import mic_det.data.formats.cityscapes as module

    read_files, original = [], module._read_instance_ids

    def counting(path: Path):
        read_files.append(path.name)
        return original(path)

    monkeypatch.setattr(module, "_read_instance_ids", counting)
    convert_cityscapes(tree, ["train"])
    assert len(read_files) == len(set(read_files)) == 4


def test_command_line_with_two_workers_gives_the_same_files(tree: Path):
    convert_cityscapes(tree)
    folder = tree / "annotations"
    expected = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert len(expected) == 6
    for path in folder.iterdir():
        path.unlink()
    done = run_tool("--root", str(tree), "--workers", "2")
    assert done.returncode == 0, done.stderr
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == expected
    assert "cityscapes_foggy_train.json: 12 images, 54 boxes" in done.stdout
    assert re.search(r"train: 100%.*4/4", done.stderr)  # the progress bar


def test_default_root_is_the_data_set_folder(tmp_path: Path):
    draw_cityscapes_tree(tmp_path / "cityscapes", foggy=False)
    done = run_tool("--splits", "val", "--workers", "1", DETECTRON2_DATASETS=str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "cityscapes/annotations/cityscapes_val.json").is_file()


def test_missing_folders_end_in_one_message(tmp_path: Path):
    done = run_tool("--root", str(tmp_path / "nowhere"), "--workers", "1")
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    for word in (
        str(tmp_path / "nowhere/leftImg8bit/train"),
        str(tmp_path / "nowhere/gtFine/train"),
        "leftImg8bit_trainvaltest.zip",
        "gtFine_trainvaltest.zip",
        "leftImg8bit_trainvaltest_foggy.zip",
        "cityscapes-dataset.com",
    ):
        assert word in done.stderr
    assert not (tmp_path / "nowhere").exists()


def test_empty_image_folder(tree: Path):
    empty = tree / "leftImg8bit/test"
    empty.mkdir()
    (tree / "gtFine/test").mkdir()
    with pytest.raises(DataError, match=rf"{re.escape(str(empty))}: no <city>/\*_leftImg8bit.png"):
        convert_cityscapes(tree, ["test"])


def test_without_fog_the_clear_files_are_made(tmp_path: Path):
    draw_cityscapes_tree(tmp_path, foggy=False)
    done = run_tool("--root", str(tmp_path), "--workers", "1")
    assert done.returncode == 0, done.stderr
    assert sorted(p.name for p in (tmp_path / "annotations").iterdir()) == [
        "cityscapes_train.json",
        "cityscapes_val.json",
    ]
    assert "no foggy images" in done.stdout
    assert "leftImg8bit_trainvaltest_foggy.zip" in done.stdout


def test_one_beta_absent_is_left_out_and_said(tree: Path):
    for path in tree.glob("leftImg8bit_foggy/train/*/*_beta_0.02.png"):
        path.unlink()
    report = convert_cityscapes(tree, ["train"])
    assert len(read(tree, "cityscapes_foggy_train")["images"]) == 8
    assert not (tree / "annotations/cityscapes_foggy_beta_0.02_train.json").exists()
    assert len(report.notes) == 1 and "beta 0.02" in report.notes[0]


def test_incomplete_fog_is_an_error(tree: Path):
    lost = tree / (
        "leftImg8bit_foggy/train/aachen/aachen_000001_000019_leftImg8bit_foggy_beta_0.01.png"
    )
    lost.unlink()
    with pytest.raises(DataError, match=re.escape(f"{lost}: no such file (of 1 ")):
        convert_cityscapes(tree)


INSTANCES = "gtFine/train/aachen/aachen_000000_000019_gtFine_instanceIds.png"


def test_missing_instance_file(tree: Path):
    (tree / INSTANCES).unlink()
    done = run_tool("--root", str(tree), "--workers", "1")
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert f"{tree / INSTANCES}: no such file" in done.stderr
    assert "gtFine_trainvaltest.zip" in done.stderr


@pytest.mark.parametrize("kept", [0, 20, 200])
def test_damaged_instance_file(tree: Path, kept: int):
    content = (tree / INSTANCES).read_bytes()
    (tree / INSTANCES).write_bytes(content[:kept])
    done = run_tool("--root", str(tree), "--workers", "2")  # the error crosses processes
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert f"{tree / INSTANCES}: cannot be read as an image" in done.stderr
    assert not (tree / "annotations/cityscapes_train.json").exists()


def test_instance_file_of_wrong_size(tree: Path):
    Image.fromarray(np.zeros((256, 510), np.uint16)).save(tree / INSTANCES)
    with pytest.raises(
        DataError, match=r"instanceIds\.png: size 510x256, but .*is 512x256"
    ) as info:
        convert_cityscapes(tree)
    assert str(tree / INSTANCES) in str(info.value)


def test_instance_file_with_8_bits(tree: Path):
    Image.fromarray(np.zeros((256, 512), np.uint8)).save(tree / INSTANCES)
    with pytest.raises(DataError, match="is no 16-bit, one-channel PNG") as info:
        convert_cityscapes(tree)
    assert str(tree / INSTANCES) in str(info.value)


def test_foggy_image_of_wrong_size_or_unreadable(tree: Path):
    foggy = next(tree.glob("leftImg8bit_foggy/val/*/*_000000_*beta_0.01.png"))
    Image.fromarray(np.zeros((128, 256, 3), np.uint8)).save(foggy)
    with pytest.raises(DataError, match=re.escape(f"but {foggy} is 256x128")):
        convert_cityscapes(tree)
    foggy.write_text("no image")
    with pytest.raises(DataError, match=re.escape(f"{foggy}: cannot be read as an image")):
        convert_cityscapes(tree)


def test_ignored_regions_and_everything_that_is_no_instance():
    """One pixel of each label id: void (0 to 6), stuff, and the groups of the 8 classes."""
    ids = np.arange(34, dtype=np.uint16)[None]
    assert boxes_of(ids) == []
    crowds = boxes_of(ids, "crowd")
    assert [c["bbox"][0] for c in crowds] == [24, 25, 26, 27, 28, 31, 32, 33]
    assert [c["category_id"] for c in crowds] == [1, 2, 3, 4, 5, 6, 7, 8]


def test_a_crowded_scene_has_many_instances_of_one_class():
    ids = (26000 + np.arange(200, dtype=np.uint16)).reshape(10, 20)
    found = boxes_of(ids)
    assert len(found) == 200 and {a["category_id"] for a in found} == {3}
    assert found[37]["bbox"] == [17, 1, 1, 1]
