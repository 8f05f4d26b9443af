"""Segmentation in two processes on the CPU, with gloo, against one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import seg_distributed_runs
import torch
from seg_domains import TESTS, write_domains

from mic_det.engine.launch import launch


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> tuple[Path, Path]:
    """Folders of what one process and what two have done."""
    domains = write_domains(tmp_path_factory.mktemp("domains"))
    one, two = tmp_path_factory.mktemp("one"), tmp_path_factory.mktemp("two")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.setenv("PYTHONPATH", str(Path(__file__).parent), prepend=":")
        launch(seg_distributed_runs.scenarios, 2, args=(domains, two))
    seg_distributed_runs.train("source", domains, one / "same", seg_distributed_runs.SAME)
    weights = two / "same" / "model_final.pth"
    seg_distributed_runs.evaluate(domains, one / "evaluation", weights)
    return one, two


def load(folder: Path, scenario: str, rank: int = 0) -> dict:
    return torch.load(folder / scenario / f"rank{rank}.pth", weights_only=True)


def test_masked_consistency_equals_that_of_one_process(runs):
    """Source and masked losses are means over as many pixels in each process."""
    one, two = (load(folder, "same") for folder in runs)
    for kind in ("student", "teacher"):
        for name, tensor in one[kind].items():
            torch.testing.assert_close(
                two[kind][name], tensor, rtol=1e-4, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}"
            )


@pytest.mark.parametrize("method", ["hrda_mic", "adversarial"])
def test_all_processes_have_the_same_weights(runs, method):
    """Crops and mixes are each process's own; no parameter is left out of a step."""
    first, second = (load(runs[1], method, rank) for rank in (0, 1))
    assert first["skipped"] == second["skipped"] == 0
    for kind in ("student", "teacher"):
        for name, tensor in first[kind].items():
            if "running_" in name or "num_batches" in name:
                continue  # BatchNorm's statistics are of each process's images
            assert torch.isfinite(tensor).all()
            assert torch.equal(tensor, second[kind][name]), name


def test_metrics_and_label_maps_are_those_of_one_process(runs):
    found = [json.loads((each / "evaluation" / "metrics.json").read_text()) for each in runs]
    assert found[0] == found[1] and found[0]["test"]["mIoU"] > 0
    maps = [sorted((each / "evaluation/maps/test/labels").iterdir()) for each in runs]
    assert len(maps[0]) == TESTS
    assert [each.read_bytes() for each in maps[0]] == [each.read_bytes() for each in maps[1]]
