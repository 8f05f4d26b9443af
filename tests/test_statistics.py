"""Running statistics of normalisation layers: through SAM, skipped steps and two looks."""

from __future__ import annotations

import copy
import math
from pathlib import Path

import pytest
import torch
from detectron2.layers import FrozenBatchNorm2d
from detectron2.utils import comm
from detectron2.utils.events import EventStorage
from timm.layers import BatchNormAct2d
from torch import nn

from mic_det.core import EMATeacher, SharpnessAscent, StepStatistics, kept_statistics, untracked
from mic_det.engine.launch import launch
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


# --- what a teacher labels by


class Labeller(nn.Module):
    """A network with dropout that gives logits as pseudo labels."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.network = nn.Sequential(*layers)

    def pseudo_label(self, target: torch.Tensor) -> torch.Tensor:
        return self.network(target)


def convolutions(norm=nn.BatchNorm2d) -> Labeller:
    return Labeller(
        nn.Conv2d(3, 8, 3, padding=1),
        norm(8),
        nn.Dropout(0.5),
        nn.Conv2d(8, 4, 3),
        nn.Flatten(2),
        nn.BatchNorm1d(4),
    )


def trained(student: nn.Module, *shape: int) -> nn.Module:
    """The student after some passes, so that its running statistics are of something else."""
    student.train()
    with torch.no_grad():
        for _ in range(5):
            student.network(2.0 * torch.randn(*shape) + 1.0)
    return student


@pytest.mark.parametrize("norm", [nn.BatchNorm2d, nn.SyncBatchNorm, BatchNormAct2d])
@pytest.mark.parametrize("images", [1, 4, 6])
def test_with_enough_images_labels_are_those_of_batchnorm_in_train_mode(norm, images):
    student = trained(convolutions(norm), 6, 3, 7, 5).double()
    teacher = EMATeacher(student, 0.9, statistics_images=images)
    before = statistics(teacher.model)
    target = torch.randn(6, 3, 7, 5, dtype=torch.float64)
    reference = copy.deepcopy(student).train()
    for layer in reference.modules():
        if isinstance(layer, nn.Dropout):
            layer.eval()
    with torch.no_grad():
        expected = reference.network(target)
    for _ in range(2):  # whatever was labelled before
        found = teacher.pseudo_label(target)
        assert torch.allclose(found, expected, rtol=1e-10, atol=1e-10)
    assert not found.requires_grad
    assert not torch.allclose(teacher.model.pseudo_label(target), expected, rtol=0.1), "eval mode"
    for name, buffer in teacher.model.named_buffers():
        assert torch.equal(buffer, before[name]), f"{name}: left a trace"
    assert not any(layer.training for layer in teacher.model.modules())


def test_with_fewer_images_they_are_running_statistics_of_the_target():
    """Mean and variance of a weighted mixture of all that was seen, worked out at length."""
    student = trained(Labeller(nn.BatchNorm1d(2)), 64, 2).double()
    teacher = EMATeacher(student, statistics_images=8)
    (layer,) = student.network
    parts = [(1.0, layer.running_mean.clone(), layer.running_var.clone())]
    seen = 1
    for step in range(7):
        batch = torch.randn(3, 2, dtype=torch.float64) * (step + 1) - step
        share = min(1.0, 3 / min(seen + 3, 8))
        seen = min(seen + 3, 8)
        parts = [(weight * (1 - share), mean, var) for weight, mean, var in parts]
        parts.append((share, batch.mean(0), batch.var(0, correction=0)))
        mean = sum(weight * each for weight, each, _ in parts)
        var = sum(weight * (var + (each - mean) ** 2) for weight, each, var in parts)
        expected = (batch - mean) / (var + layer.eps).sqrt()
        assert torch.allclose(teacher.pseudo_label(batch), expected, rtol=1e-10, atol=1e-10)
    assert sum(weight for weight, *_ in parts) == pytest.approx(1.0)


def test_looking_at_an_image_does_not_count_and_a_resumed_teacher_labels_alike():
    student = trained(convolutions(), 6, 3, 7, 5)
    teacher = EMATeacher(student, 0.9, statistics_images=8)
    batches = [torch.randn(3, 3, 7, 5) for _ in range(4)]
    for batch in batches[:2]:
        teacher.pseudo_label(batch)
    other = EMATeacher(student, 0.9, statistics_images=8)
    other.statistics.load_state_dict(copy.deepcopy(teacher.statistics.state_dict()))
    teacher.pseudo_label(10.0 * torch.randn(1, 3, 7, 5), update=False)
    for batch in batches[2:]:
        assert torch.equal(teacher.pseudo_label(batch), other.pseudo_label(batch))
    fresh = EMATeacher(student, 0.9, statistics_images=8)
    assert not torch.equal(fresh.pseudo_label(batches[3]), other.pseudo_label(batches[3]))


def test_an_image_that_is_not_finite_spoils_only_its_own_labels():
    student = trained(convolutions(), 6, 3, 7, 5)
    teacher = EMATeacher(student, 0.9, statistics_images=8)
    teacher.pseudo_label(torch.randn(3, 3, 7, 5))
    teacher.pseudo_label(torch.full((3, 3, 7, 5), math.nan))
    assert torch.isfinite(teacher.pseudo_label(torch.randn(3, 3, 7, 5))).all()


def test_an_error_in_the_midst_leaves_the_teacher_as_it_was():
    student = trained(Labeller(nn.BatchNorm2d(3)), 6, 3, 7, 5)
    teacher = EMATeacher(student, 0.9, statistics_images=4)
    before = statistics(teacher.model)
    for update in (True, False):
        with pytest.raises(RuntimeError):
            teacher.pseudo_label(torch.randn(4, 5, 7, 5), update)  # five channels
    with pytest.raises(ValueError, match="interrupted"), teacher.labelling() as model:
        model.pseudo_label(torch.randn(4, 3, 7, 5))
        raise ValueError("interrupted")
    assert all(torch.equal(before[name], each) for name, each in teacher.model.named_buffers())
    assert not any(layer._forward_hooks or layer._forward_pre_hooks for layer in model.modules())


def label_a_share(folder: Path) -> None:
    """In a process of several: label this process's share of a batch, twice."""
    torch.manual_seed(0)
    student = trained(convolutions(), 6, 3, 7, 5)
    teacher = EMATeacher(student, statistics_images=8)
    rank, world = comm.get_rank(), comm.get_world_size()
    for batch in torch.randn(2, 4, 3, 7, 5):
        found = teacher.pseudo_label(batch[rank::world])
    torch.save((found, teacher.statistics.state_dict()), folder / f"{world}_{rank}.pth")


