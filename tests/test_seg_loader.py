"""Batches of source and target: reproducible, resumable, and the target without labels."""

from __future__ import annotations

import itertools
import logging
from collections import Counter
from pathlib import Path

import pytest
import torch
from PIL import Image
from small_scenes import CLASSES, make_scenes

from mic_det.config import get_cfg
from mic_det.data.errors import DataError
from mic_det.data.segmentation import (
    check_segmentation,
    register_segmentation,
    segmentation_batches,
)
from mic_det.data.segmentation.counting import count_ids
from mic_det.data.segmentation.loader import source_stream

pytestmark = pytest.mark.usefixtures("clean_catalogs")


@pytest.fixture
def cfg(tmp_path: Path):
    """Source and target with labels, both; crops of 16 x 24."""
    for name in ("day", "night"):
        root = make_scenes(tmp_path / name)
        register_segmentation(name, root / "images", root / "labels", CLASSES)
    cfg = get_cfg()
    cfg.merge_from_list(
        ["MODEL.SEM_SEG_HEAD.NUM_CLASSES", 3, "DATASETS.TRAIN", ("day",)]
        + ["DATASETS.TARGET", ("night",), "DATASETS.TEST", ("day",), "SOLVER.IMS_PER_BATCH", 2]
        + ["INPUT.CROP.ENABLED", True, "INPUT.CROP.TYPE", "absolute", "INPUT.CROP.SIZE", [16, 24]]
        + ["INPUT.CROP.SINGLE_CATEGORY_MAX_AREA", 0.75, "INPUT.MIN_SIZE_TRAIN", (32,)]
        + ["INPUT.MAX_SIZE_TRAIN", 64, "INPUT.COLOR_JITTER", 0.2, "DATALOADER.NUM_WORKERS", 0]
        + ["DATALOADER.RARE_CLASSES.ENABLED", True, "DATALOADER.RARE_CLASSES.MIN_PIXELS", 40]
    )
    return cfg


def batches(cfg, count: int, start: int = 0, seed: int = 3, **kwargs) -> list:
    return list(itertools.islice(segmentation_batches(cfg, seed, start, **kwargs), count))


def assert_same(first: list, second: list) -> None:
    assert len(first) == len(second)
    for one, other in zip(first, second, strict=True):
        for samples, others in zip(one, other, strict=True):
            for a, b in zip(samples, others, strict=True):
                assert a.keys() == b.keys()
                for key, value in a.items():
                    same = torch.equal(value, b[key]) if torch.is_tensor(value) else value == b[key]
                    assert same, key


@pytest.mark.parametrize("rare", [True, False])
def test_batches_and_their_resumption(cfg, rare: bool):
    cfg.DATALOADER.RARE_CLASSES.ENABLED = rare
    check_segmentation(cfg)
    whole = batches(cfg, 6)
    assert_same(whole[4:], batches(cfg, 2, start=4))
    assert_same(whole, batches(cfg, 6))
    with pytest.raises(AssertionError):
        assert_same(whole, batches(cfg, 6, seed=4))
    source, target = whole[0]
    assert len(source) == len(target) == 2
    for sample in source:
        assert sample["image"].shape == (3, 16, 24) and sample["image"].dtype == torch.uint8
        assert sample["sem_seg"].shape == (16, 24) and sample["sem_seg"].dtype == torch.int64
        assert set(sample["sem_seg"].unique().tolist()) <= {0, 1, 2, 255}
    assert {sample["image"].shape for sample in target} == {(3, 16, 24)}


def test_workers_change_nothing(cfg):
    here = batches(cfg, 2)
    cfg.DATALOADER.NUM_WORKERS = 1
    assert_same(here, batches(cfg, 2))


def test_labels_of_the_target_are_never_opened(cfg, tmp_path: Path, opened: list[str]):
    """A trap in their place: files that no reader survives, and then no folder at all."""
    labels = tmp_path / "night/labels"
    for path in labels.rglob("*.png"):
        path.write_bytes(b"trap")
    opened.clear()
    check_segmentation(cfg)
    trained = batches(cfg, 4)
    assert not any(str(labels) in path for path in opened)
    assert any(str(tmp_path / "day/labels") in path for path in opened)  # the trap would see it
    for _, target in trained:
        for sample in target:
            assert set(sample) == {
                "file_name", "image_id", "height", "width", "image", "sample_seed",
            }  # fmt: skip
    labels.rename(tmp_path / "gone")
    assert_same(trained, batches(cfg, 4))


def test_without_a_target_no_target_image_is_read(cfg, tmp_path: Path, opened: list[str]):
    assert [target for _, target in batches(cfg, 3, use_target=False)] == [None] * 3
    assert not any(str(tmp_path / "night") in path for path in opened)


