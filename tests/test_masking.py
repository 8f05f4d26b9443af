"""PatchMask: geometry against loops and torch's nearest neighbour, shares, dtypes, fill, errors."""

from fractions import Fraction

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from mic_det.core import PatchMask

SIZES = [  # height, width, block
    (96, 160, 32),
    (100, 71, 32),
    (47, 33, 16),
    (128, 256, 16),
    (61, 250, 64),
    (299, 667, 32),
    (50, 50, 7),
    (31, 95, 64),
]


def grid_of(height, width, block):
    return max(1, round(height / block)), max(1, round(width / block))


def slow_nearest(cells, size):
    """For each pixel the cell it lies in, cell i being [i, i + 1) * size / cells, exactly."""
    found, cell = [], 0
    for pixel in range(size):
        while Fraction(pixel) >= (cell + 1) * Fraction(size, cells):
            cell += 1
        found.append(cell)
    return found


def seeded(seed=3):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(("height", "width", "block"), SIZES)
def test_geometry_against_a_loop(height, width, block):
    rows, columns = grid_of(height, width, block)
    noise = torch.rand(2, rows, columns, generator=seeded())
    mask = PatchMask(block, 0.4).draw(2, height, width, generator=seeded())
    assert mask.shape == (2, 1, height, width)
    assert mask.dtype == torch.bool
    row_of, column_of = slow_nearest(rows, height), slow_nearest(columns, width)
    for image in range(2):
        keep = [[bool(noise[image, r, c] > 0.4) for c in range(columns)] for r in range(rows)]
        expected = torch.tensor([[keep[r][c] for c in column_of] for r in row_of])
        assert torch.equal(mask[image, 0], expected)


@pytest.mark.parametrize(("height", "width", "block"), SIZES)
def test_geometry_is_torchs_nearest_neighbour(height, width, block):
    rows, columns = grid_of(height, width, block)
    noise = torch.rand(3, 1, rows, columns, generator=seeded())
    expected = F.interpolate((noise > 0.5).float(), size=(height, width), mode="nearest")
    mask = PatchMask(block, 0.5).draw(3, height, width, generator=seeded())
    assert torch.equal(mask.float(), expected)


def test_patches_are_blocks_where_the_size_divides():
    mask = PatchMask(4, 0.5).draw(5, 24, 36)
    blocks = mask.float().unfold(2, 4, 4).unfold(3, 4, 4).flatten(-2)
    assert torch.equal(blocks.amin(-1), blocks.amax(-1))
    assert 0 < blocks.mean() < 1


def test_each_image_and_each_call_has_its_own_mask():
    mask = PatchMask(4, 0.5)
    first, second = mask.draw(6, 64, 64), mask.draw(6, 64, 64)
    drawn = list(torch.cat([first, second]))
    for i, one in enumerate(drawn):
        for other in drawn[:i]:
            assert not torch.equal(one, other)


@pytest.mark.parametrize("ratio", [0.3, 0.5, 0.7])
def test_hidden_share_is_the_ratio(ratio):
    kept = PatchMask(8, ratio).draw(60, 320, 480).float().mean().item()
    cells = 60 * 40 * 60
    assert abs((1 - kept) - ratio) < 5 * (ratio * (1 - ratio) / cells) ** 0.5


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(3, 40, 56), (2, 3, 40, 56), (1, 1, 40, 56)])
def test_shape_dtype_and_kept_values(dtype, shape):
    images = (torch.rand(shape) + 1).to(dtype)
    before = images.clone()
    masked = PatchMask(8, 0.5)(images)
    assert masked.shape == images.shape
    assert masked.dtype == dtype
    assert torch.equal(images, before), "the image given was changed"
    hidden = masked == 0
    assert hidden.any() and not hidden.all()
    assert torch.equal(masked[~hidden], images[~hidden])
    same_for_channels = hidden.all(-3) | (~hidden).all(-3)
    assert same_for_channels.all()


