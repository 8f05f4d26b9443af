"""What checkpoints say about themselves, compared in evaluation, prediction, start and resume."""

from __future__ import annotations

import csv
import json
import logging
import shutil
import sys
from pathlib import Path

import processes
import pytest
import torch
from described_runs import CLASSES, TASKS, config, images_of
from detectron2.checkpoint import DetectionCheckpointer

from mic_det.cli import run_tool
from mic_det.data.catalog import unregister_domain
from mic_det.engine import build_trainer, load_for_evaluation
from mic_det.engine.build import build_student_and_teacher
from mic_det.report.rerun import evaluate_again
from mic_det.report.runs import find_runs
from mic_det.weights_file import CheckpointError


@pytest.fixture(autouse=True)
def catalogs(clean_catalogs):
    """Catalogs as they were after each test."""


@pytest.fixture(scope="module")
def roots(tmp_path_factory) -> dict[str, Path]:
    """For each task a folder with ``data`` and ``run``, a finished run."""
    found = {}
    for task in TASKS:
        root = found[task] = tmp_path_factory.mktemp(task)
        cfg = config(task, root, root / "run", "TEST.EVAL_PERIOD", 1)
        trainer = build_trainer(cfg, writers=list)
        trainer.train(0, cfg.SOLVER.MAX_ITER)
        (root / "run/config.yaml").write_text(cfg.dump())
        for name in ("src", "tgt"):
            unregister_domain(name)
    return found


@pytest.fixture(params=TASKS)
def task(request) -> str:
    return request.param


@pytest.fixture
def run(task, roots, tmp_path) -> Path:
    """A copy of the task's finished run."""
    return shutil.copytree(roots[task] / "run", tmp_path / "run")


def weights(run: Path) -> tuple[str, str]:
    return "MODEL.WEIGHTS", str(run / "model_final.pth")


def resume(cfg, **options):
    return build_trainer(cfg, resume=True, writers=list, **options)


def undescribed(run: Path) -> None:
    """As files were before they described themselves."""
    for path in run.glob("*.pth"):
        content = torch.load(path, weights_only=True)
        del content["mic_det"], content["digest"]
        torch.save(content, path)


def test_each_file_has_classes_and_settings_and_detectron2_reads_it(task, roots, run):
    for name in ("model_0000001", "model_final", "model_best"):
        content = torch.load(run / f"{name}.pth", weights_only=True)
        described = content["mic_det"]
        assert described["classes"] == CLASSES[task]
        assert described["settings"]["MODEL.TASK"] == task
        assert described["settings"]["SEED"] == 1
        assert len(described["settings"]["MODEL.PIXEL_MEAN"]) == 3
        assert set(described["data"]) == {"src", "tgt"}
    student, _ = build_student_and_teacher(config(task, roots[task], run))
    DetectionCheckpointer(student).load(str(run / "model_final.pth"))
    content = torch.load(run / "model_final.pth", weights_only=True)
    assert all(torch.equal(content["model"][k], v) for k, v in student.state_dict().items())


@pytest.mark.parametrize("use", ["evaluation", "resumed evaluation", "start", "resume"])
def test_classes_in_another_order_are_refused(use, task, roots, run):
    swapped = CLASSES[task][::-1]
    given = weights(run) if use in ("evaluation", "start") else ()
    output = run.parent / "other" if use == "start" else run
    cfg = config(task, roots[task], output, *given, classes=swapped)
    with pytest.raises(CheckpointError, match="another order") as error:
        if "evaluation" in use:
            load_for_evaluation(cfg, resume=use == "resumed evaluation")
        else:
            build_trainer(cfg, resume=use == "resume", writers=list)
    for names in (CLASSES[task], swapped):
        assert ", ".join(names) in str(error.value)


@pytest.mark.parametrize("task", ["detection", "classification"])
def test_tests_in_another_order_are_refused_without_the_source(task, roots, run):
    gone = ("DATASETS.TRAIN", "('gone',)", *weights(run))
    assert load_for_evaluation(config(task, roots[task], run, *gone))
    with pytest.raises(CheckpointError, match="another order"):
        load_for_evaluation(config(task, roots[task], run, *gone, classes=CLASSES[task][::-1]))


