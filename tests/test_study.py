"""What the study and the demo make of finished runs."""

from __future__ import annotations

import importlib.util
import json
from dataclasses import replace
from pathlib import Path

import pytest

from mic_det.config import ConfigError
from mic_det.engine.demo import forget

TOOLS = Path(__file__).parents[1] / "tools"


def load(name: str):
    spec = importlib.util.spec_from_file_location(name, TOOLS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def finish(run, student: float, teacher: float, stability: tuple[float, float]) -> None:
    """Write the results that a training process would have left."""
    metrics = {"AP": 1.0, "AP50-car": 7.25}
    (name,) = run.cfg.DATASETS.TEST
    results = {
        which: {name: {**metrics, "AP50": value}, "stability": stable}
        for which, value, stable in zip(
            ("student", "teacher"), (student, teacher), stability, strict=True
        )
    }
    run.folder.mkdir(parents=True)
    (run.folder / "results.json").write_text(json.dumps(results))


def test_runs_of_a_seed_start_from_that_seeds_burn_in(tmp_path):
    study = load("study")
    runs = study.build_runs(
        "streets", study.METHODS, [4, 7], tmp_path, ["INPUT.COLOR_JITTER", "0.1"]
    )
    assert len(runs) == 12
    assert {run.cfg.SEED for run in runs} == {4, 7}
    assert all(run.cfg.INPUT.COLOR_JITTER == 0.1 for run in runs)
    for run in runs:
        method, seed = run.name.rsplit("_", 1)
        if method in ("burn_in", "oracle"):
            assert run.needs is None and run.cfg.MODEL.WEIGHTS == ""
        else:
            assert run.needs.parent == tmp_path / f"burn_in_{seed}"
            assert str(run.needs) == run.cfg.MODEL.WEIGHTS
    by_name = {run.name: run.cfg for run in runs}
    assert by_name["mean_teacher_4"].MODEL.MIC.RATIO == 0.0
    assert by_name["mic_4"].MODEL.MIC.RATIO > 0.0
    # The comparison is fair: all train for as long, and but for the target in the same way.
    burn_in = by_name["burn_in_4"].SOLVER.MAX_ITER
    for method in ("source", "mic", "mean_teacher", "sada"):
        assert (
            burn_in + by_name[f"{method}_4"].SOLVER.MAX_ITER == by_name["oracle_4"].SOLVER.MAX_ITER
        )
        assert by_name[f"{method}_4"].SOLVER == by_name["source_4"].SOLVER


def test_report_without_a_gap_and_of_one_model(tmp_path, capsys):
    study = load("study")
    methods = {name: study.METHODS[name] for name in ("source", "mic", "oracle")}
    only = ["TEST.MODELS", "('student',)"]
    runs = study.build_runs("streets", methods, [1], tmp_path, only)
    for run in runs:
        finish(run, 5.0, 0.0, (1.0, 1.0))
        results = json.loads((run.folder / "results.json").read_text())
        (run.folder / "results.json").write_text(json.dumps({"student": results["student"]}))
    assert study.report(runs, "student")["AP50"]["mic"] == {"student": [5.0]}
    header, *_, last = capsys.readouterr().out.partition("\n\n")[0].splitlines()
    assert "student" in header and "teacher" not in header
    assert last.split() == ["oracle", "5.0", "nan", "%"]


def test_unknown_setting_and_method_are_named():
    study = load("study")
    with pytest.raises(ConfigError, match=r"--setting: there is no .*/street_….yaml"):
        study.chosen_methods("street", None)
    with pytest.raises(ConfigError, match="--methods: 'mik' is none of burn_in, source"):
        study.chosen_methods("streets", ["mik"])


def test_demo_is_fair_and_takes_settings(tmp_path):
    demo = load("demo")
    runs = {run.name: run.cfg.SOLVER for run in demo.demo_runs(tmp_path, [])}
    assert runs["mic"] == runs["source_only"]
    assert runs["burn_in"].MAX_ITER + runs["mic"].MAX_ITER == runs["oracle"].MAX_ITER
    for solver in runs.values():
        # The rate goes down once, and with a sixth of the training left.
        (step,) = solver.STEPS
        assert step / solver.MAX_ITER == pytest.approx(5 / 6, abs=0.01)
    brief = demo.demo_runs(
        tmp_path, ["SOLVER.MAX_ITER", "3", "SOLVER.STEPS", "()", "SOLVER.WARMUP_ITERS", "0"]
    )
    assert {run.max_iter for run in brief} == {3}


def test_report_of_two_seeds(tmp_path, capsys):
    study = load("study")
    methods = {name: study.METHODS[name] for name in ("source", "mic", "oracle")}
    runs = study.build_runs("streets", methods, [1, 2], tmp_path, [])
    scores = iter([(40, 1), (60, 2), (80, 3), (42, 1), (66, 2), (80, 3)])
    for run in runs:
        student, rank = next(scores)
        finish(run, student, student - 1, (10.0 * rank, 10.0 * rank))
    found = study.report(runs, "student")
    assert found["AP50"]["mic"] == {"student": [60, 66], "teacher": [59, 65]}
    lines = capsys.readouterr().out.splitlines()
    # Means 41, 63, 80: (63 - 41) / (80 - 41) = 56 %; deviation of 60 and 66 is 4.2.
    (line,) = [line for line in lines if line.startswith("mic")]
    assert "63.0 ± 4.2" in line and "56 %" in line
    assert found["models_ranked"] == 12 and found["label_free_spearman"] > 0.9


def test_fresh_demo_deletes_what_a_demo_wrote_and_nothing_else(tmp_path):
    runs = load("demo").demo_runs(tmp_path, [])
    for run in runs:
        run.folder.mkdir()
        (run.folder / "model_final.pth").write_text("old")
    for name in ("results.json", "thesis.tex"):
        (tmp_path / name).write_text("old")
    forget(tmp_path, runs)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_demo_summary_has_the_promised_form(tmp_path, capsys):
    demo = load("demo")
    runs = demo.demo_runs(tmp_path, [])
    by_name = {run.name: run for run in runs}
    for name, score in (("source_only", 30.126), ("oracle", 80.0), ("mic", 50.0)):
        finish(by_name[name], score, 0.0, (0.0, 0.0))
    by_name["burn_in"].folder.mkdir()
    for name, seconds in (("burn_in", 100.0), ("source_only", 20.5), ("oracle", 90.0)):
        (by_name[name].folder / "run.json").write_text(json.dumps({"seconds": seconds}))
    pictures = tmp_path / "a.png"
    replace(demo.DEMO, files=lambda folder, runs: {"Picture": pictures}).show(tmp_path, by_name)
    results = json.loads((tmp_path / "results.json").read_text())
    assert list(results) == ["source_only", "mic", "oracle"]
    # What starts from the burn-in took its time too.
    assert results["source_only"] == {
        "AP50": pytest.approx(30.13),
        "per_class": {"car": 7.25},
        "seconds": 120.5,
    }
    assert results["oracle"]["seconds"] == 90.0
    *table, found, picture = capsys.readouterr().out.splitlines()
    rows = [line.split()[0] for line in table if line[:1].isalpha()]
    assert rows[1:] == ["source-only", "MIC", "oracle"]
    assert found == f"Results: {tmp_path / 'results.json'}" and picture == f"Picture: {pictures}"


def test_methods_of_a_setting_are_those_it_has_configs_of():
    study = load("study")
    assert list(study.chosen_methods("streets", None)) == list(study.METHODS)
    assert list(study.chosen_methods("day2dusk", ["mic"])) == ["burn_in", "mic"]
    assert list(study.chosen_methods("cls/digits", ["mic"])) == ["burn_in", "mic"]
    assert "burn_in" not in study.chosen_methods("cls/visda", None)
    with pytest.raises(ConfigError, match=r"'sdat' is none of burn_in, source"):
        study.chosen_methods("streets", ["sdat"])


def test_study_of_classifiers_reads_their_accuracy(tmp_path, capsys):
    study = load("study")
    methods = {name: study.CLASSIFICATION[name] for name in ("source", "mic", "oracle")}
    runs = study.build_runs("cls/digits", methods, [1], tmp_path, [])
    for run, value in zip(runs, (50.0, 65.0, 80.0), strict=True):
        run.folder.mkdir()
        of_model = {"digits_handwritten_test": {"accuracy": value}}
        results = {"student": of_model, "teacher": of_model}
        (run.folder / "results.json").write_text(json.dumps(results))
    found = study.report(runs, "student")
    assert found["accuracy"]["mic"] == {"student": [65.0], "teacher": [65.0]}
    text = capsys.readouterr().out
    assert "accuracy student" in text and "50 %" in text


def test_classification_demo_summary(tmp_path):
    demo = load("demo_classification")
    runs = demo.demo_runs(tmp_path, [])
    assert [run.needs is not None for run in runs] == [False, False, True, True, True, True]
    for number, run in enumerate(runs):
        run.folder.mkdir(parents=True)
        of_model = {"digits_handwritten_test": {"accuracy": 10.0 * number}}
        (run.folder / "results.json").write_text(json.dumps({"student": of_model}))
    results = demo.DEMO.rows({run.name: run for run in runs})
    assert list(results) == list(demo.TITLES)
    assert results["mic"] == {"student": 20.0, "seconds": 0.0}
    rows = [line.split("  ")[0] for line in demo.table(results).splitlines()[4:]]
    assert rows == list(demo.TITLES.values())


def test_segmentation_demo_summary(tmp_path):
    demo = load("demo_segmentation")
    runs = demo.demo_runs(tmp_path, [])
    assert [run.name for run in runs if run.after is runs[0]] == ["mic", "source"]
    for number, run in enumerate(runs):
        run.folder.mkdir(parents=True)
        # A class that no image shows has no IoU.
        metrics = {"mIoU": 10.0 * number, "IoU-road": 90.126, "IoU-train": float("nan")}
        results = {"student": {"streets_sem_foggy_val": metrics}}
        (run.folder / "results.json").write_text(json.dumps(results))
    rows = demo.DEMO.rows({run.name: run for run in runs})
    assert rows["mic"] == {"mIoU": 20.0, "IoU-road": 90.13, "seconds": 0.0}
    titles = [line.split("  ")[0] for line in demo.table(rows).splitlines()[4:]]
    assert titles == list(demo.TITLES.values())
