"""EMATeacher: closed form, warm-up, buffers, wrappers, a loop of ones own, frozen in eval mode."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from mic_det.core import EMATeacher


class Net(nn.Module):
    """Float and integer buffers, persistent and not, BatchNorm, frozen parameters."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
        self.head = nn.Linear(2, 2)
        self.register_buffer("average", torch.rand(3))
        self.register_buffer("hidden", torch.rand(2), persistent=False)
        self.register_buffer("steps", torch.tensor(5))
        self.register_buffer("flags", torch.tensor([True, False]))
        self.head.bias.requires_grad_(False)

    def forward(self, x):
        return self.head(self.body(x))


class Body(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))

    def forward(self, x):
        return self.body(x)


def tensors(module):
    return dict(module.named_parameters()) | dict(module.named_buffers())


def shake(module):
    """Move all that floats, and return the numbers as they are now."""
    with torch.no_grad():
        for value in tensors(module).values():
            if value.is_floating_point():
                value.add_(torch.randn_like(value))
    return {name: value.detach().clone() for name, value in tensors(module).items()}


def close(found, expected):
    assert torch.allclose(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("alpha", [0.0, 0.5, 0.9, 0.999, 1.0])
def test_closed_form(alpha):
    student = Net()
    first = {name: value.clone() for name, value in tensors(student).items()}
    teacher = EMATeacher(student, alpha)
    history = []
    for _ in range(6):
        history.append(shake(student))
        teacher.update(student)
    n = len(history)
    assert teacher.num_updates == n
    for name, value in tensors(teacher.model).items():
        if value.is_floating_point():
            expected = alpha**n * first[name]
            for k, theta in enumerate(history):
                expected = expected + (1 - alpha) * alpha ** (n - 1 - k) * theta[name]
            close(value, expected)


def test_warmup_is_the_mean_until_alpha_is_reached():
    alpha = 0.75  # reached by 1 - 1/(t+1) at t = 3
    student = Net()
    teacher = EMATeacher(student, alpha, warmup=True)
    history, alphas = [], []
    for _ in range(4):
        history.append(shake(student))
        alphas.append(teacher.next_alpha())
        teacher.update(student)
        for name, value in tensors(teacher.model).items():
            if value.is_floating_point():
                close(value, torch.stack([theta[name] for theta in history]).mean(0))
    assert alphas == pytest.approx([0.0, 1 / 2, 2 / 3, 3 / 4])
    before = {name: value.clone() for name, value in tensors(teacher.model).items()}
    for _ in range(3):
        assert teacher.next_alpha() == alpha
        theta = shake(student)
        teacher.update(student)
        for name, value in tensors(teacher.model).items():
            if value.is_floating_point():
                before[name] = alpha * before[name] + (1 - alpha) * theta[name]
                close(value, before[name])


def test_no_warmup_uses_alpha_from_the_start():
    assert EMATeacher(Net(), 0.9).next_alpha() == 0.9


def test_what_does_not_float_is_copied():
    student = Net()
    teacher = EMATeacher(student, 0.9)
    student.steps.fill_(1_000_001)
    student.flags.logical_not_()
    student.train()
    for _ in range(3):
        student(torch.randn(5, 3))
    assert student.body[1].num_batches_tracked == 3
    teacher.update(student)
    assert teacher.model.steps == 1_000_001
    assert teacher.model.flags.tolist() == [False, True]
    assert teacher.model.body[1].num_batches_tracked == 3
    assert teacher.model.steps.dtype == torch.int64


def test_batchnorm_statistics_are_averaged():
    student = Net().train()
    teacher = EMATeacher(student, 0.9)
    student(torch.randn(8, 3) * 3 + 1)
    teacher.update(student)
    norm = student.body[1]
    close(teacher.model.body[1].running_mean, 0.1 * norm.running_mean)
    close(teacher.model.body[1].running_var, 0.9 * torch.ones(4) + 0.1 * norm.running_var)


def test_starts_as_an_independent_copy():
    student = Net()
    teacher = EMATeacher(student)
    for name, value in tensors(student).items():
        assert torch.equal(value, tensors(teacher.model)[name])
        assert value.data_ptr() != tensors(teacher.model)[name].data_ptr()
    kept = {name: value.clone() for name, value in tensors(teacher.model).items()}
    shake(student)
    for name, value in tensors(teacher.model).items():
        assert torch.equal(value, kept[name])


def test_student_is_left_as_it_was():
    student = Net().train()
    wants = {name: p.requires_grad for name, p in student.named_parameters()}
    before = {name: value.clone() for name, value in tensors(student).items()}
    EMATeacher(student).update(student)
    assert student.training and student.body[1].training
    assert {name: p.requires_grad for name, p in student.named_parameters()} == wants
    for name, value in tensors(student).items():
        assert torch.equal(value, before[name])


def test_never_has_gradients_and_stays_in_eval_mode():
    student = Net().train()
    student(torch.randn(5, 3)).sum().backward()
    teacher = EMATeacher(student, 0.9)

    def frozen():
        return all(
            p.grad is None and not p.requires_grad for p in teacher.model.parameters()
        ) and not any(module.training for module in teacher.model.modules())

    assert frozen()
    student(torch.randn(5, 3)).sum().backward()
    teacher.update(student)
    student.eval()
    student.train()
    assert frozen()
    x = torch.randn(5, 3, requires_grad=True)
    assert not teacher(x).requires_grad
    statistics = teacher.model.body[1].running_mean.clone()
    teacher(torch.randn(50, 3) + 7)
    assert torch.equal(teacher.model.body[1].running_mean, statistics)
    assert frozen()


def test_update_does_not_break_the_students_graph():
    student = Net().train()
    teacher = EMATeacher(student, 0.9)
    loss = student(torch.randn(5, 3)).sum()
    teacher.update(student)
    loss.backward()
    assert student.head.weight.grad is not None


def test_parallel_wrapper_is_seen_through():
    student = Net()
    wrapped = nn.DataParallel(student)
    teacher = EMATeacher(wrapped, 0.5)
    assert isinstance(teacher.model, Net)
    before = teacher.model.head.weight.clone()
    shake(student)
    teacher.update(wrapped)
    close(teacher.model.head.weight, 0.5 * before + 0.5 * student.head.weight)
    teacher.copy_from(wrapped)
    assert torch.equal(teacher.model.head.weight, student.head.weight)


def test_follow_in_a_loop_of_ones_own():
    student = Net().train()
    optimizer = torch.optim.SGD([p for p in student.parameters() if p.requires_grad], lr=0.1)
    teacher = EMATeacher(student, 0.8)
    handle = teacher.follow(student, optimizer)
    expected = student.head.weight.detach().clone()
    for _ in range(4):
        optimizer.zero_grad()
        student(torch.randn(6, 3)).square().mean().backward()
        optimizer.step()
        expected = 0.8 * expected + 0.2 * student.head.weight.detach()
    close(teacher.model.head.weight, expected)
    assert teacher.num_updates == 4
    handle.remove()
    optimizer.step()
    assert teacher.num_updates == 4
    close(teacher.model.head.weight, expected)


@pytest.mark.parametrize("fused", [False, True])
def test_follow_leaves_out_the_steps_a_gradient_scaler_leaves_out(fused):
    student = nn.Linear(2, 1)
    optimizer = torch.optim.SGD(student.parameters(), lr=0.1, fused=fused)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0)
    teacher = EMATeacher(student, 0.5)
    teacher.follow(student, optimizer)
    updates = []
    for scale in (1.0, float("inf"), 1.0):
        optimizer.zero_grad()
        scaler.scale((student(torch.ones(1, 2)) * scale).sum()).backward()
        scaler.step(optimizer)
        scaler.update()
        updates.append(teacher.num_updates)
    assert updates == [1, 1, 2]


