"""Looks at features and pseudo labels of trained models; the tools around them."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest
import torch
from tiny_label_maps import block_config, register_blocks, write_settings
from tiny_segmentor import CLASSES, frozen_copy, images, labels, tiny_network

from mic_det.config import ConfigError
from mic_det.engine import build_trainer
from mic_det.segmentation.distances import ClassCentreDistance
from mic_det.segmentation.hosts.source_only import SourceOnly
from mic_det.segmentation.inspection import class_separation, pseudo_label_quality
from mic_det.segmentation.preparation import told
from mic_det.segmentation.pseudo_labels import PixelLabels
from mic_det.segmentation.translate import build_translator
from mic_det.segmentation.translate.fit import fit_translator
from mic_det.segmentation.translate.learnt import LearntTranslator

TOOLS = Path(__file__).parents[1] / "tools"
pytestmark = pytest.mark.usefixtures("clean_catalogs")


def call(monkeypatch, name: str, *arguments: str) -> None:
    """Run a tool in this process, where the blocks are registered."""
    spec = importlib.util.spec_from_file_location(name, TOOLS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(sys, "argv", [f"{name}.py", *arguments])
    module.main()


class Half(SourceOnly):
    """Labels the left half by the true labels that it was told."""

    def __init__(self, truth):
        super().__init__()
        self.truth = truth

    def pseudo_label(self, teacher, target):
        found = self.truth.clone()
        found[:, :, 4:] = 255
        weight = torch.ones(found.shape)
        weight[:, :2] = 0.0
        return PixelLabels(found, weight)


def test_quality_counts_what_is_labelled_and_trusted():
    network, pictures = frozen_copy(tiny_network()), images(1)
    truth = torch.randint(0, CLASSES, (1, 8, 8))
    told = truth.clone()
    told[0, 4, 0] = (told[0, 4, 0] + 1) % CLASSES
    truth[0, 5, 0] = 255
    found = pseudo_label_quality(Half(told), network, [(pictures, truth)])
    assert found.kept == pytest.approx(24 / 64)  # 6 rows of 4
    assert found.accuracy == pytest.approx(22 / 23)
    plain = network(pictures).argmax(1)
    assert found.unfiltered == pytest.approx(
        float((plain == truth).sum() / (truth != 255).sum()), abs=1e-6
    )


def test_long_passes_are_told_of(caplog):
    with caplog.at_level("INFO"):
        assert list(told(iter("abc"), "source", seconds=0.0)) == ["a", "b", "c"]
    assert "3 images of source so far" in caplog.text
    caplog.clear()
    assert list(told(iter("abc"), "source")) == ["a", "b", "c"]
    assert not caplog.records


def test_separation_is_that_of_the_encoders_features():
    network, data = frozen_copy(tiny_network()), [(images(2), labels(2)) for _ in range(2)]
    meter = ClassCentreDistance(CLASSES, 4)
    for pictures, truth in data:
        meter.add(network.encode(pictures)[-1], truth)
    assert class_separation(network, data) == meter.result()


def test_translator_learns_from_batches_of_either_order():
    light = torch.tensor([200.0, 150.0, 100.0]).view(3, 1, 1) + 20 * torch.rand(3, 12, 12)
    dark = 0.3 * light
    reached = {}
    for channels in ("RGB", "BGR"):
        torch.manual_seed(1)
        flip = (lambda x: x) if channels == "RGB" else (lambda x: x.flip(0))
        batch = ([{"image": flip(light)}], [{"image": flip(dark)}] * 2)
        model, told = LearntTranslator(4), []
        fit_translator(
            model, iter([batch] * 6), channels=channels, iterations=6, every=4, say=told.append
        )
        reached[channels] = model(light[None] / 255, dark[None] / 255)
        assert [text.split(":")[0] for text in told] == ["iteration 4/6", "iteration 6/6"]
    assert torch.equal(reached["RGB"], reached["BGR"])


def test_tool_trains_a_translator_that_diga_takes(tmp_path, monkeypatch, capsys):
    register_blocks()
    config, path = write_settings(tmp_path / "run"), tmp_path / "translators" / "blocks.pth"
    given = ("--config", str(config), "--output", str(path), "--iterations", "3", "--width", "4")
    call(monkeypatch, "train_translator", *given)
    assert "iteration 3/3" in capsys.readouterr().out
    assert build_translator("learnt", weights=str(path)).width == 4
    settings = ("MODEL.SEG.DIGA.TRANSLATOR", "learnt")
    settings += ("MODEL.SEG.DIGA.TRANSLATOR_WEIGHTS", str(path), "DATASETS.TEST", "()")
    cfg = block_config(
        tmp_path / "diga", "MODEL.SEG.HOST", "diga", "SOLVER.MAX_ITER", "1", *settings
    )
    trainer = build_trainer(cfg, writers=list)
    trainer.train(0, 1)
    assert not [name for name in trainer.student.state_dict() if "translator" in name]
    with pytest.raises(ConfigError, match="with a target"):
        call(monkeypatch, "train_translator", *given, "--", "DATASETS.TARGET", "()")


def test_tool_shows_before_and_after(tmp_path, monkeypatch, capsys):
    cfg = block_config(tmp_path / "run", "MODEL.SEG.HOST", "spcl", "DATASETS.TEST", "()")
    trainer = build_trainer(cfg, writers=list)
    trainer.train(0, 2)
    weights = str(tmp_path / "run" / "model_final.pth")
    config = str(write_settings(tmp_path / "run"))
    given = ("--weights", weights, weights, "--", "MODEL.SEG.HOST", "spcl")
    call(monkeypatch, "inspect_host", "--config", config, *given)
    shown = capsys.readouterr().out.splitlines()
    rows = [line for line in shown if line.startswith(weights)]
    assert len(rows) == 2 and rows[0] == rows[1]
    numbers = [float(each) for each in rows[0].split()[1:]]
    assert len(numbers) == 4 and numbers[0] > 0
    assert all(0 <= each <= 100 for each in numbers[1:])
    assert any(line.startswith("ground") for line in shown)
    with pytest.raises(ConfigError, match=r"DATASETS\.TEST names no labelled data"):
        call(monkeypatch, "inspect_host", "--config", config, *given, "DATASETS.TEST", "()")