def test_as_many_other_classes_are_refused_and_another_number_starts_a_classifier(
    task, roots, run, caplog
):
    content = torch.load(run / "model_final.pth", weights_only=True)
    del content["digest"]
    content["mic_det"]["classes"] = ["another", *CLASSES[task][1:]]
    torch.save(content, run / "model_final.pth")
    cfg = config(task, roots[task], run.parent / "other", *weights(run))
    with pytest.raises(CheckpointError, match="not those of the data"):
        build_trainer(cfg, writers=list)
    content["mic_det"]["classes"] = [*CLASSES[task], "another"]
    torch.save(content, run / "model_final.pth")
    assert build_trainer(cfg, writers=list).start_iter == 0
    with pytest.raises(CheckpointError, match="not those of the data"):
        load_for_evaluation(cfg)


def predict(monkeypatch, run: Path, images: Path, *opts: str) -> int:
    sys.path.insert(0, "tools")
    import predict as tool

    files = ("--config", run / "config.yaml", "--weights", run / "model_final.pth")
    more = ("--threshold", "0", "--no-pictures", "--output", run / "out")
    arguments = [*files, *more, images, *(["--opts", *opts] if opts else [])]
    monkeypatch.setattr(sys, "argv", ["predict.py", *map(str, arguments)])
    try:
        run_tool(tool.main)
    except SystemExit as end:
        return end.code
    return 0


def predicted_names(task: str, out: Path) -> list[str]:
    if task == "segmentation":
        return [each["name"] for each in json.loads((out / "classes.json").read_text())]
    if task == "detection":
        described = json.loads((out / "images.json").read_text())
        return [each["name"] for each in described["categories"]]
    with (out / "predictions.csv").open() as file:
        row = next(csv.DictReader(file))
    return [row["class"], *(row[f"class {k}"] for k in (2, 3))]


def test_predictions_have_the_names_of_the_file(task, roots, run, monkeypatch, capsys):
    images = images_of(task, roots[task] / "data")
    (run / "config.yaml").write_text(config(task, roots[task], run).dump())
    for name in ("src", "tgt"):
        unregister_domain(name)
    gone = ("DATASETS.REGISTER", "()", "DATASETS.TRAIN", "('gone',)", "DATASETS.TEST", "()")
    assert predict(monkeypatch, run, images, *gone) == 0, capsys.readouterr().err
    found = predicted_names(task, run / "out")
    assert sorted(found) == sorted(CLASSES[task])
    if task != "classification":  # there, by confidence
        assert found == CLASSES[task]


def test_predictions_under_classes_in_another_order(task, roots, run, monkeypatch, capsys):
    swapped = CLASSES[task][::-1]
    images = images_of(task, roots[task] / "data")
    (run / "config.yaml").write_text(config(task, roots[task], run, classes=swapped).dump())
    assert predict(monkeypatch, run, images) == 2
    message = capsys.readouterr().err
    assert ", ".join(CLASSES[task]) in message and ", ".join(swapped) in message


def test_files_from_before_load_with_one_warning(task, roots, run, monkeypatch, capsys, caplog):
    undescribed(run)
    cfg = config(task, roots[task], run, *weights(run))
    for load in (load_for_evaluation, resume, lambda cfg: build_trainer(cfg, writers=list)):
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            load(cfg)
        said = [each for each in caplog.messages if "does not say what its classes" in each]
        assert len(said) == 1
    assert predict(monkeypatch, run, images_of(task, roots[task] / "data")) == 0
    assert sorted(predicted_names(task, run / "out")) == sorted(CLASSES[task])


NETWORK = {
    "detection": [
        ("MODEL.PIXEL_MEAN", "[0.0, 0.0, 0.0]"),
        ("INPUT.FORMAT", "RGB"),
        ("MODEL.RESNETS.DEPTH", "34"),
        ("MODEL.RESNETS.NORM", "BN"),
        ("MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS", "[[0.3, 1.0, 3.0]]"),
    ],
    "segmentation": [
        ("MODEL.PIXEL_STD", "[1.0, 1.0, 1.0]"),
        ("INPUT.FORMAT", "RGB"),
        ("MODEL.SEG.ASPP_DILATIONS", "(1, 2, 3, 4)"),
    ],
    "classification": [
        ("MODEL.PIXEL_MEAN", "[0.0, 0.0, 0.0]"),
        ("INPUT.FORMAT", "BGR"),
        ("MODEL.CLASSIFIER.POOL", "avg"),
    ],
}
CHANGED = [(task, *pair) for task, pairs in NETWORK.items() for pair in pairs]


