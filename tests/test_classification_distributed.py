"""A classifier in two processes on the CPU, with gloo, against one, and resumed."""

from __future__ import annotations

from pathlib import Path

import classifier_runs
import pytest
import torch
from class_trees import make_tree

from mic_det.engine.launch import launch


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> tuple[Path, Path]:
    """Folders of what one process and what two have done."""
    data = tmp_path_factory.mktemp("data")
    make_tree(data / "shapes", 6, seed=1)
    make_tree(data / "pale", 5, seed=2, level=70)
    domains = data / "domains.yaml"
    domains.write_text(
        "shapes2: {images: shapes, class_folders: true}\n"
        "pale2: {images: pale, class_folders: true}\n"
    )
    one, two = tmp_path_factory.mktemp("one"), tmp_path_factory.mktemp("two")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        launch(classifier_runs.scenarios, 2, args=(two, domains))
        hooks = [classifier_runs.FixedNormalisation()]
        settings = classifier_runs.ADDITIVE
        classifier_runs.train(one / "additive", domains, *settings, hooks=hooks)
    return one, two


def load(folder: Path, scenario: str, rank: int = 0) -> dict:
    return torch.load(folder / scenario / f"rank{rank}.pth", weights_only=True)


def test_two_processes_are_one_with_twice_the_batch(runs):
    """SAM's climb and descent, CDAN, the masked loss and the teacher."""
    one, two = (load(folder, "additive") for folder in runs)
    assert one["gradients"].keys() == two["gradients"].keys()
    for name, gradient in one["gradients"].items():
        torch.testing.assert_close(two["gradients"][name], gradient, rtol=1e-3, atol=1e-6)
        assert gradient.abs().sum() > 0, name
    for kind in ("student", "teacher"):
        for name, tensor in one[kind].items():
            torch.testing.assert_close(two[kind][name], tensor, rtol=1e-3, atol=1e-5)


def test_students_and_teachers_are_the_same_in_all_processes(runs):
    """The running statistics too, which each gathers of its own images."""
    first, second = (load(runs[1], "straight", rank) for rank in (0, 1))
    for kind in ("student", "teacher"):
        for name, tensor in first[kind].items():
            assert torch.equal(tensor, second[kind][name]), f"{kind} {name}"
    assert first["student"]["bottleneck.1.running_var"].ne(1).any()


def test_two_processes_are_resumed_to_the_bit(runs):
    for rank in (0, 1):
        straight, resumed = (load(runs[1], name, rank) for name in ("straight", "resumed"))
        assert straight["start"] == 0 and resumed["start"] == 2
        for kind in ("student", "teacher"):
            for name, tensor in straight[kind].items():
                assert torch.equal(tensor, resumed[kind][name]), f"{kind} {name}"
