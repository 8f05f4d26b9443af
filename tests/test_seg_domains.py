"""Segmentation domains: registration, the benchmarks' own, classes of source and target."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image
from seg_trees import TRAIN_IDS, draw_all, stripes
from small_scenes import CLASSES, ids_of, make_scenes

from mic_det.config import ConfigError, get_cfg
from mic_det.data.builtin import builtin_entries, register_builtin
from mic_det.data.catalog import get_domain, missing_data_message, unlabelled_dicts
from mic_det.data.errors import DataError
from mic_det.data.register import register_yaml
from mic_det.data.segmentation import (
    check_segmentation,
    label_loader,
    labelled_seg_dicts,
    missing_segmentation_data,
    register_segmentation,
)
from mic_det.data.segmentation.builtin import segmentation_entries
from mic_det.data.segmentation.check import check_segmentation_domain
from mic_det.data.segmentation.cityscapes_labels import CLASSES as CITYSCAPES
from mic_det.data.segmentation.cityscapes_labels import (
    CLASSES_13,
    CLASSES_16,
    LABEL_IDS,
    SYNTHIA_IDS,
)
from mic_det.data.streets import SplitSpec, ensure_streets

pytestmark = pytest.mark.usefixtures("clean_catalogs")


def read_first(name: str) -> np.ndarray:
    record = labelled_seg_dicts(name)[0]
    return label_loader(name)(record["sem_seg_file_name"])


# ---- the user's own -----------------------------------------------------------------------------


def test_one_call_makes_a_data_set_of_detectron2(tmp_path: Path):
    root = make_scenes(tmp_path)
    register_segmentation("day", root / "images", root / "labels", CLASSES)
    register_segmentation("day", root / "images", root / "labels", CLASSES)  # harmless
    records = DatasetCatalog.get("day")
    assert [record["image_id"] for record in records] == ["a.png", "c d.png", "sub/b.jpg"]
    assert set(records[0]) == {"file_name", "image_id", "sem_seg_file_name", "domain"}
    np.testing.assert_array_equal(read_first("day"), ids_of("a.png"))
    metadata = MetadataCatalog.get("day")
    assert metadata.evaluator_type == "sem_seg" and metadata.ignore_label == 255
    assert metadata.stuff_classes == list(CLASSES) and len(metadata.stuff_colors) == 3
    with pytest.raises(DataError, match="the name is taken already"):
        register_segmentation("day", root / "images", root / "labels", CLASSES[:2])


def test_the_same_from_yaml(tmp_path: Path):
    make_scenes(tmp_path)
    (tmp_path / "mine.yaml").write_text(
        "day: {images: images, labels: labels, label_map: {0: street, 1: auto, 2: person, other: "
        "ignore},\n      classes: [car, road], aliases: {street: road, auto: car}}\n"
        "night: {images: images}\n"
        "colours: {images: images, labels: labels, label_map: {'128, 64, 128': road, '#00008e': "
        "car}, label_suffixes: ['', '']}\n"
    )
    assert register_yaml(tmp_path / "mine.yaml") == ["day", "night", "colours"]
    expected = np.array([1, 0, 255] + [255] * 253)[ids_of("a.png")]
    np.testing.assert_array_equal(read_first("day"), expected)
    assert len(unlabelled_dicts("night")) == 3
    assert get_domain("colours").label_folder().coding.coloured
    with pytest.raises(DataError, match="has no label images"):
        labelled_seg_dicts("night")


def test_prepared_data_are_made_when_they_are_needed(tmp_path: Path):
    made = []

    def prepare() -> Path:
        made.append(1)
        return tmp_path if (tmp_path / "images").is_dir() else make_scenes(tmp_path)

    register_segmentation("late", "images", "labels", CLASSES, prepare=prepare)
    assert not made
    assert missing_data_message(["late"]) is None
    assert len(labelled_seg_dicts("late")) == 3 and made


def test_boxes_and_labels_are_told_apart(tmp_path: Path):
    from mic_det.data.catalog import labelled_dicts

    root = make_scenes(tmp_path)
    register_segmentation("day", root / "images", root / "labels", CLASSES)
    with pytest.raises(DataError, match="has label images, not boxes"):
        labelled_dicts("day")


# ---- benchmarks ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trees(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("datasets")
    draw_all(root)
    return root


def expected_ids(classes: tuple[str, ...]) -> np.ndarray:
    """The trees' stripes as ids of these classes."""
    names = [CITYSCAPES[k] if k < 19 else None for k in TRAIN_IDS]
    return stripes(tuple(classes.index(name) if name in classes else 255 for name in names))


