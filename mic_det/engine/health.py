"""Numerical health: a step that is not finite is skipped, counted and explained.

Nothing here waits for a GPU within the step: whether the gradients are finite is decided on the
device and handed to the fused optimizer there, as `torch.amp.GradScaler` does it.
"""

from __future__ import annotations

import logging
import math
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.utils import comm
from torch import Tensor

from mic_det.errors import DivergedError

logger = logging.getLogger(__name__)

# Iterations after which the verdict on a step is read from a GPU: it has long been copied by then.
GPU_LAG = 2


@dataclass
class _Verdict:
    """What is known of a step: losses by name, then norm of the gradients and skipped (0 or 1)."""

    iteration: int
    files: list[str]
    names: list[str]
    values: Tensor
    ready: Any = None

    def read(self) -> tuple[dict[str, float], float, bool]:
        if self.ready is not None:
            self.ready.synchronize()
        *losses, norm, skipped = self.values.tolist()
        return dict(zip(self.names, losses, strict=True)), norm, bool(skipped)


class StepGuard:
    """Takes the optimizer's step if loss and gradients are finite, and skips it if not.

    A skipped step leaves weights and the optimizer's state as they were; the trainer sees to the
    running statistics. With several processes a loss that is not finite in one of them skips the
    step in all: the gradients carry the news.

    Args:
        clip_norm: gradients whose common 2-norm is larger are scaled down to it; None: never.
        max_skipped: this many skipped steps in a row stop the run with a DivergedError.
        causes: likely causes of that, most likely first, as the user shall read them.
        last_checkpoint: returns the path of the last checkpoint, or "".
    """

    def __init__(
        self,
        clip_norm: float | None = None,
        max_skipped: int = 20,
        causes: Sequence[str] = (),
        last_checkpoint: Callable[[], str] = str,
    ) -> None:
        self.clip_norm = clip_norm
        self.max_skipped = max_skipped
        self.causes = list(causes)
        self.last_checkpoint = last_checkpoint
        self.skipped = self.skipped_in_a_row = self.clipped = 0
        self.norm = 0.0
        # The last checkpoint when the steps skipped at present began.
        self._good: str | None = None
        self._judged: Tensor | None = None
        self._pending: deque[_Verdict] = deque()

    @property
    def skipped_last(self) -> Tensor:
        """1 if the step just taken was skipped, else 0; on the gradients' device, unread."""
        return self._judged[1]

    @staticmethod
    def checked(total: Tensor) -> Tensor:
        """``total`` itself if it is finite; otherwise NaN, with NaN for all its gradients."""
        fine = torch.isfinite(total.detach())
        return total * torch.where(fine, 1.0, float("nan")).to(total.dtype)

    def step(self, optimizer: torch.optim.Optimizer, scaler: torch.amp.GradScaler) -> None:
        """Unscale, clip, and step unless a gradient is not finite."""
        if scaler.is_enabled():
            scaler.unscale_(optimizer)
        grads = [p.grad for group in optimizer.param_groups for p in group["params"]]
        grads = [grad for grad in grads if grad is not None]
        norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(grads)).float())
        skip = (~torch.isfinite(norm)).float()
        if self.clip_norm is not None:
            factor = (self.clip_norm / (norm + 1e-6)).clamp(max=1.0)
            # Off a CPU, to ask would be to wait.
            if norm.device.type != "cpu" or factor < 1.0:
                torch._foreach_mul_(grads, factor)
        if scaler.is_enabled():
            scaler.step(optimizer)
            scaler.update()
        elif all(group.get("fused") for group in optimizer.param_groups):
            optimizer.grad_scale, optimizer.found_inf = None, skip
            optimizer.step()
        elif not skip.item():
            optimizer.step()
        self._judged = torch.stack([norm, skip])

    def watch(self, iteration: int, files: list[str], losses: dict[str, Tensor]) -> None:
        """Take note of the step just taken; log and count it once it is known to be skipped.

        On a GPU that is `GPU_LAG` iterations later. Raises DivergedError, in all processes at once.
        """
        values = [loss.detach().float().reshape(1) for loss in losses.values()]
        values = torch.cat([*values, self._judged])
        ready = None
        if values.is_cuda:
            values = values.to("cpu", non_blocking=True)
            ready = torch.cuda.Event()
            ready.record()
        self._pending.append(_Verdict(iteration, files, list(losses), values, ready))
        while len(self._pending) > (GPU_LAG if ready is not None else 0):
            self._judge(self._pending.popleft())

    def flush(self) -> None:
        """Judge all steps that have not been judged yet."""
        while self._pending:
            self._judge(self._pending.popleft())

    def write(self, storage: Any) -> None:
        """Scalars ``health/…``: norm of the latest gradients, steps clipped and skipped so far."""
        storage.put_scalar("health/gradient_norm", self.norm, smoothing_hint=False)
        storage.put_scalar("health/clipped_steps", self.clipped, smoothing_hint=False)
        storage.put_scalar("health/skipped_steps", self.skipped, smoothing_hint=False)

    def state_dict(self) -> dict[str, int]:
        counts = ("skipped", "skipped_in_a_row", "clipped")
        return {name: getattr(self, name) for name in counts}

    def load_state_dict(self, state: dict[str, int]) -> None:
        for name, count in state.items():
            setattr(self, name, count)

    def _judge(self, verdict: _Verdict) -> None:
        losses, norm, skipped = verdict.read()
        if not skipped:
            self.skipped_in_a_row = 0
            self.norm = norm
            self.clipped += self.clip_norm is not None and norm > self.clip_norm
            return
        if self._good is None or not self.skipped_in_a_row:
            self._good = self.last_checkpoint()
        self.skipped += 1
        self.skipped_in_a_row += 1
        # All processes are here together: their gradients are the same.
        everywhere = comm.gather((losses, verdict.files))
        for rank, (of_rank, files) in enumerate(everywhere):
            logger.warning(
                "Iteration %d: step skipped (%d so far, %d in a row), %s. Process %d, losses: %s; "
                "images: %s",
                *(verdict.iteration, self.skipped, self.skipped_in_a_row, _what(of_rank), rank),
                ", ".join(f"{name} {value:.4g}" for name, value in of_rank.items()),
                ", ".join(files) or "unknown",
            )
        if self.skipped_in_a_row >= self.max_skipped:
            raise DivergedError(self._farewell(verdict))

    def _farewell(self, verdict: _Verdict) -> str:
        checkpoint = f"Last good checkpoint: {self._good}; --resume goes on from it."
        if not self._good:
            checkpoint = "No checkpoint is older: SOLVER.CHECKPOINT_PERIOD was not reached."
        elif self._good != self.last_checkpoint():
            checkpoint = (
                f"Last checkpoint from before them: {self._good}. Write its name into the file "
                "last_checkpoint beside it; --resume then goes on from it."
            )
        lines = [
            f"Training stopped at iteration {verdict.iteration}: {self.skipped_in_a_row} steps in "
            "a row (SOLVER.MAX_SKIPPED_STEPS) had losses or gradients that were not finite. "
            "All of them were skipped.",
            "Likely causes, the likeliest first:",
            *(f"  {number}. {cause}" for number, cause in enumerate(self.causes, 1)),
            f"Images of the last step: {', '.join(verdict.files) or 'unknown'}",
            checkpoint,
        ]
        return "\n".join(lines)


