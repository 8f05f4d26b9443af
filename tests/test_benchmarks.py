"""The benchmarks by name: domains, their four configs, their messages, and one that trains."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from benchmark_trees import (
    draw_bdd100k,
    draw_clipart,
    draw_kitti,
    draw_painted,
    draw_sim10k,
    draw_voc,
)
from cityscapes_tree import draw_cityscapes_tree
from detectron2.data import DatasetCatalog, MetadataCatalog

from mic_det.config import load_config
from mic_det.data.builtin import builtin_entries, register_builtin
from mic_det.data.catalog import (
    evaluation_json,
    labelled_dicts,
    missing_data_message,
    unlabelled_dicts,
)
from mic_det.data.formats.bdd100k import convert_bdd100k
from mic_det.data.formats.cityscapes import CLASSES as CITYSCAPES_CLASSES
from mic_det.data.formats.cityscapes import convert_cityscapes
from mic_det.data.formats.coco import DataError, read_coco
from mic_det.data.formats.kitti import convert_kitti
from mic_det.data.formats.pascal import PASCAL_SETS, SIX_CLASSES, VOC_CLASSES, convert_pascal
from mic_det.detection.checks import check_classes
from mic_det.engine import build_trainer

# A cache of its own, and the catalogs as they were.
pytestmark = pytest.mark.usefixtures("clean_catalogs")

REPOSITORY = Path(__file__).parents[1]
METHODS = ("source", "sada", "mic", "oracle")
SEVEN = ("person", "rider", "car", "truck", "bus", "motorcycle", "bicycle")
# Pair: classes, images of the source (of all its domains), of the target, and of the test set.
PAIRS = {
    "cs2foggy": (CITYSCAPES_CLASSES, 2, 2, 2),
    "cs2foggy_all": (CITYSCAPES_CLASSES, 2, 6, 6),
    "sim10k2cs": (("car",), 2, 2, 2),
    "kitti2cs": (("car",), 3, 2, 2),
    "cs2bdd": (SEVEN, 2, 2, 2),
    "voc2clipart": (VOC_CLASSES, 4, 2, 2),
    "voc2watercolor": (SIX_CLASSES, 4, 1, 2),
    "voc2comic": (SIX_CLASSES, 4, 1, 2),
}


def draw_all(root: Path) -> None:
    draw_cityscapes_tree(root / "cityscapes", size=(64, 128))
    draw_kitti(root / "kitti")
    draw_bdd100k(root / "bdd100k")
    draw_voc(root, "2007")
    draw_voc(root, "2012")
    draw_clipart(root)
    draw_painted(root, "watercolor")
    draw_painted(root, "comic")
    draw_sim10k(root)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All data sets, drawn and converted."""
    root = tmp_path_factory.mktemp("datasets")
    draw_all(root)
    convert_cityscapes(root / "cityscapes")
    convert_kitti(root / "kitti")
    convert_bdd100k(root / "bdd100k")
    for name in PASCAL_SETS:
        convert_pascal(root, name)
    return root


@pytest.fixture
def registered(data: Path) -> Iterator[Path]:
    register_builtin(data)
    return data


@pytest.mark.parametrize("pair", PAIRS)
def test_the_four_configs_of_a_pair(pair: str, registered: Path):
    classes, source, target, test = PAIRS[pair]
    outputs = set()
    for method in METHODS:
        cfg = load_config(REPOSITORY / f"configs/{pair}_{method}.yaml")
        check_classes(cfg)
        assert len(classes) == cfg.MODEL.ROI_HEADS.NUM_CLASSES
        for name in (*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST):
            assert tuple(MetadataCatalog.get(name).thing_classes) == classes
        assert (method in ("sada", "mic")) == cfg.MODEL.SADA.ENABLED
        assert (method == "mic") == cfg.MODEL.MIC.ENABLED
        sizes = [len(labelled_dicts(name)) for name in cfg.DATASETS.TRAIN]
        if method == "oracle":
            assert sum(sizes) == target, "trained on what the others see without labels"
            listed = {r["file_name"] for n in cfg.DATASETS.TARGET for r in unlabelled_dicts(n)}
            assert listed == {r["file_name"] for r in labelled_dicts(cfg.DATASETS.TRAIN[0])}
        else:
            assert sum(sizes) == source
        assert sum(len(unlabelled_dicts(name)) for name in cfg.DATASETS.TARGET) == target
        assert sum(len(labelled_dicts(name)) for name in cfg.DATASETS.TEST) == test
        assert cfg.SOLVER.MAX_ITER == 60000 and cfg.SOLVER.BASE_LR == 0.0025
        outputs.add(cfg.OUTPUT_DIR)
    assert len(outputs) == 4


