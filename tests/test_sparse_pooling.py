"""Pooling by a sparse matrix gives Detectron2's pooler's numbers, gradients too."""

import itertools

import pytest
import torch
from detectron2.modeling.poolers import ROIPooler
from detectron2.structures import Boxes
from hypothesis import given, settings
from hypothesis import strategies as st

from mic_det.detection.sparse_pooling import MIN_CHANNELS, pool_regions, roi_align_matrix

SCALES = [1 / 4, 1 / 8, 1 / 16, 1 / 32]


def some_maps(
    count, height, width, channels=MIN_CHANNELS, dtype=torch.float32, layout=torch.contiguous_format
):
    return [
        torch.randn(count, channels, -(-height // stride), -(-width // stride), dtype=dtype)
        .to(memory_format=layout)
        .requires_grad_()
        for stride in (4, 8, 16, 32)
    ]


def some_boxes(number, height, width):
    """From a hundredth of the image to all of it, some beyond its edges."""
    size = torch.tensor([width, height])
    sides = size * torch.exp(-4.6 * torch.rand(number, 2))
    corner = (size + 40) * torch.rand(number, 2) - 20
    return Boxes(torch.cat([corner, corner + sides], dim=1))


def compare(pooler, batches, rtol=1e-4, atol=1e-4):
    maps = [level for levels, _ in batches for level in levels]
    plain = torch.cat([pooler(levels, boxes) for levels, boxes in batches])
    fast = pool_regions(pooler, batches)
    assert fast.shape == plain.shape and fast.dtype == plain.dtype and fast.is_contiguous()
    assert torch.allclose(fast, plain, rtol=rtol, atol=atol)
    upstream = torch.randn_like(plain)
    expected = torch.autograd.grad(plain, maps, upstream, allow_unused=True)
    for one, other in zip(torch.autograd.grad(fast, maps, upstream), expected, strict=True):
        other = torch.zeros_like(one) if other is None else other
        assert one.dtype == other.dtype
        assert torch.allclose(one, other, rtol=rtol, atol=10 * atol)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("kind", ["ROIAlign", "ROIAlignV2"])
@pytest.mark.parametrize("ratio", [0, 1, 2])
def test_pooled_regions_and_gradients(ratio, kind, layout):
    torch.manual_seed(ratio)
    pooler = ROIPooler(7, SCALES, ratio, kind)
    # Two batches of unlike sizes and numbers of images, one image without a box.
    first = some_maps(2, 128, 256, layout=layout), [some_boxes(60, 128, 256) for _ in range(2)]
    second = some_maps(3, 96, 160, layout=layout), [some_boxes(n, 96, 160) for n in (20, 0, 9)]
    compare(pooler, [first, second])


@settings(deadline=None, max_examples=40)
@given(data=st.data())
def test_any_boxes(data):
    """Boxes without area, beyond the image, on the edge to the bit."""
    number = st.one_of(st.floats(-70, 140, width=32), st.sampled_from([0.0, 32.0, 64.0, 96.0]))
    drawn = data.draw(st.lists(st.tuples(*[number] * 4), min_size=1, max_size=12))
    torch.manual_seed(0)
    first, second = torch.tensor(drawn).split(2, dim=1)
    boxes = torch.cat([first.minimum(second), first.maximum(second)], dim=1)
    ratio = data.draw(st.sampled_from([0, 1, 3]))
    side = data.draw(st.sampled_from([1, 2, 7]))
    pooler = ROIPooler(side, SCALES, ratio, data.draw(st.sampled_from(["ROIAlign", "ROIAlignV2"])))
    compare(pooler, [(some_maps(1, 64, 96), [Boxes(boxes)])])


def test_a_single_level():
    pooler = ROIPooler(3, [1 / 8], 0, "ROIAlignV2")
    compare(
        pooler,
        [([torch.randn(1, MIN_CHANNELS, 9, 11, requires_grad=True)], [some_boxes(20, 72, 88)])],
    )


def test_levels_in_bfloat16():
    torch.manual_seed(0)
    pooler = ROIPooler(7, SCALES, 0, "ROIAlignV2")
    maps, boxes = some_maps(1, 128, 128, dtype=torch.bfloat16), [some_boxes(30, 128, 128)]
    found = pool_regions(pooler, [(maps, boxes)])
    wide = [level.detach().float().requires_grad_() for level in maps]
    assert torch.equal(found, pool_regions(pooler, [(wide, boxes)]).bfloat16())
    upstream = torch.randn_like(found)
    grads = torch.autograd.grad(found, maps, upstream)
    expected = torch.autograd.grad(pooler(wide, boxes), wide, upstream.float())
    for one, other in zip(grads, expected, strict=True):
        assert torch.allclose(one.float(), other, rtol=1e-2, atol=1e-2)


def test_levels_of_two_dtypes_come_out_in_the_wider():
    pooler = ROIPooler(7, SCALES, 0, "ROIAlignV2")
    maps = some_maps(1, 128, 128, dtype=torch.bfloat16)
    maps[0] = maps[0].float()
    assert pool_regions(pooler, [(maps, [some_boxes(3, 128, 128)])]).dtype == torch.float32


def test_no_boxes_at_all():
    pooler = ROIPooler(7, SCALES, 0, "ROIAlignV2")
    assert pool_regions(pooler, [(some_maps(1, 64, 64), [some_boxes(0, 64, 64)])]).shape == (
        *(0, MIN_CHANNELS, 7, 7),
    )


def test_the_matrix_is_what_is_tested(monkeypatch):
    """The paths that are compared are two; maps of few channels and other devices take one."""
    pooler = ROIPooler(7, SCALES, 0, "ROIAlignV2")
    boxes = [some_boxes(3, 64, 64)]
    monkeypatch.setattr(ROIPooler, "forward", lambda *_: pytest.fail("the plain way"))
    pool_regions(pooler, [(some_maps(1, 64, 64), boxes)])
    for maps in (
        some_maps(1, 64, 64, channels=MIN_CHANNELS - 1),
        [level.detach().to("meta") for level in some_maps(1, 64, 64)],
    ):
        with pytest.raises(pytest.fail.Exception):
            pool_regions(pooler, [(maps, boxes)])


def test_other_poolers_do_their_own_work():
    pooler = ROIPooler(7, SCALES, 0, "ROIPool")
    compare(pooler, [(some_maps(1, 128, 128), [some_boxes(10, 128, 128)])])


def test_each_bin_is_a_mean():
    """Inside the image the weights of a bin add up to 1, and each sample has four neighbours."""
    pooler = ROIPooler(7, SCALES, 0, "ROIAlignV2")
    boxes = Boxes(torch.tensor([[8.0, 8.0, 90.0, 61.0], [20.0, 30.0, 24.0, 33.0]]))
    matrix = roi_align_matrix(pooler, [(some_maps(1, 128, 128), [boxes])])
    first = [*matrix.starts.tolist(), len(matrix.weights)]
    assert len(first) == 98 + 1 and first == sorted(first)
    sums = [float(matrix.weights[a:b].sum()) for a, b in itertools.pairwise(first)]
    assert sums == pytest.approx([1.0] * 98, abs=1e-5)
