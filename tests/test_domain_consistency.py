"""SADA's consistency between image and instance classifiers, against loops and numbers by hand."""

import pytest
import torch
from domain_sides import boxes_of, side, sigmoid, tiny_heads
from hypothesis import given, settings
from hypothesis import strategies as st

from mic_det.detection.domain_heads import mean_probability_in_boxes


def test_constant_map():
    maps = [torch.full((1, 1, 8, 12), 0.7), torch.full((1, 1, 4, 6), -1.2)]
    boxes = boxes_of([0, 0, 48, 32], [3.3, 4.7, 20.1, 9.9], [10, 10, 11, 11])
    means = mean_probability_in_boxes(maps, [boxes], torch.tensor([0, 1, 0]), [4, 8])
    expected = torch.tensor([sigmoid(0.7), sigmoid(-1.2), sigmoid(0.7)])
    assert torch.allclose(means, expected, atol=1e-6)


def test_linear_ramp_by_hand():
    """Probability 0.05 + 0.05 x at map column x: over columns 2..5 the mean is that of x = 3.5."""
    ramp = (0.05 + 0.05 * torch.arange(12.0)).expand(8, 12)
    maps = [torch.logit(ramp)[None, None]]
    boxes = boxes_of([8, 0, 24, 32], [8, 4, 24, 8], [0, 0, 48, 32], [40, 28, 44, 32])
    means = mean_probability_in_boxes(maps, [boxes], torch.zeros(4, dtype=torch.int64), [4])
    expected = torch.tensor([0.225, 0.225, 0.05 + 0.05 * 5.5, 0.05 + 0.05 * 10])
    assert torch.allclose(means, expected, atol=1e-6)


def test_boxes_between_positions_on_a_ramp():
    """On a ramp the mean inside a box is the value at its centre, wherever the box lies."""
    ramp = (0.05 + 0.05 * torch.arange(12.0)).expand(8, 12)
    boxes = boxes_of([9, 5, 21, 13], [13.7, 6, 14.7, 30], [4, 4, 43, 11])
    means = mean_probability_in_boxes(
        [torch.logit(ramp)[None, None]], [boxes], torch.zeros(3, dtype=torch.int64), [4]
    )
    centres = boxes.get_centers()[:, 0] / 4 - 0.5  # position x has its centre at pixel 4 (x + 0.5)
    assert torch.allclose(means, 0.05 + 0.05 * centres, atol=1e-5)


@settings(deadline=None, max_examples=30)
@given(data=st.data(), seed=st.integers(0, 2**31))
def test_boxes_on_whole_positions_against_loops(data, seed):
    torch.manual_seed(seed)
    maps = [torch.randn(2, 1, 8, 12), torch.randn(2, 1, 4, 6)]
    boxes, levels, expected = [], [], []
    for image in range(2):
        rows = []
        for _ in range(data.draw(st.integers(0, 4))):
            level = data.draw(st.integers(0, 1))
            stride, (height, width) = 4 * 2**level, maps[level].shape[-2:]
            x0, y0 = data.draw(st.integers(0, width - 1)), data.draw(st.integers(0, height - 1))
            x1, y1 = data.draw(st.integers(x0 + 1, width)), data.draw(st.integers(y0 + 1, height))
            rows.append([x0 * stride, y0 * stride, x1 * stride, y1 * stride])
            levels.append(level)
            inside = [
                sigmoid(float(maps[level][image, 0, y, x]))
                for y in range(y0, y1)
                for x in range(x0, x1)
            ]
            expected.append(sum(inside) / len(inside))
        boxes.append(boxes_of(*rows))
    means = mean_probability_in_boxes(maps, boxes, torch.tensor(levels, dtype=torch.int64), [4, 8])
    assert torch.allclose(means, torch.tensor(expected), atol=1e-5)


def test_probability_is_averaged_not_the_logit():
    logits = torch.tensor([[4.0, -1.0]])[None, None]
    means = mean_probability_in_boxes(
        [logits], [boxes_of([0, 0, 8, 4])], torch.zeros(1, dtype=torch.int64), [4]
    )
    assert float(means) == pytest.approx((sigmoid(4.0) + sigmoid(-1.0)) / 2, rel=1e-6)


def test_thin_boxes():
    maps = [torch.randn(1, 1, 8, 12), torch.randn(1, 1, 4, 6)]
    boxes = boxes_of([10, 3, 11, 4], [10, 3, 11, 30], [0, 31, 48, 32], [47, 31, 48, 32])
    for level in (0, 1):
        means = mean_probability_in_boxes(maps, [boxes], torch.full((4,), level), [4, 8])
        low, high = torch.sigmoid(maps[level]).aminmax()
        assert ((means >= low - 1e-6) & (means <= high + 1e-6)).all()


def test_consistency_loss_against_loops():
    heads = tiny_heads(3, pooled=2, image_weight=0.0, instance_weight=0.0, consistency_weight=3.0)
    cells = [(0, 0, 12, 8, 0), (2, 1, 5, 7, 0), (1, 1, 4, 3, 1), (0, 0, 6, 4, 1), (11, 7, 12, 8, 0)]
    expected, sides = 0.0, []
    for first in (cells, cells[1:]):
        rows = [[c * 4 * 2**level for c in box] for *box, level in first]
        features = [torch.randn(1, 6, 8, 12), torch.randn(1, 6, 4, 6), torch.randn(1, 6, 2, 3)]
        each = side(features, [(32, 48)], [boxes_of(*rows)], [level for *_, level in first])
        sides.append(each)
        total = 0.0
        for (x0, y0, x1, y1, level), row in zip(first, each["box_features"], strict=True):
            logits = heads.image_heads[level](features[level])[0, 0]
            inside = [
                sigmoid(float(logits[y, x].detach())) for y in range(y0, y1) for x in range(x0, x1)
            ]
            mine = sigmoid(float(heads.instance_heads[level](row[None]).detach()))
            total += abs(mine - sum(inside) / len(inside))
        expected += 0.5 * total / len(first)
    loss = heads(*sides)["loss_da_consistency"]
    assert float(loss.detach()) == pytest.approx(3.0 * expected, rel=1e-5)