def test_boxes_of_classes_that_a_pair_leaves_out_are_gone(registered: Path):
    def classes(name: str) -> list[str]:
        names = MetadataCatalog.get(name).thing_classes
        records = labelled_dicts(name)
        return sorted({names[a["category_id"]] for r in records for a in r["annotations"]})

    assert classes("cityscapes_7cls_train") == sorted(SEVEN)
    assert classes("cityscapes_car_val") == classes("kitti_train") == ["car"]
    assert classes("sim10k_train") == ["car"]
    assert classes("pascal_voc_2007_trainval_6cls") == sorted(SIX_CLASSES)
    evaluated = read_coco(Path(evaluation_json("cityscapes_car_val")))
    assert [c["name"] for c in evaluated["categories"]] == ["car"]
    assert len(evaluated["annotations"]) == 2


def test_all_of_clipart_is_a_target_and_a_test_set(registered: Path):
    names = [Path(record["file_name"]).name for record in unlabelled_dicts("clipart1k_all")]
    assert names == ["131204842.jpg", "142346461.jpg", "97254.jpg", "99108.jpg"]
    assert len(labelled_dicts("clipart1k_all")) == 4


def test_a_target_needs_the_published_files_alone(tmp_path: Path):
    draw_all(tmp_path)
    register_builtin(tmp_path)
    for name, images in (
        ("clipart1k_train", 2),
        ("watercolor2k_train", 1),
        ("cityscapes_car_train", 2),
    ):
        assert len(unlabelled_dicts(name)) == images
    # Which images of BDD100K are from daytime is known after the conversion only.
    with pytest.raises(DataError) as info:
        unlabelled_dicts("bdd100k_daytime_train")
    assert "bdd100k_daytime_train.txt: not there" in str(info.value)
    assert "convert_bdd100k.py" in str(info.value)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("cityscapes_car_train", ["leftImg8bit_trainvaltest.zip", "convert_cityscapes.py --root"]),
        ("sim10k_train", ["repro_10k_images.tgz", "convert_pascal.py sim10k --root"]),
        ("kitti_train", ["data_object_image_2.zip", "convert_kitti.py --root"]),
        ("bdd100k_daytime_val", ["bdd100k_images_100k.zip", "convert_bdd100k.py --root"]),
        ("pascal_voc_2007_trainval", ["VOCdevkit/VOC2007", "convert_pascal.py voc2007 --root"]),
        ("pascal_voc_2012_trainval_6cls", ["VOCdevkit/VOC2012", "convert_pascal.py voc2012"]),
        ("clipart1k_test", ["clipart.zip", "convert_pascal.py clipart --root"]),
        ("watercolor2k_test", ["watercolor.zip", "convert_pascal.py watercolor --root"]),
        ("comic2k_test", ["comic.zip", "convert_pascal.py comic --root"]),
    ],
)
def test_missing_data_end_in_what_to_download_and_how_to_convert(name, words, tmp_path: Path):
    register_builtin(tmp_path)
    message = missing_data_message([name])
    assert message is not None and message.startswith(f"Domain '{name}': {tmp_path}")
    for word in (*words, str(tmp_path), ".json"):
        assert word in message


