"""Class confusion, CDAN and the masked loss against slow references and by hand."""

from __future__ import annotations

import math

import pytest
import torch

from mic_det.classification.alignment import (
    DomainAlignment,
    OuterProduct,
    RandomProduct,
    reversal,
)
from mic_det.classification.losses import (
    certainty_weights,
    class_confusion,
    entropy,
    masked_loss,
)


def slow_softmax(row, temperature=1.0):
    powers = [math.exp(v / temperature) for v in row]
    return [v / sum(powers) for v in powers]


def slow_weights(rows):
    """1 + exp(-H), with mean 1."""
    raw = [1 + math.exp(sum(p * math.log(p) for p in row)) for row in rows]
    return [len(rows) * v / sum(raw) for v in raw]


def slow_confusion(logits, temperature):
    rows = [slow_softmax(row, temperature) for row in logits]
    weights = slow_weights(rows)
    classes = range(len(rows[0]))
    table = [
        [sum(w * r[j] * r[k] for w, r in zip(weights, rows, strict=True)) for k in classes]
        for j in classes
    ]
    table = [[cell / sum(row) for cell in row] for row in table]
    return sum(table[j][k] for j in classes for k in classes if j != k) / len(table)


@pytest.mark.parametrize("temperature", [1.0, 2.0, 3.0])
def test_class_confusion_is_the_slow_one(temperature):
    logits = 3 * torch.randn(7, 4)
    expected = slow_confusion(logits.double().tolist(), temperature)
    assert class_confusion(logits, temperature).item() == pytest.approx(expected, rel=1e-5)


def test_class_confusion_of_sure_and_of_clueless_predictions():
    sure = 50 * torch.eye(3)
    assert class_confusion(sure, 1.0).item() == pytest.approx(0.0, abs=1e-6)
    # Everything equal: each row of the confusions is 1/K, of which (K - 1)/K is off the diagonal.
    assert class_confusion(torch.zeros(5, 4), 2.0).item() == pytest.approx(3 / 4)


def test_class_confusion_of_two_images_by_hand():
    # P = [[.8, .2], [.4, .6]] at temperature 1.
    probabilities = torch.tensor([[0.8, 0.2], [0.4, 0.6]], dtype=torch.float64)
    first, second = slow_weights(probabilities.tolist())
    off = first * 0.16 + second * 0.24
    rows = (first * 0.8 + second * 0.4, first * 0.2 + second * 0.6)
    expected = (off / rows[0] + off / rows[1]) / 2
    assert class_confusion(probabilities.log(), 1.0).item() == pytest.approx(expected, rel=1e-5)


def test_class_confusion_is_in_float32_under_autocast():
    """In bfloat16 the confusions would have two digits, and in float16 rows that are 0."""
    logits = 3 * torch.randn(16, 30)
    with torch.autocast("cpu", torch.bfloat16):
        found = class_confusion(logits)
    assert found.dtype == torch.float32 and found.item() == class_confusion(logits).item()


@pytest.mark.parametrize("gap", [100.0, 190.0, 400.0, 1e4])
def test_class_confusion_of_a_class_that_is_out_of_the_question(gap):
    """Its row of the confusions is 0 or next to it: no NaN, in the loss or behind it."""
    logits = torch.tensor([[0.0, 1.0, -gap], [2.0, 0.0, -gap]], requires_grad=True)
    loss = class_confusion(logits)
    loss.backward()
    assert 0.0 < loss.item() <= 1.0 and torch.isfinite(logits.grad).all()


def test_certainty_weights():
    probabilities = torch.tensor([[1.0, 0.0], [0.5, 0.5]], requires_grad=True)
    assert entropy(probabilities).tolist() == pytest.approx([0.0, math.log(2)])
    weights = certainty_weights(probabilities)
    assert weights.tolist() == pytest.approx([2 * 2 / 3.5, 2 * 1.5 / 3.5])
    assert not weights.requires_grad
    assert certainty_weights(torch.full((4, 3), 1 / 3)).tolist() == pytest.approx([1.0] * 4)


def test_masked_loss_by_hand():
    logits = torch.tensor([[2.0, 0.0], [0.0, 1.0]])
    labels, quality = torch.tensor([0, 0]), torch.tensor([0.5, 0.25])
    losses = [-math.log(slow_softmax(row)[0]) for row in logits.tolist()]
    expected = (0.5 * losses[0] + 0.25 * losses[1]) / 2
    assert masked_loss(logits, labels, quality).item() == pytest.approx(expected)


