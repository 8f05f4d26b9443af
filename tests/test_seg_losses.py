"""Losses, pseudo labels and mixing of segmentation: hand-computed cases and slow references."""

from __future__ import annotations

import math

import pytest
import torch

from mic_det.segmentation.losses import IGNORED, pixel_cross_entropy, resize_labels
from mic_det.segmentation.mixing import class_mask, mix
from mic_det.segmentation.pseudo_labels import PixelLabels, confident_share_labels, kept_share


def test_cross_entropy_is_a_loop_over_pixels():
    logits, weight = torch.randn(2, 5, 4, 3), torch.rand(2, 4, 3)
    labels = torch.randint(0, 5, (2, 4, 3))
    labels[0, 1] = labels[1, 3, 0] = IGNORED
    total, count = 0.0, 0
    for n in range(2):
        for y in range(4):
            for x in range(3):
                k = int(labels[n, y, x])
                if k != IGNORED:
                    scores = [math.exp(v) for v in logits[n, :, y, x].tolist()]
                    total -= float(weight[n, y, x]) * math.log(scores[k] / sum(scores))
                    count += 1
    assert float(pixel_cross_entropy(logits, labels, weight)) == pytest.approx(total / count, 1e-5)


def test_half_the_weight_is_half_the_loss():
    logits, labels = torch.randn(1, 3, 2, 2), torch.randint(0, 3, (1, 2, 2))
    half = pixel_cross_entropy(logits, labels, torch.full((1, 2, 2), 0.5))
    assert float(half) == pytest.approx(0.5 * float(pixel_cross_entropy(logits, labels)))


def test_nothing_labelled_is_no_loss_and_no_nan():
    logits = torch.randn(1, 3, 2, 2, requires_grad=True)
    loss = pixel_cross_entropy(logits, torch.full((1, 2, 2), IGNORED))
    loss.backward()
    assert loss == 0 and not logits.grad.any()


def test_labels_are_resized_by_nearest_neighbour():
    labels = torch.tensor([[[0, 1, 2, 3], [4, 5, 6, 255]]])
    assert resize_labels(labels, (1, 2)).tolist() == [[[0, 2]]]
    assert resize_labels(labels, (2, 8))[0, 1].tolist() == [4, 4, 5, 5, 6, 6, 255, 255]


def of_probabilities(*probabilities):
    """Logits (1, 2, 1, n) of pixels with these probabilities of class 0."""
    p = torch.tensor(probabilities)
    return torch.stack([p.log(), (1 - p).log()])[None, :, None]


def test_the_weight_is_the_share_of_sure_pixels():
    pseudo = confident_share_labels(of_probabilities(0.99, 0.97, 0.9, 0.01), threshold=0.968)
    assert pseudo.labels.tolist() == [[[0, 0, 0, 1]]]
    assert torch.allclose(pseudo.weight, torch.full((1, 1, 4), 0.75))
    assert kept_share(pseudo) == 1


def test_each_image_has_a_weight_of_its_own():
    logits = torch.cat([of_probabilities(0.99, 0.5), of_probabilities(0.6, 0.5)])
    weight = confident_share_labels(logits, 0.968).weight
    assert weight[:, 0, 0].tolist() == [0.5, 0.0]


def test_rows_can_be_left_out():
    logits = of_probabilities(0.99).expand(1, 2, 6, 3)
    pseudo = confident_share_labels(logits, 0.9, ignore_top=1, ignore_bottom=2)
    assert pseudo.weight[0, :, 0].tolist() == [0, 1, 1, 1, 0, 0]
    assert kept_share(pseudo) == 0.5


@pytest.mark.parametrize(("classes", "taken"), [(1, 1), (2, 1), (3, 2), (4, 2), (5, 3)])
def test_half_of_the_classes_rounded_up_are_taken(classes, taken):
    labels = torch.arange(classes).repeat(1, 4, 1)
    for _ in range(5):
        mask = class_mask(labels)
        assert len(labels[mask].unique()) == taken
        assert torch.equal(mask, torch.isin(labels, labels[mask].unique())), "whole classes"


def test_classes_are_drawn_as_by_a_loop_over_images():
    labels = torch.randint(0, 6, (4, 8, 8))
    labels[labels == 5] = IGNORED
    labels[2] = IGNORED
    generator = torch.Generator().manual_seed(3)
    expected = []
    for each in labels:
        present = [k for k in range(IGNORED) if (each == k).any()]
        order = torch.randperm(len(present), generator=generator).tolist()
        taken = [present[i] for i in order[: math.ceil(len(present) / 2)]]
        expected.append(torch.stack([each == k for k in [*taken, -1]]).any(0))
    found = class_mask(labels, torch.Generator().manual_seed(3))
    assert torch.equal(found, torch.stack(expected)) and found.any() and not found[2].any()


def test_ignored_pixels_are_never_taken():
    labels = torch.tensor([[[0, IGNORED, 1]], [[IGNORED] * 3]])
    assert all(not class_mask(labels)[labels == IGNORED].any() for _ in range(10))


def test_every_class_is_taken_half_of_the_time():
    labels = torch.arange(4).view(1, 2, 2)
    share = torch.stack([class_mask(labels) for _ in range(2000)]).float().mean(0)
    assert (share - 0.5).abs().max() < 0.05


def test_the_mix_is_exact():
    labels = torch.tensor([[[0, 1], [1, IGNORED]]])
    mask = torch.tensor([[[False, True], [True, False]]])
    source, target = torch.rand(1, 3, 2, 2), torch.rand(1, 3, 2, 2)
    pseudo = PixelLabels(torch.tensor([[[2, 2], [3, 3]]]), torch.full((1, 2, 2), 0.25))
    images, mixed = mix(mask, source, labels, target, pseudo)
    assert mixed.labels.tolist() == [[[2, 1], [1, 3]]]
    assert mixed.weight.tolist() == [[[0.25, 1.0], [1.0, 0.25]]]
    for y, x, of in ((0, 0, target), (0, 1, source), (1, 0, source), (1, 1, target)):
        assert torch.equal(images[0, :, y, x], of[0, :, y, x])
