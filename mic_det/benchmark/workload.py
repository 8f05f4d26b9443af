"""What is timed: the adaptation step, and each part of the floor it is held against."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.layers import FrozenBatchNorm2d
from detectron2.modeling import build_model
from detectron2.structures import Instances
from detectron2.utils.events import EventStorage
from torch import Tensor, nn

from mic_det.core import EMATeacher
from mic_det.engine.build import build_optimizer, build_student_and_teacher, build_trainer_around
from mic_det.engine.trainer import AdaptationTrainer

from .cases import Case, labels

Work = Callable[[], Any]


def settle(model: nn.Module, images: list[dict]) -> None:
    """Make random weights behave as trained ones do.

    They detect little: equal scores for all classes would put thousands of boxes before the final
    NMS. Frozen normalisation, of which random weights come without, normalises ``images``: else
    activations grow from block to block until proposals are infinite.
    """
    frozen = [each for each in model.modules() if isinstance(each, FrozenBatchNorm2d)]
    hooks = [each.register_forward_pre_hook(_take_statistics) for each in frozen]
    with torch.no_grad():
        model.roi_heads.box_predictor.cls_score.bias[-1] = 4.0
        model.backbone(model.preprocess_image(images).tensor)
    for hook in hooks:
        hook.remove()


def _take_statistics(norm: FrozenBatchNorm2d, inputs: tuple[Tensor]) -> None:
    norm.running_mean.copy_(inputs[0].mean((0, 2, 3)))
    norm.running_var.copy_(inputs[0].var((0, 2, 3)) + norm.eps)


def plain_config(cfg: CfgNode) -> CfgNode:
    """The same detector as Detectron2 alone builds it."""
    plain = cfg.clone()
    plain.defrost()
    plain.MODEL.META_ARCHITECTURE = "GeneralizedRCNN"
    return plain


class PlainDetector:
    """Detectron2's detector without any adaptation, and the floor's workloads on it."""

    def __init__(self, case: Case) -> None:
        cfg = case.cfg()
        self.cfg = plain_config(cfg)
        self.case = case
        torch.manual_seed(0)
        self.model = build_model(self.cfg).train()
        settle(self.model, self.images(1))
        self.optimizer = build_optimizer(self.cfg, self.model)
        self.amp = case.amp
        self.storage = EventStorage(0)

    def images(self, count: int) -> list[dict]:
        return self.case.images(count, self.cfg.MODEL.ROI_HEADS.NUM_CLASSES, seed=1)

    def autocast(self) -> contextlib.AbstractContextManager:
        if not self.amp:
            return contextlib.nullcontext()
        return torch.autocast(self.case.device, dtype=getattr(torch, self.amp))

    def supervised(self, count: int, batched: bool) -> Work:
        """A training step on ``count`` images, at once or one by one with summed gradients."""
        images = self.images(count)
        portions = [images] if batched else [[each] for each in images]

        def work() -> None:
            self.optimizer.zero_grad()
            with self.storage:
                for portion in portions:
                    with self.autocast():
                        loss = sum(self.model(portion).values())
                    loss.backward()
            self.optimizer.step()

        return work

    def features(self, count: int, batched: bool) -> Work:
        """Backbone and FPN, forward and backward."""
        images = self.images(count)
        portions = [images] if batched else [[each] for each in images]

        def work() -> None:
            for portion in portions:
                with self.autocast():
                    maps = self.model.backbone(self.model.preprocess_image(portion).tensor)
                values = list(maps.values())
                torch.autograd.backward(values, [torch.ones_like(each) for each in values])
            self.optimizer.zero_grad()

        return work

    def inference(self, count: int, batched: bool, model: nn.Module | None = None) -> Work:
        """Detections, as the teacher needs them; of another model than this one if given."""
        images = self.images(count)
        portions = [images] if batched else [[each] for each in images]
        model = model or self.model

        def work() -> None:
            model.eval()
            with torch.no_grad(), self.autocast():
                for portion in portions:
                    model.inference(portion, do_postprocess=False)
            model.train()

        return work


def adaptation(case: Case, *overrides: str) -> AdaptationTrainer:
    """A trainer of the project on random images; its ``run_step`` is what is timed.

    The teacher does all its work, and then finds ``case.pseudo_boxes`` boxes in each image.
    """
    cfg = case.cfg(overrides)
    torch.manual_seed(0)
    student, teacher = build_student_and_teacher(cfg)
    number = cfg.MODEL.ROI_HEADS.NUM_CLASSES
    settle(student, case.images(1, number, seed=1))
    teacher.copy_from(student)
    source = case.images(case.source, number, seed=1)
    target = [
        {key: value for key, value in each.items() if key != "instances"}
        for each in case.images(case.target, number, seed=2)
    ]
    adapts = cfg.MODEL.SADA.ENABLED or cfg.MODEL.MIC.ENABLED
    batch = (source, target if adapts else None)

    trainer = trainer_on(cfg, student, teacher, batch)
    if cfg.MODEL.MIC.ENABLED:
        _find_boxes(teacher, case, number)
    return trainer


def trainer_on(
    cfg: CfgNode,
    student: nn.Module,
    teacher: EMATeacher,
    batch: tuple[list[dict], list[dict] | None],
) -> AdaptationTrainer:
    """The project's trainer, ready for a step, on the same batch again and again."""

    def make_batches(start: int):
        while True:
            yield batch

    trainer = build_trainer_around(cfg, student, teacher, make_batches, seed=0)
    trainer.storage = EventStorage(0)
    trainer.batches = make_batches(0)
    trainer.iter = 0
    return trainer


def memory_work(case: Case, work: str) -> tuple[Work, nn.Module]:
    """For `memory.measure_here`, and the module whose weights count.

    ``work``: "step" or "supervised", on source + 2 target images.
    """
    if work == "step":
        trainer = adaptation(case)
        return step_of(trainer), trainer.student
    plain = PlainDetector(case)
    return plain.supervised(case.source + 2 * case.target, batched=True), plain.model


def _find_boxes(teacher: EMATeacher, case: Case, num_classes: int) -> None:
    generator = torch.Generator().manual_seed(3)
    size = (case.height, case.width)
    found = [labels(size, case.pseudo_boxes, num_classes, generator) for _ in range(case.target)]
    device = next(teacher.model.parameters()).device
    for each in found:
        each.gt_scores = torch.full((len(each),), 0.9)
    found = [each.to(device) for each in found]
    really = teacher.pseudo_label

    def pseudo_label(batch: Any) -> list[Instances]:
        really(batch)
        return found

    teacher.pseudo_label = pseudo_label  # type: ignore[method-assign]


def step_of(trainer: AdaptationTrainer) -> Work:
    """One iteration of ``trainer`` after another."""

    def work() -> None:
        with trainer.storage:
            trainer.run_step()
        trainer.iter += 1

    return work
