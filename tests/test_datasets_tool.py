"""tools/datasets.py as a user calls it, and the checks and sheets behind it."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from small_domain import make_domain, write_coco_file

from mic_det.cli import run_tool
from mic_det.config import load_config
from mic_det.data.catalog import register_domain, unregister_domain
from mic_det.data.check import check_domain
from mic_det.data.check_text import check_text, statistics
from mic_det.data.formats.coco import read_coco
from mic_det.data.formats.converters import CONVERTERS, run_converter
from mic_det.detection.checks import check_classes
from mic_det.detection.contact_sheet import choose, contact_sheet
from mic_det.drawing import PALETTE

pytestmark = pytest.mark.usefixtures("clean_catalogs")

REPOSITORY = Path(__file__).parents[1]
TOOL = REPOSITORY / "tools/datasets.py"
DOMAINS = """
day: {images: images, annotations: xml}
night: {images: images}
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = make_domain(tmp_path / "my data")
    (root / "mine.yaml").write_text(DOMAINS)
    return root


@dataclass
class Done:
    returncode: int
    stdout: str
    stderr: str


@pytest.fixture
def run(capsys, monkeypatch) -> Callable[..., Done]:
    """The tool in this process, which has loaded torch already."""
    spec = importlib.util.spec_from_file_location("datasets_tool", TOOL)
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)

    def call(*arguments: object) -> Done:
        capsys.readouterr()
        monkeypatch.setattr(sys, "argv", ["datasets.py", *map(str, arguments)])
        code = 0
        try:
            run_tool(tool.main)
        except SystemExit as end:
            code = end.code
        output = capsys.readouterr()
        return Done(code, output.out, output.err)

    return call


def test_the_command_line_as_a_process(root):
    done = subprocess.run(
        [sys.executable, "-W", "ignore", TOOL, "check", root / "mine.yaml", "gone"],
        text=True,
        capture_output=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
    )
    assert done.returncode == 1, done.stderr
    assert "Domain 'gone': not registered" in done.stdout and "Traceback" not in done.stderr


def test_check_and_preview_of_a_yaml(run, root, tmp_path):
    done = run("check", root / "mine.yaml")
    assert done.returncode == 0, done.stderr
    for text in (
        "day: 3 images (64x48), 3 in the annotations, 1 of them without a box; 3 boxes",
        "night: 3 images (64x48), no annotations: an unlabelled target",
        "no errors",
    ):
        assert text in done.stdout
    done = run("preview", root / "mine.yaml", "day", "--output", tmp_path / "out", "--width", 128)
    assert done.returncode == 0, done.stderr
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["preview_day.png"]
    with Image.open(tmp_path / "out/preview_day.png") as sheet:
        assert sheet.width == 2 * 128 + 6


def test_check_fails_on_errors_and_says_which(run, root):
    (root / "xml/a.xml").write_text("<annotation>")
    (root / "xml/c d.xml").write_text("")
    (root / "images/sub/b.jpg").write_bytes(b"")
    done = run("check", root / "mine.yaml")
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    for text in ("xml/a.xml: is not well-formed XML", "xml/c d.xml: is not well-formed XML"):
        assert text in done.stdout, "all faults are told at once"
    assert "sub/b.jpg: cannot be read as an image" in done.stdout
    assert "errors: mend them before training." in done.stdout


def test_a_config_is_checked_with_its_classes(run, root):
    (root / "val.json").write_text((root / "boxes.json").read_text().replace("car", "tram"))
    with (root / "mine.yaml").open("a") as file:
        file.write("val: {images: val, annotations: val.json}\n")
    shutil.copytree(root / "images", root / "val")
    trap = "DATASETS:\n  REGISTER: [mine.yaml]\n  TRAIN: [day]\n  TARGET: [night]\n  TEST: [val]\n"
    number = "MODEL:\n  ROI_HEADS:\n    NUM_CLASSES: 2\n"
    base = REPOSITORY / "configs/base/streets.yaml"
    (root / "train.yaml").write_text(f'_BASE_: "{base}"\n{trap}{number}')
    done = run("check", root / "train.yaml")
    assert done.returncode == 1, done.stderr
    assert "'tram' (2 boxes): no class of the model, which has 'car', 'person'" in done.stdout
    unregister_domain("val")
    text = (root / "mine.yaml").read_text()
    (root / "mine.yaml").write_text(text.replace("val.json}", "val.json, aliases: {tram: car}}"))
    done = run("check", root / "train.yaml")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "classes fit: car, person" in done.stdout


