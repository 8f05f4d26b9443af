"""Gradient scaling, and the factors of SADA's three reversal paths, measured by autograd."""

import pytest
import torch
import torch.nn.functional as F
from detectron2.structures import Boxes
from hypothesis import given, settings
from hypothesis import strategies as st

from mic_det.core import scale_gradient
from mic_det.detection import SADAHeads


@pytest.mark.parametrize("factor", [-0.025, -1.0, 0.0, 0.5, 1.0, 3.0])
def test_value_is_kept_and_gradient_scaled(factor):
    x = torch.randn(4, 5, dtype=torch.float64, requires_grad=True)
    y = scale_gradient(x, factor)
    assert torch.equal(y, x)
    upstream = torch.randn_like(x)
    (grad,) = torch.autograd.grad(y, x, upstream)
    assert torch.equal(grad, factor * upstream)


def test_dtype_of_the_gradient_is_kept():
    for dtype in (torch.float16, torch.bfloat16):
        x = torch.ones(3, dtype=dtype, requires_grad=True)
        scale_gradient(x, -0.5).sum().backward()
        assert x.grad.dtype == dtype
        assert x.grad.tolist() == [-0.5] * 3


def test_scaling_twice_multiplies():
    x = torch.ones(2, requires_grad=True)
    scale_gradient(scale_gradient(x, -0.5), 3.0).sum().backward()
    assert x.grad.tolist() == [-1.5, -1.5]


@settings(deadline=None, max_examples=30)
@given(factor=st.floats(-10, 10), values=st.lists(st.floats(-50, 50), min_size=1, max_size=6))
def test_any_factor(factor, values):
    x = torch.tensor(values, dtype=torch.float64, requires_grad=True)
    (scale_gradient(x, factor) ** 2).sum().backward()
    assert torch.allclose(x.grad, factor * 2 * x.detach(), rtol=1e-12, atol=0)


# --- SADAHeads on one level, boxes on whole map cells: the losses are simple enough to write down.

STRIDE = 4
SIZE = (24, 32)  # 6 x 8 map positions
CELLS = [(0, 0, 8, 6), (1, 2, 4, 3), (5, 1, 8, 5), (2, 2, 3, 6)]  # x0, y0, x1, y1 in positions


def make_heads(**weights):
    parts = {"image_weight": 0.0, "instance_weight": 0.0, "consistency_weight": 0.0} | weights
    torch.manual_seed(1)
    heads = SADAHeads(
        image_channels=[6],
        strides=[STRIDE],
        instance_channels=10,
        pooled_levels=1,
        image_hidden=7,
        instance_hidden=9,
        **parts,
    )
    with torch.no_grad():
        for parameter in heads.parameters():
            parameter.normal_(0.0, 0.5)
    return heads.eval()  # no dropout


def make_side():
    boxes = torch.tensor(CELLS, dtype=torch.float32) * STRIDE
    return {
        "features": [torch.randn(1, 6, 6, 8, requires_grad=True)],
        "image_sizes": [SIZE],
        "boxes": [Boxes(boxes)],
        "box_features": torch.randn(len(CELLS), 10, requires_grad=True),
        "levels": torch.zeros(len(CELLS), dtype=torch.int64),
    }


def plain_losses(heads, source, target):
    """The three losses with no scaling of gradients anywhere."""
    losses = {"image": 0.0, "instance": 0.0, "consistency": 0.0}
    for label, side in ((1.0, source), (0.0, target)):
        if len(heads.image_heads):
            logits = heads.image_heads[0](side["features"][0])
            goal = torch.full_like(logits, label)
            losses["image"] += 0.5 * F.binary_cross_entropy_with_logits(logits, goal)
        if len(heads.instance_heads):
            instance = heads.instance_heads[0](side["box_features"]).flatten()
            goal = torch.full_like(instance, label)
            losses["instance"] += 0.5 * F.binary_cross_entropy_with_logits(instance, goal)
        if len(heads.image_heads) and len(heads.instance_heads):
            image = torch.sigmoid(logits)[0, 0]
            for (x0, y0, x1, y1), each in zip(CELLS, instance, strict=True):
                inside = image[y0:y1, x0:x1].mean()
                losses["consistency"] += 0.5 * (torch.sigmoid(each) - inside).abs() / len(CELLS)
    return losses


@pytest.mark.parametrize(
    ("part", "of_maps", "of_boxes"),
    [
        ("image", -0.025, None),
        ("instance", None, -0.1),
        ("consistency", 0.1 * 0.025, 0.1 * 0.1),
    ],
)
def test_factors_of_the_reversal_paths(part, of_maps, of_boxes):
    heads = make_heads(**{f"{part}_weight": 1.0})
    source, target = make_side(), make_side()
    features = [side["features"][0] for side in (source, target)]
    box_features = [side["box_features"] for side in (source, target)]
    parameters = list(heads.parameters())

    losses = heads(source, target)
    assert list(losses) == [f"loss_da_{part}"]
    loss = losses[f"loss_da_{part}"]
    plain = plain_losses(heads, source, target)[part]
    assert torch.allclose(loss, plain, rtol=1e-5)

    everything = parameters + features + box_features
    grads = torch.autograd.grad(loss, everything, allow_unused=True)
    plain_grads = torch.autograd.grad(plain, everything, allow_unused=True)
    count = len(parameters)
    for mine, expected in zip(grads[:count], plain_grads[:count], strict=True):
        assert expected.abs().max() > 0
        assert torch.allclose(mine, expected, rtol=1e-4, atol=1e-7), "the head's own gradient"
    factors = [of_maps] * 2 + [of_boxes] * 2
    for mine, expected, factor in zip(grads[count:], plain_grads[count:], factors, strict=True):
        if factor is None:
            assert mine is None
        else:
            assert expected.abs().max() > 1e-5
            assert torch.allclose(mine / factor, expected, rtol=1e-4, atol=1e-7)


def test_paths_add_up():
    heads = make_heads(image_weight=1.0, instance_weight=1.0, consistency_weight=1.0)
    source, target = make_side(), make_side()
    maps, rows = source["features"][0], source["box_features"]
    got = torch.autograd.grad(sum(heads(source, target).values()), [maps, rows])
    plain = plain_losses(heads, source, target)
    image = torch.autograd.grad(plain["image"], maps, retain_graph=True)[0]
    instance = torch.autograd.grad(plain["instance"], rows, retain_graph=True)[0]
    consistency = torch.autograd.grad(plain["consistency"], [maps, rows])
    expected_maps = -0.025 * image + 0.0025 * consistency[0]
    expected_rows = -0.1 * instance + 0.01 * consistency[1]
    assert torch.allclose(got[0], expected_maps, rtol=1e-4, atol=1e-8)
    assert torch.allclose(got[1], expected_rows, rtol=1e-4, atol=1e-8)