@pytest.mark.parametrize(("task", "key", "value"), CHANGED)
def test_settings_of_the_network_are_those_of_the_file(
    task, key, value, roots, run, monkeypatch, capsys, caplog
):
    cfg = config(task, roots[task], run, *weights(run), key, value)
    with pytest.raises(CheckpointError, match=f"{key}: .* -> "):
        load_for_evaluation(cfg)
    (run / "config.yaml").write_text(cfg.dump())
    assert predict(monkeypatch, run, images_of(task, roots[task] / "data")) == 2
    assert f"{key}: " in capsys.readouterr().err
    with pytest.raises(CheckpointError, match=f"cannot have these.*\n  {key}: .* -> "):
        resume(cfg, allow_changes=True)


def test_other_sizes_of_images_are_warned_of(task, roots, run, caplog):
    key = "INPUT.SQUARE.RESIZE" if task == "classification" else "INPUT.MIN_SIZE_TEST"
    cfg = config(task, roots[task], run, *weights(run), key, "32")
    with caplog.at_level(logging.WARNING):
        load_for_evaluation(cfg)
    assert f"{key}: " in caplog.text and "-> 32" in caplog.text


def test_a_start_with_other_pixels_is_warned_of(roots, tmp_path, caplog):
    root = roots["classification"]
    given = weights(root / "run")
    cfg = config("classification", root, tmp_path, *given, "MODEL.PIXEL_MEAN", "[0.0, 0.0, 0.0]")
    with caplog.at_level(logging.WARNING):
        build_trainer(cfg, writers=list)
    assert "MODEL.PIXEL_MEAN: " in caplog.text


@pytest.fixture
def classifier(roots, tmp_path) -> tuple[Path, Path]:
    """Folder of data and a copy of a run of the quickest task."""
    root = roots["classification"]
    return root, shutil.copytree(root / "run", tmp_path / "run")


PERIODS = ("TEST.EVAL_PERIOD", 1)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("SOLVER.BASE_LR", "0.5"),
        ("SOLVER.IMS_PER_BATCH", "8"),
        ("SOLVER.AMP.ENABLED", "True"),
        ("SOLVER.MAX_ITER", "2"),
        ("MODEL.TEACHER.ALPHA", "0.5"),
        ("INPUT.SQUARE.RESIZE", "20"),
        ("DATASETS.TARGET", "()"),
        ("MODEL.MIC.RATIO", "0.3"),
    ],
)
def test_a_changed_setting_is_not_resumed_unless_asked_for(key, value, classifier, caplog):
    root, run = classifier
    cfg = config("classification", root, run, *PERIODS, key, value)
    with pytest.raises(CheckpointError, match=f"\n  {key}: .* -> .*(.|\n)*--allow-changes"):
        resume(cfg)
    with caplog.at_level(logging.WARNING):
        assert resume(cfg, allow_changes=True).start_iter == 3
    assert f"  {key}: " in caplog.text


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("SEED", "7"),
        ("SOLVER.OPTIMIZER", "AdamW"),
        ("SOLVER.WEIGHT_DECAY", "0.25"),
        ("MODEL.CLASSIFIER.BACKBONE_LR_FACTOR", "0.5"),
        ("INPUT.FORMAT", "BGR"),
    ],
)
def test_what_cannot_be_changed_is_refused_all_the_same(key, value, classifier):
    root, run = classifier
    cfg = config("classification", root, run, *PERIODS, key, value)
    for allow in (False, True):
        with pytest.raises(CheckpointError, match=f"cannot have these.*\n  {key}: "):
            resume(cfg, allow_changes=allow)


def test_harmless_changes_are_listed(classifier, tmp_path, caplog):
    root, run = classifier
    moved = run.rename(tmp_path / "moved")
    changed = {
        "SOLVER.MAX_ITER": 5,
        "SOLVER.CHECKPOINT_PERIOD": 7,
        "TEST.EVAL_PERIOD": 0,
        "DATALOADER.NUM_WORKERS": 1,
        "VIS_PERIOD": 3,
    }
    pairs = [str(part) for item in changed.items() for part in item]
    with caplog.at_level(logging.WARNING):
        trainer = resume(config("classification", root, moved, *pairs, "SEED", -1))
    assert trainer.start_iter == 3 and trainer.seed == 1
    for key in (*changed, "OUTPUT_DIR"):
        assert f"  {key}: " in caplog.text
    assert "SEED: " not in caplog.text
    trainer.train(3, 5)
    saved = torch.load(moved / "model_final.pth", weights_only=True)["mic_det"]["settings"]
    assert saved["SEED"] == 1 and saved["SOLVER.MAX_ITER"] == 5


