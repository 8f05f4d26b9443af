"""PASCAL VOC, Clipart1k, Watercolor2k, Comic2k and Sim10k to COCO: splits, difficult, pixels."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from benchmark_trees import (
    draw_clipart,
    draw_painted,
    draw_sim10k,
    draw_voc,
    write_image_set,
)

from mic_det.data.formats.coco import DataError
from mic_det.data.formats.pascal import PASCAL_SETS, SIX_CLASSES, VOC_CLASSES, convert_pascal
from mic_det.data.image_list import listed_images, read_image_list


def convert(root: Path, name: str) -> dict[str, dict]:
    """COCO content of each domain."""
    return {path.stem: json.loads(path.read_text()) for path, _ in convert_pascal(root, name)}


def boxes(data: dict, file_name: str) -> list[tuple]:
    (number,) = [i["id"] for i in data["images"] if i["file_name"] == file_name]
    names = {c["id"]: c["name"] for c in data["categories"]}
    return [
        (names[a["category_id"]], a["bbox"], a["iscrowd"])
        for a in data["annotations"]
        if a["image_id"] == number
    ]


@pytest.mark.parametrize(("year", "second"), [("2007", "000007"), ("2012", "2008_000003")])
def test_voc(tmp_path: Path, year: str, second: str):
    draw_voc(tmp_path, year)
    files = convert(tmp_path, f"voc{year}")
    assert files.keys() == {f"pascal_voc_{year}_trainval"}
    (data,) = files.values()
    assert [c["name"] for c in data["categories"]] == list(VOC_CLASSES)
    assert len(data["images"]) == 2, "the image of no image set is left out"
    # Pixels count from 1 and the last one belongs to the box; difficult is a crowd.
    assert boxes(data, f"{second}.jpg") == [
        ("dog", [7, 11, 28, 29], 0),
        ("person", [0, 0, 60, 40], 1),
    ]
    assert len(data["annotations"]) == 22
    path = tmp_path / f"VOC{year}/coco/pascal_voc_{year}_trainval.json"
    assert json.loads(path.read_text()) == data


def test_clipart(tmp_path: Path):
    draw_clipart(tmp_path)
    files = convert(tmp_path, "clipart")
    names = {key: [i["file_name"] for i in data["images"]] for key, data in files.items()}
    assert names == {
        "clipart1k_train": ["131204842.jpg", "97254.jpg"],
        "clipart1k_test": ["142346461.jpg", "99108.jpg"],
        "clipart1k_all": ["131204842.jpg", "142346461.jpg", "97254.jpg", "99108.jpg"],
    }
    assert boxes(files["clipart1k_test"], "99108.jpg") == [
        ("cat", [2, 3, 28, 27], 0),
        ("tvmonitor", [19, 4, 31, 21], 0),
    ]


@pytest.mark.parametrize("name", ["watercolor", "comic"])
def test_painted_without_the_dummies_of_extra(tmp_path: Path, name: str):
    draw_painted(tmp_path, name)
    files = convert(tmp_path, name)
    assert files.keys() == {f"{name}2k_train", f"{name}2k_test"}
    for data in files.values():
        assert [c["name"] for c in data["categories"]] == list(SIX_CLASSES)
        assert all(a["area"] > 1 for a in data["annotations"])
        assert "99999999.jpg" not in {i["file_name"] for i in data["images"]}
    assert len(files[f"{name}2k_test"]["images"]) == 2


def test_sim10k_counts_pixels_from_zero(tmp_path: Path):
    draw_sim10k(tmp_path)
    (data,) = convert(tmp_path, "sim10k").values()
    assert [c["name"] for c in data["categories"]] == ["car", "motorbike", "person"]
    assert boxes(data, "3384645.jpg") == [
        ("car", [5, 6, 20, 10], 0),
        ("person", [30, 5, 4, 15], 0),
    ]
    assert boxes(data, "3384812.jpg")[1] == ("car", [0, 0, 60, 40], 0)


def test_missing_parts_are_named_with_the_remedy(tmp_path: Path):
    draw_clipart(tmp_path)
    shutil.rmtree(tmp_path / "clipart/Annotations")
    (tmp_path / "clipart/ImageSets/Main/test.txt").unlink()
    with pytest.raises(DataError) as info:
        convert_pascal(tmp_path, "clipart")
    for words in ("clipart/Annotations", "Main/test.txt", "clipart.zip", "convert_pascal.py cl"):
        assert words in str(info.value)
    assert not (tmp_path / "clipart/coco").exists()
    with pytest.raises(DataError, match="'voc2008': is none of voc2007"):
        convert_pascal(tmp_path, "voc2008")


@pytest.mark.parametrize(
    ("stems", "words"),
    [
        (["131204842", "5"], "test.txt: names 5, but there is no"),
        (["5", "5"], "test.txt: entry 2: '5' occurs twice"),
        ([], "test.txt: names no image"),
        (["131204842 -1"], "test.txt: '131204842 -1': is a list for one class"),
    ],
)
def test_broken_image_sets(tmp_path: Path, stems: list[str], words: str):
    draw_clipart(tmp_path)
    write_image_set(tmp_path / "clipart", "test", stems)
    with pytest.raises(DataError) as info:
        convert_pascal(tmp_path, "clipart")
    assert words in str(info.value)
    assert str(tmp_path / "clipart/ImageSets/Main") in str(info.value)


def test_image_lists_name_images_with_or_without_suffix(tmp_path: Path):
    draw_clipart(tmp_path)
    images, names = tmp_path / "clipart/JPEGImages", tmp_path / "names.txt"
    names.write_text("99108.jpg\n\n131204842\n")
    assert [path.name for path in listed_images(images, names)] == ["131204842.jpg", "99108.jpg"]
    names.write_text("99108.jpg\nlost\n")
    with pytest.raises(DataError, match=r"names\.txt: 'lost' is no image in .* \(1 of 2 are not"):
        listed_images(images, names)
    shutil.copy(images / "99108.jpg", images / "99108.png")
    names.write_text("99108\n")
    with pytest.raises(DataError, match=r"'99108' may be .*99108\.jpg or .*99108\.png"):
        listed_images(images, names)
    with pytest.raises(DataError, match="no such list of images"):
        read_image_list(tmp_path / "nothing.txt")
    names.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match=r"names\.txt: cannot be read as text"):
        read_image_list(names)


def test_each_remedy_names_its_own_command(tmp_path: Path):
    for name, entry in PASCAL_SETS.items():
        assert f"convert_pascal.py {name} --root {tmp_path}" in entry.remedy(tmp_path)
