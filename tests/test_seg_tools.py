"""tools/datasets.py on domains with label images, and what it is made of."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image
from seg_trees import draw_synthia
from small_scenes import CLASSES, COLOURS, ids_of, in_colours, make_scenes

from mic_det.cli import run_tool
from mic_det.data.catalog import unregister_domain
from mic_det.data.errors import DataError
from mic_det.data.segmentation import label_loader, labelled_seg_dicts, register_segmentation
from mic_det.data.segmentation.builtin import segmentation_entries
from mic_det.data.segmentation.check import check_segmentation_domain
from mic_det.data.segmentation.check_text import check_text, statistics, stats_text
from mic_det.data.segmentation.convert import convert_labels
from mic_det.data.segmentation.sheet import label_sheet

pytestmark = pytest.mark.usefixtures("clean_catalogs")

TOOL = Path(__file__).parents[1] / "tools/datasets.py"
DOMAINS = """
day: {images: images, labels: labels, classes: [road, car, person]}
night: {images: images}
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = make_scenes(tmp_path / "my data")
    (root / "domains.yaml").write_text(DOMAINS)
    return root


@pytest.fixture
def run(capsys, monkeypatch, root: Path) -> Callable[..., tuple[int, str]]:
    """The tool in this process and in ``root``: exit status and output."""
    spec = importlib.util.spec_from_file_location("datasets_tool", TOOL)
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    monkeypatch.chdir(root)

    def call(*arguments: str) -> tuple[int, str]:
        for name in ("day", "night"):  # as in a new process
            unregister_domain(name)
        capsys.readouterr()
        monkeypatch.setattr(sys, "argv", ["datasets.py", *arguments])
        code = 0
        try:
            run_tool(tool.main)
        except SystemExit as end:
            code = end.code or 0
        output = capsys.readouterr()
        assert "Traceback" not in output.err
        return code, output.out

    return call


def test_the_tool_as_a_user_calls_it(root: Path, run):
    code, text = run("check", "domains.yaml")
    assert code == 0
    assert "day: 3 images (48x32), 3 with labels" in text
    assert "night: 3 images (48x32), no annotations: an unlabelled target" in text
    code, text = run("stats", "domains.yaml", "--json")
    assert [each["images"] for each in json.loads(text)] == [3, 3]
    Image.fromarray(in_colours(ids_of("a.png"))).save(root / "labels/a.png")
    code, text = run("check", "domains.yaml", "day")
    assert code == 1 and "is a colour image (RGB)" in text


def test_a_config_for_boxes_is_told_that_these_are_label_images(root: Path, run):
    (root / "run.yaml").write_text(
        "DATASETS: {REGISTER: [domains.yaml], TRAIN: [day], TARGET: [night], TEST: [day]}\n"
    )
    code, text = run("check", "run.yaml")
    assert "day: 3 images" in text and "night: 3 images" in text
    assert code == 1
    assert "'day': has label images, not boxes" in text and "MODEL.TASK segmentation" in text


def test_sheets_and_copies_as_a_user_calls_for_them(root: Path, run):
    code, _ = run("preview", "domains.yaml", "--output", "sheets", "--width", "96")
    assert code == 0
    assert {path.name for path in (root / "sheets").iterdir()} == {
        "preview_day.png", "preview_night.png",
    }  # fmt: skip
    code, text = run("convert", "labels", "day", "--register", "domains.yaml", "--output", "plain")
    assert code == 0
    assert "3 label images" in text and "classes: [road, car, person]" in text
    np.testing.assert_array_equal(np.asarray(Image.open(root / "plain/a.png")), ids_of("a.png"))


def register(root: Path, **told: object) -> None:
    unregister_domain("day")
    register_segmentation("day", **{
        "images": root / "images", "labels": root / "labels", "classes": CLASSES, **told,
    })  # fmt: skip


def test_what_is_strange_is_a_warning(root: Path):
    label_map = {0: "road", 1: "car", 2: "person", 77: "train", 255: "ignore"}
    register(root, label_map=label_map, classes=None)
    (root / "labels/sub/b.png").unlink()
    Image.fromarray(ids_of("c d.png") * 0 + 255).save(root / "labels/c d.png")
    (root / "labels/old.png").write_bytes((root / "labels/a.png").read_bytes())
    report = check_segmentation_domain("day")
    assert not report.errors
    text = check_text(report)
    for part in (
        "3 images (48x32), 2 with labels",
        "class 'train' never occurs",
        "1 of 3 images have no label image",
        "1 label images belong to no image",
        "1 label images have no pixel of any class",
        "4 warnings",
        "no errors",
    ):
        assert part in text
    register(root, pattern="*.png")  # a part of the images: other labels are no surprise
    assert "belong to no image" not in check_text(check_segmentation_domain("day"))


