"""The adaptation step, for every task, and the loop around it."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Collection, Iterator
from functools import partial
from typing import Any

import numpy as np
import torch
from detectron2.engine.train_loop import TrainerBase
from detectron2.utils import comm
from detectron2.utils.env import seed_all_rng
from torch import Tensor, nn

from mic_det.core import EMATeacher, SharpnessAscent, StepStatistics
from mic_det.data.loader import worker_failures_explained

from .health import StepGuard, file_names


class AdaptationTrainer(TrainerBase):
    """Train a student on source and target, with a teacher that follows it.

    Args:
        student: called as ``student(source, target, masked, pseudo)``, returns a dict of losses
            that are already weighted. DistributedDataParallel or plain.
        teacher: the EMA of the student.
        optimizer: of the student's parameters.
        make_batches: from the iteration to start with to endless (source, target) pairs; target is
            None where the method has no use for it.
        mask_target: from the target batch to what the student gets to see of it, augmented and
            masked; None switches MIC off.
        ascent: sharpness-aware minimisation: gradients are taken at the end of this step; None:
            where the weights are.
        guard: takes the optimizer's steps and skips those that are not finite.
        amp_dtype: autocast to this dtype (float16 adds loss scaling); None: full precision.
        seed: each iteration's random draws (dropout, sampling, masks) follow from this, the
            iteration and the process's rank, so that a resumed run draws what it would have drawn.
        max_iter: where `train` ends.
        log_period: losses are averaged over this many iterations and written once: reading a loss
            waits for the GPU.
    """

    def __init__(
        self,
        *,
        student: nn.Module,
        teacher: EMATeacher,
        optimizer: torch.optim.Optimizer,
        make_batches: Callable[[int], Iterator[tuple[Any, Any]]],
        mask_target: Callable[[Any], Any] | None = None,
        ascent: SharpnessAscent | None = None,
        guard: StepGuard | None = None,
        amp_dtype: torch.dtype | None = None,
        seed: int = 0,
        max_iter: int | None = None,
        log_period: int = 20,
    ) -> None:
        super().__init__()
        self.student = student.train()
        self.teacher = teacher
        self.optimizer = optimizer
        self.make_batches = make_batches
        self.mask_target = mask_target
        self.ascent = ascent
        self.guard = guard or StepGuard()
        self.device = next(student.parameters()).device
        self.amp_dtype = amp_dtype
        scales = amp_dtype == torch.float16 and self.device.type == "cuda"
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=scales)
        self.seed = seed
        self.max_iter = max_iter
        # The (source, target) batch of the current step.
        self.batch: tuple[Any, Any] = (None, None)
        # What the latest evaluation returned; filled by the evaluation hook.
        self.last_results: dict[str, Any] = {}
        self._losses = _RunningMeans(log_period)

    def train(self, start_iter: int | None = None, max_iter: int | None = None) -> None:
        """Train from ``start_iter`` (default: where a resumed run goes on, or 0) to ``max_iter``.

        ``max_iter``: default as the trainer was made with.
        """
        start_iter = self.start_iter if start_iter is None else start_iter
        max_iter = self.max_iter if max_iter is None else max_iter
        if max_iter is None:
            raise ValueError("this trainer was made without max_iter: train(start_iter, max_iter)")
        with worker_failures_explained():
            super().train(start_iter, max_iter)

    def before_train(self) -> None:
        self.batches = self.make_batches(self.start_iter)
        super().before_train()

    def before_step(self) -> None:
        super().before_step()
        key = (self.seed, self.iter, comm.get_rank())
        seed_all_rng(int(np.random.SeedSequence(key).generate_state(1)[0]))

    def run_step(self) -> None:
        """One step of masked image consistency (Hoyer et al., CVPR 2023, section 3)."""
        source, target = self.next_batches()
        pseudo = masked = None
        if self.mask_target is not None:
            with self.autocast():
                pseudo = self.teacher.pseudo_label(target)
                masked = self.mask_target(target)
        statistics = StepStatistics(self.student)
        with self.ascended(source, target, masked, pseudo):
            losses, total = self.backward(source, target, masked, pseudo)
        self.after_backward()
        self.guard.step(self.optimizer, self.scaler)
        statistics.settle(self.guard.skipped_last)
        self.teacher.update(self.student)
        self.take_note(losses, total)

    def backward(
        self, *batch: Any, only: Collection[str] | None = None
    ) -> tuple[dict[str, Tensor], Tensor]:
        """The student's losses on ``batch`` and their sum, whose gradients are left in it.

        ``only``: names of the losses that the sum is of; None: all.
        """
        # Before the forward pass, at whose end memory is fullest without them.
        self.optimizer.zero_grad()
        with self.autocast():
            losses = self.student(*batch)
            total = sum(loss for name, loss in losses.items() if only is None or name in only)
        self.scaler.scale(self.guard.checked(total)).backward()
        return losses, total

    def ascended(self, *batch: Any) -> contextlib.AbstractContextManager:
        """Inside, the weights are moved by ``ascent``, if there is one."""
        if self.ascent is None:
            return contextlib.nullcontext()
        return self.ascent(self.student, partial(self.backward, *batch))

    def next_batches(self) -> tuple[Any, Any]:
        """The next source and target batch; the time it took is logged as ``data_time``."""
        start = time.perf_counter()
        self.batch = next(self.batches)
        self.storage.put_scalar("data_time", time.perf_counter() - start)
        return self.batch

    def take_note(self, losses: dict[str, Tensor], total: Tensor) -> None:
        """Losses for the log; whether the step was healthy."""
        self._losses.add(losses, total)
        self.guard.watch(self.iter, file_names(*self.batch), losses)

    def autocast(self) -> contextlib.AbstractContextManager:
        """Mixed precision if it is configured."""
        if self.amp_dtype is None:
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, dtype=self.amp_dtype)

    def after_step(self) -> None:
        last = self.iter + 1 == self.max_iter
        if last:
            self.guard.flush()
        if self._losses.due(last):
            self._losses.write(self.storage)
            self.guard.write(self.storage)
        super().after_step()

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs besides the weights of student and teacher."""
        statistics = self.teacher.statistics
        return super().state_dict() | {
            # After the last step the loop counts one further, without having trained it.
            "iteration": min(self.iter, self.max_iter - 1),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "teacher_updates": self.teacher.num_updates,
            "teacher_statistics": statistics.state_dict() if statistics else {},
            "seed": self.seed,
            "health": self.guard.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        # Rates and decays are settings, not state.
        settings = [
            {name: value for name, value in group.items() if name != "params"}
            for group in self.optimizer.param_groups
        ]
        self.optimizer.load_state_dict(state["optimizer"])
        for group, own in zip(self.optimizer.param_groups, settings, strict=True):
            group.update(own)
        super().load_state_dict(state)  # hooks; that of the schedule sets the optimizer's rates
        if state["scaler"]:  # empty: the run had no loss scaling
            self.scaler.load_state_dict(state["scaler"])
        self.teacher.num_updates = state["teacher_updates"]
        if self.teacher.statistics is not None:
            self.teacher.statistics.load_state_dict(state.get("teacher_statistics", {}))
        self.seed = state["seed"]
        self.guard.load_state_dict(state.get("health", {}))


class _RunningMeans:
    """Losses averaged over some iterations and all processes.

    A loss that is absent from an iteration (no pseudo boxes), or not finite, counts as 0 in it.
    """

    def __init__(self, period: int) -> None:
        self.period = period
        self.count = 0
        self.sums: dict[str, Tensor] = {}

    def add(self, losses: dict[str, Tensor], total: Tensor) -> None:
        self.count += 1
        for name, loss in [*losses.items(), ("total_loss", total)]:
            loss = torch.nan_to_num(loss.detach().float(), 0.0, 0.0, 0.0)
            self.sums[name] = self.sums[name] + loss if name in self.sums else loss

    def due(self, last: bool) -> bool:
        return self.count >= self.period or last

    def write(self, storage: Any) -> None:
        means = {name: value.item() / self.count for name, value in self.sums.items()}
        gathered = comm.gather(means)
        if comm.is_main_process():
            for name in {name for each in gathered for name in each}:
                value = sum(each.get(name, 0.0) for each in gathered) / len(gathered)
                storage.put_scalar(name, value, smoothing_hint=False)
        self.count, self.sums = 0, {}
