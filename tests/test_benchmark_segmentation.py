"""The benchmark of segmentation: what it times is the plain arithmetic, and all of the step."""

import importlib.util
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from mic_det.benchmark import SEGMENTATION_CASES, SegmentationCase, measure_case, segmentation
from mic_det.benchmark.measure import faster_arrangements
from mic_det.benchmark.memory import in_child
from mic_det.benchmark.segmentation import FLOOR, floor_works, student_spots
from mic_det.benchmark.segmentation_workload import (
    WITHOUT_HRDA,
    PlainSegmentor,
    segmentation_step,
)
from mic_det.benchmark.workload import step_of
from mic_det.errors import UserError

ROOT = Path(__file__).parents[1]
PLAIN = SegmentationCase("plain", "streets_mic.yaml", 32, 64)
CROPS = (
    *("MODEL.SEG.HRDA.DETAIL_CROP", "(32, 64)"),
    *("MODEL.SEG.HRDA.CONTEXT_WINDOW", "(64, 128)"),
)
HRDA = SegmentationCase("hrda", "streets_hrda_mic.yaml", 64, 128, 2, 1, overrides=CROPS)


def batch(case, plain):
    each = case.images(case.source, plain.network.num_classes, seed=1)
    return [torch.stack([one[key] for one in each]) for key in ("image", "sem_seg")]


def test_the_mixed_and_the_masked_images_count_for_themselves():
    times = {
        "T_sup(s), batched": [3.0, 1.0, 2.0],
        "T_sup(s), one by one": [4.0, 4.0, 4.0],
        "T_grad(t), batched": [0.9, 0.9, 0.9],
        "T_grad(t), one by one": [0.5, 0.6, 0.7],
        "T_inf(t), batched": [0.1, 0.1, 0.1],
    }
    floor, arrangement = faster_arrangements(times, FLOOR)
    assert list(floor.values()) == [2.0, 0.6, 0.6, 0.1]
    assert arrangement["T_grad(mixed)"] == arrangement["T_grad(masked)"] == "one by one"


@pytest.mark.parametrize("batched", [True, False])
def test_what_is_timed_is_plain_cross_entropy(batched):
    plain = PlainSegmentor(PLAIN)
    before = [each.detach().clone() for each in plain.network.parameters()]
    plain.supervised(2, batched)()
    after = plain.network.parameters()
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True)), "learning rate 0"
    found = [each.grad.clone() for each in plain.network.parameters()]
    plain.network.zero_grad()
    images, labels = batch(PLAIN, plain)
    reduction = "mean" if batched else "sum"
    loss = F.cross_entropy(plain.network(images), labels, reduction=reduction)
    (loss if batched else loss / labels[0].numel()).backward()
    for one, each in zip(found, plain.network.parameters(), strict=True):
        assert torch.allclose(one, each.grad, atol=1e-5) and each.grad.any()


def test_without_an_update_the_optimizer_does_nothing():
    plain = PlainSegmentor(PLAIN)
    plain.supervised(1, True, update=False)()
    assert not plain.optimizer.state and plain.network.training
    plain.inference(2, True)()
    assert plain.network.training
    plain.supervised(1, True)()
    assert plain.optimizer.state


def test_the_timed_step_is_the_floors_passes_and_no_more():
    """Three passes of the student and one of the teacher; the source loss is the plain one."""
    trainer, plain = segmentation_step(PLAIN), PlainSegmentor(PLAIN)
    passes, seen = [], {}
    for name, each in (("student", trainer.student), ("teacher", trainer.teacher.model)):
        each.network.encoder.register_forward_hook(lambda *_, name=name: passes.append(name))
    forward = trainer.student.forward
    trainer.student.forward = lambda *args: seen.setdefault("losses", forward(*args))
    step_of(trainer)()
    assert set(seen["losses"]) == {"loss_source", "loss_mixed", "loss_mic"}
    assert passes == ["teacher", "student", "student", "student"]
    images, labels = batch(PLAIN, plain)
    expected = F.cross_entropy(plain.network(images), labels)
    torch.testing.assert_close(seen["losses"]["loss_source"], expected)
    assert trainer.iter == 1


def test_hrda_and_full_resolution_train_on_the_same_images():
    sizes = []
    for overrides in ((), WITHOUT_HRDA):
        plain = PlainSegmentor(HRDA, *overrides)
        plain.network.encoder.register_forward_hook(
            lambda _, inputs, __: sizes.append(tuple(inputs[0].shape))
        )
        plain.supervised(2, True)()
    # The context at half resolution and the detail crop; the complete images.
    assert sizes == [(2, 3, 32, 64), (2, 3, 32, 64), (2, 3, 64, 128)]


