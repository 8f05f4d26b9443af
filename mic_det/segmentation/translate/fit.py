"""Training of the learnt translator."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from .learnt import LearntTranslator

Batch = Sequence[dict[str, Any]]


def fit_translator(
    translator: LearntTranslator,
    batches: Iterator[tuple[Batch, Batch]],
    *,
    channels: str,
    iterations: int,
    lr: float = 1e-3,
    say: Callable[[str], None] = lambda text: None,
    every: int = 100,
) -> None:
    """Train ``translator`` in place by Adam, its learning rate falling to 0 linearly.

    Args:
        batches: endless (source, target) input dicts with ``image`` (3, H, W) in [0, 255], of one
            size within a batch; as many are used of the one as of the other.
        channels: "RGB" or "BGR", the images' order.
        say: is told the mean losses every ``every`` iterations.
    """
    device = next(translator.parameters()).device
    optimizer = torch.optim.Adam(translator.parameters(), lr)
    falling = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda t: 1.0 - t / iterations)
    sums: dict[str, Tensor] = {}
    translator.train()
    for iteration in range(1, iterations + 1):
        source, target = next(batches)
        count = min(len(source), len(target))
        losses = translator.losses(
            _stack(source[:count], channels, device), _stack(target[:count], channels, device)
        )
        optimizer.zero_grad()
        sum(losses.values()).backward()
        optimizer.step()
        falling.step()
        for name, loss in losses.items():
            sums[name] = sums.get(name, 0.0) + loss.detach()
        if iteration % every == 0 or iteration == iterations:
            seen = (iteration - 1) % every + 1
            means = ", ".join(f"{name} {float(each) / seen:.4f}" for name, each in sums.items())
            say(f"iteration {iteration}/{iterations}: {means}")
            sums = {}
    translator.requires_grad_(False).eval()


def _stack(batch: Batch, channels: str, device: torch.device) -> Tensor:
    """RGB images in [0, 1], cut to the smallest of the batch."""
    sizes = [each["image"].shape[-2:] for each in batch]
    height, width = (min(size[side] for size in sizes) for side in (0, 1))
    images = torch.stack([each["image"][:, :height, :width] for each in batch])
    images = images.to(device, torch.float32) / 255.0
    return images.flip(1) if channels == "BGR" else images