def test_an_unchanged_run_is_resumed_without_a_word(task, roots, run, caplog):
    cfg = config(task, roots[task], roots[task] / "run", *PERIODS)
    with caplog.at_level(logging.WARNING):
        assert resume(cfg).start_iter == 3
    assert "changed" not in caplog.text


def test_a_new_learning_rate_and_momentum_are_those_trained_with(classifier):
    root, run = classifier
    before = resume(config("classification", root, run, *PERIODS))
    solver = ("SOLVER.BASE_LR", "0.002", "SOLVER.MOMENTUM", "0.5")
    now = resume(config("classification", root, run, *PERIODS, *solver), allow_changes=True)
    pairs = list(zip(before.optimizer.param_groups, now.optimizer.param_groups, strict=True))
    for old, new in pairs:
        assert new["lr"] == pytest.approx(0.1 * old["lr"], rel=1e-9) and new["lr"] > 0
        assert (old["momentum"], new["momentum"]) == (0.9, 0.5)


def test_loss_scaling_can_begin_in_a_resumed_run(classifier):
    root, run = classifier
    trainer = resume(config("classification", root, run, *PERIODS))
    state = torch.load(run / "model_final.pth", weights_only=True)["trainer"]
    assert state["scaler"] == {}
    trainer.scaler = torch.amp.GradScaler("cpu", enabled=True)
    trainer.load_state_dict(state)
    assert trainer.scaler.is_enabled()


def test_changed_records_are_named(task, roots, run, tmp_path):
    root = tmp_path / "copy"
    shutil.copytree(roots[task] / "data", root / "data")
    config(task, root, run)  # moved data are the same data
    assert resume(config(task, root, run, *PERIODS)).start_iter == 3
    image = max(images_of(task, root / "data").rglob("*.png"))
    if task == "detection":
        path = root / "data/boxes.json"
        content = json.loads(path.read_text())
        content["annotations"][0]["bbox"][2] -= 1
        path.write_text(json.dumps(content))
    else:
        image.unlink()
    cfg = config(task, root, run, *PERIODS)
    with pytest.raises(CheckpointError, match=r"records of src: \d+ records .* -> \d+ records"):
        resume(cfg)
    assert resume(cfg, allow_changes=True).start_iter == 3


@pytest.mark.parametrize("content", [3, {}, {"classes": [1], "settings": {}, "data": {}}])
def test_a_malformed_description_is_named(content, classifier):
    root, run = classifier
    saved = torch.load(run / "model_final.pth", weights_only=True)
    del saved["digest"]
    torch.save(saved | {"mic_det": content}, run / "model_final.pth")
    with pytest.raises(CheckpointError, match=r"model_final\.pth: its entry 'mic_det'"):
        resume(config("classification", root, run, *PERIODS))


def test_a_report_names_a_run_that_no_longer_fits(classifier):
    root, run = classifier
    (run / "config.yaml").write_text(
        config("classification", root, run, *PERIODS, "INPUT.FORMAT", "BGR").dump()
    )
    (run / "metrics.json").write_text('{"iteration": 1, "total_loss": 1.0}\n')
    (record,) = find_runs([run])
    evaluate_again(record)
    assert "INPUT.FORMAT" in record.problems[-1]


def test_the_command_line(tmp_path):
    data = processes.draw_tiny_cityscapes(tmp_path / "data")
    folder = tmp_path / "run"
    few = ("DATASETS.TEST", "()", "SOLVER.CHECKPOINT_PERIOD", "1", "SOLVER.WARMUP_ITERS", "0")
    code, output = processes.run(data, *processes.training(folder, *few, "SOLVER.MAX_ITER", "1"))
    assert code == 0, output[-3000:]
    before = (folder / "config.yaml").read_bytes()
    slower = (*few, "SOLVER.MAX_ITER", "2", "SOLVER.BASE_LR", "0.0001")
    code, output = processes.run(data, *processes.training(folder, *slower, flags=("--resume",)))
    assert code == 2 and "Traceback" not in output
    assert "SOLVER.BASE_LR: " in output and "--allow-changes" in output
    assert (folder / "config.yaml").read_bytes() == before, "nothing was written"
    insisting = ("--resume", "--allow-changes")
    code, output = processes.run(data, *processes.training(folder, *slower, flags=insisting))
    assert code == 0, output[-3000:]
    assert "Resumed with changed settings" in output
