"""The median rule on crafted confidences; histograms against sorting; agreement; distillation."""

import math

import pytest
import torch

from mic_det.segmentation.agreement import agreeing, kept_and_correct
from mic_det.segmentation.distillation import soft_cross_entropy, symmetric_distillation
from mic_det.segmentation.thresholds import (
    BINS,
    ClassThresholds,
    ConfidenceHistograms,
    median_thresholds,
    predicted,
)


@pytest.mark.parametrize(
    ("confidences", "expected"),
    [
        ([0.2, 0.5, 0.7], 0.5),
        ([0.95, 0.97, 0.99], 0.9),  # a median above 0.9
        ([0.1, 0.9, 1.0], 0.8999),  # 0.9 in single precision is a little less
        ([0.2, 0.4, 0.6, 0.8], 0.4),  # the lower of two middle ones
        ([0.3], 0.3),
        ([1.0], 0.9),
        ([], 0.9),  # never predicted
        ([0.89995] * 3, 0.8999),  # the lower edge of its bin
    ],
)
def test_median_rule(confidences, expected):
    histograms = ConfidenceHistograms(3)
    histograms.add(torch.ones(len(confidences), dtype=torch.long), torch.tensor(confidences))
    thresholds = median_thresholds(histograms.medians())
    assert thresholds[1].item() == pytest.approx(expected, abs=1e-7)
    assert thresholds[0].item() == pytest.approx(0.9)


def test_medians_of_a_set_in_pieces_against_sorting():
    histograms = ConfidenceHistograms(4)
    every = []
    for _ in range(5):
        labels, confidence = torch.randint(0, 3, (2, 7, 9)), torch.rand(2, 7, 9) ** 0.3
        histograms.add(labels, confidence)
        every.append((labels.flatten(), confidence.flatten()))
    labels, confidence = (torch.cat(parts) for parts in zip(*every, strict=True))
    medians = histograms.medians()
    for k in range(3):
        exact = confidence[labels == k].median()
        assert 0.0 <= float(exact) - float(medians[k]) <= 1.0 / BINS + 1e-7
    assert math.isnan(medians[3])


def test_at_least_half_of_a_class_is_kept():
    thresholds = ClassThresholds(2)
    labels, confidence = torch.randint(0, 2, (1, 30, 31)), torch.rand(1, 30, 31)
    confidence[:, :4] = 0.3  # many alike
    histograms = ConfidenceHistograms(2)
    histograms.add(labels, confidence)
    thresholds.assign(histograms)
    kept = thresholds(labels, confidence)
    for k in range(2):
        share = ((kept == k).sum() / (labels == k).sum()).item()
        assert 0.5 <= share < 0.75
    assert ((kept == labels) | (kept == 255)).all()


def test_threshold_is_included_and_by_predicted_class():
    thresholds = ClassThresholds(2)
    thresholds.values.copy_(torch.tensor([0.5, 0.8]))
    labels = torch.tensor([[[0, 0, 1, 1, 1]]])
    confidence = torch.tensor([[[0.5, 0.4999, 0.8, 0.7, 0.9]]])
    assert thresholds(labels, confidence).tolist() == [[[0, 255, 1, 255, 1]]]


def test_predicted_by_hand():
    logits = torch.log(torch.tensor([[0.2, 0.8], [0.7, 0.3]])).T.view(1, 2, 1, 2)
    labels, confidence = predicted(logits.requires_grad_())
    assert labels.tolist() == [[[1, 0]]]
    torch.testing.assert_close(confidence, torch.tensor([[[0.8, 0.7]]]))
    assert not confidence.requires_grad


def test_ceiling_is_a_probability():
    with pytest.raises(ValueError, match="ceiling"):
        ClassThresholds(2, 1.5)


def test_agreement_keeps_what_both_say():
    labels, nearest = torch.tensor([[0, 1, 2, 2]]), torch.tensor([[0, 2, 2, -1]])
    assert agreeing(labels, nearest).tolist() == [[0, 255, 2, 255]]


def test_shares_kept_and_right():
    kept = torch.tensor([[0, 255, 2, 1, 1]])
    assert [int(each) for each in kept_and_correct(kept)] == [4, 5]
    truth = torch.tensor([[0, 0, 1, 255, 1]])
    assert [int(each) for each in kept_and_correct(kept, truth)] == [4, 5, 2, 3]


def test_soft_cross_entropy_on_two_pixels():
    teacher = torch.log(torch.tensor([[0.25, 0.75], [0.5, 0.5]])).T.view(1, 2, 1, 2)
    student = torch.log(torch.tensor([[0.5, 0.5], [0.1, 0.9]])).T.view(1, 2, 1, 2)
    first = -(0.25 * math.log(0.5) + 0.75 * math.log(0.5))
    second = -(0.5 * math.log(0.1) + 0.5 * math.log(0.9))
    assert float(soft_cross_entropy(student, teacher)) == pytest.approx((first + second) / 2)


def test_distillation_is_symmetric_but_for_its_share_and_crosses_views():
    plain, changed, teacher_plain, teacher_changed = (torch.randn(1, 3, 1, 2) for _ in range(4))
    plain.requires_grad_()
    changed.requires_grad_()
    teacher_plain.requires_grad_()
    loss = symmetric_distillation(plain, changed, teacher_plain, teacher_changed)
    there = soft_cross_entropy(changed, teacher_plain)
    back = soft_cross_entropy(plain, teacher_changed)
    assert loss.item() == pytest.approx((there + 0.5 * back).item(), rel=1e-6)
    loss.backward()
    assert teacher_plain.grad is None
    # d CE / d logits = (softmax(student) - softmax(teacher)) / pixels
    expected = 0.5 * (plain.softmax(1) - teacher_changed.softmax(1)) / 2
    torch.testing.assert_close(plain.grad, expected.detach())