def test_the_remedy_when_followed_makes_the_domain_usable(tmp_path: Path):
    """The very command of the message, for each kind of data set."""
    draw_all(tmp_path)
    register_builtin(tmp_path)
    for name in ("kitti_train", "bdd100k_daytime_val", "clipart1k_test"):
        command = missing_data_message([name]).rpartition("Then run: python ")[2].split()
        done = subprocess.run(
            [sys.executable, *command],
            cwd=REPOSITORY,
            env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        assert "images, " in done.stdout and "Traceback" not in done.stderr
        assert missing_data_message([name], [name]) is None
        assert labelled_dicts(name) and unlabelled_dicts(name)


@pytest.mark.parametrize("tool", ["convert_kitti", "convert_bdd100k", "convert_pascal sim10k"])
def test_tools_without_data_end_in_one_message(tool: str, tmp_path: Path):
    name, *arguments = tool.split()
    done = subprocess.run(
        [sys.executable, str(REPOSITORY / f"tools/{name}.py"), *arguments],
        env={
            **os.environ,
            "PYTHONPATH": str(REPOSITORY),
            "DETECTRON2_DATASETS": str(tmp_path),
        },
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert done.stderr.startswith(f"{name}: {tmp_path}") and "Download" in done.stderr
    assert "Traceback" not in done.stderr


def test_every_domain_is_in_the_readme():
    readme = (REPOSITORY / "datasets/README.md").read_text(encoding="utf-8")
    for entry in builtin_entries(Path("/nowhere")):
        name = str(entry["name"])
        kin = [name, name.rsplit("_", 1)[0] + "_{"]  # cityscapes_car_{train,val}
        assert any(text in readme for text in kin) or name.startswith(("streets_", "camvid_"))


def test_no_name_of_detectron2_is_taken():
    import detectron2.data.datasets  # noqa: F401

    register_builtin(Path("/nowhere"))
    assert "voc_2007_trainval" in DatasetCatalog  # Detectron2's own, still there


def test_a_new_pair_trains_two_iterations_and_evaluates(registered: Path, tmp_path: Path):
    cfg = load_config(
        REPOSITORY / "configs/cs2bdd_mic.yaml",
        [
            *("MODEL.WEIGHTS", "", "MODEL.DEVICE", "cpu", "MODEL.RESNETS.DEPTH", "18"),
            *("MODEL.RESNETS.RES2_OUT_CHANNELS", "64", "MODEL.BACKBONE.FREEZE_AT", "0"),
            *("INPUT.MIN_SIZE_TRAIN", "(64,)", "INPUT.MIN_SIZE_TEST", "64"),
            *("SOLVER.MAX_ITER", "2", "SOLVER.STEPS", "()", "DATALOADER.NUM_WORKERS", "0"),
            *("SOLVER.WARMUP_ITERS", "0"),
            *("MODEL.MIC.SCORE_THRESH", "0.11", "MODEL.ROI_HEADS.SCORE_THRESH_TEST", "0.1"),
            *("MODEL.RPN.POST_NMS_TOPK_TRAIN", "100", "MODEL.RPN.POST_NMS_TOPK_TEST", "50"),
            *("MODEL.ROI_BOX_HEAD.FC_DIM", "64", "MODEL.FPN.OUT_CHANNELS", "64"),
            *("MODEL.SADA.IMAGE_CHANNELS", "16", "MODEL.SADA.INSTANCE_CHANNELS", "16"),
            *("TEST.EVAL_PERIOD", "0", "TEST.LABEL_FREE_IMAGES", "1"),
            *("OUTPUT_DIR", str(tmp_path)),
        ],
    )
    trainer = build_trainer(cfg, writers=list)
    trainer.train(0, 2)
    latest = trainer.storage.latest()
    assert latest["loss_da_image"][0] > 0 and latest["loss_mic_roi_cls"][0] > 0
    metrics = trainer.last_results["student"]["bdd100k_daytime_val"]
    assert {f"AP50-{name}" for name in SEVEN} <= metrics.keys()
    assert "AP50-train" not in metrics
