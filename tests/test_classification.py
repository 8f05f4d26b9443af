"""The classifier trained end to end: each config, resumed, with the target's labels unread."""

from __future__ import annotations

import csv
import importlib.util
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import processes
import pytest
import torch
from class_trees import CLASSES, CONFIGS, TINY, register_trees, tiny_config
from small_runs import CutAfter, PowerCut, differing, train

from mic_det import classification, core, engine
from mic_det.classification.backbone import build_backbone
from mic_det.classification.evaluation import accuracies
from mic_det.classification.label_free import masking_stability
from mic_det.classification.mapper import SquareMapper, random_crop
from mic_det.classification.meta_arch import TASK_LOSSES, AdaptiveClassifier
from mic_det.cli import run_tool
from mic_det.config import load_config
from mic_det.core import PatchMask
from mic_det.data.classification.folders import register_class_folders
from mic_det.detection.task import TASK as DETECTION
from mic_det.engine import build_trainer, evaluate, load_for_evaluation
from mic_det.report import find_runs, write_report
from mic_det.tasks import task_of

REPOSITORY = Path(__file__).parents[1]
LOSSES = {
    "source": {"loss_cls"},
    "dann": {"loss_cls", "loss_domain"},
    "cdan": {"loss_cls", "loss_domain"},
    "cdan_mcc": {"loss_cls", "loss_domain", "loss_mcc"},
    "sdat": {"loss_cls", "loss_domain", "loss_mcc"},
    "mic": {"loss_cls", "loss_domain", "loss_mcc", "loss_mic_cls"},
    "oracle": {"loss_cls"},
}


@pytest.fixture(autouse=True)
def trees(tmp_path, clean_catalogs) -> Path:
    register_trees(tmp_path / "data")
    return tmp_path / "data"


@pytest.mark.parametrize("method", LOSSES)
def test_each_config_trains_and_is_evaluated(method, tmp_path):
    trainer = train(tiny_config(tmp_path / "run", method))
    latest = trainer.storage.latest()
    assert {name for name in latest if name.startswith("loss_")} == LOSSES[method]
    assert all(np.isfinite(latest[name][0]) for name in LOSSES[method])
    assert (trainer.ascent is not None) == (method in ("sdat", "mic"))
    assert (trainer.mask_target is not None) == (method == "mic")
    assert (trainer.batch[1] is not None) == (method not in ("source", "oracle"))
    metrics = trainer.last_results["student"]["pale_val"]
    assert set(metrics) >= {"accuracy", "class_accuracy", "accuracy-cross"}
    rows = list(
        csv.DictReader((tmp_path / "run/inference/student/pale_val/predictions.csv").open())
    )
    right = np.mean([row["label"] == row["predicted"] for row in rows])
    assert len(rows) == 15 and metrics["accuracy"] == pytest.approx(100 * right)


def test_the_tasks_share_their_parts(tmp_path):
    cfg = tiny_config(tmp_path, "mic")
    trainer = build_trainer(cfg, writers=list)
    assert type(trainer) is engine.AdaptationTrainer
    assert type(trainer.teacher) is core.EMATeacher
    assert type(trainer.mask_target) is core.MaskedView is type(DETECTION.masked_view(cfg))
    assert type(trainer.mask_target.mask) is PatchMask
    assert type(trainer.student) is classification.AdaptiveClassifier
    assert not hasattr(trainer.teacher.model.alignment, "layers")


def test_a_resumed_run_ends_with_the_same_weights_to_the_bit(tmp_path):
    straight = train(tiny_config(tmp_path / "a", "mic", iterations=6))
    cfg = tiny_config(tmp_path / "b", "mic", "SOLVER.CHECKPOINT_PERIOD", "2", iterations=6)
    trainer = build_trainer(cfg, writers=list)
    trainer.register_hooks([CutAfter(4)])
    with pytest.raises(PowerCut):
        trainer.train(0, 6)
    resumed = train(cfg, resume=True)
    assert resumed.start_iter == 4
    assert not differing(straight.student.state_dict(), resumed.student.state_dict())
    assert not differing(straight.teacher.model.state_dict(), resumed.teacher.model.state_dict())
    assert resumed.last_results == straight.last_results