def test_teacher_of_a_part_of_the_student():
    student, part = Net(), Body()
    teacher = EMATeacher(student, 0.5, model=part)
    assert teacher.model is part
    assert not part.training and not any(p.requires_grad for p in part.parameters())
    assert torch.equal(part.body[0].weight, student.body[0].weight), "values of the student"
    before = part.body[0].weight.clone()
    shake(student)
    teacher.update(student)
    close(part.body[0].weight, 0.5 * before + 0.5 * student.body[0].weight)


def test_tensors_the_student_lacks():
    with pytest.raises(ValueError, match=r"head\.weight"):
        EMATeacher(Body(), model=Net())


@pytest.mark.parametrize("alpha", [-0.1, 1.1, float("nan")])
def test_alpha_out_of_range(alpha):
    with pytest.raises(ValueError, match="alpha"):
        EMATeacher(Net(), alpha)


def test_copy_from_starts_again():
    student = Net()
    teacher = EMATeacher(student, 0.9, warmup=True)
    for _ in range(3):
        shake(student)
        teacher.update(student)
    teacher.copy_from(student)
    assert teacher.num_updates == 0
    assert teacher.next_alpha() == 0.0
    for name, value in tensors(student).items():
        assert torch.equal(value, tensors(teacher.model)[name])