@pytest.mark.parametrize(
    ("name", "classes", "images"),
    [
        ("gta5_sem_train", CITYSCAPES, 2),
        ("synthia_sem_16cls_train", CLASSES_16, 2),
        ("synthia_sem_13cls_train", CLASSES_13, 2),
        ("cityscapes_sem_train", CITYSCAPES, 1),
        ("cityscapes_sem_val", CITYSCAPES, 1),
        ("cityscapes_sem_16cls_val", CLASSES_16, 1),
        ("cityscapes_sem_13cls_val", CLASSES_13, 1),
        ("acdc_sem_train", CITYSCAPES, 4),
        ("acdc_sem_val", CITYSCAPES, 4),
        ("acdc_sem_night_train", CITYSCAPES, 1),
        ("acdc_sem_snow_val", CITYSCAPES, 1),
        ("dark_zurich_sem_val", CITYSCAPES, 1),
    ],
)
def test_published_layouts(trees: Path, name: str, classes: tuple[str, ...], images: int):
    register_builtin(trees)
    assert len(labelled_seg_dicts(name)) == len(unlabelled_dicts(name)) == images
    np.testing.assert_array_equal(read_first(name), expected_ids(classes))
    assert not check_segmentation_domain(name).errors


def test_the_rest_of_the_builtin_domains(trees: Path):
    register_builtin(trees)
    ids = read_first("camvid_sem_dusk_val")
    np.testing.assert_array_equal(ids, stripes((3, 1, 0, 8, 255, 9, 10, 5)))
    for name in ("camvid_sem_dusk_train", "dark_zurich_sem_train"):
        assert len(unlabelled_dicts(name)) == 1
        with pytest.raises(DataError, match="has no label images"):
            labelled_seg_dicts(name)
    assert "night" in unlabelled_dicts("dark_zurich_sem_train")[0]["file_name"]


def test_the_ids_of_the_papers():
    """Train id by published id, class by class."""
    cityscapes = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)
    synthia = (3, 4, 2, 21, 5, 7, 15, 9, 6, 16, 1, 10, 17, 8, 18, 19, 20, 12, 11)
    for table, ids in ((LABEL_IDS, cityscapes), (SYNTHIA_IDS, synthia)):
        found = {
            number: CITYSCAPES.index(name) for number, name in table.items() if name in CITYSCAPES
        }
        assert found == {number: k for k, number in enumerate(ids)}
        assert {name for name in table.values() if name not in CITYSCAPES} == {"ignore"}
    assert set(LABEL_IDS) == {*range(35), 255} and set(SYNTHIA_IDS) == set(range(23))
    assert CITYSCAPES[9:12] == ("terrain", "sky", "person") and len(CITYSCAPES) == 19
    assert set(CITYSCAPES) - set(CLASSES_16) == {"terrain", "truck", "train"}
    assert set(CLASSES_16) - set(CLASSES_13) == {"wall", "fence", "pole"}


def test_missing_data_are_said_with_what_to_download(tmp_path: Path):
    register_builtin(tmp_path)
    for entry in segmentation_entries(tmp_path):
        if entry.get("prepare"):
            continue
        message = missing_data_message([entry["name"]] if entry["labels"] else [], [entry["name"]])
        assert str(tmp_path) in message and "not there" in message
        assert "Download" in message or "CamVid" in message