def test_the_names_of_the_targets_folders_are_not_read(trees, tmp_path):
    """All images in one folder, in the same order: a run is the same to the bit."""
    flat = tmp_path / "flat"
    flat.mkdir()
    for number, path in enumerate(sorted((trees / "pale").rglob("*.png"))):
        shutil.copy(path, flat / f"{number:03d}.png")
    register_class_folders("flat", flat)
    named = train(tiny_config(tmp_path / "a", "mic"))
    unnamed = train(tiny_config(tmp_path / "b", "mic", "DATASETS.TARGET", "('flat',)"))
    assert not differing(named.student.state_dict(), unnamed.student.state_dict())
    assert all("label" not in each for each in named.batch[1])


def test_source_only_does_not_open_the_target(trees, tmp_path, opened):
    untested = ("DATASETS.TEST", "()", "TEST.LABEL_FREE_IMAGES", "0")
    trainer = train(tiny_config(tmp_path, "source", *untested, iterations=2))
    assert trainer.iter == 2
    assert not [path for path in opened if str(trees / "pale") in path and path.endswith(".png")]


def test_shapes_are_learnt(tmp_path):
    rate = ("SOLVER.BASE_LR", "0.05", "SOLVER.IMS_PER_BATCH", "18", "INPUT.SQUARE.CROP", "center")
    trainer = train(
        tiny_config(tmp_path, "source", *rate, "DATASETS.TEST", "('shapes',)", iterations=60)
    )
    assert trainer.last_results["student"]["shapes"]["accuracy"] > 85.0


def test_evaluation_of_a_checkpoint_repeats_what_training_measured(tmp_path):
    trainer = train(tiny_config(tmp_path, "mic", iterations=2))
    cfg = tiny_config(tmp_path, "mic", "MODEL.WEIGHTS", str(tmp_path / "model_final.pth"))
    again = evaluate(cfg, *load_for_evaluation(cfg))
    assert json.dumps(again) == json.dumps(trainer.last_results)
    assert 0.0 < again["student"]["stability"] <= 100.0


def model(**settings) -> AdaptiveClassifier:
    backbone, features = build_backbone("small_cnn", pretrained=False)
    return AdaptiveClassifier(backbone=backbone, features=features, num_classes=3, **settings)


def batch(count: int) -> list[dict]:
    return [
        {"image": torch.randint(0, 256, (3, 16, 16), dtype=torch.uint8), "label": k % 3}
        for k in range(count)
    ]


@pytest.mark.parametrize("quality", core.QUALITY_MODES)
def test_pseudo_labels_and_their_weights(quality, storage):
    student = model(masked_weight=2.0, quality=quality)
    images = batch(5)
    student.eval()
    pseudo = student.pseudo_label(images)
    probabilities = torch.stack([each["probabilities"] for each in student(images)])
    assert torch.equal(pseudo.classes, probabilities.argmax(1))
    torch.testing.assert_close(pseudo.quality, probabilities.amax(1))
    student.train()
    logits = student.logits(images).detach()
    weights = {
        "teacher": pseudo.quality,
        "student": logits.softmax(1).amax(1),
        "none": torch.ones(5),
    }[quality]
    each = torch.nn.functional.cross_entropy(logits, pseudo.classes, reduction="none")
    losses = student(batch(4), images, images, pseudo)
    torch.testing.assert_close(losses["loss_mic_cls"].detach(), 2 * (weights * each).mean())


def test_masked_images_leave_no_trace_in_running_statistics(storage):
    """The rest of the step does, with MIC as without."""
    states = []
    for weight in (0.0, 1.0):
        torch.manual_seed(0)
        classifier = model(masked_weight=weight, confusion_weight=1.0).train()
        source, target, masked = batch(4), batch(4), batch(4)
        losses = classifier(source, target, masked, classifier.pseudo_label(target))
        assert ("loss_mic_cls" in losses) == (weight > 0)
        states.append({name: each.clone() for name, each in classifier.named_buffers()})
    assert states[0]["bottleneck.1.running_mean"].ne(0).any()
    assert all(torch.equal(each, states[1][name]) for name, each in states[0].items())


def test_sam_follows_all_but_the_domain_loss(tmp_path):
    cfg = tiny_config(tmp_path, "mic")
    trainer = build_trainer(cfg, writers=list)
    trainer.train(0, 1)
    assert trainer.ascent.losses == set(TASK_LOSSES) == LOSSES["mic"] - {"loss_domain"}
    assert trainer.ascent.rho == 0.02