def test_pseudo_label_is_the_models_own_without_gradients():
    class Labeller(nn.Linear):
        def pseudo_label(self, target):
            assert not self.training and not torch.is_grad_enabled()
            return self(target)

    student = Labeller(3, 2).train()
    x = torch.randn(4, 3)
    labels = EMATeacher(student).pseudo_label(x)
    assert torch.equal(labels, student(x))
    assert not labels.requires_grad


@settings(deadline=None, max_examples=30)
@given(
    alpha=st.floats(0, 1),
    warmup=st.booleans(),
    values=st.lists(st.floats(-1e3, 1e3, width=32), min_size=1, max_size=8),
)
def test_any_sequence(alpha, warmup, values):
    student = nn.Linear(1, 1, bias=False).double()
    teacher = EMATeacher(student, alpha, warmup)
    expected = float(student.weight.detach())
    for t, value in enumerate(values):
        nn.init.constant_(student.weight, value)
        teacher.update(student)
        a = min(1 - 1 / (t + 1), alpha) if warmup else alpha
        expected = a * expected + (1 - a) * value
    assert float(teacher.model.weight.detach()) == pytest.approx(expected, rel=1e-9, abs=1e-9)


# --- the lists of tensors, which are looked up once


def averaged(alpha, before, student):
    return {
        name: alpha * before[name] + (1 - alpha) * value
        if value.is_floating_point()
        else value.clone()
        for name, value in tensors(student).items()
    }


def other_weights(module):
    return {name: torch.randn_like(value) for name, value in module.state_dict().items()}


CHANGES = {
    "nothing": lambda student, teacher: None,
    "student's weights loaded": lambda student, teacher: student.body[0].load_state_dict(
        other_weights(student.body[0])
    ),
    "student's weights assigned": lambda student, teacher: student.body[0].load_state_dict(
        other_weights(student.body[0]), assign=True
    ),
    "teacher's weights assigned": lambda student, teacher: teacher.model.body[0].load_state_dict(
        other_weights(teacher.model.body[0]), assign=True
    ),
    "student's layer replaced": lambda student, teacher: student.body.__setitem__(
        0, nn.Linear(3, 4)
    ),
    "teacher's layer replaced": lambda student, teacher: teacher.model.body.__setitem__(
        0, nn.Linear(3, 4)
    ),
    "a buffer replaced": lambda student, teacher: setattr(student, "average", torch.rand(3)),
    "data replaced": lambda student, teacher: setattr(
        student.head.weight, "data", torch.randn(2, 2)
    ),
    "both in double precision": lambda student, teacher: (student.double(), teacher.model.double()),
    "another memory order": lambda student, teacher: student.to(memory_format=torch.channels_last),
}


@pytest.mark.parametrize("change", CHANGES)
def test_update_after_tensors_were_exchanged(change):
    student = Net()
    teacher = EMATeacher(student, 0.75)
    shake(student)
    teacher.update(student)
    CHANGES[change](student, teacher)
    shake(student)
    expected = averaged(0.75, {k: v.clone() for k, v in tensors(teacher.model).items()}, student)
    teacher.update(student)
    for name, value in tensors(teacher.model).items():
        close(value.double(), expected[name].double())


def test_update_follows_another_student():
    first, second = Net(), Net()
    teacher = EMATeacher(first, 0.0)
    teacher.update(second)
    for name, value in tensors(teacher.model).items():
        assert torch.equal(value, tensors(second)[name])


def test_tensors_are_looked_up_once(monkeypatch):
    student = Net()
    teacher = EMATeacher(student, 0.9)
    teacher.update(student)
    monkeypatch.setattr(Net, "named_parameters", lambda *_: pytest.fail("looked up again"))
    teacher.update(student)


def test_weights_that_are_equal_stay_equal_to_the_bit():
    """What the frozen stages of a detector rely on."""
    for alpha in (0.9, 0.3, 0.999):
        student = Net()
        teacher = EMATeacher(student, alpha)
        for _ in range(50):
            teacher.update(student)
        for name, value in tensors(student).items():
            assert torch.equal(value, tensors(teacher.model)[name])
