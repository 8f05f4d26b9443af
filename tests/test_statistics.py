"""Running statistics of normalisation layers: through SAM, skipped steps and two looks."""

from __future__ import annotations

import math

import pytest
import torch
from detectron2.utils.events import EventStorage
from torch import nn

from mic_det.core import EMATeacher, SharpnessAscent, StepStatistics, kept_statistics
from mic_det.engine.trainer import AdaptationTrainer


def network() -> nn.Sequential:
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2), nn.BatchNorm1d(2))


def statistics(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: buffer.clone() for name, buffer in model.named_buffers()}


@pytest.mark.parametrize("poison", [1.0, math.nan, math.inf])
def test_kept_statistics_are_the_same_to_the_bit(poison):
    model = network()
    model(torch.randn(5, 3))
    before = statistics(model)
    with kept_statistics(model):
        model(poison * torch.randn(5, 3))
        assert not torch.equal(model[1].running_mean, before["1.running_mean"])
    for name, buffer in model.named_buffers():
        assert torch.equal(buffer, before[name]), name


@pytest.mark.parametrize("skipped", [0.0, 1.0])
def test_statistics_after_a_step_and_after_one_that_was_skipped(skipped):
    model = network()
    model[3].eval()  # gathers nothing
    model(torch.randn(5, 3))
    before = statistics(model)
    step = StepStatistics(model)
    model(torch.full((5, 3), math.nan) if skipped else torch.randn(5, 3))
    after = statistics(model)
    step.settle(torch.tensor(skipped))
    for name, buffer in model.named_buffers():
        if buffer.is_floating_point():
            assert torch.equal(buffer, (before if skipped else after)[name]), name
    assert not torch.equal(before["1.running_var"], after["1.running_var"])


def test_a_model_without_statistics_has_nothing_to_settle():
    StepStatistics(nn.Linear(2, 2)).settle(torch.tensor(1.0))


class Student(nn.Module):
    """A network whose losses may be spoilt at a pass of the run."""

    def __init__(self, bad_pass: int) -> None:
        super().__init__()
        self.network, self.passes, self.bad_pass = network(), 0, bad_pass

    def forward(self, source, target, masked, pseudo):
        factor = math.inf if self.passes == self.bad_pass else 1.0
        self.passes += 1
        return {"loss_cls": self.network(factor * source[0]).square().mean()}


@pytest.mark.parametrize(
    ("bad_pass", "rho"),
    [(1, None), (2, 0.1), (3, 0.1)],
    ids=["plain", "ascent", "descent"],
)
def test_a_skipped_step_does_not_poison_student_and_teacher(bad_pass, rho):
    """The second of three steps is not finite: nothing of it stays, and the third is taken."""
    student = Student(bad_pass)
    trainer = AdaptationTrainer(
        student=student,
        teacher=EMATeacher(student, 0.9),
        optimizer=torch.optim.SGD(student.parameters(), lr=0.1, fused=True),
        make_batches=lambda start: iter([([torch.randn(6, 3)], None) for _ in range(3)]),
        ascent=None if rho is None else SharpnessAscent(rho, ["loss_cls"]),
    )
    states = []
    with EventStorage(0) as trainer.storage:
        trainer.batches = trainer.make_batches(0)
        for trainer.iter in range(3):
            trainer.run_step()
            states.append({k: v.clone() for k, v in student.state_dict().items()})
    assert trainer.guard.skipped == 1
    for name, tensor in states[0].items():
        if tensor.is_floating_point():
            assert torch.equal(tensor, states[1][name]), name
    assert not torch.equal(states[1]["network.0.weight"], states[2]["network.0.weight"])
    for model in (student, trainer.teacher.model):
        assert all(torch.isfinite(each).all() for each in model.state_dict().values())
