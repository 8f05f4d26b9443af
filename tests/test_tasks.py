"""The engine knows tasks through one interface; its SAM step and learning rates by hand."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
import torch
from detectron2.utils.events import EventStorage
from torch import nn

import mic_det
from mic_det.config import load_config
from mic_det.core import EMATeacher, SharpnessAscent
from mic_det.engine.build import build_optimizer
from mic_det.engine.schedule import build_lr_scheduler
from mic_det.engine.trainer import AdaptationTrainer
from mic_det.tasks import MODULES, Task, UnknownTaskError, task_of

PACKAGE = Path(mic_det.__file__).parent
STREETS = PACKAGE.parent / "configs" / "streets_mic.yaml"


def imported(path: Path) -> set[str]:
    """Absolute names of the modules that a file imports."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {each.name for each in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = path.relative_to(PACKAGE.parent).with_suffix("").parts[: -node.level or None]
            names.add(".".join([*(base if node.level else ()), *filter(None, [node.module])]))
    return names


@pytest.mark.parametrize(
    ("folder", "forbidden"),
    [
        ("core", {"detectron2", "mic_det.data", "mic_det.engine", "mic_det.config", *MODULES}),
        ("engine", set(MODULES)),
        *((name, {"engine", *MODULES} - {name}) for name in MODULES),
    ],
)
def test_dependencies_point_one_way(folder, forbidden):
    files = list((PACKAGE / folder).rglob("*.py"))
    assert files
    for path in files:
        for name in imported(path):
            parts = name.split(".")
            known = {parts[0], ".".join(parts[:2]), *(parts[1:2] if parts[0] == "mic_det" else ())}
            assert not known & forbidden, f"{path.name} imports {name}"


def test_each_task_keeps_to_the_interface():
    for name in MODULES:
        cfg = load_config(STREETS).clone()
        cfg.defrost()
        cfg.MODEL.TASK = name
        task = task_of(cfg)
        assert isinstance(task, Task) and task is task_of(cfg)
        assert task.headline == task.columns[0] and task.per_class


def test_an_unknown_task_is_named():
    cfg = load_config(STREETS, ["MODEL.TASK", "detektion"])
    with pytest.raises(UnknownTaskError, match=r"one of .*detection.*, not 'detektion'"):
        task_of(cfg)


class Quadratic(nn.Module):
    """loss_task = w'Aw/2, loss_domain = b'w; counts what its normalisation layer sees."""

    def __init__(self, weights: torch.Tensor, curvature: torch.Tensor, slope: torch.Tensor):
        super().__init__()
        self.w = nn.Parameter(weights.clone())
        self.classifier = nn.Parameter(torch.ones(2, dtype=weights.dtype))
        self.norm = nn.BatchNorm1d(3, affine=False).to(weights.dtype)
        self.curvature, self.slope = curvature, slope

    def forward(self, source, target, masked, pseudo):
        self.norm((self.w + source[0]).expand(2, -1) * torch.tensor([[1.0], [2.0]]))
        return {
            "loss_task": 0.5 * self.w @ self.curvature @ self.w,
            "loss_domain": self.slope @ self.w + self.classifier.sum(),
        }


def quadratic(rho: float | None, rate: float = 0.1):
    """The student after one step, and what it was made of."""
    generator = torch.Generator().manual_seed(3)
    weights, slope = torch.randn(2, 3, generator=generator, dtype=torch.float64)
    root = torch.randn(3, 3, generator=generator, dtype=torch.float64)
    student = Quadratic(weights, root @ root.T, slope)
    trainer = AdaptationTrainer(
        student=student,
        teacher=EMATeacher(student, 0.9),
        optimizer=torch.optim.SGD(student.parameters(), lr=rate),
        make_batches=lambda start: iter([([torch.zeros(3)], None)]),
        ascent=None if rho is None else SharpnessAscent(rho, ["loss_task", "loss_absent"]),
    )
    trainer.batches, trainer.iter = trainer.make_batches(0), 0
    with EventStorage(0) as trainer.storage:
        trainer.run_step()
    return student, weights, root @ root.T, slope


def test_sam_descends_from_the_top_of_the_ascent_along_the_task_loss():
    rho, rate = 0.3, 0.1
    student, w, curvature, slope = quadratic(rho, rate)
    gradient = curvature @ w
    top = w + rho * gradient / gradient.norm()
    expected = w - rate * (curvature @ top + slope)
    torch.testing.assert_close(student.w.detach(), expected, rtol=1e-6, atol=1e-9)
    # A parameter of the domain loss alone descends, and does not climb.
    assert student.classifier.tolist() == pytest.approx([0.9, 0.9])
    plain, *_ = quadratic(None, rate)
    assert (plain.w - student.w).norm() > 1e-3
    # The statistics are those at the weights that are kept, gathered once.
    torch.testing.assert_close(student.norm.running_mean, plain.norm.running_mean)
    assert student.norm.num_batches_tracked == plain.norm.num_batches_tracked == 1
    assert student.norm.momentum == 0.1


def test_sam_gives_the_weights_back_when_the_step_is_not_finite():
    student, w, *_ = quadratic(0.3)
    before = student.w.detach().clone()
    student.w.grad = torch.full_like(w, float("nan"))
    with SharpnessAscent(0.3, ["loss_task"])(student, lambda only: None):
        assert student.w.isnan().all()
    assert torch.equal(student.w, before)


def test_sam_needs_a_length():
    with pytest.raises(ValueError, match="rho"):
        SharpnessAscent(0.0, ["loss_task"])


@pytest.mark.parametrize(
    ("name", "gamma", "power", "factor"),
    [
        ("WarmupInverse", 0.001, 0.75, lambda t: (1 + 0.001 * t) ** -0.75),
        ("WarmupPoly", 0.1, 0.9, lambda t: (1 - t / 200) ** 0.9),
    ],
)
def test_learning_rates(name, gamma, power, factor):
    settings = {
        "SOLVER.LR_SCHEDULER_NAME": name,
        "SOLVER.GAMMA": gamma,
        "SOLVER.POWER": power,
        "SOLVER.MAX_ITER": 200,
        "SOLVER.WARMUP_ITERS": 0,
        "SOLVER.BASE_LR": 0.02,
    }
    cfg = load_config(STREETS, [str(part) for pair in settings.items() for part in pair])
    optimizer = build_optimizer(cfg, nn.Linear(2, 2))
    scheduler = build_lr_scheduler(cfg, optimizer)
    for t in range(150):
        assert optimizer.param_groups[0]["lr"] == pytest.approx(0.02 * factor(t))
        optimizer.step()
        scheduler.step()


def test_a_student_scales_the_learning_rate_of_its_parts():
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.backbone, self.head = nn.Linear(2, 2), nn.Linear(2, 2)

        def lr_factor(self, name: str) -> float:
            return 0.1 if name.startswith("backbone.") else 1.0

    cfg = load_config(STREETS, ["SOLVER.BASE_LR", "0.5"])
    model = Two()
    rates = {
        id(parameter): group["lr"]
        for group in build_optimizer(cfg, model).param_groups
        for parameter in group["params"]
    }
    assert rates[id(model.backbone.weight)] == pytest.approx(0.05)
    assert rates[id(model.head.bias)] == pytest.approx(0.5)