def test_a_quick_check_finds_sizes_and_values_but_decodes_no_image(root: Path):
    register(root)
    image = root / "images/a.png"
    image.write_bytes(image.read_bytes()[:-40])
    assert not check_segmentation_domain("day", decode=False).errors
    assert "cannot be read" in check_segmentation_domain("day").errors[0]
    Image.new("L", (5, 5)).save(root / "labels/a.png")
    assert "is 5x5" in check_segmentation_domain("day", decode=False).errors[0]


def test_figures(root: Path):
    register(root, classes=CLASSES[:2], label_map=dict(enumerate((*CLASSES,))) | {255: "ignore"})
    report = check_segmentation_domain("day")
    figures = json.loads(json.dumps(statistics(report)))
    assert figures["classes"][1] == {"name": "car", "pixels": 720, "images": 2}
    assert figures["ignored_pixels"] == 3 * 4 * 48 + 48  # person is left out
    assert figures["left_out"] == ["person"] and figures["image_sizes"] == [[48, 32, 3]]
    text = stats_text(report)
    assert "48x32: 3 images" in text and "do not name them: person" in text
    assert f"{100 * 720 / (720 + 3 * 28 * 48 - 48 - 720):.2f}" in text


def test_the_sheet_shows_images_beside_their_labels(root: Path):
    register(root)
    sheet = label_sheet("day", count=2, width=96)
    assert sheet.dtype == np.uint8 and sheet.shape[1] == 2 * 96  # a pair in a row
    assert sheet.shape[0] > 2 * (64 + 26)
    # The first pair: below its title the image, and beside it a mixture of it and the same colours.
    y, x = 26 + 2 * 20, 2 * 10
    assert sheet[y, x].tolist() == list(COLOURS[1])
    np.testing.assert_allclose(sheet[y, 96 + x].astype(int), COLOURS[1], atol=2)
    assert sheet[26 + 2, 96 + 20].tolist() == [0, 0, 0]  # ignored
    wide = label_sheet("day", count=16, width=96)
    assert wide.shape[1] > sheet.shape[1]  # three of them


# ---- plain copies -------------------------------------------------------------------------------


def test_copies_are_read_without_a_map(root: Path, tmp_path: Path):
    draw_synthia(tmp_path / "synthia")
    entry = next(e for e in segmentation_entries(tmp_path) if "16cls" in str(e["name"]))
    register_segmentation(**entry)
    name = entry["name"]
    written = convert_labels(name, tmp_path / "plain")
    assert [path.name for path in written] == ["0000000.png", "0000001.png"]
    assert Image.open(written[0]).mode == "P"
    colour = np.asarray(Image.open(written[0]).convert("RGB"))[0, 0]
    assert colour.tolist() == [128, 64, 128]  # road in Cityscapes' colour
    register_segmentation("plain", entry["images"], tmp_path / "plain", entry["classes"])
    for record, path in zip(labelled_seg_dicts(name), written, strict=True):
        np.testing.assert_array_equal(
            label_loader("plain")(path), label_loader(name)(record["sem_seg_file_name"])
        )


def test_copies_never_replace_the_originals(root: Path):
    register(root)
    before = (root / "labels/a.png").read_bytes()
    for folder in ("labels", "images"):
        with pytest.raises(DataError, match="is a file of the domain"):
            convert_labels("day", root / folder)
    assert (root / "labels/a.png").read_bytes() == before


def test_broken_label_images_are_listed_and_the_others_written(root: Path, tmp_path: Path):
    register(root)
    cv2.imwrite(str(root / "labels/a.png"), np.full((32, 48), 9, np.uint8))
    with pytest.raises(DataError, match=r"a\.png: 1536 pixels.*value 9"):
        convert_labels("day", tmp_path / "plain")
    assert sorted(path.name for path in (tmp_path / "plain").rglob("*.png")) == ["b.png", "c d.png"]
