"""The report compares what is comparable: as many iterations, the same start and settings."""

from __future__ import annotations

import html
import json
import shutil
from pathlib import Path

import pytest
from run_folders import make_run
from small_runs import config
from tiny_streets import FOGGY

from mic_det.config import load_config
from mic_det.data.formats.coco import DataError
from mic_det.engine.record import write_record
from mic_det.report import find_runs
from mic_det.report.page import headline, render
from mic_det.report.runs import FINAL

CONFIGS = Path(__file__).parents[1] / "configs"
MIC = ("MODEL.MIC.ENABLED", "True")


def add(
    root: Path, name: str, *overrides: str, iterations: int = 6, start: str = "burn_in"
) -> Path:
    """A run of this name in ``root``, from the final model of ``start`` if there is one."""
    if start:
        overrides = ("MODEL.WEIGHTS", str(root / start / "model_final.pth"), *overrides)
    cfg = config(root / name, *overrides, iterations=iterations)
    return make_run(cfg, noise=0.2, rows=1)


@pytest.fixture(scope="module")
def recipe(tmp_path_factory) -> Path:
    """The three runs of the README: 4 iterations, then 6 more without and with MIC."""
    root = tmp_path_factory.mktemp("recipe")
    add(root, "burn_in", iterations=4, start="")
    add(root, "source")
    add(root, "mic", *MIC)
    return root


@pytest.fixture
def study(recipe, tmp_path) -> Path:
    """A copy whose runs start from each other in it, to be changed."""
    for run in recipe.iterdir():
        shutil.copytree(run, tmp_path / run.name)
        for file in (tmp_path / run.name).glob("*.yaml"):
            file.write_text(file.read_text().replace(str(recipe), str(tmp_path)))
    return tmp_path


def page_of(*paths: Path) -> tuple[str, str]:
    """The sentence at the top, and the whole page, as read."""
    runs = find_runs(paths)
    return headline(runs, FOGGY), html.unescape(render(runs, images=0))


def test_mic_is_not_credited_with_the_training_after_its_burn_in(recipe):
    lead, page = page_of(recipe / "burn_in", recipe / "mic")
    assert "against source-only" not in lead and "not comparable with source-only" in lead
    assert (
        "MIC (mic) is not compared with source-only (burn_in): 10 iterations in all against 4; "
        "it started from its weights." in page
    )
    assert 'class="best"' not in page


def test_runs_of_one_length_from_one_start_are_compared(recipe):
    lead, page = page_of(recipe)
    assert "against source-only" in lead
    assert "MIC (mic) against source-only (source), each after 10 iterations in all: " in page
    assert "is not compared" not in page and 'class="best"' in page
    cells = "".join(f"<td>{cell}</td>" for cell in (4, 6, 10))
    origin = f"source-only: burn_in: {recipe}/burn_in/model_final.pth</td>"
    assert page.count(origin + cells) == 2


@pytest.mark.parametrize(
    ("overrides", "why"),
    [
        (("SOLVER.BASE_LR", "0.1"), "they differ in SOLVER.BASE_LR."),
        (("DATASETS.TARGET", "('elsewhere',)"), "they differ in DATASETS.TARGET."),
        (("MODEL.WEIGHTS", "detectron2://R-50.pkl"), "10 iterations in all against 6; "),
        (("SOLVER.MAX_ITER", "7"), "10 iterations in all against 11."),
        (("MODEL.MIC.RATIO", "0.9", "SEED", "5", "VIS_PERIOD", "3", "OUTPUT_DIR", "x"), ""),
    ],
)
def test_what_else_differs_is_said(study, overrides, why):
    _, page = page_of(study)
    assert "is not compared" not in page
    run = study / "source"
    for name, of_file in (("run_config", ()), ("results_config", ("MODEL.WEIGHTS", FINAL))):
        settings = load_config(run / "run_config.yaml", [*overrides, *of_file]).dump()
        (run / f"{name}.yaml").write_text(settings)
    lead, page = page_of(study / "source", study / "mic")
    assert ("against source-only" in lead) == (not why)
    assert (f"MIC (mic) is not compared with source-only (source): {why}" in page) == bool(why)


