"""What is timed of segmentation: the adaptation step, its floor, and HRDA beside plain training."""

from __future__ import annotations

import contextlib

import torch
from torch import nn

from mic_det.engine.build import build_optimizer, build_student_and_teacher
from mic_det.engine.trainer import AdaptationTrainer
from mic_det.segmentation.batch import stack_images, stack_labels
from mic_det.segmentation.networks import build_network
from mic_det.tasks import task_of

from .segmentation_cases import SegmentationCase
from .workload import Work, step_of, trainer_on

WITHOUT_HRDA = ("MODEL.SEG.HRDA.ENABLED", "False")


class PlainSegmentor:
    """A case's network without any adaptation, and the floor's workloads on it.

    Args:
        case: its network, weights and optimizer.
        overrides: of its config; `WITHOUT_HRDA`: the same network on complete images at full
            resolution.
    """

    def __init__(self, case: SegmentationCase, *overrides: str) -> None:
        self.case = case
        cfg = case.cfg(overrides)
        torch.manual_seed(0)
        self.network = build_network(cfg).to(case.device).train()
        if cfg.MODEL.CHANNELS_LAST:
            self.network.to(memory_format=torch.channels_last)
        self.optimizer = build_optimizer(cfg, self.network)

    def supervised(self, count: int, batched: bool, update: bool = True) -> Work:
        """A training step on ``count`` images, at once or one by one with summed gradients.

        Without ``update`` it is forward and backward, and the optimizer does nothing.
        """
        portions = self._portions(count, batched)

        def work() -> None:
            self.optimizer.zero_grad()
            for portion in portions:
                mean = self.network.pixel_mean
                images, labels = stack_images(portion, mean), stack_labels(portion, mean.device)
                with self._autocast():
                    loss = self.network.supervised(images, labels).loss
                loss.backward()
            if update:
                self.optimizer.step()

        return work

    def inference(self, count: int, batched: bool) -> Work:
        """Logits of complete images, as the teacher needs them."""
        portions = self._portions(count, batched)

        def work() -> None:
            self.network.eval()
            with torch.no_grad(), self._autocast():
                for portion in portions:
                    self.network(stack_images(portion, self.network.pixel_mean))
            self.network.train()

        return work

    def _portions(self, count: int, batched: bool) -> list[list[dict]]:
        images = self.case.images(count, self.network.num_classes, seed=1)
        return [images] if batched else [[each] for each in images]

    def _autocast(self) -> contextlib.AbstractContextManager:
        if not self.case.amp:
            return contextlib.nullcontext()
        return torch.autocast(self.case.device, dtype=getattr(torch, self.case.amp))


def segmentation_step(case: SegmentationCase, *overrides: str) -> AdaptationTrainer:
    """A trainer of the project on random images; its ``run_step`` is what is timed."""
    cfg = case.cfg(overrides)
    torch.manual_seed(0)
    student, teacher = build_student_and_teacher(cfg)
    number = cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES
    source = case.images(case.source, number, seed=1)
    target = [
        {key: value for key, value in each.items() if key != "sem_seg"}
        for each in case.images(case.target, number, seed=2)
    ]
    uses_target = task_of(cfg).masked_view(cfg) is not None
    return trainer_on(cfg, student, teacher, (source, target if uses_target else None))


def segmentation_memory_work(case: SegmentationCase, work: str) -> tuple[Work, nn.Module]:
    """For `memory.measure_here`, and the module whose weights count.

    ``work``: "step", "supervised" (on source + 2 target images), "source" (on the source images
    alone) or "full resolution" (the same without HRDA).
    """
    if work == "step":
        trainer = segmentation_step(case)
        return step_of(trainer), trainer.student.network
    plain = PlainSegmentor(case, *(WITHOUT_HRDA if work == "full resolution" else ()))
    count = case.source + (2 * case.target if work == "supervised" else 0)
    return plain.supervised(count, batched=True), plain.network
