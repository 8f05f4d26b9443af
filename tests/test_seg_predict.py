"""Predictions and report pages of segmentation, by the command lines."""

from __future__ import annotations

import json
import shutil
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from seg_domains import small_config, write_domains

from mic_det.config import ConfigError
from mic_det.data.catalog import unregister_domain
from mic_det.data.errors import DataError
from mic_det.engine import build_trainer
from mic_det.engine.prediction import load_model
from mic_det.report import find_runs, write_report
from mic_det.segmentation.drawing import read_labels
from mic_det.tasks import PredictOptions, task_of


@pytest.fixture(scope="module")
def domains(tmp_path_factory):
    return write_domains(tmp_path_factory.mktemp("domains"))


@pytest.fixture(autouse=True)
def catalogs(clean_catalogs):
    """Catalogs as they were after each test."""


@pytest.fixture(scope="module")
def trained(domains, tmp_path_factory):
    """The folder of a short run, as train_net.py leaves it."""
    folder = tmp_path_factory.mktemp("runs") / "mic"
    cfg = small_config("mic", domains, folder, "SOLVER.MAX_ITER", 2)
    trainer = build_trainer(cfg, writers=list)
    trainer.train(0, 2)
    (folder / "config.yaml").write_text(cfg.dump())
    (folder / "results.json").write_text(json.dumps(trainer.last_results))
    rows = [{"iteration": i, "total_loss": 1.0 - 0.1 * i} for i in range(2)]
    (folder / "metrics.json").write_text("\n".join(map(json.dumps, rows)))
    for name in ("source", "target", "test"):
        unregister_domain(name)
    return folder


def predict(monkeypatch, *arguments):
    sys.path.insert(0, "tools")
    import predict as tool

    monkeypatch.setattr(sys, "argv", ["predict.py", *map(str, arguments)])
    tool.main()


def test_label_and_colour_maps(domains, trained, tmp_path, monkeypatch, capsys):
    output = tmp_path / "out"
    images = domains.parent / "test" / "images"
    settings = ("--config", trained / "config.yaml", "--weights", trained / "model_final.pth")
    predict(monkeypatch, images, *settings, "--output", output)
    assert "Label maps of 2 images" in capsys.readouterr().out
    classes = json.loads((output / "classes.json").read_text())
    assert [each["name"] for each in classes] == ["dark", "red", "green", "blue"]
    inference = trained / "inference" / "student" / "test" / "labels"
    for name in ("00.png", "01.png"):
        labels = read_labels(output / "labels" / name)
        assert np.array_equal(labels, read_labels(inference / name)), "as in evaluation"
        colours = np.asarray(Image.open(output / "colours" / name).convert("RGB"))
        table = np.array([each["colour"] for each in classes])
        assert np.array_equal(colours, table[labels])


def test_without_pictures_and_with_other_endings(domains, trained, tmp_path):
    cfg = small_config("mic", domains, tmp_path)
    task = task_of(cfg)
    task.register(cfg)
    model, _ = load_model(cfg, str(trained / "model_final.pth"), "teacher")
    options = PredictOptions(tmp_path / "out", pictures=False)
    predictions = task.predictions(cfg, model, options)
    from mic_det.data.inputs import find_inputs

    photo = tmp_path / "a.jpg"
    Image.fromarray(np.full((50, 80, 3), 120, np.uint8)).save(photo)
    (source,) = find_inputs([str(photo)])
    for frame in source.frames("BGR", 1):
        predictions.add(source, frame)
    predictions.write()
    assert read_labels(tmp_path / "out" / "labels" / "a.jpg.png").shape == (50, 80)
    assert not (tmp_path / "out" / "colours").exists()


@pytest.mark.parametrize("folder", ["labels", "colours"])
def test_inputs_are_not_overwritten(folder, domains, trained, tmp_path, monkeypatch):
    picture = tmp_path / "out" / folder / "00.png"
    picture.parent.mkdir(parents=True)
    shutil.copy(domains.parent / "test" / "images" / "00.png", picture)
    before = picture.read_bytes()
    settings = ("--config", trained / "config.yaml", "--weights", trained / "model_final.pth")
    with pytest.raises(DataError, match="would be overwritten"):
        predict(monkeypatch, picture, *settings, "--output", tmp_path / "out")
    assert picture.read_bytes() == before


def test_each_input_has_a_label_map_of_its_own(domains, trained, tmp_path, monkeypatch):
    image = domains.parent / "test" / "images" / "00.png"
    for name in ("a.jpg", "a.jpg.png", "b/a.jpg"):
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(image, tmp_path / "in" / name)
    settings = ("--config", trained / "config.yaml", "--weights", trained / "model_final.pth")
    predict(monkeypatch, tmp_path / "in", *settings, "--output", tmp_path / "out")
    for folder in (tmp_path / "out/labels", tmp_path / "out/colours"):
        names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.png"))
        assert names == ["a.jpg.png", "a.jpg.png.png", "b/a.jpg.png"]


def test_weights_of_another_number_of_classes(domains, trained, tmp_path):
    cfg = small_config("mic", domains, tmp_path, "MODEL.SEM_SEG_HEAD.NUM_CLASSES", 7)
    task_of(cfg).register(cfg)
    with pytest.raises(ConfigError, match=r"trained for 4 classes.*NUM_CLASSES is 7"):
        load_model(cfg, str(trained / "model_final.pth"))


def test_the_report_shows_maps_side_by_side(trained, tmp_path):
    page = tmp_path / "report.html"
    (run,) = find_runs([trained])
    assert run.method == "self-training + MIC"
    write_report([run], page, images=2)
    text = page.read_text()
    assert "Label maps" in text and "mIoU" in text and "IoU" in text
    assert text.count("<figure>") == 2 * 3, "image, run and labels of each"
    assert all(f"</i>{name}</span>" in text for name in ("dark", "red", "green", "blue"))


def test_a_run_without_maps_is_named(trained, tmp_path):
    folder = shutil.copytree(trained, tmp_path / "bare")
    shutil.rmtree(folder / "inference")
    page = tmp_path / "report.html"
    write_report(find_runs([folder]), page)
    assert "no saved label maps" in page.read_text()


def test_amp_keeps_training_finite(domains, tmp_path):
    amp = ("SOLVER.AMP.ENABLED", True, "SOLVER.AMP.DTYPE", "bfloat16", "DATASETS.TEST", "()")
    trainer = build_trainer(
        small_config("hrda_mic", domains, tmp_path, *amp, "SOLVER.MAX_ITER", 1), writers=list
    )
    trainer.train(0, 1)
    assert trainer.guard.skipped == 0
    assert all(torch.isfinite(p).all() for p in trainer.student.parameters())
