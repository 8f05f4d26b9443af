"""The cache of resized images: the same samples to the bit, and nothing that can break a run."""

import os
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.data import transforms as T
from detectron2.structures import BoxMode
from PIL import Image

from mic_det.config import ConfigError, check_config, get_cfg
from mic_det.data import resized
from mic_det.data.errors import DataError
from mic_det.data.loader import SampleStream, stream_loader
from mic_det.data.mapper import DomainMapper
from mic_det.data.resized import ResizedImages


def mapper(cache=None, sizes=(40, 56)):
    return DomainMapper(
        is_train=True,
        augmentations=[
            T.ResizeShortestEdge(sizes, 200, "choice"),
            T.RandomFlip(),
            T.RandomBrightness(0.8, 1.2),
        ],
        image_format="BGR",
        recompute_boxes=False,
        resized=cache,
    )


@pytest.fixture
def records(tmp_path):
    generator = np.random.default_rng(0)
    found = []
    for i in range(5):
        pixels = generator.integers(0, 256, (64 + 8 * i, 120, 3), dtype=np.uint8)
        path = tmp_path / f"{i}.png"
        Image.fromarray(pixels).save(path)
        box = {"bbox": [10, 12, 50, 40], "bbox_mode": BoxMode.XYXY_ABS, "category_id": 0}
        record = {"file_name": str(path), "image_id": i, "height": 64 + 8 * i, "width": 120}
        found.append(record | ({"annotations": [box]} if i % 2 else {}))
    return found


def samples(records, cache, count=15, workers=0):
    stream = SampleStream(records, mapper(cache), seed=3, stream=0)
    batches = iter(stream_loader(stream, 1, 0, workers, prefetch=3))
    return [next(batches)[0] for _ in range(count)]


def same(one, other):
    assert torch.equal(one["image"], other["image"])
    assert {k: one[k] for k in ("file_name", "height", "width", "sample_seed")} == {
        k: other[k] for k in ("file_name", "height", "width", "sample_seed")
    }
    assert ("instances" in one) == ("instances" in other)
    if "instances" in one:
        boxes = [each["instances"].gt_boxes.tensor for each in (one, other)]
        assert torch.equal(*boxes)


@pytest.mark.parametrize("workers", [0, 2])
def test_samples_are_the_same_to_the_bit(records, tmp_path, workers):
    cache = ResizedImages(tmp_path / "cache", "BGR")
    plain = samples(records, None)
    assert len({each["image"].shape for each in plain}) > 3, "sizes are drawn"
    for _ in range(2):  # the first pass writes, the second reads
        for one, other in zip(samples(records, cache, workers=workers), plain, strict=True):
            same(one, other)


def test_images_are_decoded_once(records, tmp_path, monkeypatch):
    cache = ResizedImages(tmp_path / "cache", "BGR")
    mapper(cache, [40])(records[0])
    monkeypatch.setattr("mic_det.data.mapper.read_image", lambda *_: pytest.fail("read again"))
    mapper(cache, [40])(records[0])
    with pytest.raises(pytest.fail.Exception):
        mapper(cache, [48])(records[0])


def test_a_changed_image_is_read_again(records, tmp_path):
    cache = ResizedImages(tmp_path / "cache", "BGR")
    mapper(cache, [40])(records[0])
    path = Path(records[0]["file_name"])
    Image.new("RGB", (120, 64), (255, 255, 255)).save(path, format="BMP")
    assert mapper(cache, [40])(records[0])["image"].min() > 150
    status = path.stat()
    time.sleep(0.05)  # some file systems know time to a few milliseconds only
    Image.new("RGB", (120, 64), (255, 255, 0)).save(path, format="BMP")  # of the same size
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert path.stat().st_size == status.st_size
    assert not mapper(cache, [40])(records[0])["image"][0].any()  # blue


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: b"",
        lambda content: b"\x93NUMPY",
        lambda content: b"x" * 5000,
        lambda content: content[:4000] + bytes([content[4000] ^ 1]) + content[4001:],
    ],
)
def test_a_damaged_file_is_replaced(records, tmp_path, damage):
    cache = ResizedImages(tmp_path / "cache", "BGR")
    first = samples(records, cache, 10)
    files = sorted((tmp_path / "cache").rglob("*.pixels"))
    assert files
    for file in files:
        file.write_bytes(damage(file.read_bytes()))
    for one, other in zip(samples(records, cache, 10), first, strict=True):
        same(one, other)
    assert all(file.stat().st_size > 5000 for file in files)
    assert not list((tmp_path / "cache").rglob("*.tmp"))


def test_a_full_disk_does_not_stop_training(records, tmp_path, monkeypatch, caplog):
    cache = ResizedImages(tmp_path / "cache", "BGR")

    def full(handle, *_, **__):
        os.close(handle)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(resized.os, "fdopen", full)
    for one, other in zip(samples(records, cache), samples(records, None), strict=True):
        same(one, other)
    assert caplog.text.count("No space left on device") == 1
    assert not [each for each in (tmp_path / "cache").rglob("*") if each.is_file()]


def test_a_missing_or_broken_image_is_named(records, tmp_path):
    cache = ResizedImages(tmp_path / "cache", "BGR")
    with pytest.raises(DataError, match=r"nowhere\.png"):
        mapper(cache)({"file_name": str(tmp_path / "nowhere.png")})
    (tmp_path / "cut.png").write_bytes((tmp_path / "0.png").read_bytes()[:3000])
    with pytest.raises(DataError, match=r"cut\.png"):
        mapper(cache)({"file_name": str(tmp_path / "cut.png")})
    with pytest.raises(DataError, match="annotations say 7x9"):
        mapper(cache)(records[0] | {"width": 7, "height": 9})


@pytest.mark.parametrize(
    "settings",
    [
        ["INPUT.MIN_SIZE_TRAIN_SAMPLING", "range"],
        ["INPUT.CROP.ENABLED", True],
        ["DATALOADER.PREFETCH_FACTOR", 0],
    ],
)
def test_settings_that_cannot_work(settings):
    cfg = get_cfg()
    cfg.merge_from_list(["INPUT.RESIZED_CACHE", "cache"])
    check_config(cfg)
    cfg.merge_from_list(settings)
    with pytest.raises(ConfigError, match=settings[0].split(".")[-1]):
        check_config(cfg)