def test_images_that_are_trained_and_tested_on_are_named(run, root, caplog):
    """In a config an error, in a file of domains, where roles are not known, a warning."""
    (root / "val").mkdir()
    (root / "val/other.png").symlink_to(root / "images/a.png")
    coco = json.loads((root / "boxes.json").read_text())
    coco["images"] = [coco["images"][0] | {"file_name": "other.png"}]
    coco["annotations"] = [each for each in coco["annotations"] if each["image_id"] == 1]
    (root / "val.json").write_text(json.dumps(coco))
    with (root / "mine.yaml").open("a") as file:
        file.write("val: {images: val, annotations: val.json}\n")
    says = f"day and val share 1 of the 1 labelled images of val, the first is {root}/images/a.png"
    done = run("check", root / "mine.yaml")
    assert done.returncode == 0 and f"warning: {says}" in done.stdout
    roles = "DATASETS:\n  REGISTER: [mine.yaml]\n  TRAIN: [day]\n  TARGET: [night]\n  TEST: [val]\n"
    base = REPOSITORY / "configs/base/streets.yaml"
    classes = "MODEL:\n  ROI_HEADS:\n    NUM_CLASSES: 2\n"
    (root / "train.yaml").write_text(f'_BASE_: "{base}"\n{roles}{classes}')
    done = run("check", root / "train.yaml")
    assert done.returncode == 1 and f"error: DATASETS: {says}" in done.stdout
    check_classes(load_config(root / "train.yaml"))
    assert f"DATASETS.TRAIN, DATASETS.TEST: {says}" in caplog.text
    text = (root / "train.yaml").read_text().replace("TEST: [val]", "TEST: [day]")
    (root / "oracle.yaml").write_text(text)
    done = run("check", root / "oracle.yaml")
    assert done.returncode == 0 and "warning: day is trained on and tested on" in done.stdout


def test_unknown_names_and_files_end_in_a_message(run, tmp_path):
    done = run("check", "no_such_domain", "--quick")
    assert done.returncode == 1 and "'no_such_domain': not registered" in done.stdout
    done = run("stats", tmp_path / "gone.yaml")
    assert done.returncode == 2 and "gone.yaml: no such file of domains" in done.stderr
    assert "Traceback" not in done.stderr


# ---- the parts, in this process --------------------------------------------------------------


def test_figures_of_a_domain(root):
    register_domain("t", root / "images", root / "boxes.json")
    report = check_domain("t")
    assert (report.images, report.labelled_images) == (3, 3)
    assert report.boxes == {"car": 2, "person": 1}
    assert report.images_with == {"car": 2, "person": 1}
    assert report.boxes_per_image == [2, 1, 0]
    assert report.sizes == {(64, 48): 3}
    assert np.allclose(report.sides["car"], [(20 * 24) ** 0.5, (32 * 36) ** 0.5])
    assert not report.errors and not report.warnings
    found = json.loads(json.dumps(statistics(report)))
    assert found["classes"][0]["side_quantiles"]["0.5"] == pytest.approx(27.9)
    assert found["boxes_per_image"] == {"mean": 1.0, "max": 2}
    assert found["images_without_boxes"] == 1
    row = next(line for line in check_text(report).splitlines() if line.lstrip().startswith("car"))
    assert row.split() == ["car", "2", "2", "28", "23..33", "50", "50", "0"]


def test_what_is_strange_but_no_error_is_a_warning(root):
    def change(data: dict) -> None:
        data["images"].pop()
        data["categories"].append({"id": 3, "name": "tram"})

    write_coco_file(root, change)
    register_domain("t", root / "images", root / "boxes.json")
    report = check_domain("t")
    assert not report.errors
    assert any("1 of 3 images are not in the annotations" in text for text in report.warnings)
    assert any("class 'tram' has no box" in text for text in report.warnings)
    register_domain("cars", root / "images", root / "boxes.json", ["car"])
    report = check_domain("cars")
    assert report.left_out == {"person": 1}
    assert "left out, as the domain's classes do not name them: person (1)" in check_text(report)