def test_learning_rates_of_the_parts(tmp_path):
    factor = ("MODEL.CLASSIFIER.BACKBONE_LR_FACTOR", "0.1", "SOLVER.WARMUP_ITERS", "0")
    trainer = build_trainer(tiny_config(tmp_path, "cdan", *factor), writers=list)
    rates = {
        id(parameter): group["lr"]
        for group in trainer.optimizer.param_groups
        for parameter in group["params"]
    }
    for name, parameter in trainer.student.named_parameters():
        factor = 0.1 if name.startswith("backbone.") else 1.0
        assert rates[id(parameter)] == pytest.approx(0.02 * factor), name


def test_accuracies_by_hand():
    labels, predicted = np.array([0, 0, 0, 1]), np.array([0, 0, 1, 0])
    found = accuracies(labels, predicted, ["a", "b", "c"])
    assert found["accuracy"] == found["image_accuracy"] == 50.0
    assert found["class_accuracy"] == pytest.approx((200 / 3 + 0) / 2)
    assert found["accuracy-a"] == pytest.approx(200 / 3) and np.isnan(found["accuracy-c"])
    assert accuracies(labels, predicted, "abc", "classes")["accuracy"] == found["class_accuracy"]


def test_stability_of_one_answer_and_of_one_that_follows_the_mask():
    class Brightness(torch.nn.Module):
        def __init__(self, fixed: bool) -> None:
            super().__init__()
            self.fixed = fixed

        def forward(self, records):
            means = [0.0 if self.fixed else float(r["image"].float().mean()) for r in records]
            return [{"probabilities": torch.tensor([m / 255, 1 - m / 255])} for m in means]

    images = [{"image": torch.full((3, 16, 16), 255, dtype=torch.uint8)}] * 4
    mask = PatchMask(4, 0.5, 0.0)
    assert masking_stability(Brightness(True), images, mask) == pytest.approx(1.0)
    shown = mask(torch.ones(4, 3, 16, 16), torch.Generator().manual_seed(0)).mean().item()
    found = masking_stability(Brightness(False), images, mask)
    assert found == pytest.approx(shown, abs=1e-5)


def test_test_images_are_cut_from_the_middle(tmp_path):
    image = np.zeros((40, 60, 3), np.uint8)
    image[10:30, 15:45] = 200  # the middle of it, once it is a square
    mapper = SquareMapper(16, 32, is_train=False)
    assert np.asarray(mapper.transformed(image))[1:-1, 1:-1].min() == 200
    train_mapper = SquareMapper(16, 16, "none", flip=1.0, is_train=True)
    image = np.random.default_rng(0).integers(0, 255, (16, 16, 3), dtype=np.uint8)
    assert np.array_equal(np.asarray(train_mapper.transformed(image)), image[:, ::-1])


def test_random_crops_keep_to_their_area():
    boxes = [random_crop(100, (0.2, 0.5)) for _ in range(300)]
    shares = [(r - x) * (b - y) / 100**2 for x, y, r, b in boxes]
    assert 0.19 < min(shares) < 0.25 and 0.45 < max(shares) < 0.51
    assert all(0 <= x < r <= 100 and 0 <= y < b <= 100 for x, y, r, b in boxes)
    ratios = [(r - x) / (b - y) for x, y, r, b in boxes]
    assert min(ratios) < 0.85 and max(ratios) > 1.18


def test_all_configs_load_and_name_their_missing_data(tmp_path, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / "nowhere"))
    paths = sorted(CONFIGS.glob("*.yaml"))
    assert len([p for p in paths if p.name.startswith("office_home_") and "_mic" in p.name]) == 12
    words = {
        "office_home": "OfficeHomeDataset",
        "visda": "validation.tar",
        "office31": "domain_adaptation_images.tar.gz",
        "domainnet": "_train.txt",
    }
    for path in paths:
        cfg = load_config(path)
        assert f"output/cls/{path.stem}" == cfg.OUTPUT_DIR
        message = task_of(cfg).missing_data_message(cfg, training=True)
        if path.name.startswith("digits"):
            assert message is None
            continue
        (word,) = (word for name, word in words.items() if path.name.startswith(name))
        assert word in message and str(tmp_path) in message


# ---- tools -----------------------------------------------------------------------------------


