"""The study of all hosts: which runs it makes, its table and figure; configs of SPCL and DiGA."""

from __future__ import annotations

import importlib.util
import json
import xml.etree.ElementTree as ET
from functools import reduce
from pathlib import Path

import pytest

from mic_det.config import ConfigError, load_config
from mic_det.report.pairs import Pair, pairs_figure

REPOSITORY = Path(__file__).parents[1]
SHIPPED = sorted(
    path
    for path in (REPOSITORY / "configs/seg").glob("*.yaml")
    if path.stem.split("_")[1] in ("spcl", "diga")
)


@pytest.fixture(scope="module")
def study():
    spec = importlib.util.spec_from_file_location(
        "study_hosts", REPOSITORY / "tools/study_hosts.py"
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_configs_of_each_setting_are_there():
    settings = {path.stem.split("_")[0] for path in SHIPPED}
    assert settings == {"gta2cs", "synthia2cs", "synthia2cs13", "day2dusk", "streets"}
    assert len(SHIPPED) == 4 * len(settings)


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_config(path):
    cfg = load_config(path)
    setting, host = path.stem.split("_")[:2]
    assert host == cfg.MODEL.SEG.HOST
    assert path.stem.endswith("_mic") == cfg.MODEL.MIC.ENABLED
    assert f"output/seg/{path.stem}" == cfg.OUTPUT_DIR
    assert load_config(path.with_name(f"{setting}_adversarial.yaml")).DATASETS == cfg.DATASETS
    if host == "spcl":
        assert 0 < cfg.MODEL.SEG.SPCL.SELF_TRAINING_FROM < cfg.SOLVER.MAX_ITER
        assert f"output/seg/{setting}_adversarial/model_final.pth" == cfg.MODEL.WEIGHTS
    else:
        assert 0 < cfg.MODEL.SEG.DIGA.WARMUP_ITERS < cfg.SOLVER.MAX_ITER
        burn_in = f"output/seg/{setting}_burn_in/model_final.pth"
        small = setting in ("streets", "day2dusk")
        assert (burn_in if small else "") == cfg.MODEL.WEIGHTS


PAPER = {"SOLVER.BASE_LR": 2.5e-4, "SOLVER.POWER": 0.9, "MODEL.SEG.INIT_IMAGES": 0}
SPCL = {
    "SOLVER.MOMENTUM": 0.9,
    "SOLVER.IMS_PER_BATCH": 4,
    "SOLVER.TARGET_IMS_PER_BATCH": 0,  # as many
    "SOLVER.MAX_ITER": 80_000,
    "MODEL.SEG.SPCL.SELF_TRAINING_FROM": 40_000,
    "MODEL.SEG.SPCL.KEEP": 0.1,
    "MODEL.SEG.SPCL.TEMPERATURE": 100.0,
    "MODEL.SEG.SPCL.CEILING": 0.9,
    "MODEL.SEG.SPCL.SOURCE_WEIGHT": 1.0,
    "MODEL.SEG.SPCL.TARGET_WEIGHT": 1.0,
}
FROZEN = {"MODEL.TEACHER.ALPHA": 1.0, "MODEL.TEACHER.WARMUP": False}
FOLLOWS = {"MODEL.TEACHER.ALPHA": 0.999, "MODEL.TEACHER.WARMUP": True}
RENEWED = {"MODEL.SEG.SPCL.RENEW_LABELLER": True, "MODEL.SEG.SPCL.THRESHOLD_PERIOD": 0}
DIGA = {
    "MODEL.SEG.DIGA.WARMUP_DISTILLATION": 0.5,
    "MODEL.SEG.DIGA.DISTILLATION": 0.25,
    "MODEL.SEG.DIGA.BACKWARD_SHARE": 0.5,
    "MODEL.SEG.DIGA.WARMUP_COLOUR": 0.4,
    "MODEL.SEG.DIGA.COLOUR": 0.3,
    "MODEL.SEG.DIGA.CENTROID_KEEP": 1 - 1e-4,
}


@pytest.mark.parametrize("setting", ["gta2cs", "synthia2cs", "synthia2cs13"])
@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("spcl", SPCL | FROZEN | RENEWED),
        ("spcl_mic", SPCL | FOLLOWS | {"MODEL.SEG.SPCL.RENEW_LABELLER": False}),
        ("diga", DIGA | FOLLOWS),
        ("diga_mic", DIGA | FOLLOWS),
    ],
)
def test_benchmarks_have_the_papers_settings(setting, name, expected):
    cfg = load_config(REPOSITORY / f"configs/seg/{setting}_{name}.yaml")
    expected = PAPER | expected | {"MODEL.RESNETS.DEPTH": 101, "MODEL.SEG.DECODER": "deeplab_v2"}
    found = {key: reduce(getattr, key.split("."), cfg) for key in expected}
    assert found == expected


