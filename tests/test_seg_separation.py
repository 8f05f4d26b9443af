"""The class centre distance before and after a run of SPCL: measured, kept, and reported."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from tiny_label_maps import CLASSES, TARGET, block_config

from mic_det.engine import build_trainer
from mic_det.report import find_runs
from mic_det.report.page import render
from mic_det.segmentation.inspection import class_separation
from mic_det.segmentation.preparation import labelled_pass
from mic_det.segmentation.separation import FILE, read_distances

pytestmark = pytest.mark.usefixtures("clean_catalogs")


def spcl_config(folder: Path, *overrides: str):
    return block_config(folder, "MODEL.SEG.HOST", "spcl", *overrides)


def train(cfg, iterations: int | None = None, *, resume: bool = False):
    trainer = build_trainer(cfg, resume=resume, writers=list)
    trainer.train(trainer.start_iter, iterations or cfg.SOLVER.MAX_ITER)
    # What tools/train_net.py leaves besides.
    folder = Path(cfg.OUTPUT_DIR)
    (folder / "config.yaml").write_text(cfg.dump())
    (folder / "results.json").write_text(json.dumps(trainer.last_results))
    return trainer


def plain(cfg, network: torch.nn.Module, student: torch.nn.Module) -> dict[str, float]:
    """By the function, on the whole test set."""
    data = labelled_pass(cfg, (TARGET,), student)
    by_class, mean = class_separation(network.eval(), data)
    return {"mean": mean, "classes": dict(zip(CLASSES, by_class, strict=True))}


def test_a_run_measures_both_ends(tmp_path, caplog):
    cfg = spcl_config(tmp_path / "run")
    trainer = build_trainer(cfg, writers=list)
    before = plain(cfg, trainer.student.network, trainer.student)
    trainer.student.train()
    with caplog.at_level("INFO"):
        trainer.train(0, cfg.SOLVER.MAX_ITER)
    assert trainer.student.training
    found = json.loads((tmp_path / "run" / FILE).read_text())
    assert found == {
        "before": {TARGET: before},
        "after": {TARGET: plain(cfg, trainer.student.network, trainer.student)},
    }
    assert found["before"] != found["after"]
    ends = [found[when][TARGET]["mean"] for when in ("before", "after")]
    assert "{}: {:.3f} before, {:.3f} after".format(TARGET, *ends) in caplog.text


def test_training_is_the_same_without_it(tmp_path):
    weights = [
        train(
            spcl_config(tmp_path / switch, "MODEL.SEG.SPCL.CLASS_DISTANCE", switch)
        ).student.state_dict()
        for switch in ("True", "False")
    ]
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())
    assert (tmp_path / "True" / FILE).is_file()
    assert not (tmp_path / "False" / FILE).exists()


def test_a_resumed_run_keeps_what_was_before(tmp_path):
    cfg = spcl_config(tmp_path / "run", "SOLVER.CHECKPOINT_PERIOD", "2")
    train(cfg, 2)
    begun = read_distances(tmp_path / "run")
    train(cfg, resume=True)
    found = read_distances(tmp_path / "run")
    assert found["before"] == begun["before"]
    assert found["after"] != begun.get("after", begun["before"])


def test_a_class_that_does_not_occur_is_no_number(tmp_path, monkeypatch):
    # Sky alone: there is no other class to be far from.
    def sky(cfg, names, student):
        for images, labels in labelled_pass(cfg, names, student):
            yield images, torch.where(labels == 2, labels, 255)

    monkeypatch.setattr("mic_det.segmentation.separation.labelled_pass", sky)
    train(spcl_config(tmp_path / "run", "SOLVER.MAX_ITER", "1"))
    text = (tmp_path / "run" / FILE).read_text()
    assert "NaN" not in text
    assert json.loads(text)["after"][TARGET]["mean"] is None
    assert "<td>–</td>" in render(find_runs([tmp_path]))


def test_the_report_shows_it_before_and_after(tmp_path):
    train(spcl_config(tmp_path / "spcl", "SOLVER.MAX_ITER", "1"))
    train(block_config(tmp_path / "source", "SOLVER.MAX_ITER", "1"))
    page = render(find_runs([tmp_path]))
    section = re.search(r"<h2>Class centre distance</h2>(.*?)</section>", page, re.DOTALL)[1]
    found = read_distances(tmp_path / "spcl")
    rows = re.findall(r"<tr><th>(.*?)</th><td>(before|after)</td>(.*?)</tr>", section)
    assert [row[1] for row in rows] == ["before", "after"]
    for _, when, cells in rows:
        values = [found[when][TARGET]["mean"], *found[when][TARGET]["classes"].values()]
        assert re.findall(r"<td>(.*?)</td>", cells) == [f"{value:.3f}" for value in values]
    (tmp_path / "spcl" / FILE).unlink()
    assert "Class centre distance" not in render(find_runs([tmp_path]))
