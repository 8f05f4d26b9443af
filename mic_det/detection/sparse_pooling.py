"""ROIAlign on a CPU as one sparse matrix: the numbers of torchvision's, in a fraction of its time.

Each bin of a region is a weighted sum of positions of a feature map. With a map's channels
innermost such a sum adds whole rows, and so does the backward pass; torchvision goes through
channels one by one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from detectron2.layers import ROIAlign
from detectron2.modeling.poolers import ROIPooler, assign_boxes_to_levels
from detectron2.structures import Boxes
from torch import Tensor
from torch.autograd.function import once_differentiable

Pooled = tuple[list[Tensor], list[Boxes]]

# With fewer channels a row is too short for the matrix to pay (docs/performance.md).
MIN_CHANNELS = 32


def pool_regions(pooler: ROIPooler, batches: Sequence[Pooled]) -> Tensor:
    """``pooler(maps, boxes)`` of each batch of images, one after the other: (R, C, S, S).

    On a CPU in one sparse product for all batches and levels; elsewhere, on maps of few channels,
    and for poolers that are no ROIAlign, by the pooler itself.

    Args:
        pooler: Detectron2's.
        batches: for each batch its feature maps, finest first, (N, C, H_l, W_l), and the boxes of
            each of its N images.
    """
    if not _is_for_sparse(pooler, batches):
        pooled = [pooler(maps, boxes) for maps, boxes in batches]
        return pooled[0] if len(pooled) == 1 else torch.cat(pooled)
    maps = [level for levels, _ in batches for level in levels]
    channels, side = maps[0].shape[1], pooler.output_size[0]
    table = torch.cat([level.permute(0, 2, 3, 1).reshape(-1, channels).float() for level in maps])
    matrix = roi_align_matrix(pooler, batches)
    pooled = _RowSums.apply(table, matrix).view(-1, side, side, channels)
    dtype = maps[0].dtype
    for level in maps[1:]:
        dtype = torch.promote_types(dtype, level.dtype)
    return pooled.permute(0, 3, 1, 2).to(dtype, memory_format=torch.contiguous_format)


def _is_for_sparse(pooler: ROIPooler, batches: Sequence[Pooled]) -> bool:
    layers = pooler.level_poolers
    return (
        all(level.device.type == "cpu" for maps, _ in batches for level in maps)
        and batches[0][0][0].shape[1] >= MIN_CHANNELS
        and all(type(each) is ROIAlign for each in layers)
        and pooler.output_size[0] == pooler.output_size[1]
        and any(len(each) for _, boxes in batches for each in boxes)
        and not torch.jit.is_tracing()
    )


@dataclass
class RowMatrix:
    """A sparse matrix, row by row; numbers are int32, for it lives until the backward pass.

    ``columns``, ``weights`` (nnz,): its entries. ``starts`` (R,): the first entry of each row.
    ``width``: number of columns.
    """

    columns: Tensor
    weights: Tensor
    starts: Tensor
    width: int


class _RowSums(torch.autograd.Function):
    """A `RowMatrix` times a dense table (width, C)."""

    @staticmethod
    def forward(ctx, table: Tensor, matrix: RowMatrix) -> Tensor:
        ctx.width = matrix.width
        ctx.save_for_backward(matrix.columns, matrix.weights, matrix.starts)
        return F.embedding_bag(
            matrix.columns,
            table,
            matrix.starts,
            mode="sum",
            per_sample_weights=matrix.weights,
        )

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None]:
        columns, weights, starts = ctx.saved_tensors
        lengths = torch.diff(starts, append=starts.new_tensor([len(columns)]))
        rows = torch.arange(len(starts), dtype=torch.int32).repeat_interleave(lengths)
        counts = torch.bincount(columns, minlength=ctx.width)
        order = columns.argsort(stable=True)
        rows, weights = rows[order], weights[order]
        del order, columns
        back = F.embedding_bag(
            rows,
            grad.contiguous(),
            (counts.cumsum(0) - counts).int(),
            mode="sum",
            per_sample_weights=weights,
        )
        return back, None


@torch.no_grad()
def roi_align_matrix(pooler: ROIPooler, batches: Sequence[Pooled]) -> RowMatrix:
    """What each bin (region by region, row by row) takes from each position of all maps.

    Positions are counted over batches, levels, images, rows and columns.
    """
    boxes, places = [], []
    width = 0
    for maps, of_images in batches:
        firsts = []
        for level in maps:
            firsts.append(width)
            width += level.shape[0] * level.shape[2] * level.shape[3]
        sizes = torch.tensor([level.shape[2:] for level in maps])
        levels = assign_boxes_to_levels(
            list(of_images),
            pooler.min_level,
            pooler.max_level,
            pooler.canonical_box_size,
            pooler.canonical_level,
        )
        lengths = torch.tensor([len(each) for each in of_images])
        images = torch.repeat_interleave(torch.arange(len(of_images)), lengths)
        first = torch.tensor(firsts)[levels] + images * sizes.prod(1)[levels]
        boxes.append(torch.cat([each.tensor for each in of_images]).float())
        places.append(torch.cat([levels[:, None], first[:, None], sizes[levels]], dim=1))
    place = torch.cat(places)
    level, first, height, across = place.unbind(1)
    layers = pooler.level_poolers
    scale = torch.tensor([each.spatial_scale for each in layers])[level, None]
    aligned, ratio = layers[0].aligned, layers[0].sampling_ratio
    edges = torch.cat(boxes) * scale - (0.5 if aligned else 0.0)
    corner, lengths = edges[:, :2], edges[:, 2:] - edges[:, :2]
    if not aligned:
        lengths = lengths.clamp(min=1.0)
    side = pooler.output_size[0]
    on_x = _axis(corner[:, 0], lengths[:, 0], across, side, ratio)
    on_y = _axis(corner[:, 1], lengths[:, 1], height, side, ratio)
    return _product(on_y, on_x, first, across, width)


@dataclass
class _Axis:
    """Bins along one axis: positions and weights (R, S, K), of which the first ``counts`` count."""

    index: Tensor
    weight: Tensor
    counts: Tensor


def _axis(start: Tensor, length: Tensor, extent: Tensor, bins: int, ratio: int) -> _Axis:
    """Bilinear weights of the samples of each bin, as torchvision's ROIAlign takes them.

    Args:
        start, length: (R,) of the regions, in positions.
        extent: (R,) size of the map.
        ratio: samples a bin; 0: one for each position that a bin is long, rounded up.
    """
    step = length / bins
    grid = torch.full_like(step, ratio) if ratio > 0 else step.ceil()
    most = max(int(grid.max()), 1)
    number = torch.arange(most)
    taken = number < grid[:, None]  # (R, G)
    inside = (number + 0.5) * (step / grid.clamp(min=1.0))[:, None]
    at = start[:, None, None] + torch.arange(bins)[:, None] * step[:, None, None] + inside[:, None]
    limit = extent[:, None, None]
    used = taken[:, None] & (at >= -1.0) & (at <= limit)
    at = at.clamp(min=0.0)
    low = at.long()
    last = low >= limit - 1
    low = torch.where(last, limit - 1, low)
    share = torch.where(last, 0.0, at - low) * used
    rest = used.float() - share
    high = torch.minimum(low + 1, limit - 1)
    weight = torch.cat([rest, share], dim=2) / grid.clamp(min=1.0)[:, None, None]
    index = torch.cat([low, high], dim=2)
    if ratio > 0:
        counts = torch.full(index.shape[:2], 2 * most)
        return _Axis(index, weight, counts)
    # Neighbouring samples share positions: add up what falls on one. Those of a bin are a window,
    # from its first sample to its last.
    valid = taken[:, None].expand_as(low)
    begin = low[:, :, 0]
    end = torch.where(valid, high, begin[:, :, None]).amax(2)
    counts = (end - begin + 1) * (grid > 0)[:, None]
    size = max(int(counts.max()), 1)
    offset = torch.where(torch.cat([valid, valid], dim=2), index - begin[:, :, None], 0)
    merged = weight.new_zeros(*begin.shape, size).scatter_add_(2, offset, weight)
    return _Axis(begin[:, :, None] + torch.arange(size), merged, counts)


def _product(on_y: _Axis, on_x: _Axis, first: Tensor, across: Tensor, width: int) -> RowMatrix:
    """Bins of two axes to bins of regions."""
    regions, bins = on_y.counts.shape
    per_bin = on_x.counts[:, None, :].expand(regions, bins, bins).reshape(-1)
    entries = (on_y.counts[:, :, None] * on_x.counts[:, None, :]).reshape(-1)
    starts = entries.cumsum(0) - entries
    rows = torch.repeat_interleave(torch.arange(len(entries)), entries)
    place = torch.arange(len(rows)) - starts[rows]
    down = torch.div(place, per_bin[rows], rounding_mode="floor")
    right = place - down * per_bin[rows]
    numbers = torch.arange(regions * bins).view(regions, bins)
    line = numbers[:, :, None].expand(-1, -1, bins).reshape(-1) * on_y.index.shape[2]
    column = numbers[:, None, :].expand(-1, bins, -1).reshape(-1) * on_x.index.shape[2]
    of_y, of_x = line[rows] + down, column[rows] + right
    row_first = first[:, None, None] + on_y.index * across[:, None, None]
    columns = row_first.view(-1)[of_y] + on_x.index.view(-1)[of_x]
    weights = on_y.weight.view(-1)[of_y] * on_x.weight.view(-1)[of_x]
    return RowMatrix(columns.int(), weights, starts.int(), width)
