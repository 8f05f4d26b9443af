"""Crops, and what a model gets to see of an image and its label image."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from small_scenes import COLOURS, in_colours, make_scenes

from mic_det.config import get_cfg
from mic_det.data.segmentation import (
    SegmentationMapper,
    labelled_seg_dicts,
    register_segmentation,
    unlabelled_dicts,
)
from mic_det.data.segmentation.crop import labelled_window, random_window

pytestmark = pytest.mark.usefixtures("clean_catalogs")

# ---- windows ------------------------------------------------------------------------------------


def test_windows_cover_all_places_and_stay_inside():
    found = {random_window((6, 5), (4, 3)) for _ in range(300)}
    assert found == {(top, left) for top in range(3) for left in range(3)}
    assert random_window((2, 9), (4, 9)) == (0, 0)


def halves() -> np.ndarray:
    """Left half class 0, right half class 1, ignored at the bottom; 64 x 64."""
    ids = np.zeros((64, 64), np.uint8)
    ids[:, 32:] = 1
    ids[56:] = 255
    return ids


def largest_share(ids: np.ndarray, window: tuple[int, int], side: int) -> float:
    """Slow reference: share of the largest class among the labelled pixels of a window."""
    top, left = window
    values = [v for v in ids[top : top + side, left : left + side].ravel().tolist() if v != 255]
    return max(values.count(v) for v in set(values)) / len(values)


def test_a_class_may_not_fill_the_window():
    ids = halves()
    ruled = [largest_share(ids, labelled_window(ids, (16, 16), 0.75), 16) for _ in range(200)]
    free = [largest_share(ids, labelled_window(ids, (16, 16), 1.0), 16) for _ in range(200)]
    # A window is good with chance p = 8 / 49 or so: left 21 to 27; of ten the chance that none is
    # is (1 - p)^10 = 0.2.
    assert 0.6 < np.mean(np.array(ruled) < 0.75) < 0.97
    assert np.mean(np.array(free) < 0.75) < 0.3


def test_where_nothing_fits_the_last_window_is_taken():
    ids = np.zeros((32, 32), np.uint8)
    assert {labelled_window(ids, (30, 30), 0.5) for _ in range(50)} >= {(0, 0), (2, 2)}
    assert labelled_window(np.full((8, 8), 255, np.uint8), (8, 8), 0.75) == (0, 0)


def test_the_wanted_class_is_in_the_window():
    ids = np.zeros((100, 100), np.uint8)
    ids[70:80, 70:80] = 3

    def shown(**wanted: int) -> float:
        hits = 0
        for _ in range(200):
            top, left = labelled_window(ids, (50, 50), 1.0, **wanted)
            hits += np.count_nonzero(ids[top : top + 50, left : left + 50] == 3) >= 60
        return hits / 200

    # Of one window the chance is p = (27 / 51)^2 = 0.28 or so, of ten 1 - (1 - p)^10 = 0.96.
    assert shown() < 0.5
    assert shown(wanted=3, wanted_pixels=60) > 0.85
    assert shown(wanted=2, wanted_pixels=60) < 0.5


# ---- mapper -------------------------------------------------------------------------------------


@pytest.fixture
def scene(tmp_path: Path) -> dict:
    """A record of an image of 40 x 24 whose colours tell each pixel's class."""
    ids = np.random.default_rng(0).integers(0, 3, (24, 40)).astype(np.uint8)
    for folder, content in (("images", in_colours(ids)), ("labels", ids)):
        (tmp_path / folder).mkdir()
        Image.fromarray(content).save(tmp_path / folder / "a.png")
    register_segmentation("t", tmp_path / "images", tmp_path / "labels", ("road", "car", "person"))
    return labelled_seg_dicts("t")[0]


def colours_of(mapped: dict, ids: np.ndarray) -> np.ndarray:
    """RGB that the ids should have."""
    table = np.zeros((256, 3), np.uint8)
    table[:3] = COLOURS
    table[255] = (9, 8, 7)
    return table[ids]


def test_image_and_label_go_the_same_way(scene: dict):
    mapper = SegmentationMapper(
        is_train=True, image_format="RGB", crop=(16, 30), filling=(9, 8, 7), largest_share=0.9
    )
    seen = set()
    for _ in range(20):
        mapped = mapper(scene)
        image, ids = mapped["image"].numpy().transpose(1, 2, 0), mapped["sem_seg"].numpy()
        assert mapped["image"].dtype.is_floating_point is False and image.dtype == np.uint8
        assert ids.dtype == np.int64 and ids.shape == (16, 30) and image.shape == (16, 30, 3)
        np.testing.assert_array_equal(image, colours_of(mapped, ids))
        seen.add(ids.tobytes())
    assert len(seen) > 10  # places and flips differ
    assert (mapped["height"], mapped["width"], mapped["image_id"]) == (24, 40, "a.png")
    assert set(mapped) == {"file_name", "image_id", "height", "width", "image", "sem_seg"}