def test_names_of_builtin_domains_are_unique(tmp_path: Path):
    names = [entry["name"] for entry in builtin_entries(tmp_path)]
    assert len(names) == len(set(names))


def test_streets_have_the_labels_that_they_are_drawn_with(tmp_path: Path):
    splits = {("foggy", "val"): SplitSpec(2, 50)}
    root = ensure_streets(tmp_path / "streets", splits=splits, workers=1)
    entry = next(e for e in segmentation_entries(tmp_path) if e["name"] == "streets_sem_foggy_val")
    register_segmentation(**{**entry, "prepare": lambda: root})
    report = check_segmentation_domain("streets_sem_foggy_val")
    assert not report.errors and report.labelled_images == report.images == 2
    assert report.pixels[CITYSCAPES.index("road")] > 0


# ---- classes of source, target and tests --------------------------------------------------------


def config(**sets: object):
    cfg = get_cfg()
    cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES = 3
    cfg.DATASETS.TRAIN, cfg.DATASETS.TARGET, cfg.DATASETS.TEST = ("day",), ("night",), ("val",)
    for key, value in sets.items():
        cfg.DATASETS[key] = value
    return cfg


@pytest.fixture
def pair(tmp_path: Path) -> Path:
    """A source, a target and a test set that has other names, order and values."""
    root = make_scenes(tmp_path / "data")
    register_segmentation("day", root / "images", root / "labels", CLASSES)
    register_segmentation("night", root / "images")
    register_segmentation(
        "val", root / "images", root / "labels", None,
        {2: "human", 0: "road", 1: "ignore", 255: "ignore"}, aliases={"human": "person"},
    )  # fmt: skip
    return root


def test_all_sets_are_brought_to_the_sources_classes(pair: Path):
    assert label_loader("val").classes == ("person", "road")
    assert check_segmentation(config()) == list(CLASSES)
    expected = np.array([0, 255, 2] + [255] * 253)[ids_of("a.png")]
    np.testing.assert_array_equal(read_first("val"), expected)
    assert MetadataCatalog.get("val").stuff_classes == list(CLASSES)
    np.testing.assert_array_equal(read_first("day"), ids_of("a.png"))


def test_another_run_in_the_same_process_has_classes_of_its_own(pair: Path):
    check_segmentation(config())
    cfg = config(TRAIN=("val",), TARGET=(), TEST=("val",))
    cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES = 2
    assert check_segmentation(cfg) == ["person", "road"]
    expected = np.array([1, 255, 0] + [255] * 253)[ids_of("a.png")]
    np.testing.assert_array_equal(read_first("val"), expected)


def test_wrong_number_of_classes(pair: Path):
    cfg = config()
    cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES = 19
    with pytest.raises(ConfigError, match=r"day has 3 classes \(road, car, person\).*Set it to 3"):
        check_segmentation(cfg)


def test_a_source_without_labels_is_refused(pair: Path):
    with pytest.raises(DataError, match="'night': has no label images"):
        check_segmentation(config(TRAIN=("night",)))


def test_for_evaluation_the_source_need_not_be_there(pair: Path, tmp_path: Path):
    register_segmentation("gone", tmp_path / "gone", tmp_path / "gone", CLASSES)
    cfg = config(TRAIN=("gone",), TARGET=("gone",))
    assert check_segmentation(cfg, training=False) == list(CLASSES)
    assert missing_segmentation_data(cfg, training=False) is None
    with pytest.raises(DataError, match="gone: not there"):
        check_segmentation(cfg)
    assert str(missing_segmentation_data(cfg)).count("gone: not there") >= 1