def test_outer_product_is_each_product():
    features, probabilities = torch.randn(3, 5), torch.rand(3, 2)
    found = OuterProduct(5, 2)(features, probabilities)
    assert found.shape == (3, 10)
    for n in range(3):
        slow = [float(p * f) for p in probabilities[n] for f in features[n]]
        assert found[n].tolist() == pytest.approx(slow)


def test_random_product_keeps_inner_products_on_average():
    features, probabilities = torch.randn(2, 6), torch.rand(2, 3)
    product = RandomProduct(6, 3, dim=400_000)
    found = product(features, probabilities)
    exact = OuterProduct(6, 3)(features, probabilities)
    scale = exact.norm(dim=1).prod()
    assert float((found[0] @ found[1] - exact[0] @ exact[1]) / scale) == pytest.approx(0, abs=0.02)
    assert float((found[0] @ found[0]) / (exact[0] @ exact[0])) == pytest.approx(1, abs=0.03)
    one = (features[0] @ product.of_features[:, 7]) * (probabilities[0] @ product.of_classes[:, 7])
    assert found[0, 7].item() == pytest.approx(one.item() / math.sqrt(400_000), rel=1e-4)
    assert set(product.state_dict()) == {"of_features", "of_classes"}


def test_what_the_domain_classifier_sees():
    inputs = {
        name: DomainAlignment(8, 5, hidden=4, random_dim=16, **settings).layers[0].in_features
        for name, settings in {
            "exact": {"exact_up_to": 40},
            "random": {"exact_up_to": 39},
            "dann": {"conditional": False},
        }.items()
    }
    assert inputs == {"exact": 40, "random": 16, "dann": 8}


@pytest.mark.parametrize(
    ("iteration", "warmup", "value"),
    [(0, 1000, 0.0), (1000, 1000, 2 / (1 + math.exp(-1)) - 1), (10**6, 1000, 1.0), (0, 0, 1.0)],
)
def test_reversal(iteration, warmup, value):
    assert reversal(iteration, warmup) == pytest.approx(value)


class Fixed(torch.nn.Module):
    """A domain classifier that is a plane through the origin."""

    def __init__(self, weights):
        super().__init__()
        self.w = torch.nn.Parameter(weights)

    def forward(self, inputs):
        return (inputs @ self.w)[:, None]


@pytest.mark.parametrize(("conditional", "with_entropy"), [(False, False), (True, True)])
def test_domain_loss_and_its_gradients(conditional, with_entropy):
    """Binary cross-entropy, weighted in each domain, and -strength times its gradient behind it."""
    alignment = DomainAlignment(
        3, 2, conditional=conditional, entropy=with_entropy, hidden=4, warmup=100
    )
    alignment.layers = Fixed(torch.randn(6 if conditional else 3))
    source, target = torch.randn(4, 3), torch.randn(2, 3)
    logits = torch.randn(4, 2, requires_grad=True), torch.randn(2, 2, requires_grad=True)
    source.requires_grad_()
    alignment(source, target, *logits, iteration=70).backward()

    again = source.detach().clone().requires_grad_()
    plain = alignment.layers.w.detach().clone().requires_grad_()
    total = 0.0
    for features, of_classes, label in ((again, logits[0], 1.0), (target, logits[1], 0.0)):
        probabilities = [slow_softmax(row) for row in of_classes.tolist()]
        weights = slow_weights(probabilities) if with_entropy else [1.0] * len(probabilities)
        for f, p, w in zip(features, probabilities, weights, strict=True):
            seen = torch.cat([pk * f for pk in p]) if conditional else f
            chance = torch.sigmoid(seen @ plain)
            total = total - w * torch.log(chance if label else 1 - chance) / len(features) / 2
    total.backward()
    found = alignment(source, target, *logits, iteration=70)
    assert found.item() == pytest.approx(total.item(), rel=1e-5)
    torch.testing.assert_close(alignment.layers.w.grad, plain.grad)
    torch.testing.assert_close(source.grad, -reversal(70, 100) * again.grad)
    assert logits[0].grad is None, "the classifier's probabilities are no way back"


def test_the_domains_count_the_same_whatever_their_numbers():
    alignment = DomainAlignment(3, 2, conditional=False, hidden=4)
    alignment.layers = Fixed(torch.randn(3))
    source, target, logits = torch.randn(2, 3), torch.randn(2, 3), torch.zeros(2, 2)
    once = alignment(source, target, logits, logits, 5)
    more = alignment(source.repeat(3, 1), target, logits.repeat(3, 1), logits, 5)
    assert more.item() == pytest.approx(once.item(), rel=1e-6)
    assert alignment.health.pop()["domain_accuracy/source"][1] == 8