@pytest.mark.parametrize("flip", ["none", "horizontal", "vertical"])
def test_small_images_are_filled_up_with_no_class(scene: dict, flip: str):
    """At the right and below, whichever way they are turned; what is the image is told."""
    mapper = SegmentationMapper(
        is_train=True, image_format="RGB", crop=(30, 50), filling=(9.2, 8.4, 6.6), flip=flip
    )
    for _ in range(4):
        filled_up(mapper, scene)
    unlabelled = {key: each for key, each in scene.items() if key != "sem_seg_file_name"}
    assert mapper(unlabelled)["shown"] == (24, 40)
    assert "shown" not in SegmentationMapper(is_train=True, crop=(24, 40))(scene)


def filled_up(mapper: SegmentationMapper, scene: dict) -> None:
    mapped = mapper(scene)
    image, ids = mapped["image"].numpy().transpose(1, 2, 0), mapped["sem_seg"].numpy()
    assert ids.shape == (30, 50)
    assert (ids[24:] == 255).all() and (ids[:, 40:] == 255).all()
    assert (ids[:24, :40] != 255).all() and mapped["shown"] == (24, 40)
    np.testing.assert_array_equal(image, colours_of(mapped, ids))


def test_labels_are_resized_by_the_nearest_pixel(tmp_path: Path):
    ids = np.repeat(np.array([[0, 2]], np.uint8), 8, axis=1).repeat(8, axis=0)
    for folder, content in (("images", in_colours(ids)), ("labels", ids)):
        (tmp_path / folder).mkdir()
        Image.fromarray(content).save(tmp_path / folder / "a.png")
    register_segmentation("t", tmp_path / "images", tmp_path / "labels", ("a", "b", "c"))
    mapper = SegmentationMapper(is_train=True, min_size=(20,), max_size=100, flip="none")
    mapped = mapper(labelled_seg_dicts("t")[0])
    assert mapped["sem_seg"].shape == (20, 40) and mapped["image"].shape == (3, 20, 40)
    assert mapped["sem_seg"].unique().tolist() == [0, 2]  # no class 1 between them
    assert (mapped["sem_seg"] == 2).float().mean() == 0.5


def test_images_of_a_target_have_sizes_of_their_own_and_no_labels(scene: dict):
    cfg = get_cfg()
    cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.MAX_SIZE_TRAIN = (48,), 200
    cfg.INPUT.MIN_SIZE_TARGET, cfg.INPUT.MAX_SIZE_TARGET = (12,), 200
    (plain,) = unlabelled_dicts("t")
    assert SegmentationMapper(cfg)(scene)["image"].shape == (3, 48, 80)
    target = SegmentationMapper(cfg, target=True)(plain)
    assert target["image"].shape == (3, 12, 20) and "sem_seg" not in target
    cfg.INPUT.MIN_SIZE_TARGET, cfg.INPUT.MAX_SIZE_TARGET = (), 40
    assert SegmentationMapper(cfg, target=True)(plain)["image"].shape == (3, 24, 40)


def test_evaluation_sees_the_whole_image_and_no_labels(scene: dict, opened: list[str]):
    cfg = get_cfg()
    cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST = 12, 100
    cfg.INPUT.CROP.ENABLED, cfg.INPUT.COLOR_JITTER = True, 0.5
    mapper = SegmentationMapper(cfg, is_train=False)
    first, second = mapper(scene), mapper(scene)
    assert first["image"].shape == (3, 12, 20) and first["height"] == 24
    assert "sem_seg" not in first and not any("labels" in path for path in opened)
    np.testing.assert_array_equal(first["image"], second["image"])
    cfg.INPUT.MIN_SIZE_TEST = 0
    assert SegmentationMapper(cfg, is_train=False)(scene)["image"].shape == (3, 24, 40)


def test_jitter_changes_colours_and_not_labels(scene: dict):
    plain = SegmentationMapper(is_train=True, flip="none")(scene)
    mapper = SegmentationMapper(is_train=True, flip="none", jitter=0.3)
    first, second = mapper(scene), mapper(scene)
    assert (first["image"] != second["image"]).any()
    assert abs(first["image"].float().mean() / plain["image"].float().mean() - 1) < 0.6
    np.testing.assert_array_equal(first["sem_seg"], plain["sem_seg"])


def test_why_a_pair_cannot_be_read(tmp_path: Path):
    root = make_scenes(tmp_path)
    register_segmentation("day", root / "images", root / "labels", ("road", "car", "person"))
    mapper = SegmentationMapper(is_train=True)
    record = labelled_seg_dicts("day")[0]
    assert mapper.why_unreadable(record) is None
    Image.new("L", (5, 5)).save(record["sem_seg_file_name"])
    assert "is 5x5, but its image" in mapper.why_unreadable(record)
    Path(record["sem_seg_file_name"]).write_bytes(b"")
    assert "it is empty" in mapper.why_unreadable(record)
    assert SegmentationMapper(is_train=False).why_unreadable(record) is None
