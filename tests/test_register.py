"""Domains from YAML and Python, for configs and trainers; labels of a target stay unread."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from small_domain import make_domain, write_coco_file
from small_runs import SMALL

import mic_det.data
from mic_det.config import ConfigError, load_config
from mic_det.data import builtin, register_domain, register_yaml
from mic_det.data.catalog import (
    evaluation_json,
    labelled_dicts,
    load_labels,
    require_domain,
    unlabelled_dicts,
)
from mic_det.data.check import check_domain
from mic_det.data.errors import DataError
from mic_det.data.formats.annotations import annotation_kind
from mic_det.data.formats.coco import read_coco
from mic_det.data.loader import source_stream
from mic_det.data.register import register_from_config
from mic_det.detection.checks import check_classes
from mic_det.engine import build_trainer

pytestmark = pytest.mark.usefixtures("clean_catalogs")

REPOSITORY = Path(__file__).parents[1]
STREETS = REPOSITORY / "configs/base/streets.yaml"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return make_domain(tmp_path / "data")


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


# ---- YAML ------------------------------------------------------------------------------------


def test_yaml_of_all_kinds(root):
    text = """
    coco: {images: images, annotations: boxes.json}
    voc: {images: images, annotations: xml, classes: [person, car]}
    yolo: {images: ./images, annotations: txt, aliases: {car: vehicle}}
    target: {images: images, pattern: "*.png"}
    """
    assert register_yaml(write(root / "mine.yaml", text)) == ["coco", "voc", "yolo", "target"]
    for name, classes in (
        ("coco", ["car", "person"]),
        ("voc", ["person", "car"]),
        ("yolo", ["vehicle", "person"]),
    ):
        dicts = labelled_dicts(name)
        assert sum(len(d["annotations"]) for d in dicts) == 3
        assert MetadataCatalog.get(name).thing_classes == classes
        assert DatasetCatalog.get(name) == dicts
    assert [d["image_id"] for d in unlabelled_dicts("target")] == ["a.png", "c d.png"]
    assert len(unlabelled_dicts("coco")) == 3


def test_paths_are_relative_to_the_file_or_absolute(root, monkeypatch):
    monkeypatch.chdir("/")
    text = f"a: {{images: ../images}}\nb: {{images: {root}/images}}"
    register_yaml(write(root / "sub/mine.yaml", text))
    assert unlabelled_dicts("a")[1]["image_id"] == unlabelled_dicts("b")[1]["image_id"]
    register_yaml(str(root / "sub/mine.yaml"))  # again is harmless


def test_anchors_share_what_domains_have_in_common(root):
    text = """
    day: &common {images: images, annotations: boxes.json, aliases: {car: vehicle}}
    night: {<<: *common, classes: [vehicle]}
    """
    register_yaml(write(root / "mine.yaml", text))
    labelled_dicts("night")
    assert MetadataCatalog.get("night").thing_classes == ["vehicle"]


def test_missing_data_of_a_yaml_domain_name_the_yaml(root):
    path = write(root / "mine.yaml", "a: {images: gone}")
    register_yaml(path)
    with pytest.raises(DataError, match=f"gone: not there.\nCheck the paths in {path}"):
        require_domain("a", labelled=False)


def test_import_is_light_and_the_names_are_there():
    code = (
        "import sys, mic_det.data; assert 'torch' not in sys.modules; "
        "assert 'detectron2' not in sys.modules; print(sorted(mic_det.data.__all__))"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        capture_output=True,
        text=True,
        check=False,
        cwd=REPOSITORY,
    )
    kinds = ["register_class_folders", "register_domain", "register_segmentation"]
    names = [*kinds, "register_yaml", "unregister_domain"]
    assert done.stdout == f"{names}\n", done.stderr
    assert mic_det.data.register_domain.__module__ == "mic_det.data.catalog"
    assert set(mic_det.data.__all__) <= set(dir(mic_det.data))
    with pytest.raises(AttributeError, match="no attribute 'register_domian'"):
        mic_det.data.register_domian  # noqa: B018


def test_kind_is_seen_at_a_glance(root):
    assert annotation_kind(root / "boxes.json") == "COCO"
    assert annotation_kind(root / "xml") == "Pascal VOC"
    assert annotation_kind(root / "txt") == "YOLO"
    assert annotation_kind(root / "not there.json") == "COCO"


def test_one_based_voc(root):
    register_domain("zero", root / "images", root / "xml")
    register_domain("one", root / "images", root / "xml", one_based=True)
    box = labelled_dicts("zero")[0]["annotations"][0]["bbox"]
    assert box == [4, 6, 20, 24]
    assert labelled_dicts("one")[0]["annotations"][0]["bbox"] == [3, 5, 21, 25]


@pytest.mark.parametrize(("labelling", "old", "new"), [("xml", ">4<", ">5<"), ("txt", ".5", ".4")])
def test_labels_are_read_from_their_files_alone(root, tmp_path, labelling, old, new):
    """A changed file counts, even one of the same size and time; nothing is kept of the former."""
    register_domain("t", root / "images", root / labelling)
    before = labelled_dicts("t")
    path = next(p for p in (root / labelling).glob("a.*"))
    text, status = path.read_text(), path.stat()
    assert old in text
    path.write_text(text.replace(old, new))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert path.stat().st_size == status.st_size
    assert labelled_dicts("t") != before
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("labelling", ["boxes.json", "xml", "txt"])
@pytest.mark.parametrize(
    ("choice", "images"),
    [
        ({"image_list": "a\n./sub/b.jpg\n"}, ["a.png", "sub/b.jpg"]),
        ({"image_list": "\ufeffimages/c d\n a.png\n"}, ["a.png", "c d.png"]),
        ({"pattern": "*.png"}, ["a.png", "c d.png"]),
        ({"pattern": "sub/*"}, ["sub/b.jpg"]),
        ({"pattern": "*.png", "image_list": "a.png\n"}, ["a.png"]),
    ],
)
def test_list_and_pattern_choose_images_with_labels_or_without(root, labelling, choice, images):
    choice = dict(choice)
    if "image_list" in choice:
        choice["image_list"] = write(root / "list.txt", choice["image_list"])
    register_domain("t", root / "images", root / labelling, ["car", "person"], **choice)
    dicts, selection = load_labels("t")
    folder = root / "images"
    files = sorted(Path(d["file_name"]).relative_to(folder).as_posix() for d in dicts)
    assert files == images == [d["image_id"] for d in unlabelled_dicts("t")]
    assert not any("images have no" in note for note in selection.notes)
    tested = read_coco(Path(evaluation_json("t")))
    assert sorted(each["file_name"] for each in tested["images"]) == images
    assert (report := check_domain("t")).labelled_images == report.images == len(images)


def test_labels_of_images_that_are_not_listed_are_not_opened(root, opened):
    listed = write(root / "list.txt", "a\n")
    (root / "txt/sub/b.txt").write_text("no label")
    (root / "xml/sub/b.xml").write_text("<annotation><filename>b</filename><object/></annotation>")
    for name in ("xml", "txt"):
        register_domain(name, root / "images", root / name, image_list=listed)
        opened.clear()
        assert len(labelled_dicts(name)) == 1
    assert not [path for path in opened if path.endswith("sub/b.txt")]


@pytest.mark.parametrize("labelling", ["boxes.json", "xml", "txt", None])
def test_a_list_that_is_not_there_or_names_no_image_is_an_error(root, labelling):
    labels = None if labelling is None else root / labelling
    read = unlabelled_dicts if labels is None else labelled_dicts
    register_domain("gone", root / "images", labels, image_list=root / "gone.txt")
    with pytest.raises(DataError, match=r"gone\.txt: not there"):
        require_domain("gone", labelled=labels is not None)
    assert "gone.txt: not there" in check_domain("gone").errors[0]
    listed = write(root / "list.txt", "a\nlost\n")
    register_domain("lost", root / "images", labels, image_list=listed)
    with pytest.raises(DataError, match=r"list\.txt: 'lost' is no image in .*images \(1 of 2"):
        read("lost")
    assert "'lost' is no image" in check_domain("lost").errors[0]


# ---- configs ---------------------------------------------------------------------------------


def config(tmp_path: Path, text: str, *overrides: str, name: str = "configs/mine.yaml"):
    path = write(tmp_path / name, f'_BASE_: "{STREETS}"\n{text}')
    return load_config(path, overrides)


def test_registered_file_is_looked_for_beside_the_config_then_here(tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    text = "DATASETS:\n  REGISTER: [mine_domains.yaml]\n"
    with pytest.raises(ConfigError) as info:
        config(tmp_path, text)
    for part in ("DATASETS.REGISTER: no file mine_domains.yaml", "configs", "here", "mine.yaml"):
        assert part in str(info.value)
    here = write(tmp_path / "here/mine_domains.yaml", "a: {images: x}")
    assert (str(here),) == config(tmp_path, text).DATASETS.REGISTER
    beside = write(tmp_path / "configs/mine_domains.yaml", "a: {images: x}")
    assert (str(beside),) == config(tmp_path, text).DATASETS.REGISTER
    over = ("DATASETS.REGISTER", "['mine_domains.yaml']")
    assert (str(here),) == config(tmp_path, text, *over).DATASETS.REGISTER


def test_a_base_that_names_the_file_has_it_beside_itself(tmp_path, monkeypatch):
    monkeypatch.chdir("/")
    base = write(
        tmp_path / "base/b.yaml", f'_BASE_: "{STREETS}"\nDATASETS: {{REGISTER: [d.yaml]}}\n'
    )
    domains = write(tmp_path / "base/d.yaml", "a: {images: x}")
    path = write(tmp_path / "configs/c.yaml", "_BASE_: ../base/b.yaml\nSEED: 3\n")
    assert (str(domains),) == load_config(path).DATASETS.REGISTER
    assert (str(domains),) == load_config(base).DATASETS.REGISTER
    written = write(tmp_path / "out/config.yaml", load_config(path).dump())
    assert (str(domains),) == load_config(written).DATASETS.REGISTER


def test_register_is_a_list(tmp_path):
    with pytest.raises(ConfigError, match=r"DATASETS\.REGISTER"):
        config(tmp_path, "DATASETS:\n  REGISTER: domains.yaml\n")


def test_from_config_registers_both_and_respects_what_is_registered(root, tmp_path, monkeypatch):
    write(tmp_path / "configs/d.yaml", f"mine: {{images: {root}/images}}")
    cfg = config(tmp_path, "DATASETS:\n  REGISTER: [d.yaml]\n")
    builtin._registered.clear()
    for name in ("streets_clear_train", "carla_train"):
        DatasetCatalog.data.pop(name, None)
        MetadataCatalog.data.pop(name, None)
    from mic_det.data import catalog

    catalog._DOMAINS.clear()
    for name in [n for n in DatasetCatalog if "cityscapes_det" in n or n.startswith("foggy_")]:
        DatasetCatalog.pop(name)
        MetadataCatalog.data.pop(name, None)
    for name in [n for n in DatasetCatalog if n.startswith(("streets_", "carla_", "camvid_"))]:
        DatasetCatalog.pop(name)
        MetadataCatalog.data.pop(name, None)
    register_domain("carla_train", root / "images")  # a name of mic_det's own, taken by the user
    for _ in range(2):
        register_from_config(cfg)
    assert len(unlabelled_dicts("mine")) == len(unlabelled_dicts("carla_train")) == 3
    assert "streets_foggy_val" in DatasetCatalog
    assert MetadataCatalog.get("streets_foggy_val").thing_classes[0] == "person"


def settings(tmp_path: Path, source: str, target: str, test: str, classes: int) -> list[str]:
    return [
        *SMALL,
        *("DATASETS.TRAIN", f"('{source}',)", "DATASETS.TARGET", f"('{target}',)"),
        *("DATASETS.TEST", f"('{test}',)", "MODEL.ROI_HEADS.NUM_CLASSES", str(classes)),
        *("SOLVER.MAX_ITER", "1", "SOLVER.WARMUP_ITERS", "0", "OUTPUT_DIR", str(tmp_path / "run")),
        *("MODEL.MIC.ENABLED", "True", "MODEL.SADA.ENABLED", "True"),
        *("INPUT.MIN_SIZE_TRAIN", "(48,)", "INPUT.MIN_SIZE_TEST", "48"),
    ]


DOMAINS = """
day: {{images: images, annotations: xml}}
night: {{images: images, annotations: {trap}}}
val: {{images: images, annotations: boxes.json, aliases: {{lorry: car}}}}
"""


def trapped_config(root: Path, tmp_path: Path, trap: str, classes: int = 2):
    """A config with a source, a target whose labels are ``trap``, and a test set."""

    def change(data: dict) -> None:
        data["categories"] = [{"id": 1, "name": "lorry"}, {"id": 2, "name": "person"}]

    write_coco_file(root, change)
    write(root / "domains.yaml", DOMAINS.format(trap=trap))
    over = settings(tmp_path, "day", "night", "val", classes)
    return load_config(STREETS, [*over, "DATASETS.REGISTER", f"['{root}/domains.yaml']"])


@pytest.mark.parametrize("trap", ["trap.json", "trap_voc", "trap_yolo"])
def test_training_on_yaml_domains_never_opens_the_target_s_labels(root, tmp_path, trap, opened):
    """By a Python user: nothing is registered but what the config names."""
    place = root / trap
    if trap == "trap.json":
        place.write_bytes(b"\xff no json")
    else:
        place.mkdir()
        (place / ("a.xml" if trap == "trap_voc" else "a.txt")).write_bytes(b"\xff no label")
    cfg = trapped_config(root, tmp_path, trap)
    opened.clear()
    trainer = build_trainer(cfg, writers=list)
    trainer.train(0, 1)
    assert trainer.iter == 1
    assert any(path.startswith(str(root / "boxes.json")) for path in opened)
    assert not [path for path in opened if path.startswith(str(place))]
    assert set(trainer.last_results["student"]["val"]) >= {"AP50-car", "AP50-person"}
    with pytest.raises(DataError):  # the trap is one
        labelled_dicts("night")


def test_number_of_classes_names_both_counts_and_the_key(root, tmp_path):
    cfg = trapped_config(root, tmp_path, "gone", classes=5)
    with pytest.raises(ConfigError) as info:
        build_trainer(cfg, writers=list)
    text = "day has 2 classes (car, person), but MODEL.ROI_HEADS.NUM_CLASSES is 5. Set it to 2"
    assert text in str(info.value)


def test_unmapped_class_of_the_test_set_stops_before_training(root, tmp_path):
    cfg = trapped_config(root, tmp_path, "gone")
    write_coco_file(root, lambda d: d["categories"][0].update(name="tram"))
    with pytest.raises(DataError, match=r"'tram' \(2 boxes\): no class of the model"):
        build_trainer(cfg, writers=list)


def test_a_source_of_crowds_alone_stops_before_training(root):
    def crowds(data: dict) -> None:
        for each in data["annotations"]:
            each["iscrowd"] = 1

    write_coco_file(root, crowds)
    register_domain("own", root / "images", root / "boxes.json")
    with pytest.raises(DataError, match=r"boxes\.json: annotations: iscrowd is 1 in every box"):
        labelled_dicts("own")
    assert "iscrowd is 1 in every box" in check_domain("own").errors[0]
    record = {"file_name": "a", "annotations": [{"iscrowd": 1}]}
    DatasetCatalog.register("crowds", lambda: [record])  # known to Detectron2 alone
    cfg = load_config(STREETS, ["DATASETS.TRAIN", "('crowds',)"])
    with pytest.raises(
        DataError, match=r"DATASETS\.TRAIN \('crowds',\): iscrowd is 1 in every box"
    ):
        source_stream(cfg, 0)


def test_images_without_boxes_are_left_out_of_the_source_if_so_configured(root):
    write_coco_file(root)
    register_domain("some_empty", root / "images", root / "boxes.json")
    for filtered, images in ((True, 2), (False, 3)):
        settings = ["DATALOADER.FILTER_EMPTY_ANNOTATIONS", str(filtered)]
        cfg = load_config(STREETS, ["DATASETS.TRAIN", "('some_empty',)", *settings])
        assert len(source_stream(cfg, 0).dicts) == images


def test_a_network_without_a_teacher_is_named(root, tmp_path):
    cfg = trapped_config(root, tmp_path, "gone").clone()
    cfg.defrost()
    cfg.MODEL.META_ARCHITECTURE = "GeneralizedRCNN"
    with pytest.raises(ConfigError, match=r"'GeneralizedRCNN' has no teacher: .* AdaptiveRCNN"):
        build_trainer(cfg, writers=list)


def test_evaluation_alone_needs_no_source(root, tmp_path, caplog):
    cfg = trapped_config(root, tmp_path, "gone")
    (root / "xml").rename(root / "elsewhere")
    with pytest.raises(DataError, match="xml: not there"):
        check_classes(cfg)
    assert check_classes(cfg, training=False) == ["car", "person"]
    assert "classes are taken to be val's" in caplog.text


def test_builtin_names_work_without_registering_them(tmp_path, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    for name in list(builtin._registered):
        mic_det.data.unregister_domain(name)
    builtin._registered.clear()
    cfg = load_config(REPOSITORY / "configs/cs2foggy_mic.yaml", ["OUTPUT_DIR", str(tmp_path)])
    with pytest.raises(DataError, match=r"(?s)not there\..*leftImg8bit_trainvaltest"):
        build_trainer(cfg, writers=list)
    assert json.dumps(sorted(builtin._registered)).count("cityscapes") >= 6