def load_tool(name: str):
    spec = importlib.util.spec_from_file_location(name, REPOSITORY / f"tools/{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def run(tmp_path) -> Path:
    """A finished run's folder."""
    cfg = tiny_config(tmp_path / "run", "mic", iterations=2)
    trainer = train(cfg)
    (tmp_path / "run/config.yaml").write_text(cfg.dump())
    (tmp_path / "run/results.json").write_text(json.dumps(trainer.last_results))
    (tmp_path / "run/metrics.json").write_text('{"iteration": 1, "total_loss": 1.0}\n')
    return tmp_path / "run"


def test_predict_writes_a_table(run, trees, tmp_path, monkeypatch, capsys):
    (trees / "pale/cross/bad.png").write_bytes(b"no picture")
    arguments = ["predict.py", "--config", str(run / "config.yaml"), str(trees / "pale")]
    arguments += ["--weights", str(run / "model_final.pth"), "--output", str(tmp_path / "out")]
    monkeypatch.setattr(sys, "argv", arguments)
    with pytest.raises(SystemExit) as end:
        run_tool(load_tool("predict").main)
    out, err = capsys.readouterr()
    assert end.value.code == 1 and "bad.png" in err and "15 images classified" in out
    rows = list(csv.DictReader((tmp_path / "out/predictions.csv").open()))
    measured = csv.DictReader((run / "inference/student/pale_val/predictions.csv").open())
    expected = {row["file"]: (row["predicted"], float(row["confidence"])) for row in measured}
    for row in rows:
        name, confidence = expected[row["file"]]
        assert row["class"] == name
        assert float(row["confidence"]) == pytest.approx(confidence, abs=2e-4)
        assert {row["class"], row["class 2"], row["class 3"]} == set(CLASSES)


def test_report_shows_classes_confusions_and_examples(run, trees, tmp_path):
    page = tmp_path / "report.html"
    runs = find_runs([run])
    assert runs[0].method == "CDAN + MCC + SDAT + MIC"
    write_report(runs, page, images=4)
    text = page.read_text()
    for words in ("class_accuracy", "Confusions", "Examples", "small_cnn", *CLASSES):
        assert words in text
    assert text.count('class="strip"') == 4 and text.count("data:image/jpeg") == 4
    # 3 classes of 5 images: the rows of the matrix add up to them.
    assert text.count(" of 5 (") == 9
    (run / "inference/student/pale_val/predictions.csv").write_text("a,b\n1,2\n")
    write_report(find_runs([run]), page)
    assert "its columns are not file, label" in page.read_text()


def test_weights_of_other_classes_are_named(run, trees, tmp_path, monkeypatch, capsys):
    arguments = ["predict.py", "--config", str(run / "config.yaml"), str(trees / "pale")]
    arguments += ["--weights", str(run / "model_final.pth"), "--output", str(tmp_path / "out")]
    arguments += ["--opts", "MODEL.CLASSIFIER.NUM_CLASSES", "7"]
    monkeypatch.setattr(sys, "argv", arguments)
    with pytest.raises(SystemExit):
        run_tool(load_tool("predict").main)
    message = "was trained for 3 classes, but the config's MODEL.CLASSIFIER.NUM_CLASSES is 7"
    assert message in capsys.readouterr().err


def test_two_processes_climb_and_step_together(trees, tmp_path):
    """The command line with all parts, SAM's unsynchronised first pass among them."""
    (tmp_path / "trees.yaml").write_text(
        "shapes2: {images: data/shapes, class_folders: true}\n"
        "pale2: {images: data/pale, class_folders: true}\n"
    )
    overrides = [*TINY, "DATASETS.REGISTER", f"('{tmp_path / 'trees.yaml'}',)"]
    overrides += ["DATASETS.TRAIN", "('shapes2',)", "DATASETS.TARGET", "('pale2',)"]
    overrides += ["DATASETS.TEST", "('pale2',)", "SOLVER.MAX_ITER", "2"]
    overrides += ["OUTPUT_DIR", str(tmp_path / "run")]
    config = ("--config", "configs/cls/digits_mic.yaml", "--num-gpus", "2")
    code, output = processes.run(tmp_path, *config, *overrides)
    assert code == 0, output[-3000:]
    results = json.loads((tmp_path / "run/results.json").read_text())
    assert 0.0 <= results["student"]["pale2"]["accuracy"] <= 100.0
    rows = (tmp_path / "run/inference/student/pale2/predictions.csv").read_text().splitlines()
    assert len(rows) == 1 + 15, "each image once, whichever process had it"
