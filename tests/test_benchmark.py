"""The benchmark's arithmetic, and that what it times is what the plain path computes."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from mic_det.benchmark import CASES, SEGMENTATION_CASES, measure_case
from mic_det.benchmark.cases import LIGHT, Case
from mic_det.benchmark.detection import parts_of_floor
from mic_det.benchmark.measure import faster_arrangements, interleave, stopwatch
from mic_det.benchmark.memory import memory_ratio
from mic_det.benchmark.workload import PlainDetector, adaptation, step_of

ROOT = Path(__file__).parents[1]
SMALL = Case("small", "streets_mic.yaml", 64, 96, 2, 2)


def test_the_faster_arrangement_counts_and_equal_batches_are_measured_once():
    times = {
        "T_sup(s), batched": [3.0, 1.0, 2.0],
        "T_sup(s), one by one": [4.0, 4.0, 4.0],
        "T_feat(t), batched": [0.9, 0.9, 0.9],
        "T_feat(t), one by one": [0.5, 0.6, 0.7],
        "T_inf(t), batched": [0.1, 0.1, 0.1],
        "mic": [5.0, 5.0, 5.0],
    }
    floor, arrangement = faster_arrangements(times, parts_of_floor(SMALL))
    assert floor == {"T_sup(s)": 2.0, "T_sup(t)": 2.0, "T_feat(t)": 0.6, "T_inf(t)": 0.1}
    assert arrangement["T_feat(t)"] == "one by one"
    assert arrangement["T_sup(s)"] == arrangement["T_sup(t)"] == "batched"


def test_works_take_turns_and_warm_up_is_not_counted():
    order = []
    works = {name: lambda name=name: order.append(name) for name in "ab"}
    times = interleave(works, repeats=2, warmup=1, device="cpu")
    assert order == ["a", "b"] * 3
    assert {name: len(values) for name, values in times.items()} == {"a": 2, "b": 2}


def test_stopwatch_adds_up_and_puts_things_back():
    class Thing:
        def work(self):
            return 7

    thing, seconds = Thing(), {}
    with stopwatch([(thing, "work", "part")], seconds, "cpu"):
        assert thing.work() == thing.work() == 7
        first = seconds["part"]
        assert thing.work() == 7 and seconds["part"] > first
    assert "work" not in vars(thing) and thing.work() == 7


def test_memory_is_measured_in_other_processes():
    """More images take more memory; the process that asks is not measured."""
    ballast = torch.ones(100_000_000)
    small, large = (memory_ratio(replace(SMALL, source=n, target=n))[1] for n in (1, 4))
    assert small["weights"] == large["weights"] > 1_000_000
    for work in ("step", "supervised"):
        assert small["weights"] < small[work] < large[work]
    assert small["step"] < 4 * len(ballast)


def test_memory_of_a_case_that_fails_says_why():
    with pytest.raises(RuntimeError, match=r"no such config file"):
        memory_ratio(replace(SMALL, config="none.yaml"))


def test_what_is_timed_is_detectron2s_own_step():
    """One by one or at once: the same images, and a step that changes all weights."""
    plain = PlainDetector(SMALL)
    before = [p.detach().clone() for p in plain.model.parameters()]
    plain.supervised(2, batched=True)()
    same = [torch.equal(a, b) for a, b in zip(before, plain.model.parameters(), strict=True)]
    assert all(same), "the benchmark's learning rate is 0"
    assert all(p.grad.abs().sum() > 0 for p in plain.model.parameters() if p.requires_grad)
    plain.supervised(2, batched=False)()
    plain.inference(2, batched=False)()
    assert plain.model.training
    plain.features(2, batched=True)()
    assert all(p.grad is None for p in plain.model.parameters())


def test_the_timed_step_has_all_its_losses():
    trainer = adaptation(SMALL)
    seen = {}
    forward = trainer.student.forward
    trainer.student.forward = lambda *args: seen.setdefault("losses", forward(*args))
    step_of(trainer)()
    assert {"loss_cls", "loss_box_reg", "loss_rpn_cls", "loss_rpn_loc"} < set(seen["losses"])
    assert sum(name.startswith("loss_da_") for name in seen["losses"]) == 3
    assert sum(name.startswith("loss_mic_") for name in seen["losses"]) == 2
    assert trainer.iter == 1
    without = adaptation(replace(SMALL, pseudo_boxes=0))
    forward = without.student.forward
    without.student.forward = lambda *args: seen.__setitem__("no", forward(*args)) or seen["no"]
    step_of(without)()
    assert not any(name.startswith("loss_mic_") for name in seen["no"])


def test_a_case_is_measured_in_full():
    found = measure_case(replace(SMALL, heads=LIGHT), repeats=2, warmup=1)
    assert found.overhead == pytest.approx(found.mic_seconds / found.floor_seconds)
    assert found.floor_seconds == pytest.approx(sum(found.floor.values()))
    assert found.memory_ratio > 0.3
    assert {"sada_to_mic", "source_to_mic"} < set(found.ratios)
    assert found.inference_ratio > 0
    needed = {"teacher", "backward", "optimizer", "EMA", "student: features", "other"}
    assert needed < set(found.parts)
    assert all(value > 0 for name, value in found.parts.items() if name != "other")


def test_all_cases_have_a_valid_config():
    assert len({case.name for case in CASES}) == len(CASES)
    for case in CASES:
        if case.device == "cpu":
            assert case.cfg().MODEL.SADA.ENABLED and case.cfg().MODEL.MIC.ENABLED


def test_command_line_names_the_cases():
    command = [sys.executable, str(ROOT / "tools" / "benchmark.py"), "--list"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.split() == [case.name for case in (*CASES, *SEGMENTATION_CASES)]
