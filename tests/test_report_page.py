"""The report page: real run folders in, one HTML file out."""

from __future__ import annotations

import html
import importlib.util
import json
import re
import shutil
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
from run_folders import make_run
from small_runs import config, train
from tiny_streets import FOGGY

from mic_det.cli import run_tool
from mic_det.data.formats.coco import DataError
from mic_det.report import find_runs
from mic_det.report.page import headline, render
from mic_det.report.runs import read_run
from mic_det.report.svg import HEIGHT, Line, chart, moving_average, ticks
from mic_det.report.tables import text_of

REPOSITORY = Path(__file__).parents[1]
MIC = ("MODEL.MIC.ENABLED", "True")
VOID = {"meta", "input", "br", "img", "link"}


class Page(HTMLParser):
    """Checks that tags close in order; keeps attributes, and the text of each section."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.sections: dict[str, str] = {}
        self.title = ""
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.attributes += [(tag, name, value or "") for name, value in attributes]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.attributes += [(tag, name, value or "") for name, value in attributes]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] == "h2":
            self.title = data
            self.sections[data] = ""
        elif self.title:
            self.sections[self.title] += data + " "


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Source-only, MIC with two seeds, and an oracle."""
    root = tmp_path_factory.mktemp("study")
    make_run(config(root / "source_1", "SEED", "1"), noise=0.2)
    scalars = ("health/pseudo_boxes_per_image", "health/domain_accuracy_image/p2")
    for seed in (1, 2):
        cfg = config(root / f"mic_{seed}", *MIC, "SEED", str(seed))
        make_run(cfg, noise=0.12, scalars=scalars, seed=seed)
    oracle = config(root / "oracle_1", "SEED", "1", "DATASETS.TRAIN", f"('{FOGGY}',)")
    make_run(oracle, noise=0.03)
    return root


def test_whole_page(folder):
    page = Page(render(find_runs([folder]), images=3))
    assert list(page.sections) == [
        "Results",
        "Detections side by side",
        "Precision and recall",
        "Confusions",
        "Starts and lengths",
        "Health of the adaptation",
        "Learning curves",
        "Settings and versions",
    ]
    links = [(tag, value) for tag, name, value in page.attributes if name in ("src", "href")]
    assert all(value.startswith(("data:image/jpeg;base64,", "#")) for _, value in links), links
    pictures = [value for tag, value in links if tag == "image"]
    assert len(pictures) == len(set(pictures)) == 3, "each picture once"
    uses = [value for tag, value in links if tag == "use"]
    assert len(uses) == 3 * 4  # source-only, MIC, oracle, labels
    identifiers = [value for _, name, value in page.attributes if name == "id"]
    assert len(identifiers) == len(set(identifiers))
    assert {value[1:] for _, value in links if value.startswith("#")} <= set(identifiers)
    assert ("meta", "name", "viewport") in page.attributes
    for label in ("source-only", "MIC", "oracle"):
        assert label in page.sections["Results"]
    assert "Pseudo boxes an image" in page.sections["Health of the adaptation"]
    assert "MODEL.MIC.ENABLED" in page.sections["Settings and versions"]


def test_results_are_means_over_seeds(folder):
    runs = find_runs([folder])
    assert [run.name for run in runs] == ["source_1", "mic_1", "mic_2", "oracle_1"]
    assert [run.label for run in runs] == ["source-only", "MIC", "MIC", "oracle"]
    scores = [run.metrics(FOGGY)["AP50"] for run in runs]
    expected = text_of(scores[1:3])
    assert " ± " in expected
    assert expected in render(runs, images=0)
    mean = sum(scores[1:3]) / 2
    share = 100 * (mean - scores[0]) / (scores[3] - scores[0])
    text = headline(runs, FOGGY)
    assert f"MIC reaches {mean:.1f} mAP50" in text
    assert f"{mean - scores[0]:+.1f} against source-only" in text
    assert f"{share:.0f} % of the way to the oracle" in text


def test_only_seeds_are_averaged(folder, tmp_path):
    """Runs of one name in two folders, or with other settings, are told apart."""
    for place in ("a", "b"):
        shutil.copytree(folder / "source_1", tmp_path / place / "source_1")
        shutil.copytree(folder / "mic_1", tmp_path / place / "mic_1")
        shutil.copytree(folder / "mic_2", tmp_path / place / "mic_2")
    file = tmp_path / "b/mic_2/run_config.yaml"
    file.write_text(file.read_text().replace("RATIO: 0.5", "RATIO: 0.6"))
    shutil.copytree(tmp_path / "b/mic_1", tmp_path / "mine")
    labels = {str(run.folder.relative_to(tmp_path)): run.label for run in find_runs([tmp_path])}
    assert labels == {
        "a/source_1": "source-only: a/source",
        "b/source_1": "source-only: b/source",
        "a/mic_1": "MIC: a/mic",
        "a/mic_2": "MIC: a/mic",
        "b/mic_1": f"MIC: {tmp_path}/b/mic_1",
        "b/mic_2": f"MIC: {tmp_path}/b/mic_2",
        "mine": "MIC: mine",
    }


