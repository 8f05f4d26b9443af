"""The teacher: an exponential moving average of the student."""

from __future__ import annotations

import contextlib
import copy
import itertools
import operator
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .statistics import TargetStatistics, batch_norm_layers


def _unwrapped(module: nn.Module) -> nn.Module:
    """The module inside DistributedDataParallel or DataParallel, or the module itself."""
    parallel = (nn.parallel.DistributedDataParallel, nn.DataParallel)
    return module.module if isinstance(module, parallel) else module


class _Members:
    """The modules, parameters and buffers of a model, and whether they are still the same.

    A model that was moved to another device has new buffers, one whose weights were assigned new
    parameters. To look through the dictionaries that hold them takes a twentieth of the time of
    `named_parameters` and `named_buffers`.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self._dicts = [
            each
            for module in model.modules()
            for each in (module._modules, module._parameters, module._buffers)
        ]
        self._values = self._now()

    def _now(self) -> list[Any]:
        return list(itertools.chain.from_iterable(map(dict.values, self._dicts)))

    def hold(self, model: nn.Module) -> bool:
        now = self._now() if model is self.model else []
        return len(now) == len(self._values) and all(map(operator.is_, now, self._values))


@dataclass
class _Lists:
    """Teacher's tensors to average and the student's they follow; those to copy and whence."""

    members: tuple[_Members, _Members]
    averaged: list[Tensor]
    followed: list[Tensor]
    copied: list[Tensor]
    sources: list[Tensor]

    @classmethod
    def of(
        cls, student: nn.Module, teacher: nn.Module, pairs: list[tuple[Tensor, Tensor]]
    ) -> _Lists:
        floating = [pair for pair in pairs if pair[0].is_floating_point()]
        others = [pair for pair in pairs if not pair[0].is_floating_point()]
        return cls(
            (_Members(student), _Members(teacher)),
            *([pair[i] for pair in floating] for i in (0, 1)),
            *([pair[i] for pair in others] for i in (0, 1)),
        )

    def holds(self, student: nn.Module, teacher: nn.Module) -> bool:
        return all(
            each.hold(model) for each, model in zip(self.members, (student, teacher), strict=True)
        )


class EMATeacher:
    """A frozen, averaged copy of a student (Tarvainen and Valpola, 2017; MIC, eq. 8).

    After update t (counted from 0) the teacher's floating-point parameters and buffers are
    a_t * teacher + (1 - a_t) * student, a_t = alpha, or min(1 - 1/(t+1), alpha) with ``warmup``:
    the plain mean of all students so far until alpha is reached. Everything that is not floating
    point (BatchNorm's counters) is copied. The teacher is no part of the optimizer or of
    DistributedDataParallel, always in eval mode, and never has gradients.

    Args:
        student: the module to follow; a DistributedDataParallel wrapper is seen through.
        alpha: share of the old teacher kept in an update, in [0, 1].
        warmup: use the warm-up above.
        model: the teacher's module, if it is not to be a full copy of the student: each name in
            its state must be in the student's. Its values are replaced by the student's.
        statistics_images: what trainable BatchNorm layers normalise by while the teacher labels:
            `TargetStatistics` of so many target images; 0: the student's running statistics.

    Raises ValueError if alpha is out of range or ``model`` has tensors that the student lacks.
    """

    def __init__(
        self,
        student: nn.Module,
        alpha: float = 0.999,
        warmup: bool = False,
        model: nn.Module | None = None,
        statistics_images: int = 0,
    ) -> None:
        if not 0.0 <= alpha <= 1.0:
            raise ValueError(f"alpha must be in [0, 1], got {alpha}")
        self.alpha = float(alpha)
        self.warmup = bool(warmup)
        self.num_updates = 0
        self._cached: _Lists | None = None
        self.model = copy.deepcopy(_unwrapped(student)) if model is None else model
        self.model.requires_grad_(False).eval()
        # None where there is no layer that they could be of.
        self.statistics: TargetStatistics | None = None
        layers = batch_norm_layers(_unwrapped(student)) if statistics_images else {}
        if layers:
            self.statistics = TargetStatistics(self.model, layers, statistics_images)
        self.copy_from(student)

    def _pairs(self, student: nn.Module) -> list[tuple[Tensor, Tensor]]:
        """(teacher tensor, student tensor) for all parameters and buffers, persistent or not."""
        theirs = dict(student.named_parameters()) | dict(student.named_buffers())
        mine = dict(self.model.named_parameters()) | dict(self.model.named_buffers())
        missing = [name for name in mine if name not in theirs]
        if missing:
            raise ValueError(f"the student has no tensors named {', '.join(missing[:5])}")
        return [(tensor, theirs[name]) for name, tensor in mine.items()]

    def _lists(self, student: nn.Module) -> _Lists:
        """The tensors of both models, looked up anew only if one of the models has others now."""
        student = _unwrapped(student)
        if self._cached is None or not self._cached.holds(student, self.model):
            self._cached = _Lists.of(student, self.model, self._pairs(student))
        return self._cached

    @torch.no_grad()
    def copy_from(self, student: nn.Module) -> None:
        """Make the teacher equal to the student, and count updates from 0 again."""
        lists = self._lists(student)
        torch._foreach_copy_(lists.averaged + lists.copied, lists.followed + lists.sources)
        self.num_updates = 0
        if self.statistics is not None:
            self.statistics.forget()

    def next_alpha(self) -> float:
        """The a_t of the coming update."""
        if not self.warmup:
            return self.alpha
        return min(1.0 - 1.0 / (self.num_updates + 1), self.alpha)

    @torch.no_grad()
    def update(self, student: nn.Module) -> None:
        """Move the teacher towards the student by one step; call it after the optimizer's."""
        lists = self._lists(student)
        torch._foreach_lerp_(lists.averaged, lists.followed, 1.0 - self.next_alpha())
        if lists.copied:
            torch._foreach_copy_(lists.copied, lists.sources)
        self.num_updates += 1

    @torch.no_grad()
    def distance(self, student: nn.Module) -> Tensor:
        """Relative distance ||teacher - student|| / ||student|| over the floating-point parameters.

        A scalar tensor on their device: 0 when the two are equal, and right after `copy_from`.
        """
        theirs = dict(_unwrapped(student).named_parameters())
        apart, size = [], []
        for name, mine in self.model.named_parameters():
            if mine.is_floating_point():
                other = theirs[name].detach()
                apart.append(torch.linalg.vector_norm(mine - other, dtype=torch.float32))
                size.append(torch.linalg.vector_norm(other, dtype=torch.float32))
        norm = torch.linalg.vector_norm
        return norm(torch.stack(apart)) / norm(torch.stack(size)).clamp_min(1e-12)

    def follow(self, student: nn.Module, optimizer: torch.optim.Optimizer) -> Any:
        """Update after each ``optimizer.step()`` from now on, in a loop of one's own.

        A step that a gradient scaler leaves out is left out here too. Returns a handle whose
        ``remove()`` ends it.
        """

        def after_step(*_: Any) -> None:
            # A scaler calls a fused optimizer's step in any case, and leaves it word of what it
            # found: the step itself then changes nothing.
            found_inf = getattr(optimizer, "found_inf", None)
            if found_inf is None or not found_inf.item():
                self.update(student)

        return optimizer.register_step_post_hook(after_step)

    @contextlib.contextmanager
    def labelling(self, update: bool = True) -> Iterator[nn.Module]:
        """The model as it labels target images: no gradients, and `TargetStatistics` if it has any.

        ``update``: what is labelled counts for the statistics of later images. Not inside: the
        model's own running statistics, which are for evaluation.
        """
        used = contextlib.nullcontext() if self.statistics is None else self.statistics.used(update)
        with torch.no_grad(), used:
            yield self.model

    def pseudo_label(self, target: Any, update: bool = True) -> Any:
        """The model's own ``pseudo_label(target)``, inside `labelling`."""
        with self.labelling(update) as model:
            return model.pseudo_label(target)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the model on target images, inside `labelling`."""
        with self.labelling() as model:
            return model(*args, **kwargs)
