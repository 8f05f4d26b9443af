"""Patch masks of Masked Image Consistency."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class PatchMask(nn.Module):
    """Hide random square patches of images (Hoyer et al., MIC, CVPR 2023, eq. 3-4).

    A grid of round(H/b) x round(W/b) cells is drawn for each image, a cell is kept where uniform
    noise exceeds ``ratio``, and the grid is brought to H x W by nearest neighbour. Where the mask
    is 0 the image becomes ``fill``: 0 for normalised images, the mean colour for others, which is
    the same thing, since (mean - mean) / std = 0.

    Args:
        block_size: side b of a patch in pixels, at least 1.
        ratio: probability r in [0, 1] that a patch is hidden.
        fill: value of hidden pixels, a number or one for each channel.

    Raises ValueError for a block size or a ratio out of range.
    """

    def __init__(
        self, block_size: int = 32, ratio: float = 0.5, fill: float | list[float] = 0.0
    ) -> None:
        super().__init__()
        if block_size < 1:
            raise ValueError(f"block_size must be at least 1 pixel, got {block_size}")
        if not 0.0 <= ratio <= 1.0:
            raise ValueError(f"ratio must be in [0, 1], got {ratio}")
        self.block_size = int(block_size)
        self.ratio = float(ratio)
        fill = torch.as_tensor(fill, dtype=torch.float32).reshape(-1, 1, 1)
        self.register_buffer("fill", fill, persistent=False)

    def draw(
        self, count: int, height: int, width: int, generator: torch.Generator | None = None
    ) -> Tensor:
        """Draw masks: bool ``(count, 1, height, width)`` on the CPU, True where pixels are kept.

        The noise is drawn on the CPU, from ``generator`` or torch's own, whatever device the images
        are on: a seed then gives the same masks everywhere, and a GPU is never waited for.
        """
        rows = max(1, round(height / self.block_size))
        columns = max(1, round(width / self.block_size))
        keep = torch.rand(count, rows, columns, generator=generator) > self.ratio
        # Nearest neighbour: pixel y shows grid row floor(y * rows / height).
        row_of = torch.arange(height) * rows // height
        column_of = torch.arange(width) * columns // width
        return keep[:, row_of][:, :, column_of].unsqueeze(1)

    def forward(self, images: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Mask ``images``, ``(N, C, H, W)`` or ``(C, H, W)`` of any floating dtype and device.

        Returns new images of the same shape and dtype, each with a mask of its own.
        """
        batch = images if images.dim() == 4 else images.unsqueeze(0)
        keep = self.draw(batch.shape[0], *batch.shape[-2:], generator=generator)
        keep = keep.to(images.device, non_blocking=True)
        fill = self.fill.to(device=images.device, dtype=images.dtype)
        return torch.where(keep, batch, fill).view_as(images)

    def extra_repr(self) -> str:
        return f"block_size={self.block_size}, ratio={self.ratio}"
