"""What label images of every kind are read as, and which of them belongs to which image."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from small_scenes import (
    CLASSES,
    COLOURS,
    SCENES,
    draw_images,
    ids_of,
    in_colours,
    make_scenes,
    save_deep_channels,
    save_palette,
    write_labels,
)

from mic_det.data.errors import DataError
from mic_det.data.segmentation import class_colours, colour_map
from mic_det.data.segmentation.coding import make_coding, plain_coding
from mic_det.data.segmentation.counting import count_ids
from mic_det.data.segmentation.label_files import LabelReader
from mic_det.data.segmentation.label_folder import LabelFolder, pair_labels

BY_VALUE = {0: "road", 1: "car", 2: "person", 255: "ignore"}
BY_COLOUR = {"128, 64, 128": "road", "#00008e": "car", (220, 20, 60): "person", "0,0,0": "ignore"}
NAME = "a.png"


def save_rgba(path: Path, ids: np.ndarray) -> None:
    Image.fromarray(in_colours(ids)).convert("RGBA").save(path)


def save_grey_alpha(path: Path, ids: np.ndarray) -> None:
    Image.fromarray(ids).convert("LA").save(path)


@pytest.mark.parametrize(
    ("save", "label_map", "channel"),
    [
        (lambda path, ids: Image.fromarray(ids).save(path), BY_VALUE, None),
        (lambda path, ids: Image.fromarray(ids).save(path), None, None),
        (lambda path, ids: Image.fromarray(ids).save(path), BY_VALUE, 0),
        (lambda path, ids: Image.fromarray(ids.astype(np.uint16)).save(path), BY_VALUE, None),
        (lambda path, ids: Image.fromarray(ids.astype(np.int32)).save(path, "TIFF"),
         BY_VALUE, None),
        (save_palette, BY_VALUE, None),
        (save_palette, BY_COLOUR, None),
        (lambda path, ids: Image.fromarray(in_colours(ids)).save(path), BY_COLOUR, None),
        (save_rgba, BY_COLOUR, None),
        (save_grey_alpha, BY_VALUE, None),
        (save_deep_channels, BY_VALUE, 0),
        (lambda path, ids: Image.fromarray(np.stack([ids * 0, ids, ids * 0], 2)).save(path),
         BY_VALUE, 1),
    ],
    ids=["8-bit", "8-bit, no map", "8-bit, channel 0", "16-bit", "32-bit TIFF", "palette by "
         "index", "palette by colour", "RGB", "RGBA", "grey with alpha", "16-bit RGB, channel 0",
         "8-bit RGB, channel 1"],
)  # fmt: skip
def test_every_kind_of_label_image_gives_the_same_ids(tmp_path: Path, save, label_map, channel):
    path = tmp_path / "l.png"
    expected = ids_of(NAME)
    save(path, expected)
    coding = make_coding("t", CLASSES, label_map)
    read = LabelReader(LabelFolder(tmp_path, coding, channel=channel))
    for each in (read, pickle.loads(pickle.dumps(read))):
        found = each(path)
        assert found.dtype == np.uint8
        np.testing.assert_array_equal(found, expected)
    wide = read(str(path), dtype=int)  # as SemSegEvaluator calls it
    assert wide.dtype == int
    wide[wide == 255] = len(CLASSES)  # and writes to it
    assert wide.max() == len(CLASSES)


def test_ids_of_16_bits_and_black_and_white(tmp_path: Path):
    deep = np.array([[26001, 7], [300, 7]], np.uint16)
    Image.fromarray(deep).save(tmp_path / "deep.png")
    coding = make_coding("t", None, {26001: "car", 7: "road", 300: "ignore"})
    read = LabelReader(LabelFolder(tmp_path, coding))
    np.testing.assert_array_equal(read(tmp_path / "deep.png"), [[0, 1], [255, 1]])
    Image.fromarray(np.array([[True, False]])).save(tmp_path / "two.png")
    read = LabelReader(LabelFolder(tmp_path, plain_coding(("ground", "thing"))))
    np.testing.assert_array_equal(read(tmp_path / "two.png"), [[1, 0]])


def test_classes_keep_aliases_merge_and_the_models_order_counts(tmp_path: Path):
    Image.fromarray(np.array([[0, 1, 2, 9, 255]], np.uint8)).save(tmp_path / "l.png")
    label_map = {0: "street", 1: "auto", 2: "lorry", 9: "tree", "other": "ignore"}
    coding = make_coding("t", ["car", "road"], label_map, {"street": "road", "auto": "car"})
    assert coding.classes == ("car", "road")
    assert coding.left_out() == ["lorry", "tree"]
    read = LabelReader(LabelFolder(tmp_path, coding))
    np.testing.assert_array_equal(read(tmp_path / "l.png"), [[1, 0, 255, 255, 255]])
    merged = make_coding("t", None, label_map, {"lorry": "car", "auto": "car", "street": "road"})
    assert merged.classes == ("road", "car", "tree")
    read = LabelReader(LabelFolder(tmp_path, merged), classes=("tree", "sky", "car", "road"))
    np.testing.assert_array_equal(read(tmp_path / "l.png"), [[3, 2, 2, 0, 255]])


def test_counts_equal_bincount():
    ids = np.random.default_rng(0).integers(0, 256, (70, 90)).astype(np.uint8)
    view = ids[3:60, 5:77]  # not contiguous
    expected = np.bincount(view.ravel(), minlength=256)
    np.testing.assert_array_equal(count_ids(view), expected)
    assert count_ids(view).dtype == np.int64


def test_colours_are_cityscapes_own_and_distinct():
    names = ["road", "Car", "pavement", *(f"thing {k}" for k in range(240))]
    colours = class_colours(names)
    assert colours[:3] == [(128, 64, 128), (0, 0, 142), (244, 35, 232)]
    assert len(set(colours)) == len(names)
    assert all(0 <= part <= 255 for colour in colours for part in colour)
    picture = colour_map(np.array([[0, 1, 255]], np.uint8), names)
    assert picture.tolist() == [[[128, 64, 128], [0, 0, 142], [0, 0, 0]]]


# ---- pairs --------------------------------------------------------------------------------------


def folder_of(root: Path, suffixes: tuple[str, str] | None = None) -> LabelFolder:
    return LabelFolder(root / "labels", plain_coding(CLASSES), suffixes)


def images_of(root: Path) -> list[Path]:
    return sorted(path for path in (root / "images").rglob("*") if path.is_file())


@pytest.mark.parametrize(
    ("image_end", "label_end", "told"),
    [
        ("", "", None),
        ("", "_L", None),
        ("_leftImg8bit", "_gtFine_labelTrainIds", None),
        ("_leftImg8bit", "_gtFine_labelIds", None),
        ("_rgb_anon", "_gt_labelTrainIds", None),
        ("_rgb_anon", "_gt_labelIds", None),
        ("_camera", ".mask", ("_camera", ".mask")),
        ("_leftImg8bit_foggy_beta_0.02", "_gtFine_labelIds",
         ("_leftImg8bit_foggy_beta_0.02", "_gtFine_labelIds")),
    ],
)  # fmt: skip
def test_labels_are_found_by_path_and_suffix(tmp_path: Path, image_end, label_end, told):
    for stem in ("a", "city.1/b_c"):
        for kind, end in (("images", image_end), ("labels", label_end)):
            path = tmp_path / kind / f"{stem}{end}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
    pairs = pair_labels(tmp_path / "images", images_of(tmp_path), folder_of(tmp_path, told))
    found = {
        image.relative_to(tmp_path / "images").as_posix(): label.relative_to(
            tmp_path / "labels"
        ).as_posix()
        for image, label in pairs.label_of.items()
    }
    assert found == {
        f"{stem}{image_end}.png": f"{stem}{label_end}.png" for stem in ("a", "city.1/b_c")
    }
    assert not pairs.without_label and not pairs.notes()


def test_what_has_no_partner_is_told(tmp_path: Path):
    make_scenes(tmp_path)
    (tmp_path / "labels/c d.png").unlink()
    (tmp_path / "labels/z.png").touch()
    pairs = pair_labels(tmp_path / "images", images_of(tmp_path), folder_of(tmp_path))
    assert [path.name for path in pairs.without_label] == ["c d.png"]
    assert [path.name for path in pairs.unused] == ["z.png"]
    first, second = pairs.notes()
    assert "1 of 3 images have no label image" in first and "c d.png" in first
    assert "1 label images belong to no image" in second and "z.png" in second


def test_images_and_labels_in_one_folder(tmp_path: Path):
    draw_images(tmp_path / "labels")
    write_labels(tmp_path / "labels", suffix="_L")
    images = [tmp_path / "labels" / name for name in SCENES]
    pairs = pair_labels(tmp_path / "labels", images, folder_of(tmp_path))
    assert {path.name for path in pairs.label_of.values()} == {"a_L.png", "b_L.png", "c d_L.png"}
    every = sorted(path for path in (tmp_path / "labels").rglob("*") if path.is_file())
    with pytest.raises(DataError, match="is an image of the domain and the label of one"):
        pair_labels(tmp_path / "labels", every, folder_of(tmp_path))


def test_colours_of_the_map_may_be_written_in_three_ways():
    coding = make_coding("t", None, BY_COLOUR)
    assert [key for key, _ in coding.meanings] == [*COLOURS, (0, 0, 0)]