def test_a_set_of_detectron2_itself(pair: Path):
    records = [
        {"file_name": str(pair / "images/a.png"), "sem_seg_file_name": str(pair / "labels/a.png")}
    ]
    DatasetCatalog.register("theirs", lambda: records)
    MetadataCatalog.get("theirs").set(stuff_classes=list(CLASSES), ignore_label=255)
    assert check_segmentation(config(TEST=("theirs",))) == list(CLASSES)
    np.testing.assert_array_equal(read_first("theirs"), ids_of("a.png"))
    MetadataCatalog.get("theirs").__dict__["stuff_classes"] = ["car", "road", "person"]
    with pytest.raises(DataError, match="must be the same in the same order"):
        check_segmentation(config(TEST=("theirs",)))
    DatasetCatalog.register("boxes", lambda: [{"file_name": "a.png", "annotations": []}])
    MetadataCatalog.get("boxes").set(stuff_classes=list(CLASSES))
    with pytest.raises(DataError, match="have no 'sem_seg_file_name'"):
        check_segmentation(config(TEST=("boxes",)))


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("INPUT.CROP.TYPE", "relative", "INPUT.CROP.TYPE"),
        ("INPUT.CROP.SIZE", [0.9, 0.9], "INPUT.CROP.SIZE"),
        ("INPUT.CROP.SINGLE_CATEGORY_MAX_AREA", 0.0, "SINGLE_CATEGORY_MAX_AREA"),
        ("INPUT.RANDOM_FLIP", "sideways", "INPUT.RANDOM_FLIP"),
        ("DATALOADER.RARE_CLASSES.TEMPERATURE", 0.0, "TEMPERATURE"),
        ("DATALOADER.RARE_CLASSES.MIN_PIXELS", 0, "MIN_PIXELS"),
        ("DATALOADER.RARE_CLASSES.MIN_CROP_SHARE", -0.5, "MIN_CROP_SHARE"),
    ],
)
def test_settings_that_cannot_be_meant(pair: Path, key: str, value: object, says: str):
    cfg = config()
    crop = ["INPUT.CROP.ENABLED", True, "INPUT.CROP.TYPE", "absolute", "INPUT.CROP.SIZE", [16, 16]]
    cfg.merge_from_list(crop)
    check_segmentation(cfg)
    cfg.merge_from_list([key, value])
    with pytest.raises(ConfigError, match=says):
        check_segmentation(cfg)


def test_images_that_a_pattern_with_a_slash_takes(tmp_path: Path):
    for name in ("fog/train/a.png", "fog/train_ref/a.png", "fog/val/a.png"):
        path = tmp_path / "images" / name
        path.parent.mkdir(parents=True)
        Image.new("RGB", (4, 4)).save(path)
    register_segmentation("t", tmp_path / "images", pattern="*/train/*")
    assert [record["image_id"] for record in unlabelled_dicts("t")] == ["fog/train/a.png"]


@pytest.mark.parametrize("choice", [{"pattern": "b*"}, {"image_list": "list.txt"}])
def test_labels_of_images_that_are_not_asked_for_are_no_surprise(tmp_path: Path, caplog, choice):
    (tmp_path / "list.txt").write_text("b\n")
    for folder in ("images", "labels"):
        for name in "ab":
            path = tmp_path / folder / f"{name}.png"
            path.parent.mkdir(exist_ok=True)
            Image.new("L", (4, 4)).save(path)
    choice = {k: str(tmp_path / v) if k == "image_list" else v for k, v in choice.items()}
    register_segmentation("t", tmp_path / "images", tmp_path / "labels", ["road"], **choice)
    assert [record["image_id"] for record in labelled_seg_dicts("t")] == ["b.png"]
    assert "Are images missing?" not in caplog.text
    assert not check_segmentation_domain("t").warnings
    register_segmentation(
        "gone", tmp_path / "images", tmp_path / "labels", ["road"], image_list="x"
    )
    with pytest.raises(DataError, match="x: not there"):
        labelled_seg_dicts("gone")