def test_evaluation_alone_changes_no_setting_of_the_run(study):
    """``--eval-only`` leaves its own config.yaml, and says what it measured, and how."""
    run = study / "mic"
    other = ["MODEL.MIC.RATIO", "0.1", "INPUT.MIN_SIZE_TEST", "96"]
    cfg = load_config(run / "run_config.yaml", other)
    (run / "config.yaml").write_text(cfg.dump())
    lead, page = page_of(study)
    assert "against source-only" in lead and "<td>0.1</td>" not in page
    measured = load_config(run / "results_config.yaml", other)
    (run / "results_config.yaml").write_text(measured.dump())
    _, page = page_of(study)
    assert "with source-only (source): they differ in INPUT.MIN_SIZE_TEST." in page
    measured = load_config(run / "results_config.yaml", ["MODEL.WEIGHTS", "model_0000002.pth"])
    (run / "results_config.yaml").write_text(measured.dump())
    _, page = page_of(study)
    assert "with source-only (source): 7 iterations in all against 10; " in page
    assert "its results are of model_0000002.pth, not of the end of training." in page


def test_a_start_that_was_trained_anew_is_another(study):
    for name, digest in (("source", "a" * 64), ("mic", "b" * 64)):
        starts = [{"directory": "/", "weights": digest}]
        (study / name / "run_record.json").write_text(json.dumps({"starts": starts}))
    _, page = page_of(study)
    assert "with source-only (source): they started from other weights." in page


def test_a_length_that_cannot_be_known_is_no_length(study):
    shutil.rmtree(study / "burn_in")
    lead, page = page_of(study)  # from the same unknown start, as far as each other
    assert "against source-only" in lead and "each after the same length" in page
    (study / "source/run_config.yaml").unlink()
    _, page = page_of(study)
    assert f"the iterations of {study}/source are not known" in page


def test_oracle_of_another_length_is_no_bound(study):
    oracle = ("DATASETS.TRAIN", f"('{FOGGY}',)")
    make_run(config(study / "oracle", *oracle, iterations=10), noise=0.01, rows=1)
    lead, _ = page_of(study)
    assert "of the way to the oracle" in lead
    cfg = load_config(study / "oracle/run_config.yaml", ["SOLVER.MAX_ITER", "50"])
    (study / "oracle/run_config.yaml").write_text(cfg.dump())
    lead, page = page_of(study)
    assert "oracle" not in lead
    assert "is not compared with oracle (oracle): 10 iterations in all against 50." in page


def test_a_run_that_failed_is_named(study):
    failed = study / "failed"
    failed.mkdir()
    shutil.copy(study / "mic/config.yaml", failed)
    (failed / "log.txt").write_text("error: no such file")
    lead, page = page_of(study)
    assert "against source-only" in lead
    assert f"{failed}: it has no results.json: not finished, or never evaluated." in page
    assert "0 of 6, no results" in page


def test_a_config_that_cannot_be_read_among_other_tasks(study):
    (study / "mic/run_config.yaml").write_text("a: [")
    settings = study / "source/run_config.yaml"
    settings.write_text(settings.read_text().replace("TASK: detection", "TASK: segmentation"))
    with pytest.raises(DataError, match=f"{study}/mic/run_config.yaml: cannot be read"):
        find_runs([study])


@pytest.mark.parametrize("name", ["streets", "carla2camvid", "day2dusk", "cs2foggy", "cls/visda"])
def test_configs_of_this_repository_are_comparable(name):
    from mic_det.report.comparison import differing_settings
    from mic_det.report.runs import read_settings

    source, mic = (
        read_settings(load_config(CONFIGS / f"{name}_{method}.yaml").dump())
        for method in ("source", "mic")
    )
    assert source != mic and differing_settings(source, mic) == set()


def test_results_of_an_earlier_training_do_not_outlive_it(study):
    cfg = load_config(study / "mic/run_config.yaml", ["SOLVER.MAX_ITER", "900"])
    write_record(cfg, seed=1)
    lead, page = page_of(study)
    assert "MIC" not in lead
    assert f"{study}/mic: it has no results.json" in page and "of 900, no results" in page