def test_runs(study, tmp_path):
    runs = study.build_runs("streets", list(study.ROWS), [4, 7], 600, tmp_path)
    names = [run.name for run in runs]
    assert len(names) == len(set(names)) == 2 * (2 + 6 * 2 + 2)
    by_name = {run.name: run for run in runs}
    spcl = by_name["spcl+mic_7"]
    assert spcl.needs == tmp_path / "warmup_7/model_final.pth"
    assert str(spcl.needs) == spcl.cfg.MODEL.WEIGHTS
    assert spcl.after is by_name["warmup_7"] and spcl.after.after is by_name["burn_in_7"]
    assert spcl.cfg.MODEL.MIC.ENABLED and spcl.cfg.SEED == 7
    assert tuple(spcl.cfg.TEST.MODELS) == ("student",)
    assert not by_name["spcl_7"].cfg.MODEL.MIC.ENABLED
    assert by_name["warmup_7"].cfg.MODEL.SEG.HOST == "adversarial"
    assert by_name["warmup_7"].max_iter + spcl.max_iter == 600
    assert by_name["diga_warmup_4"].cfg.MODEL.SEG.DIGA.WARMUP_ITERS == 600
    assert by_name["diga+mic_4"].cfg.MODEL.SEG.DIGA.WARMUP_ITERS == 300
    assert by_name["burn_in_7"].needs is None
    starts = {
        run.name: run.needs
        for run in runs
        if not run.name.startswith(("burn_in", "spcl", "oracle"))
    }
    assert {str(each.relative_to(tmp_path)) for name, each in starts.items() if "_7" in name} == {
        "burn_in_7/model_final.pth"
    }
    others = [
        run for run in runs if not run.name.startswith(("spcl", "warmup", "burn_in", "oracle"))
    ]
    assert {run.max_iter for run in others} == {600}
    oracle = by_name["oracle_4"]
    assert oracle.needs is None
    assert oracle.max_iter == by_name["burn_in_4"].max_iter + 600


@pytest.mark.parametrize(
    ("name", "row", "mic"),
    [
        ("self_training_1", "self_training", 0.0),
        ("diga_warmup_12", "diga_warmup", 0.0),
        ("warmup_1", "warmup", 0.0),
        ("self_training+mic_2", "self_training", 1.1),
        ("diga+mic_3", "diga", 0.5),
        ("burn_in_1", None, 0.0),
        ("oracle_1", None, 0.0),
        ("source+mic_1", None, 1.6),
    ],
)
def test_time_left_counts_each_row_by_its_cost(study, name, row, mic):
    assert study.cost(name) == pytest.approx(study.COSTS.get(row, 1.0) + mic)


@pytest.mark.parametrize("total", [8, 9, 601])
def test_spcl_and_its_warmup_have_the_total_together(study, total):
    parts = {}
    for row in ("spcl", "warmup"):
        settings = study.split_iterations(row, total)
        parts[row] = dict(zip(settings[::2], map(int, settings[1::2]), strict=True))
    assert sum(each["SOLVER.MAX_ITER"] for each in parts.values()) == total
    second = parts["spcl"]["MODEL.SEG.SPCL.SELF_TRAINING_FROM"]
    assert 0 < second < parts["spcl"]["SOLVER.MAX_ITER"]


def test_table_by_hand(study, tmp_path):
    runs = study.build_runs("streets", ["source", "spcl", "diga_warmup"], [1, 2], 600, tmp_path)
    values = {
        "source_1": 10.0,
        "source_2": 12.0,
        "source+mic_1": 11.0,
        "source+mic_2": 17.0,
        "spcl_1": 30.0,
        "spcl_2": 30.0,
        "spcl+mic_1": 29.0,
        "spcl+mic_2": 28.0,
        "diga_warmup_1": 20.0,
        "diga_warmup_2": 21.0,
    }
    for run in runs:
        run.folder.mkdir()
        results = {}
        if run.name in values:
            (name,) = run.cfg.DATASETS.TEST
            results = {
                "student": {name: {"mIoU": values[run.name]}},
                "teacher": {name: {"mIoU": 1.0}},
            }
        (run.folder / "results.json").write_text(json.dumps(results))
    found = study.collect(runs, "student")
    assert found["spcl+mic"] == [29.0, 28.0] and "warmup" not in found
    lines = [line.split() for line in study.table(found).splitlines()]
    assert ["source-only", "11.0", "±", "1.4", "14.0", "±", "4.2", "+3.0", "±", "2.8"] in lines
    assert ["SPCL", "30.0", "±", "0.0", "28.5", "±", "0.7", "-1.5", "±", "0.7"] in lines
    assert ["DiGA,", "warm-up", "alone", "20.5", "±", "0.7"] in lines
    texts = [each.text for each in ET.fromstring(study.figure(found)).iter() if each.text]
    assert "+3.0" in texts and "-1.5" in texts and "SPCL" in texts


def test_figure_places_values_in_order():
    svg = pairs_figure(
        [Pair("a <b>", [10.0, 12.0], [20.0]), Pair("c", [15.0], [])], "x", ("o", "w")
    )
    root = ET.fromstring(svg)
    ends = [
        (float(each.get("cx")), each[0].text)
        for each in root.iter("{http://www.w3.org/2000/svg}circle")
        if len(each)
    ]
    assert [text for _, text in sorted(ends)] == ["11.0", "15.0", "20.0"]


def test_a_setting_that_is_not_there(study):
    with pytest.raises(ConfigError, match=r"choose from .*day2dusk.*streets"):
        study.existing_rows("mars", ["source"])
    assert study.existing_rows("day2dusk", ["source", "oracle"]) == ["source"]


def test_what_is_rounded_to_nothing_has_no_minus(study):
    assert study.spread([-0.04]) == "0.0"
    assert study.spread([-0.04], "+") == "+0.0"
    assert study.spread([1.0, 2.0], "+") == "+1.5 ± 0.7"
    assert study.spread([-1.0, -2.0], "+") == "-1.5 ± 0.7"
