"""Faults in the numbers: what is injected is caught, skipped, counted and explained."""

from __future__ import annotations

import copy
import logging
import math
from types import SimpleNamespace

import pytest
import torch
from detector import ALL_PARTS, labelled, random_labels, tiny_cfg, tiny_model, unlabelled
from torch import nn

from mic_det.core import EMATeacher
from mic_det.detection.watchdog import PseudoLabelWatchdog
from mic_det.engine.build import build_optimizer
from mic_det.engine.health import DivergedError, StepGuard, likely_causes
from mic_det.engine.trainer import AdaptationTrainer


class Line(nn.Module):
    """Losses of a linear model; ``fault`` (iteration, kind) makes one of them go wrong."""

    def __init__(self, fault: dict[int, str] | None = None) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 2)
        self.fault = fault or {}
        self.step = 0

    def forward(self, source, target, masked, pseudo):
        kind = self.fault.get(self.step)
        self.step += 1
        x = source[0]["image"]
        loss = self.layer(x).square().mean()
        if kind == "gradient":
            # Finite forward, infinite backward.
            zero = (self.layer.weight * 0.0).sum()
            loss = loss + torch.sqrt(zero)
        factor = {"loss nan": math.nan, "loss inf": math.inf}.get(kind, 1.0)
        if kind == "loss inf alone":
            loss = loss + math.inf  # its gradients are finite
        return {"loss_a": loss * factor, "loss_b": self.layer.bias.abs().sum() * 0.1}


def source_batches(start):
    for k in range(start, 10_000):
        generator = torch.Generator().manual_seed(k)
        image = torch.randn(4, 3, generator=generator)
        yield [{"image": image, "file_name": f"image{k}.png"}], None


def line_trainer(fault=None, optimizer="SGD", clip=None, max_skipped=3, amp=None):
    torch.manual_seed(0)
    student = Line(fault)
    kinds = {
        "SGD": lambda p: torch.optim.SGD(p, 0.1, momentum=0.9, weight_decay=0.1, fused=True),
        "AdamW": lambda p: torch.optim.AdamW(p, 0.1, fused=True),
        "plain": lambda p: torch.optim.SGD(p, 0.1, momentum=0.9, weight_decay=0.1),
    }
    chosen = kinds[optimizer](student.parameters())
    if optimizer == "SGD":
        for p in student.parameters():
            chosen.state[p]["momentum_buffer"] = torch.zeros_like(p)
    return AdaptationTrainer(
        student=student,
        teacher=EMATeacher(student, 0.5, model=copy.deepcopy(student)),
        optimizer=chosen,
        make_batches=source_batches,
        guard=StepGuard(clip, max_skipped, ["the learning rate"], lambda: "out/model_0000001.pth"),
        amp_dtype=amp,
    )


def weights(trainer):
    return torch.cat([p.detach().flatten() for p in trainer.student.parameters()])


@pytest.mark.parametrize("optimizer", ["SGD", "AdamW", "plain"])
@pytest.mark.parametrize("kind", ["loss nan", "loss inf", "loss inf alone", "gradient"])
@pytest.mark.parametrize("at", [0, 3])
def test_a_bad_step_changes_neither_weights_nor_the_optimizer(kind, optimizer, at, caplog):
    trainer = line_trainer({at: kind}, optimizer)
    before = {}

    def look():
        state = copy.deepcopy(trainer.optimizer.state_dict()["state"])
        before.setdefault(trainer.iter, (weights(trainer), state))

    trainer.before_step = lambda: (AdaptationTrainer.before_step(trainer), look())
    with caplog.at_level(logging.WARNING):
        trainer.train(0, 6)
    assert torch.equal(before[at][0], before[at + 1][0])
    assert not torch.equal(before[at + 1][0], before[at + 2][0])
    for key, state in before[at][1].items():
        for name, value in state.items():
            assert torch.equal(torch.as_tensor(value), before[at + 1][1][key][name].cpu()), name
    assert torch.isfinite(weights(trainer)).all()
    assert (trainer.guard.skipped, trainer.guard.skipped_in_a_row) == (1, 0)
    (line,) = [r.getMessage() for r in caplog.records if "step skipped" in r.getMessage()]
    assert f"Iteration {at}:" in line and f"image{at}.png" in line and "loss_a" in line
    assert trainer.storage.latest()["health/skipped_steps"][0] == 1
    assert math.isfinite(trainer.storage.latest()["total_loss"][0])


def test_teacher_stays_finite():
    trainer = line_trainer({1: "loss nan", 2: "gradient"})
    trainer.train(0, 5)
    assert all(torch.isfinite(p).all() for p in trainer.teacher.model.parameters())


def test_a_healthy_run_is_untouched_to_the_bit():
    guarded = line_trainer(clip=1e6)
    guarded.train(0, 5)
    plain = line_trainer()
    torch.manual_seed(0)
    for k, (source, _) in zip(range(5), source_batches(0), strict=False):
        losses = plain.student(source, None, None, None)
        plain.optimizer.zero_grad()
        sum(losses.values()).backward()
        plain.optimizer.step()
        assert k < 5
    assert torch.equal(weights(guarded), weights(plain))


def test_many_in_a_row_stop_the_run_and_explain(caplog):
    trainer = line_trainer({2: "loss nan", 4: "loss nan", 5: "gradient", 6: "loss inf"})
    with pytest.raises(DivergedError) as error:
        trainer.train(0, 20)
    message = str(error.value)
    assert trainer.iter == 6, "two skipped in a row are not three"
    for words in ("iteration 6", "3 steps", "1. the learning rate", "image6.png"):
        assert words in message
    assert "out/model_0000001.pth" in message
    assert torch.isfinite(weights(trainer)).all()