def test_processes_share_their_statistics(tmp_path):
    label_a_share(tmp_path)
    launch(label_a_share, 2, args=(tmp_path,))
    (whole, alone), *parts = (
        torch.load(tmp_path / name, weights_only=True) for name in ("1_0.pth", "2_0.pth", "2_1.pth")
    )
    for rank, (found, gathered) in enumerate(parts):
        torch.testing.assert_close(found, whole[rank::2])
        for name, layer in alone.items():
            for key, value in layer.items():
                torch.testing.assert_close(gathered[name][key], value)


def frozen() -> nn.Module:
    return nn.BatchNorm2d(8).requires_grad_(False)


@pytest.mark.parametrize("norm", [lambda: nn.GroupNorm(2, 8), lambda: FrozenBatchNorm2d(8), frozen])
def test_other_normalisation_labels_as_in_evaluation(norm):
    student = Labeller(nn.Conv2d(3, 8, 3), norm())
    teacher = EMATeacher(student, statistics_images=4)
    target = torch.randn(4, 3, 7, 5)
    assert teacher.statistics is None
    assert torch.equal(teacher.pseudo_label(target), teacher.model.pseudo_label(target))


def test_what_is_untracked_leaves_no_trace_and_changes_no_output():
    model = network()
    images = torch.randn(5, 3)
    before = statistics(model)
    with untracked(model):
        found = model(images)
        found.sum().backward()
    assert all(torch.equal(before[name], each) for name, each in model.named_buffers())
    assert torch.equal(found, model(images))
    assert not torch.equal(before["1.running_mean"], model[1].running_mean), "tracked again"
