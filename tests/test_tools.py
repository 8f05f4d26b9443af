"""The command lines, as a user calls them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from cityscapes_tree import draw_cityscapes_tree

from mic_det.report.runs import read_run

REPOSITORY = Path(__file__).parents[1]


def run(*arguments: str, data: Path) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"DETECTRON2_DATASETS": str(data), "PYTHONWARNINGS": "ignore"}
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=REPOSITORY,
        env=environment,
        text=True,
        capture_output=True,
        check=False,
    )


@pytest.fixture(scope="module")
def cityscapes(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("datasets")
    draw_cityscapes_tree(root / "cityscapes")
    done = run("tools/convert_cityscapes.py", data=root)
    assert done.returncode == 0, done.stderr
    return root


def test_missing_cityscapes_ends_in_one_message(tmp_path):
    done = run("tools/train_net.py", "--config", "configs/cs2foggy_mic.yaml", data=tmp_path)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    for words in ("leftImg8bit_trainvaltest.zip", "convert_cityscapes.py", str(tmp_path)):
        assert words in done.stderr


def test_misspelt_key_is_refused_with_the_right_one(tmp_path):
    done = run(
        "tools/train_net.py",
        *("--config-file", "configs/streets_mic.yaml", "MODEL.MIC.RATOI", "0.5"),
        data=tmp_path,
    )
    assert done.returncode == 2
    assert "MODEL.MIC.RATOI (did you mean MODEL.MIC.RATIO?)" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("weights", "says"),
    [
        ("detectron2://ImageNetPretrained/MSRA/R-50.pkl", "would replace those of the run in"),
        ("", "MODEL.WEIGHTS is empty"),
    ],
)
def test_evaluation_does_not_overwrite_a_run_with_what_it_started_from(tmp_path, weights, says):
    (tmp_path / "last_checkpoint").write_text("model_0000099.pth")
    (tmp_path / "results.json").write_text("the run's own")
    done = run(
        "tools/train_net.py",
        *("--config", "configs/cs2foggy_mic.yaml", "--eval-only"),
        *("OUTPUT_DIR", str(tmp_path), "MODEL.WEIGHTS", weights),
        data=tmp_path,
    )
    assert done.returncode == 2
    (message,) = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert says in message and f"MODEL.WEIGHTS {tmp_path}/model_0000099.pth" in message
    assert (tmp_path / "results.json").read_text() == "the run's own"


def test_ctrl_c_says_how_to_go_on(tmp_path):
    told = "from mic_det.cli import run_tool\ndef stop(): raise KeyboardInterrupt\n"
    for call, says in (
        ("run_tool(stop, 'Go on with --resume.')", "Stopped. Go on with --resume."),
        ("run_tool(stop)", "Stopped."),
    ):
        done = run("-c", told + call, data=tmp_path)
        assert done.returncode == 130
        assert done.stderr.split("\n")[1:] == [says, ""]


@pytest.mark.parametrize("method", ["source", "sada", "mic", "oracle"])
def test_cs2foggy_trains_two_iterations_and_evaluates(method, cityscapes, tmp_path):
    small = [
        *("MODEL.WEIGHTS", "", "INPUT.MIN_SIZE_TRAIN", "(64,)", "INPUT.MIN_SIZE_TEST", "64"),
        *("SOLVER.MAX_ITER", "2", "SOLVER.STEPS", "()", "DATALOADER.NUM_WORKERS", "0"),
        *("SOLVER.WARMUP_ITERS", "0"),
        *("TEST.LABEL_FREE_IMAGES", "1", "OUTPUT_DIR", str(tmp_path)),
    ]
    config = f"configs/cs2foggy_{method}.yaml"
    done = run("tools/train_net.py", "--config", config, *small, data=cityscapes)
    assert done.returncode == 0, done.stderr[-2000:]
    results = json.loads((tmp_path / "results.json").read_text())
    metrics = results["student"]["foggy_cityscapes_beta_0.02_val"]
    assert {"AP50", "AP50-person", "AP50-bicycle"} <= metrics.keys()
    again = run(
        "tools/train_net.py",
        *("--config", config, "--eval-only"),
        *small,
        *("MODEL.WEIGHTS", str(tmp_path / "model_final.pth"), "INPUT.COLOR_JITTER", "0.7"),
        data=cityscapes,
    )
    assert again.returncode == 0, again.stderr[-2000:]
    assert json.loads((tmp_path / "results.json").read_text()) == results
    finished = read_run(tmp_path)
    assert (
        finished.setting("INPUT.COLOR_JITTER") != 0.7 == finished.measured["INPUT"]["COLOR_JITTER"]
    )
    assert finished.measured_file == "model_final.pth" and finished.recorded