def test_boxes_of_the_examples_carry_what_the_slider_needs(folder):
    runs = [run for run in find_runs([folder]) if run.name == "source_1"]
    page = Page(render(runs, images=6))
    kinds = [v.split()[1] for _, name, v in page.attributes if name == "class" and "box " in v]
    assert {"right", "false", "missed", "truth"} == set(kinds)
    scores = [float(v) for _, name, v in page.attributes if name == "data-score"]
    assert len(scores) == kinds.count("right") + kinds.count("false")
    assert kinds.count("missed") == kinds.count("truth")  # hidden until the slider says so
    untils = sorted(float(v) for _, name, v in page.attributes if name == "data-until")
    right = [
        float(values["data-score"])
        for values in _boxes(page)
        if values["class"].split()[1] == "right"
    ]
    assert [v for v in untils if v >= 0.05] == sorted(right)


def _boxes(page: Page) -> list[dict[str, str]]:
    boxes: list[dict[str, str]] = []
    for tag, name, value in page.attributes:
        if tag == "g" and name == "class":
            boxes.append({})
        if tag == "g":
            boxes[-1][name] = value
    return boxes


def copy_of(folder: Path, to: Path, name: str = "source_1") -> Path:
    shutil.copytree(folder / name, to / name)
    return to / name


def test_without_detections_the_page_says_so(folder, tmp_path):
    run = copy_of(folder, tmp_path)
    shutil.rmtree(run / "inference")
    page = Page(render(find_runs([run])))
    assert "no saved detections of its student" in page.sections["Detections"]
    assert "--evaluate" in page.sections["Detections"]
    assert "Learning curves" in page.sections


def test_images_that_are_gone_are_told(folder, tmp_path):
    run = copy_of(folder, tmp_path)
    file = run / "inference/student" / FOGGY / "test_set.json"
    described = json.loads(file.read_text()) | {"images": str(tmp_path / "moved")}
    file.write_text(json.dumps(described))
    page = Page(render(find_runs([run])))
    assert f"not at {tmp_path / 'moved'} any more" in page.sections["Detections side by side"]
    assert "All classes" in page.sections["Precision and recall"]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("results.json", None, "it has no results.json"),
        ("results.json", '{"student": ', "results.json cannot be read"),
        ("metrics.json", None, "it has no metrics.json"),
        ("results.json", "", "results.json cannot be read: it is empty"),
        ("results.json", '{"student": {}}', "nothing was evaluated"),
        (
            "results.json",
            '{"student": {"a": {"AP50": "high"}}}',
            "not all results on a are numbers",
        ),
        ("results.json", '{"student": 5}', "not a mapping of models"),
        ("run_record.json", '{"starts": 5}', "Starts and lengths"),
        ("run_config.yaml", None, "it has no run_config.yaml"),
        ("run_config.yaml", "a: [", "config.yaml cannot be read"),
        ("run_config.yaml", "just text", "config.yaml cannot be read: not a mapping"),
        ("results_config.yaml", "a: [", "results_config.yaml cannot be read"),
        ("inference/student/{0}/coco_instances_results.json", "[", "cannot be used"),
        ("inference/student/{0}/test_set.json", "[", "labels cannot be read"),
    ],
)
def test_broken_files_are_told_and_the_rest_shown(folder, tmp_path, name, text, message):
    run = copy_of(folder, tmp_path)
    file = run / name.format(FOGGY)
    file.unlink() if text is None else file.write_text(text)
    text = render(find_runs([run]))
    page = Page(text)
    assert message in html.unescape(text)
    assert "Settings and versions" in page.sections


def test_cut_metrics_and_old_settings(folder, tmp_path):
    run = copy_of(folder, tmp_path)
    with (run / "metrics.json").open("a") as file:
        file.write('{"iteration": 10, "total_loss": NaN}\n{"iteration": 619, "total_lo')
    (run / "run_config.yaml").write_text(
        "MODEL: {OLD_KEY: 1, MIC: {ENABLED: true}}\nDATASETS:\n  TRAIN: !!python/tuple [a, b]\n"
    )
    found = read_run(run)
    assert len(found.curve("total_loss")) == 30
    assert found.curve("total_loss")[0] == (20, 2.0)
    assert found.method == "MIC" and found.setting("DATASETS.TRAIN") == ["a", "b"]
    assert "OLD_KEY" in render([found])