def test_many_problems_are_counted_and_some_shown(root):
    for number in range(30):
        (root / f"images/x{number}.png").write_bytes(b"")
    register_domain("t", root / "images")
    report = check_domain("t")
    assert len(report.errors) == 30
    text = check_text(report)
    assert "30 errors:" in text and "... and 10 more" in text and "x11.png" in text
    assert "no errors" not in text
    assert not check_domain("t", decode=False).errors


def test_labels_of_a_target_are_not_read_for_it(root, opened):
    register_domain("t", root / "images", root / "boxes.json")
    opened.clear()
    assert not check_domain("t", labels=False).labelled
    assert not [path for path in opened if path.endswith("boxes.json")]


def test_sheet_shows_boxes_in_their_colours_where_they_are(root):
    names = ["car", "person"]
    image = str(root / "images/a.png")
    box = {"bbox": [4, 6, 20, 24], "category_id": 1}
    sheet = contact_sheet([{"file_name": image, "annotations": [box]}], names, width=128)
    picture = sheet[26:]  # below the title
    edge = np.all(picture[: 2 * 48] == PALETTE[1], axis=2)
    rows, columns = np.nonzero(edge)
    assert abs(rows.min() - 12) <= 1 and abs(rows.max() - 60) <= 1
    assert abs(columns.min() - 8) <= 1 and abs(columns.max() - 48) <= 1
    legend = picture[2 * 48 :]
    assert np.all(legend == PALETTE[0], axis=2).any() and np.all(legend == PALETTE[1], axis=2).any()


def test_sheet_of_images_of_different_sizes_without_labels(root):
    Image.new("RGB", (30, 90)).save(root / "images/tall.png")
    files = [str(path) for path in sorted((root / "images").glob("*.png"))]
    sheet = contact_sheet([{"file_name": name} for name in files], [], width=60)
    assert sheet.shape == (2 * (180 + 26) + 6, 2 * 60 + 6, 3)
    many = [f"class {k}" for k in range(15)]
    record = {"file_name": files[0], "annotations": [{"bbox": [1, 1, 9, 9], "category_id": 12}]}
    assert contact_sheet([record], many, width=200).shape[1] == 200


def test_choice_of_images_is_spread_and_prefers_boxes():
    records = [{"n": n, "annotations": [1] if n % 2 else []} for n in range(100)]
    assert [r["n"] for r in choose(records, 5)] == [1, 21, 41, 61, 81]
    assert [r["n"] for r in choose(records[::2], 2)] == [0, 50]
    assert len(choose(records[:3], 9)) == 1


@pytest.mark.parametrize(("name", "folder"), [("voc", "xml"), ("yolo", "txt")])
def test_converters_write_what_registering_the_folder_reads(root, tmp_path, capsys, name, folder):
    output = tmp_path / "out.json"
    places = ["--images", root / "images", "--labels", root / folder, "--output", output]
    run_converter(name, [str(each) for each in places])
    assert "3 images, 1 of them without a box" in capsys.readouterr().out
    register_domain("folder", root / "images", root / folder)
    register_domain("file", root / "images", output)
    assert check_domain("folder").boxes == check_domain("file").boxes == {"car": 2, "person": 1}
    run_converter(name, [str(each) for each in (*places, "--classes", "person")])
    assert [c["name"] for c in read_coco(output)["categories"]] == ["person"]


def test_every_converter_has_a_command_line(run):
    done = run("convert", "--help")
    assert done.returncode == 0
    assert {"voc", "yolo", "cityscapes"} <= CONVERTERS.keys()
    for name, converter in CONVERTERS.items():
        assert name in done.stdout and converter.title in done.stdout


def test_output_that_cannot_be_written_is_named(run, root, tmp_path):
    (tmp_path / "file").touch()
    done = run(
        *("convert", "yolo", "--images", root / "images", "--labels", root / "txt"),
        *("--output", tmp_path / "file/out.json"),
    )
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert "out.json" in done.stderr or str(tmp_path / "file") in done.stderr