def test_images_that_are_not_contiguous():
    images = torch.rand(40, 56, 3) + 1
    transposed = images.permute(2, 0, 1)
    masked = PatchMask(8, 0.5)(transposed, generator=seeded())
    assert torch.equal(masked, PatchMask(8, 0.5)(transposed.contiguous(), generator=seeded()))


@pytest.mark.parametrize("size", [(1, 1), (1, 50), (50, 1), (5, 7), (15, 15)])
def test_tiny_images(size):
    images = torch.ones(200, 3, *size)
    masked = PatchMask(32, 0.5)(images)
    assert masked.shape == images.shape
    assert set(masked.unique().tolist()) == {0.0, 1.0}
    if max(size) < 32:  # a single cell: all or nothing
        share = masked.flatten(1).mean(1)
        assert set(share.tolist()) == {0.0, 1.0}


def test_fill_of_raw_images_is_zero_when_normalised():
    mean = torch.tensor([103.53, 116.28, 123.675])
    std = torch.tensor([57.375, 57.12, 58.395])
    raw = torch.randint(0, 256, (4, 3, 50, 70)).float()

    def normalised(images):
        return (images - mean.view(-1, 1, 1)) / std.view(-1, 1, 1)

    masked_first = normalised(PatchMask(16, 0.5, fill=mean.tolist())(raw, generator=seeded()))
    masked_last = PatchMask(16, 0.5)(normalised(raw), generator=seeded())
    assert (masked_last == 0).any()
    assert torch.equal(masked_first, masked_last)


def test_single_fill_value():
    masked = PatchMask(4, 1.0, fill=7.5)(torch.rand(2, 3, 12, 12))
    assert torch.equal(masked, torch.full_like(masked, 7.5))


def test_ratio_zero_and_one():
    images = torch.rand(3, 3, 64, 64) + 1
    assert torch.equal(PatchMask(4, 0.0)(images), images)
    assert torch.equal(PatchMask(4, 1.0)(images), torch.zeros_like(images))


@pytest.mark.parametrize("block", [0, -3])
def test_block_size_out_of_range(block):
    with pytest.raises(ValueError, match="block_size"):
        PatchMask(block)


@pytest.mark.parametrize("ratio", [-0.01, 1.01, float("nan")])
def test_ratio_out_of_range(ratio):
    with pytest.raises(ValueError, match="ratio"):
        PatchMask(32, ratio)


def test_generator_decides():
    mask, images = PatchMask(4, 0.5), torch.rand(3, 3, 64, 64) + 1
    first = mask(images, generator=seeded(7))
    torch.manual_seed(99)
    assert torch.equal(first, mask(images, generator=seeded(7)))
    assert not torch.equal(first, mask(images, generator=seeded(8)))


def test_global_seed_decides_without_a_generator():
    mask, images = PatchMask(4, 0.5), torch.rand(3, 3, 64, 64) + 1
    torch.manual_seed(5)
    first = mask(images)
    torch.manual_seed(5)
    assert torch.equal(first, mask(images))


def test_fill_is_not_part_of_the_saved_state():
    assert not PatchMask(4, 0.5).state_dict()


@settings(deadline=None, max_examples=30)
@given(
    height=st.integers(1, 90),
    width=st.integers(1, 90),
    block=st.integers(1, 120),
    ratio=st.floats(0, 1),
    seed=st.integers(0, 2**31),
)
def test_any_size(height, width, block, ratio, seed):
    mask = PatchMask(block, ratio).draw(1, height, width, generator=seeded(seed))[0, 0]
    rows, columns = grid_of(height, width, block)
    row_of, column_of = slow_nearest(rows, height), slow_nearest(columns, width)
    noise = torch.rand(1, rows, columns, generator=seeded(seed))[0]
    for y in range(0, height, max(1, height // 7)):
        for x in range(0, width, max(1, width // 7)):
            assert bool(mask[y, x]) == (float(noise[row_of[y], column_of[x]]) > ratio)
