"""A whole step of MIC(SDAT) against one written out: losses, ascent, descent, rates, teacher."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from class_trees import register_trees, tiny_config
from detectron2.utils.events import EventStorage
from torch.nn import functional as F

from mic_det.engine import build_trainer

RHO, RATE, MOMENTUM, DECAY, BACKBONE, ALPHA = 0.5, 0.02, 0.9, 0.001, 0.1, 0.9
WARMUP, START = 10, 7


def weights_of(probabilities):
    """1 + exp(-H), with mean 1, without gradient."""
    p = probabilities.detach()
    w = 1 + torch.exp((p * p.log()).sum(1))
    return w / w.mean()


def task_loss(model, source, labels, target, masked, pseudo, confidence):
    """Cross-entropy + MCC + masked loss, and what the domain loss is made of."""
    features = model.bottleneck(model.backbone(torch.cat([source, target])))
    logits = model.head(features)
    on_source, on_target = logits[: len(source)], logits[len(source) :]
    loss = F.cross_entropy(on_source, labels)

    p = (on_target / 2.0).softmax(1)
    confusion = torch.einsum("n,ni,nj->ij", weights_of(p), p, p)
    confusion = confusion / confusion.sum(1, keepdim=True)
    loss = loss + (confusion * (1 - torch.eye(len(confusion)))).sum() / len(confusion)

    seen = model.head(model.bottleneck(model.backbone(masked))).log_softmax(1)
    loss = loss - (confidence * seen[range(len(pseudo)), pseudo]).mean()
    return loss, features, logits


def domain_loss(model, features, logits, count):
    """Binary cross-entropy of the domain classifier on the outer products."""
    p = logits.detach().softmax(1)
    chance = model.alignment.layers(torch.einsum("nk,nd->nkd", p, features).flatten(1)).sigmoid()
    source = -(weights_of(p[:count]) * chance[:count, 0].log()).mean()
    target = -(weights_of(p[count:]) * (1 - chance[count:, 0]).log()).mean()
    return (source + target) / 2


def step_by_hand(model, *batch):
    """The weights after the step, by name."""
    named = dict(model.named_parameters())
    task = {n: p for n, p in named.items() if not n.startswith("alignment.")}
    loss, *_ = task_loss(model, *batch)
    climb = torch.autograd.grad(loss, list(task.values()))
    length = math.sqrt(sum(float(g.square().sum()) for g in climb))
    before = {n: p.detach().clone() for n, p in named.items()}
    with torch.no_grad():
        for p, g in zip(task.values(), climb, strict=True):
            p += RHO * g / length
    loss, features, logits = task_loss(model, *batch)
    domain = domain_loss(model, features, logits, len(batch[0]))
    down = dict(
        zip(
            named,
            torch.autograd.grad(loss, list(named.values()), allow_unused=True, retain_graph=True),
            strict=True,
        )
    )
    of_domain = torch.autograd.grad(domain, list(named.values()), allow_unused=True)
    reversal = 2 / (1 + math.exp(-START / WARMUP)) - 1
    after = {}
    for (name, old), of_it in zip(before.items(), of_domain, strict=True):
        gradient = torch.zeros_like(old) if down[name] is None else down[name]
        if of_it is not None:
            gradient = gradient + (of_it if name.startswith("alignment.") else -reversal * of_it)
        gradient = gradient + DECAY * old
        rate = RATE * (BACKBONE if name.startswith("backbone.") else 1.0)
        after[name] = old - rate * (1 + MOMENTUM) * gradient  # Nesterov's first step
    return after


@pytest.mark.usefixtures("clean_catalogs")
def test_a_step_is_the_one_written_out(tmp_path):
    register_trees(tmp_path / "data")
    settings = {
        "MODEL.CLASSIFIER.SAM_RHO": RHO,
        "MODEL.CLASSIFIER.BACKBONE_LR_FACTOR": BACKBONE,
        "MODEL.CLASSIFIER.ALIGN.WARMUP_ITERS": WARMUP,
        "MODEL.TEACHER.ALPHA": ALPHA,
        "MODEL.TEACHER.STATISTICS_IMAGES": 4,
        "SOLVER.BASE_LR": RATE,
        "SOLVER.WARMUP_ITERS": 0,
        "SOLVER.IMS_PER_BATCH": 6,
        "SOLVER.TARGET_IMS_PER_BATCH": 4,
    }
    pairs = [str(part) for pair in settings.items() for part in pair]
    cfg = tiny_config(tmp_path / "run", "mic", *pairs)
    trainer = build_trainer(cfg, writers=list)
    student, teacher = trainer.student, trainer.teacher.model
    source, target = next(trainer.make_batches(0))
    with torch.no_grad():  # running statistics, and images that it is more and less sure of
        student.bottleneck[0].weight.mul_(100)
        for _ in range(30):
            student.logits([*source, *target])
        student.head.weight.mul_(100)
    trainer.teacher.copy_from(student)
    masked = trainer.mask_target(target)

    def normalised(batch):
        images = torch.stack([each["image"].float() for each in batch])
        return (images - student.pixel_mean) / student.pixel_std

    labeller = copy.deepcopy(teacher).train()  # by the batch's own statistics
    with torch.no_grad():
        features = labeller.bottleneck(labeller.backbone(normalised(target)))
        chances = labeller.head(features).softmax(1)
    confidence, pseudo = chances.max(1)
    assert confidence.min() < 0.95 * confidence.max(), "no test of their weights otherwise"
    labels = torch.tensor([each["label"] for each in source])
    copied = copy.deepcopy(student).train()
    views = (normalised(source), labels, normalised(target), normalised(masked))
    expected = step_by_hand(copied, *views, pseudo, confidence)
    before = {name: tensor.clone() for name, tensor in teacher.named_parameters()}

    trainer.batches = iter([(source, target)])
    trainer.iter = START
    with EventStorage(START) as trainer.storage:
        trainer.run_step()
    # The two passes of a step are one look at each image.
    assert student.health.pop()["masked_agreement"][1] == len(target)
    assert student.alignment.health.pop()["domain_accuracy/source"][1] == len(source)
    for name, parameter in student.named_parameters():
        torch.testing.assert_close(
            parameter.detach(),
            expected[name],
            rtol=1e-4,
            atol=2e-6,
            msg=lambda m, n=name: f"{n}: {m}",
        )
    for name, parameter in teacher.named_parameters():
        mean = ALPHA * before[name] + (1 - ALPHA) * expected[name]
        torch.testing.assert_close(parameter, mean, rtol=1e-4, atol=2e-6)
