"""The domains that are there by name: found in the published layout, or told what is missing."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from cityscapes_tree import draw_cityscapes_tree
from coco_folder import make_folder
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

from mic_det.data import builtin
from mic_det.data.builtin import register_builtin
from mic_det.data.catalog import (
    evaluation_json,
    labelled_dicts,
    missing_data_message,
    require_domain,
    unlabelled_dicts,
)
from mic_det.data.formats.cityscapes import convert_cityscapes
from mic_det.data.formats.coco import DataError, write_coco

REPOSITORY = Path(__file__).parents[1]
pytestmark = pytest.mark.usefixtures("clean_catalogs")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make_folder(tmp_path)


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