def test_a_case_is_measured_in_full(monkeypatch):
    """But for memory, which takes a process for each work: see the next test."""
    peaks = {"step": 300, "supervised": 200, "source": 50, "full resolution": 100}
    monkeypatch.setattr(segmentation, "in_child", lambda case, work: (peaks[work], 10))
    monkeypatch.setattr(segmentation, "memory_ratio", lambda case: (300 / 210, {"step": 300}))
    found = measure_case(HRDA, 2, warmup=0)
    assert found.overhead == pytest.approx(found.mic_seconds / found.floor_seconds)
    assert found.floor_seconds == pytest.approx(sum(found.floor.values()))
    assert list(found.floor) == list(FLOOR)
    assert found.floor["T_grad(mixed)"] == found.floor["T_grad(masked)"] > 0
    assert found.ratios.pop("hrda_memory_to_full_resolution") == 0.5
    assert set(found.ratios) == {
        "self_training_to_mic",
        "source_to_mic",
        "hrda_time_to_full_resolution",
    }
    assert all(value > 0 for value in found.ratios.values()) and found.inference_ratio > 0
    needed = {"teacher", "mix", "backward", "optimizer", "EMA", "student: scale attention"}
    assert needed < set(found.parts)
    assert all(value > 0 for name, value in found.parts.items() if name != "other")
    shown = benchmark_tool().tables([found, replace_name(found, "without")])
    assert "HRDA: time" in shown and "T_grad(masked)" in shown and "/ SADA" not in shown


def replace_name(found, name):
    """Of a case without HRDA: the table leaves its columns empty."""
    kept = {key: value for key, value in found.ratios.items() if "hrda" not in key}
    return replace(found, name=name, ratios=kept)


def benchmark_tool():
    spec = importlib.util.spec_from_file_location("benchmark_tool", ROOT / "tools/benchmark.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_memory_is_measured_in_another_process():
    """Which gets the case by its kind, tuples and all."""
    peak, weights = in_child(HRDA, "full resolution")
    network = PlainSegmentor(HRDA, *WITHOUT_HRDA).network
    assert weights == sum(4 * p.numel() for p in network.parameters()) + 24, "and mean and std"
    assert weights < peak < 4_000_000_000


def test_a_case_of_a_gpu_that_is_not_there_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(sys, "argv", ["benchmark.py", "seg-cuda"])
    with pytest.raises(UserError, match=r"seg-cuda-.* there is no GPU here"):
        benchmark_tool().main()


def test_cases_of_segmentation_are_chosen_by_name(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    tool = benchmark_tool()
    named = {case.name for case in tool.chosen_cases(False, ["seg-cpu"])}
    assert named == {case.name for case in SEGMENTATION_CASES if case.device == "cpu"}
    assert not any(case.name.startswith("seg-") for case in tool.chosen_cases(True, []))
    assert all(case.device == "cpu" for case in tool.chosen_cases(False, []))


def test_parts_are_apart_from_one_another():
    """A part inside another would count twice."""
    spots = student_spots(segmentation_step(HRDA))
    assert len({part for _, _, part in spots}) == len(spots) == 4
    modules = [owner for owner, _, _ in spots]
    for one in modules:
        inside = {id(each) for each in one.modules()}
        assert not any(id(other) in inside for other in modules if other is not one)


def test_cases_have_valid_configs_and_names_of_their_own():
    names = [case.name for case in SEGMENTATION_CASES]
    assert len(set(names)) == len(names) and all(name.startswith("seg-") for name in names)
    for case in SEGMENTATION_CASES:
        cfg = case.cfg() if case.device == "cpu" else replace(case, device="cpu").cfg()
        assert cfg.MODEL.MIC.ENABLED and cfg.MODEL.SEG.HOST == "self_training"
        assert case.has_hrda == ("hrda" in case.name)
        if case.has_hrda:
            size = [case.height, case.width]
            assert list(cfg.MODEL.SEG.HRDA.CONTEXT_WINDOW) == size
            assert [2 * side for side in cfg.MODEL.SEG.HRDA.DETAIL_CROP] == size


def test_one_by_one_only_where_there_are_several():
    plain = PlainSegmentor(replace(PLAIN, source=1, target=1))
    assert set(floor_works(plain)) == {f"{part}, batched" for part in set(FLOOR.values())}