LOG = """[09/01 12:00:00] detectron2 INFO: Environment info:
-------------  -----------------
Python         3.9.1 (main)
PyTorch        2.0.0 @/somewhere
[09/01 12:00:01] d2.engine.hooks INFO: Total training time: 0:01:00 (0:00:01 on hooks)
[09/02 12:00:00] detectron2 INFO: Environment info:
-------------  -----------------
Python         3.11.7 (main)
PyTorch        2.15.0+cu132 @/somewhere
GPU 0,1        NVIDIA H200 (arch=9.0)
\x1b[32m[09/02 12:00:01] d2.engine.hooks INFO: \x1b[0mTotal training time: 1 day, 2:03:04 (x)
"""


def test_versions_and_time_are_those_of_the_last_start(folder, tmp_path):
    run = copy_of(folder, tmp_path)
    (run / "log.txt").write_text(LOG)
    found = read_run(run)
    assert found.versions == {"Python": "3.11.7", "PyTorch": "2.15.0+cu132"} | {
        "GPU": "NVIDIA H200 (arch=9.0)"
    }
    assert found.duration == "1 day, 2:03:04"
    starts = [{"git": "old", "installation": {}}, {"git": "abc", "installation": {"torch": "3"}}]
    (run / "run_record.json").write_text(json.dumps({"starts": starts}))
    assert read_run(run).versions == {"git": "abc", "torch": "3"}
    assert "abc" in Page(render([found, read_run(run)])).sections["Settings and versions"]


def test_hostile_names_are_text(folder, tmp_path):
    run = copy_of(folder, tmp_path)
    evil = "<script>alert(1)</script>"
    for file in (run / "run_config.yaml", run / "results.json"):
        file.write_text(file.read_text().replace(FOGGY, evil))
    text = render(find_runs([run]))
    assert evil not in text and "&lt;script&gt;" in text


def test_methods_are_told_from_settings(tmp_path):
    cases = {
        "source-only": (),
        "SADA": ("MODEL.SADA.ENABLED", "True"),
        "MIC": MIC,
        "mean teacher": (*MIC, "MODEL.MIC.RATIO", "0.0"),
        "SADA + MIC": (*MIC, "MODEL.SADA.ENABLED", "True"),
        "oracle": ("DATASETS.TRAIN", f"('{FOGGY}',)"),
    }
    for method, overrides in cases.items():
        run = tmp_path / method
        run.mkdir()
        (run / "run_config.yaml").write_text(config(run, *overrides).dump())
        (run / "metrics.json").write_text("")
    runs = find_runs([tmp_path])
    assert {run.name: run.method for run in runs} == {method: method for method in cases}


def test_no_runs_at_all(tmp_path):
    for path in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(DataError, match=re.escape(str(path))):
            find_runs([path])


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0, 1, [0, 0.25, 0.5, 0.75, 1]),
        (0, 1200, [0, 500, 1000]),
        (0.42, 0.58, [0.45, 0.5, 0.55]),
        (-3, 3, [-2, 0, 2]),
    ],
)
def test_ticks(low, high, expected):
    assert ticks(low, high) == pytest.approx(expected)


def test_chart_places_points():
    svg = chart([Line([(0, 0.0), (50, 1.0), (100, 0.5)], 2, "a < b")], "x", (0, 1), (0, 100))
    path = re.search(r'class="line s2" d="M([^"]+)"', svg)[1]
    points = [tuple(map(float, each.split())) for each in path.split("L")]
    assert points == [(44.0, HEIGHT - 38.0), (195.0, 10.0), (346.0, (HEIGHT - 38 + 10) / 2)]
    assert "a &lt; b" in svg


def test_moving_average_keeps_constants_and_ends():
    flat = [(k, 3.0) for k in range(40)]
    assert moving_average(flat) == flat
    steps = moving_average([(k, float(k)) for k in range(40)])
    assert steps[0][1] == 1.0 and steps[20][1] == 20.0


def load_tool():
    spec = importlib.util.spec_from_file_location("report", REPOSITORY / "tools/report.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_tool_evaluates_a_run_that_kept_no_detections(tmp_path, monkeypatch, capsys):
    tool = load_tool()
    run = tmp_path / "run"
    train(config(run, "DATASETS.TEST", "()", iterations=1))
    (run / "config.yaml").write_text(config(run).dump())
    (run / "metrics.json").write_text("")
    out = tmp_path / "deep/report.html"
    arguments = [str(run), "--output", str(out), "--images", "2"]
    monkeypatch.setattr(sys, "argv", ["report.py", *arguments, "--evaluate"])
    tool.main()
    assert "Detections side by side" in Page(out.read_text()).sections
    assert json.loads((run / "results.json").read_text())["student"][FOGGY]["AP50"] >= 0.0
    (run / "model_final.pth").unlink()
    shutil.rmtree(run / "inference")
    tool.main()
    assert "model_final.pth: no such file" in capsys.readouterr().out


def test_tool_on_a_folder_without_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["report.py", str(tmp_path)])
    with pytest.raises(SystemExit) as end:
        run_tool(load_tool().main)
    assert end.value.code == 2
    assert f"{tmp_path}: no run in it" in capsys.readouterr().err
