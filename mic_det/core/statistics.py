"""Running statistics of batch normalisation: kept, given back, and the same in all processes."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn


def running_statistics(model: nn.Module) -> list[Tensor]:
    """The buffers that layers of ``model`` gather in training: means, variances, counters."""
    return [buffer for layer in _gathering(model) for buffer in layer.buffers(recurse=False)]


def _gathering(model: nn.Module) -> list[nn.Module]:
    """The layers of ``model`` that gather running statistics as it is now."""
    return [
        layer
        for layer in model.modules()
        if getattr(layer, "track_running_stats", False) and layer.training
    ]


@contextlib.contextmanager
def kept_statistics(model: nn.Module) -> Iterator[None]:
    """Afterwards the running statistics are what they were, whatever went through the model.

    A backward pass through it may still follow.
    """
    tensors = running_statistics(model)
    before = [each.clone() for each in tensors]
    try:
        yield
    finally:
        for tensor, old in zip(tensors, before, strict=True):
            tensor.data.copy_(old)  # autograd counts other changes; gradients do not depend on it


def batch_norm_layers(model: nn.Module) -> dict[str, nn.Module]:
    """BatchNorm layers with running statistics and, if they have weights, trainable ones, by name.

    Frozen layers (Detectron2's FrozenBatchNorm2d, or ``requires_grad`` off) are not among them.
    """
    kinds = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
    return {
        name: layer
        for name, layer in model.named_modules()
        if isinstance(layer, kinds)
        and layer.running_mean is not None
        and (layer.weight is None or layer.weight.requires_grad)
    }


@contextlib.contextmanager
def untracked(model: nn.Module) -> Iterator[None]:
    """Inside, BatchNorm normalises as ever and gathers no running statistics of what it sees."""
    layers = _gathering(model)
    for layer in layers:
        layer.track_running_stats = False
    try:
        yield
    finally:
        for layer in layers:
            layer.track_running_stats = True


class TargetStatistics:
    """The statistics by which a teacher's BatchNorm layers normalise the images that it labels.

    Running statistics are those of the student's training: of source images, and of masked and
    mixed ones. Inside `used`, layers in eval mode normalise by the mean and the variance of about
    the last ``images`` target images instead, the current batch included: with as many in a batch,
    exactly by the batch's own, as BatchNorm in train mode does (the authors of MIC label so, with
    dropout and stochastic depth off). With fewer, a batch of n counts n / ``images`` in an
    exponential average of mean and variance, between-batch variance included. The model's running
    statistics are not touched. Where torch.distributed runs, a batch is that of all processes.

    Args:
        model: the teacher.
        names: of its layers that normalise so, as `batch_norm_layers` of the student has them.
        images: at least 1.
    """

    def __init__(self, model: nn.Module, names: Iterable[str], images: int) -> None:
        if images < 1:
            raise ValueError(f"images must be at least 1, got {images}")
        modules = dict(model.named_modules())
        self.images = images
        self.layers = {name: modules[name] for name in names if name in modules}
        self._gathered: dict[str, _Gathered] = {}

    @contextlib.contextmanager
    def used(self, update: bool = True) -> Iterator[None]:
        """Inside, the layers normalise by the target's statistics.

        ``update``: first take what goes through a layer into them; else, once there are any, they
        stay as they are.
        """
        handles = []
        try:
            for name, layer in self.layers.items():
                if name not in self._gathered:
                    self._gathered[name] = _Gathered.of(layer)
                gathered = self._gathered[name]
                enter = functools.partial(gathered.enter, images=self.images if update else 0)
                handles.append(layer.register_forward_pre_hook(enter))
                handles.append(layer.register_forward_hook(gathered.leave, always_call=True))
            yield
        finally:
            for handle in handles:
                handle.remove()

    def forget(self) -> None:
        """Begin anew, from the model's running statistics."""
        self._gathered = {}

    def state_dict(self) -> dict[str, Any]:
        """For each layer ``mean``, ``var`` and ``seen``, the images that they are of."""
        return {
            name: {"mean": gathered.mean, "var": gathered.var, "seen": gathered.seen}
            for name, gathered in self._gathered.items()
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a `state_dict`; an empty one begins anew."""
        self._gathered = {
            name: _Gathered(each["mean"].clone(), each["var"].clone(), each["seen"])
            for name, each in state.items()
            if name in self.layers
        }


class _Gathered:
    """Mean and variance (C,) float32 of a layer's input over the last images.

    They begin as the layer's running statistics, which count as one image.
    """

    def __init__(self, mean: Tensor, var: Tensor, seen: int = 1) -> None:
        self.mean, self.var, self.seen = mean, var, seen
        self._own: tuple[Tensor, Tensor] | None = None

    @classmethod
    def of(cls, layer: nn.Module) -> _Gathered:
        return cls(layer.running_mean.clone(), layer.running_var.clone())

    def enter(self, layer: nn.Module, inputs: tuple[Tensor, ...], images: int) -> None:
        """Let ``layer`` normalise by these statistics, renewed if ``images`` is not 0."""
        device = layer.running_mean.device
        self.mean, self.var = self.mean.to(device), self.var.to(device)
        if images:
            self.take(inputs[0], images)
        self._own = layer.running_mean, layer.running_var
        layer.running_mean, layer.running_var = self.mean, self.var

    def leave(self, layer: nn.Module, *_: Any) -> None:
        """Give ``layer`` its own statistics back."""
        if self._own is not None:
            layer.running_mean, layer.running_var = self._own
            self._own = None

    @torch.no_grad()
    def take(self, batch: Tensor, images: int) -> None:
        """Average with the statistics of a layer's input (N, C, ...)."""
        batch = batch.detach().to(torch.promote_types(batch.dtype, torch.float32))
        over = [axis for axis in range(batch.dim()) if axis != 1]
        var, mean = torch.var_mean(batch, over, correction=0)
        count = len(batch)
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            world = torch.distributed.get_world_size()
            parts = [torch.empty_like(mean.repeat(2)) for _ in range(world)]
            torch.distributed.all_gather(parts, torch.cat((mean, var)))
            means, variances = torch.stack(parts).unflatten(1, (2, -1)).unbind(1)
            var = variances.mean(0) + means.var(0, correction=0)
            mean, count = means.mean(0), count * world
        share = min(1.0, count / min(self.seen + count, images))
        self.seen = min(self.seen + count, images)
        # What is not finite would stay for ever: such a channel keeps what it had.
        finite = torch.isfinite(mean) & torch.isfinite(var)
        mean = torch.where(finite, mean, self.mean)
        var = torch.where(finite, var, self.var)
        # The variance of a mixture of two distributions.
        between = share * (1.0 - share) * (mean - self.mean).square()
        self.var.lerp_(var, share).add_(between)
        self.mean.lerp_(mean, share)


class StepStatistics:
    """The running statistics of a model before a training step, and what becomes of them after it.

    DistributedDataParallel leaves each process with those of its own images. They are averaged
    here, so that students, teachers and a resumed run are the same in all processes: the mean of
    the processes' means, and of their variances, since each normalises by its own. After a step
    that was skipped, for losses or gradients that are not finite, they are what they were before.

    Args:
        model: in training mode, before the step.
    """

    def __init__(self, model: nn.Module) -> None:
        self.tensors = [each for each in running_statistics(model) if each.is_floating_point()]
        self.before = self._as_one()

    @torch.no_grad()
    def settle(self, skipped: Tensor) -> None:
        """Average over the processes; ``skipped``: a number on the model's device, 0 or 1."""
        if self.before is None:
            return
        now = self._as_one()
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.all_reduce(now)
            now /= torch.distributed.get_world_size()
        now = torch.where(skipped > 0, self.before, now)
        parts = now.split([each.numel() for each in self.tensors])
        shaped = [part.view_as(each) for part, each in zip(parts, self.tensors, strict=True)]
        torch._foreach_copy_(self.tensors, shaped)

    def _as_one(self) -> Tensor | None:
        if not self.tensors:
            return None
        return torch.cat([each.detach().reshape(-1) for each in self.tensors])
