"""Settings of a classifier: networks of timm, what is refused, what changes nothing."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from class_trees import register_trees, tiny_config
from PIL import Image
from small_runs import differing, train

from mic_det.classification.backbone import build_backbone
from mic_det.classification.pictures import ClassPictures
from mic_det.config import ConfigError
from mic_det.data.catalog import register_domain
from mic_det.engine import build_trainer, evaluate, load_for_evaluation


@pytest.fixture(autouse=True)
def trees(tmp_path, clean_catalogs) -> Path:
    register_trees(tmp_path / "data")
    return tmp_path / "data"


@pytest.mark.parametrize(
    ("name", "size", "features"),
    [("resnet10t", 64, 512), ("vit_tiny_patch16_224", 224, 192)],
)
def test_networks_of_timm(name, size, features):
    network, length = build_backbone(name, pretrained=False, size=size)
    assert length == features
    assert network.eval()(torch.zeros(1, 3, size, size)).shape == (1, features)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("MODEL.CLASSIFIER.BACKBONE", "resnet5o"), "timm has no model 'resnet5o'. Did you mean"),
        (("MODEL.CLASSIFIER.PRETRAINED", "True"), "there are no weights of small_cnn"),
        (("MODEL.CLASSIFIER.NUM_CLASSES", "5"), r"shapes has 3 classes \(circle, .*CLASSES is 5"),
        (("MODEL.CLASSIFIER.ALIGN.METHOD", "cdan"), "METHOD is one of none, DANN, CDAN"),
        (("DATASETS.TARGET", "()"), "METHOD needs target images|MIC.ENABLED needs target"),
        (("MODEL.CLASSIFIER.SAM_RHO", "-1.0"), "SAM_RHO is at least 0"),
        (("MODEL.CLASSIFIER.ALIGN.WEIGHT", "-1.0"), "ALIGN.WEIGHT is at least 0"),
        (("MODEL.CLASSIFIER.ALIGN.RANDOM_DIM", "0"), "ALIGN.RANDOM_DIM is at least 1"),
        (("MODEL.CLASSIFIER.ALIGN.HIDDEN", "0"), "ALIGN.HIDDEN is at least 1"),
        (("MODEL.CLASSIFIER.BOTTLENECK", "-8"), "BOTTLENECK is at least 0"),
        (("MODEL.CLASSIFIER.NUM_CLASSES", "1"), "NUM_CLASSES is at least 2"),
        (("MODEL.CLASSIFIER.MCC.TEMPERATURE", "0.0"), "TEMPERATURE is above 0"),
        (("MODEL.MIC.BLOCK_SIZE", "16"), "BLOCK_SIZE 16 hides an image .* 16 whole or not at all"),
        (("MODEL.MIC.WEIGHT", "-1.0"), "MIC.WEIGHT is at least 0"),
        (("INPUT.SQUARE.SIZE", "20"), "SIZE 20 cannot be cut out of INPUT.SQUARE.RESIZE 18"),
        (("INPUT.SQUARE.SIZE", "0"), "INPUT.SQUARE.SIZE is in pixels, not 0"),
        (("INPUT.SQUARE.SCALE", "(0.5, 0.2)"), "SCALE is the least and the largest share"),
        (("INPUT.RANDOM_FLIP", "vertical"), "RANDOM_FLIP is none or horizontal"),
        (("INPUT.FORMAT", "L"), "INPUT.FORMAT is RGB or BGR, not 'L'"),
        (("INPUT.COLOR_JITTER", "-0.1"), "COLOR_JITTER is at least 0"),
        (("MODEL.SADA.ENABLED", "True"), "SADA.ENABLED has no meaning for classification"),
        (("MODEL.MIC.CLASS_SHARES", "True"), "CLASS_SHARES has no meaning for classification"),
        (("INPUT.RESIZED_CACHE", "x"), "RESIZED_CACHE has no meaning for classification"),
        (("SOLVER.TARGET_IMS_PER_BATCH", "1"), "TARGET_IMS_PER_BATCH is 1 .* at least 2 images"),
        (("SOLVER.IMS_PER_BATCH", "1"), "IMS_PER_BATCH is 1 over 1 .* at least 2 images"),
        (
            ("MODEL.CLASSIFIER.BACKBONE", "vit_tiny_patch16_224"),
            r"vit_tiny_patch16_224 cannot take images of 16 x 16 pixels \(INPUT.SQUARE.SIZE\)",
        ),
        (
            ("MODEL.CLASSIFIER.BACKBONE", "resnet10t", "MODEL.CLASSIFIER.POOL", "token"),
            "POOL 'token'",
        ),
        (("MODEL.CLASSIFIER.BACKBONE", "resnet10t.none_in1k"), "none_in1k"),
    ],
)
def test_settings_that_cannot_work(overrides, message, tmp_path):
    with pytest.raises(ConfigError, match=message):
        build_trainer(tiny_config(tmp_path, "mic", *overrides), writers=list)


@pytest.mark.parametrize(("method", "least"), [("source", 2), ("sdat", 1), ("mic", 2)])
def test_the_least_batch_that_trains(method, least, tmp_path):
    """One image less is refused, if not for that then for being none."""
    batch = ("SOLVER.IMS_PER_BATCH", str(least), "DATASETS.TEST", "()")
    trainer = train(tiny_config(tmp_path / "run", method, *batch, iterations=1))
    assert trainer.guard.skipped == 0
    if least > 1:
        with pytest.raises(ConfigError, match="at least 2 images a process"):
            cfg = tiny_config(tmp_path / "less", method, "SOLVER.IMS_PER_BATCH", str(least - 1))
            build_trainer(cfg, writers=list)


def test_resuming_does_not_ask_for_pretrained_weights(tmp_path):
    """small_cnn has none: asking for them is an error, as it is without a network."""
    train(tiny_config(tmp_path, "source", iterations=2))
    pretrained = ("MODEL.CLASSIFIER.PRETRAINED", "True")
    cfg = tiny_config(tmp_path, "source", *pretrained, iterations=3)
    with pytest.raises(ConfigError, match="PRETRAINED"):
        build_trainer(cfg, writers=list)
    assert build_trainer(cfg, resume=True, writers=list).start_iter == 2
    evaluated = evaluate(cfg, *load_for_evaluation(cfg, resume=True))
    assert evaluated["student"]["pale_val"]["accuracy"] >= 0.0


def test_a_domain_loss_of_weight_0_is_left_out(tmp_path):
    off = ("MODEL.CLASSIFIER.ALIGN.WEIGHT", "0.0", "DATASETS.TEST", "()")
    trainer = train(tiny_config(tmp_path, "cdan", *off, iterations=1))
    assert trainer.student.alignment is None and trainer.batch[1] is None
    assert "loss_domain" not in trainer.storage.latest()


def test_mixed_precision_trains(tmp_path):
    mixed = ("SOLVER.AMP.ENABLED", "True", "SOLVER.AMP.DTYPE", "bfloat16", "DATASETS.TEST", "()")
    trainer = train(tiny_config(tmp_path, "mic", *mixed, iterations=2))
    assert trainer.guard.skipped == 0
    assert all(torch.isfinite(each).all() for each in trainer.student.state_dict().values())


def test_pictures_show_targets_and_change_nothing(tmp_path):
    shown = ("VIS_PERIOD", "2", "VIS_IMAGES", "3", "DATASETS.TEST", "()")
    plain = train(tiny_config(tmp_path / "a", "mic", "DATASETS.TEST", "()", iterations=3))
    drawn = train(tiny_config(tmp_path / "b", "mic", *shown, iterations=3))
    assert not differing(plain.student.state_dict(), drawn.student.state_dict())
    assert not differing(plain.teacher.model.state_dict(), drawn.teacher.model.state_dict())
    assert not (tmp_path / "a/pictures").exists()
    folder = tmp_path / "b/pictures"
    names = ["iteration_0000002.png", "iteration_0000003.png"]
    assert sorted(path.name for path in folder.iterdir()) == names
    sheet = np.asarray(Image.open(folder / names[0])).astype(int)
    # Three rows of four panels of 16 x 16 pixels, twenty times as large, below a title.
    assert sheet.shape == (3 * (26 + 320 + 6), 4 * 320 + 3 * 6, 3)
    image, masked, teacher = (sheet[26:346, x : x + 320] for x in (0, 326, 652))
    assert np.array_equal(image, teacher)
    hidden = (masked == 80).all(-1).mean()  # the mean colour, which the mask fills in
    assert 0.1 < hidden < 0.9
    (hook,) = [each for each in drawn._hooks if isinstance(each, ClassPictures)]
    first, again = hook.draw(), hook.draw()
    assert all(np.array_equal(a, b) for a, b in zip(first[0], again[0], strict=True))


def test_pictures_without_mic_have_no_masked_column(tmp_path):
    shown = ("VIS_PERIOD", "1", "VIS_IMAGES", "1", "DATASETS.TEST", "()")
    train(tiny_config(tmp_path, "cdan", *shown, iterations=1))
    (path,) = (tmp_path / "pictures").iterdir()
    assert Image.open(path).width == 3 * 320 + 2 * 6


def test_without_any_label_on_the_target(trees, tmp_path):
    """Images without class folders, no test set: the best checkpoint is chosen all the same."""
    flat = tmp_path / "flat"
    flat.mkdir()
    for number, path in enumerate(sorted((trees / "pale").rglob("*.png"))):
        shutil.copy(path, flat / f"{number:03d}.png")
    register_domain("flat", flat)
    unlabelled = ("DATASETS.TARGET", "('flat',)", "DATASETS.TEST", "()", "TEST.EVAL_PERIOD", "1")
    trainer = train(tiny_config(tmp_path / "run", "mic", *unlabelled, iterations=2))
    assert set(trainer.last_results) == {"student", "teacher"}
    assert 0.0 < trainer.last_results["student"]["stability"] <= 100.0
    assert (tmp_path / "run/model_best_label_free.pth").is_file()
    assert not (tmp_path / "run/model_best.pth").exists()
