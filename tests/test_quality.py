"""Quality of pseudo labels: edges of the threshold, confidences by hand, no gradient."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mic_det.core import QUALITY_MODES, confident, objectness_quality, softmax_quality


def test_modes():
    assert set(QUALITY_MODES) == {"teacher", "student", "none"}


def test_threshold_is_included():
    exact = torch.tensor([0.8])
    below = torch.nextafter(exact, torch.zeros(1))
    above = torch.nextafter(exact, torch.ones(1))
    scores = torch.cat([below, exact, above, torch.tensor([0.0, 1.0])])
    assert confident(scores, 0.8).tolist() == [False, True, True, False, True]


def test_threshold_keeps_the_shape():
    assert confident(torch.rand(2, 3, 4), 0.5).shape == (2, 3, 4)
    assert confident(torch.zeros(0), 0.5).shape == (0,)
    assert confident(torch.tensor([0.0]), 0.0).item()


def test_softmax_by_hand():
    logits = torch.log(torch.tensor([[1.0, 2.0, 5.0], [1.0, 1.0, 1.0]]))
    assert torch.allclose(softmax_quality(logits), torch.tensor([5 / 8, 1 / 3]))


def test_objectness_by_hand():
    logits = torch.tensor([0.0, math.log(3.0), -math.log(3.0)])
    assert torch.allclose(objectness_quality(logits), torch.tensor([0.5, 0.75, 0.25]))


@pytest.mark.parametrize("quality", [softmax_quality, objectness_quality])
def test_no_gradient_and_float32(quality):
    logits = torch.randn(4, 5, dtype=torch.bfloat16, requires_grad=True)
    result = quality(logits)
    assert not result.requires_grad
    assert result.dtype == torch.float32


@settings(deadline=None, max_examples=30)
@given(st.lists(st.floats(-200, 200), min_size=2, max_size=9))
def test_any_logits(values):
    logits = torch.tensor(values)
    top = max(values)
    expected = 1.0 / sum(math.exp(value - top) for value in values)
    assert float(softmax_quality(logits)) == pytest.approx(expected, rel=1e-4)
    assert 1 / len(values) - 1e-6 <= float(softmax_quality(logits)) <= 1.0
    assert ((objectness_quality(logits) >= 0) & (objectness_quality(logits) <= 1)).all()