def _what(losses: dict[str, float]) -> str:
    bad = [name for name, value in losses.items() if not math.isfinite(value)]
    return f"not finite: {', '.join(bad)}" if bad else "its gradients are not finite"


def file_names(*batches: Sequence[dict[str, Any]] | None) -> list[str]:
    """The images of some batches of Detectron2 dicts, where they have names."""
    return [
        each["file_name"]
        for batch in batches
        for each in batch or ()
        if isinstance(each, dict) and "file_name" in each
    ]


def likely_causes(cfg: CfgNode) -> list[str]:
    """Why training with these settings may diverge, the likeliest cause first."""
    solver = cfg.SOLVER
    causes = [
        f"The learning rate: SOLVER.BASE_LR is {solver.BASE_LR} for {solver.IMS_PER_BATCH} source "
        f"images an iteration, reached after SOLVER.WARMUP_ITERS {solver.WARMUP_ITERS}. Divide it "
        "by 4, or warm up for longer.",
        "The network's input: MODEL.PIXEL_MEAN, MODEL.PIXEL_STD and INPUT.FORMAT must be those "
        f"that MODEL.WEIGHTS ({cfg.MODEL.WEIGHTS or 'none'}) was trained with.",
        "Single images or boxes: see whether the same files return in the warnings above.",
    ]
    if solver.AMP.ENABLED and solver.AMP.DTYPE == "float16":
        causes.insert(
            0,
            "float16 overflows: set SOLVER.AMP.DTYPE to bfloat16, or SOLVER.AMP.ENABLED to False.",
        )
    if not solver.CLIP_GRADIENTS.ENABLED:
        causes.insert(1, "Gradients are not clipped: set SOLVER.CLIP_GRADIENTS.ENABLED to True.")
    return causes