def test_rare_classes_are_drawn_more_often_and_shown(cfg):
    """person has 1 % of the pixels and is in one of three images."""
    stream = source_stream(cfg, 0)
    drawn = Counter(stream.dicts[stream.index_of(k)]["image_id"] for k in range(200))
    assert drawn["a.png"] > 150
    cfg.DATALOADER.RARE_CLASSES.ENABLED = False
    plain = source_stream(cfg, 0)
    even = Counter(plain.dicts[plain.index_of(k)]["image_id"] for k in range(201))
    assert set(even.values()) == {67}
    with_person = [(stream[k]["sem_seg"] == 2).sum() >= 20 for k in range(40)]
    assert sum(with_person) > 30


def test_broken_label_images_are_replaced_up_to_a_share(cfg, tmp_path: Path, caplog):
    broken = tmp_path / "day/labels/sub/b.png"
    Image.new("L", (5, 5)).save(broken)  # its size is found to be wrong only beside the image
    cfg.DATALOADER.RARE_CLASSES.ENABLED = False
    cfg.DATALOADER.CHECK_LABELS = False
    cfg.DATALOADER.MAX_UNREADABLE = 0.5
    with caplog.at_level(logging.WARNING):
        found = batches(cfg, 6)
    assert all("b.jpg" not in sample["file_name"] for source, _ in found for sample in source)
    assert "is 5x5, but its image" in caplog.text
    cfg.DATALOADER.MAX_UNREADABLE = 0.0
    with pytest.raises(DataError, match=r"DATASETS.TRAIN: 1 of its 3 images cannot be read"):
        batches(cfg, 6)


def test_too_many_unreadable_label_images_stop_before_training(cfg, tmp_path: Path):
    (tmp_path / "day/labels/a.png").write_bytes(b"")
    with pytest.raises(DataError, match="1 of 3 label images cannot be used"):
        source_stream(cfg, 0)
    cfg.DATALOADER.MAX_UNREADABLE = 0.4
    stream = source_stream(cfg, 0)
    assert all(stream.dicts[stream.index_of(k)]["image_id"] != "a.png" for k in range(100))


def test_classes_that_never_occur_are_said(cfg, tmp_path: Path, caplog):
    root = tmp_path / "day"
    label_map = {0: "road", 1: "car", 2: "person", 200: "train", 255: "ignore"}
    register_segmentation("four", root / "images", root / "labels", None, label_map)
    cfg.DATASETS.TRAIN = ("four",)
    with caplog.at_level(logging.INFO):
        source_stream(cfg, 0)
    assert "no pixel of class 'train'" in caplog.text and "share of pixels" in caplog.text
    register_segmentation(
        "none", root / "images", root / "labels", None, {200: "train", "other": "ignore"}
    )
    cfg.DATASETS.TRAIN = ("none",)
    with pytest.raises(DataError, match="no pixel of any label image has a class"):
        source_stream(cfg, 0)


def without_meaning(labels: Path) -> str:
    Image.new("L", (64, 32), 77).save(labels / "a.png")
    return "77"


def of_another_size(labels: Path) -> str:
    Image.new("L", (5, 5)).save(labels / "a.png")
    return "is 5x5, but its image"


def in_colours(labels: Path) -> str:
    Image.new("RGB", (64, 32), (10, 20, 30)).save(labels / "a.png")
    return "colour"


@pytest.mark.parametrize("spoil", [without_meaning, of_another_size, in_colours])
@pytest.mark.parametrize("key", ["TRAIN", "TEST"])
def test_labels_are_checked_before_training(cfg, tmp_path: Path, spoil, key: str):
    """Those of the source without rare class sampling too, and those that only an evaluation
    would have come to."""
    cfg.DATALOADER.RARE_CLASSES.ENABLED = False
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = ("day",), ("night",)
    folder = "day" if key == "TRAIN" else "night"
    assert len(batches(cfg, 1)) == 1
    told = spoil(tmp_path / folder / "labels")
    with pytest.raises(DataError, match=rf"DATASETS\.{key}.*1 of 3 label images") as error:
        segmentation_batches(cfg, 0)
    assert "a.png" in str(error.value) and told in str(error.value)
    cfg.DATALOADER.CHECK_LABELS = False
    segmentation_batches(cfg, 0)


def test_they_are_counted_for_it_once(cfg, monkeypatch):
    cfg.DATALOADER.RARE_CLASSES.ENABLED = False
    counted = []
    monkeypatch.setattr(
        "mic_det.data.segmentation.pixel_counts.count_ids",
        lambda ids: counted.append(ids.shape) or count_ids(ids),
    )
    for times in (1, 0):
        counted.clear()
        segmentation_batches(cfg, 0)
        assert len(counted) == times * 3


def test_an_unreadable_image_is_no_fault_of_its_label(cfg, tmp_path: Path):
    (tmp_path / "day/images/a.png").write_bytes(b"")
    cfg.DATALOADER.RARE_CLASSES.ENABLED = False
    source_stream(cfg, 0)
