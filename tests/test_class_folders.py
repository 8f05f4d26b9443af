"""Class folders: benchmarks' layouts, classes by name, and one message for what is broken."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from class_trees import CLASSES, make_tree, tiny_config
from PIL import Image

from mic_det.classification.mapper import SquareMapper
from mic_det.config import ConfigError
from mic_det.data.catalog import register_domain, unlabelled_dicts
from mic_det.data.check import check_domain
from mic_det.data.classification.digits import DIGIT_CLASSES, ensure_digits, find_fonts
from mic_det.data.classification.folders import (
    class_names_of,
    image_counts,
    labelled_images,
    register_class_folders,
)
from mic_det.data.classification.sets import (
    DOMAINNET_FOLDERS,
    OFFICE31_FOLDERS,
    OFFICE_HOME_FOLDERS,
    VISDA_CLASSES,
    classification_entries,
)
from mic_det.data.errors import DataError
from mic_det.data.register import register_yaml
from mic_det.tasks import task_of

pytestmark = pytest.mark.usefixtures("clean_catalogs")


@dataclass(frozen=True)
class Case:
    """A way to break a tree, what the message names, and what the domains are registered with."""

    kind: str
    break_it: Callable[[Path], object]
    says: tuple[str, ...]
    source: tuple[str, ...] | None = None
    raises: type[Exception] = DataError


def png(path: Path, array: np.ndarray | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    array = np.zeros((16, 16, 3), np.uint8) if array is None else array
    Image.fromarray(array).save(path)


CASES = [
    Case(
        "a class folder missing in the source",
        lambda root: shutil.rmtree(root / "source/line"),
        ("source has 2 classes (circle, cross)", "NUM_CLASSES is 3", "restore the folders"),
        raises=ConfigError,
    ),
    Case(
        "a class folder missing where the classes are told",
        lambda root: shutil.rmtree(root / "source/line"),
        ("source: has no images of class 'line'", "source is registered with"),
        CLASSES,
    ),
    Case(
        "a class folder of another name",
        lambda root: (root / "target/line").rename(root / "target/Lines"),
        ("target/Lines", "none of the model's", "Is it 'line'?", "aliases"),
    ),
    Case(
        "an extra class folder",
        lambda root: png(root / "target/star/1.png"),
        ("target/star", "'star' (1 images)"),
    ),
    Case(
        "an empty class folder where the classes are told",
        lambda root: [path.unlink() for path in (root / "source/cross").iterdir()],
        ("has no images of class 'cross'",),
        CLASSES,
    ),
    Case(
        "an image in no class folder",
        lambda root: png(root / "target/loose.png"),
        ("target/loose.png: is in no class folder", "CLASS/loose.png"),
    ),
    Case(
        "a folder too many above the classes",
        lambda root: (
            shutil.move(root / "target", root / "t")
            and shutil.move(root / "t", root / "target/images")
        ),
        ("target/images: class 'images' (12 images)",),
    ),
    Case(
        "no image at all",
        lambda root: [shutil.rmtree(root / "target" / name) for name in CLASSES],
        ("target: holds no image",),
    ),
    Case(
        "no such folder",
        lambda root: shutil.rmtree(root / "target"),
        ("Domain 'target'", "target: not there", "Check the paths"),
    ),
    Case(
        "a file in its place",
        lambda root: shutil.rmtree(root / "target") or (root / "target").write_text("x"),
        ("is a file, not a folder",),
    ),
    Case(
        "a link to nothing",
        lambda root: (root / "target/line/9.png").symlink_to(root / "gone.png"),
        ("target/line/9.png: is a link to", "not there"),
    ),
    Case(
        "more classes than the head has",
        lambda root: [png(root / side / "star/1.png") for side in ("source", "target")],
        ("source has 4 classes (circle, cross, line, star)", "NUM_CLASSES is 3"),
        raises=ConfigError,
    ),
    *(
        Case(f"an image that is {what}", change, ("target/line/00.png", "cannot be read", *more))
        for what, change, more in (
            ("empty", lambda root: (root / "target/line/00.png").write_bytes(b""), ("empty",)),
            (
                "a web page",
                lambda root: (root / "target/line/00.png").write_text("<!doctype html>"),
                ("the download went wrong",),
            ),
            (
                "cut off",
                lambda root: (root / "target/line/00.png").write_bytes(
                    (root / "target/line/00.png").read_bytes()[:80]
                ),
                (),
            ),
        )
    ),
]


def use(tmp_path: Path) -> None:
    """As training and evaluation do: checked, and every image read."""
    cfg = tiny_config(
        tmp_path / "out",
        "mic",
        *("DATASETS.TRAIN", "('source',)", "DATASETS.TARGET", "('target',)"),
        *("DATASETS.TEST", "('target',)"),
    )
    task = task_of(cfg)
    classes = task.check(cfg)
    mapper = SquareMapper.from_config(cfg, is_train=True)
    for name in ("source", "target"):
        for record in labelled_images(name, classes):
            mapper(record)


@pytest.fixture
def root(tmp_path) -> Path:
    make_tree(tmp_path / "source", 4, seed=1)
    make_tree(tmp_path / "target", 4, seed=2)
    return tmp_path


def register(root: Path, source: tuple[str, ...] | None = None) -> None:
    register_class_folders("source", root / "source", source)
    register_class_folders("target", root / "target")


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.kind)
def test_one_message_with_the_place_and_the_remedy(case: Case, root):
    case.break_it(root)
    register(root, case.source)
    with pytest.raises(case.raises) as info:
        use(root)
    message = str(info.value)
    for text in case.says:
        assert text in message, message
    assert "Traceback" not in message and len(message) < 1500


def test_the_trees_are_sound_before_they_are_broken(root):
    register(root, CLASSES)
    use(root)
    assert image_counts("target") == dict.fromkeys(CLASSES, 4)


def test_classes_are_matched_by_name_whatever_their_order(root):
    register(root, ("line", "circle", "cross"))
    found = {
        Path(d["file_name"]).parent.name: d["label"]
        for d in labelled_images("target", class_names_of("source"))
    }
    assert found == {"line": 0, "circle": 1, "cross": 2}


def test_aliases(root):
    (root / "target/line").rename(root / "target/stroke")
    register_class_folders("target", root / "target", aliases={"stroke": "line"})
    assert class_names_of("target") == list(CLASSES)
    assert {d["label"] for d in labelled_images("target", CLASSES)} == {0, 1, 2}


def test_one_image_of_a_class_and_none_are_said_and_used(root, caplog):
    for path in sorted((root / "target/line").iterdir())[1:]:
        path.unlink()
    shutil.rmtree(root / "target/cross")
    register(root)
    use(root)
    assert "has one image only of 'line'" in caplog.text
    assert "has no image of 'cross': nothing is measured" in caplog.text
    assert any("one image only" in each for each in check_domain("target").warnings)


@pytest.mark.parametrize(
    "array",
    [
        np.full((5, 40), 200, np.uint8),
        np.full((20, 20), 40_000, np.uint16),
        np.full((9, 9, 4), 100, np.uint8),
        np.full((1, 1, 3), 7, np.uint8),
    ],
    ids=["grey", "16 bit", "transparent", "one pixel"],
)
def test_odd_images_become_squares_like_others(array, root):
    png(root / "target/line/odd.png", array)
    register(root)
    use(root)
    (record,) = [
        d for d in labelled_images("target", CLASSES) if d["file_name"].endswith("odd.png")
    ]
    image = SquareMapper(16, 18, is_train=False)(record)["image"]
    assert image.shape == (3, 16, 16) and image.dtype.is_floating_point is False
    expected = array.reshape(-1)[0] >> (8 if array.dtype == np.uint16 else 0)
    assert int(image.float().mean()) == int(expected)


def test_as_a_target_the_folders_names_do_not_matter(root):
    (root / "target/line").rename(root / "target/whatever")
    png(root / "target/loose.png")
    register(root)
    found = unlabelled_dicts("target")
    assert len(found) == 13 and all(set(d) == {"file_name", "image_id"} for d in found)


def test_a_domain_of_boxes_has_no_classes_for_this(root):
    register_domain("boxes", root / "source")
    with pytest.raises(DataError, match="is no domain of class folders"):
        class_names_of("boxes")


def test_yaml(root):
    path = root / "domains.yaml"
    path.write_text(
        "mine: {images: source, class_folders: true, classes: [line, cross, circle]}\n"
        "plain: {images: target, class_folders: true}\n"
    )
    assert register_yaml(path) == ["mine", "plain"]
    assert class_names_of("mine") == ["line", "cross", "circle"]
    path.write_text("other: {images: source, class_folders: true, annotations: x.json}\n")
    with pytest.raises(DataError, match=r"other: annotations: has no meaning with class_folders"):
        register_yaml(path)


# ---- the benchmarks' layouts ------------------------------------------------------------------


def benchmark_trees(root: Path) -> None:
    homes = [root / "office_home" / each for each in OFFICE_HOME_FOLDERS.values()]
    homes += [root / "office31" / each / "images" for each in OFFICE31_FOLDERS]
    for folder in homes:
        for name in ("Alarm_Clock", "Backpack"):
            png(folder / name / "0001.jpg")
    for split in ("train", "validation"):
        for name in VISDA_CLASSES:
            png(root / "visda2017" / split / name / "src_1.png")
    for domain in DOMAINNET_FOLDERS:
        lines = {"train": [], "test": []}
        for k, name in enumerate(("aircraft_carrier", "zebra")):
            for number, split in enumerate(("train", "train", "test")):
                path = Path(domain, name, f"{domain}_{k}_{number}.jpg")
                png(root / "domainnet" / path)
                lines[split].append(f"{path} {k}\n")
        for split, text in lines.items():
            (root / "domainnet" / f"{domain}_{split}.txt").write_text("".join(text))


def test_layouts_of_the_benchmarks(tmp_path):
    benchmark_trees(tmp_path)
    counts = {}
    for entry in classification_entries(tmp_path):
        if "prepare" in entry:
            continue
        register_class_folders(**entry)
        name = entry["name"]
        counts[name] = dict(image_counts(name))
        assert len(unlabelled_dicts(name)) == sum(counts[name].values())
    assert len(counts) == 4 + 2 + 3 + 12
    assert counts["office_home_real_world"] == {"Alarm_Clock": 1, "Backpack": 1}
    assert set(counts["visda2017_validation"]) == set(VISDA_CLASSES) and len(VISDA_CLASSES) == 12
    assert counts["domainnet_sketch_train"] == {"aircraft_carrier": 2, "zebra": 2}
    assert counts["domainnet_sketch_test"] == {"aircraft_carrier": 1, "zebra": 1}


def test_an_image_of_a_list_that_is_not_there(tmp_path):
    benchmark_trees(tmp_path)
    (tmp_path / "domainnet/real/zebra/real_1_0.jpg").unlink()
    for entry in classification_entries(tmp_path):
        if entry["name"] == "domainnet_real_train":
            register_class_folders(**entry)
    with pytest.raises(DataError, match=r"real_train.txt: 'real/zebra/real_1_0.jpg' is no image"):
        image_counts("domainnet_real_train")


def test_a_list_names_images_of_the_folder_alone(tmp_path):
    """Not of the folder beside it, by a path that only seems to be inside."""
    for name in ("day/car/a.png", "night/car/b.png"):
        png(tmp_path / name)
    (tmp_path / "list.txt").write_text("./day/car/a.png 0\n../night/car/b.png 0\n")
    register_class_folders("t", tmp_path / "day", image_list=tmp_path / "list.txt")
    with pytest.raises(DataError, match=r"list\.txt: '\.\./night/car/b\.png' is no image in"):
        image_counts("t")


# ---- digits -----------------------------------------------------------------------------------


def test_digits_are_made_without_any_font_of_the_system(tmp_path, monkeypatch):
    monkeypatch.setattr("matplotlib.font_manager.findSystemFonts", list)
    fonts = find_fonts()
    names = {path.name for path in fonts}
    assert {"DejaVuSans.ttf", "DejaVuSerif-Bold.ttf"} <= names
    assert not any("cmsy" in name or "cmex" in name for name in names), "no digits in these"
    folder = ensure_digits(tmp_path / "digits", per_class=6)
    assert ensure_digits(folder) == folder
    for name, total in (("fonts", 60), ("handwritten_train", 1198), ("handwritten_test", 599)):
        register_class_folders(name, folder / name, DIGIT_CLASSES)
        assert sum(image_counts(name).values()) == total
    drawn = np.asarray(Image.open(folder / "fonts/8/0000.png"))
    assert drawn.shape == (32, 32) and drawn.max() > 200 and drawn[0, 0] == 0
    again = ensure_digits(tmp_path / "again", per_class=6)
    assert np.array_equal(drawn, np.asarray(Image.open(again / "fonts/8/0000.png")))


def test_a_machine_without_fonts(monkeypatch, tmp_path):
    monkeypatch.setattr("matplotlib.font_manager.findSystemFonts", list)
    monkeypatch.setattr("matplotlib.get_data_path", lambda: str(tmp_path))
    with pytest.raises(DataError, match="No font with digits"):
        find_fonts()