def test_counts_survive_a_resume():
    first = line_trainer({0: "loss nan", 3: "loss nan"})
    first.train(0, 4)
    second = line_trainer()
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    assert (second.guard.skipped, second.guard.skipped_in_a_row) == (2, 1)


def test_clipping_is_that_of_torch_and_counted():
    trainer = line_trainer(clip=0.01)
    twin = line_trainer()
    trainer.train(0, 1)
    ((source, _),) = [next(source_batches(0))]
    sum(twin.student(source, None, None, None).values()).backward()
    norm = nn.utils.clip_grad_norm_(twin.student.parameters(), 0.01)
    twin.optimizer.step()
    torch.testing.assert_close(weights(trainer), weights(twin), rtol=0, atol=1e-7)
    assert trainer.guard.clipped == 1
    assert trainer.guard.norm == pytest.approx(float(norm), rel=1e-5)


@pytest.mark.parametrize("kind", ["SGD", "AdamW"])
def test_first_step_of_the_configured_optimizer_may_be_skipped(kind):
    model = nn.Linear(2, 2)
    optimizer = build_optimizer(tiny_cfg({"SOLVER.OPTIMIZER": kind}), model)
    guard, scaler = StepGuard(35.0), torch.amp.GradScaler("cpu", enabled=False)
    if kind == "SGD":  # or the fused kernel begins with memory as it finds it
        assert not optimizer.state[model.weight]["momentum_buffer"].any()
    start = model.weight.detach().clone()
    for value in (math.nan, 1.0, 1.0):
        model.weight.grad = torch.full_like(model.weight, value)
        model.bias.grad = torch.full_like(model.bias, value)
        guard.step(optimizer, scaler)
        assert torch.isfinite(model.weight).all()
        assert torch.equal(model.weight, start) == math.isnan(value)


def test_nan_in_the_features_skips_the_step_and_names_the_loss(storage):
    model = tiny_model(ALL_PARTS)
    batch = [labelled()], [unlabelled()], [unlabelled()], [random_labels(scores=True)]
    handle = model.backbone.register_forward_hook(
        lambda *args: {name: level * math.nan for name, level in args[2].items()}
    )
    losses = model(*batch)
    assert set(losses) == {"loss_diverged"}
    losses["loss_diverged"].backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and torch.isnan(parameter.grad).all(), name
    handle.remove()
    assert "loss_cls" in model(*batch)


def test_causes_follow_the_settings():
    usual = likely_causes(tiny_cfg())
    assert usual[0].startswith("The learning rate") and "SOLVER.BASE_LR" in usual[0]
    half = likely_causes(tiny_cfg({"SOLVER.AMP.ENABLED": True}))
    assert half[0].startswith("float16")
    free = likely_causes(tiny_cfg({"SOLVER.CLIP_GRADIENTS.ENABLED": False}))
    assert any("not clipped" in cause for cause in free)
    assert not any("not clipped" in cause for cause in usual)


def watch(counts, source_boxes=4, **settings):
    """Feed the watchdog pseudo boxes an image, one number for each iteration."""
    dog = PseudoLabelWatchdog(**({"collapse_iterations": 6, "explosion_factor": 3.0} | settings))
    latest: dict[str, tuple[float, int]] = {}
    batch = ([{"instances": [0] * source_boxes}], None)
    dog.period = 2
    dog.trainer = SimpleNamespace(
        iter=0, batch=batch, storage=SimpleNamespace(latest=lambda: latest)
    )
    for iteration, count in enumerate(counts):
        dog.trainer.iter = iteration
        latest["mic/pseudo_boxes_per_image"] = (count, iteration)
        dog.after_step()
    return dog


@pytest.mark.parametrize(
    ("counts", "words"),
    [
        ([3, 2, 4, 5] * 3, None),
        ([0] * 5, None),
        ([0] * 6, "no pseudo box for 6 iterations"),
        ([0, 0, 0, 0, 1, 0] * 3, None),
        ([12, 12], None),
        ([12, 13], "12.5 pseudo boxes an image against 4.0"),
        ([0, 50, 0, 0], "25.0 pseudo boxes"),
    ],
)
def test_watchdog(counts, words, caplog):
    with caplog.at_level(logging.WARNING):
        watch(counts)
    assert (words or "nothing") in (caplog.text or "nothing")
    if words is not None:
        assert "MODEL.MIC.SCORE_THRESH" in caplog.text
        with pytest.raises(DivergedError, match=words):
            watch(counts, action="stop")


def test_watchdog_warns_once_for_each_stretch(caplog):
    with caplog.at_level(logging.WARNING):
        watch([0] * 17)
    assert caplog.text.count("no pseudo box") == 2


def test_watchdog_remembers_over_a_resume(caplog):
    first = watch([0] * 4)
    second = PseudoLabelWatchdog(6, 3.0)
    second.load_state_dict(first.state_dict())
    assert second.without_any == 4


def test_checkpoints_of_skipped_steps_are_not_called_good():
    trainer = line_trainer({2: "loss nan", 3: "loss nan", 4: "loss nan"})
    trainer.guard.last_checkpoint = lambda: f"out/model_{trainer.iter:07d}.pth"
    with pytest.raises(DivergedError, match=r"before them: out/model_0000002\.pth\. Write"):
        trainer.train(0, 20)
