"""A head that serves several losses gives the numbers of one pass for each of them."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from mic_det.core import fork, scale_gradient
from mic_det.detection.domain_heads import ImageDomainHead, InstanceDomainHead

FACTORS = (-0.025, 0.0025)


def spread(head: nn.Module, dtype=torch.float64) -> nn.Module:
    torch.manual_seed(0)
    for parameter in head.to(dtype).parameters():
        nn.init.normal_(parameter)
    return head


HEADS = {
    "image": (lambda: ImageDomainHead(4, 9), (2, 4, 5, 3)),
    "instance": (lambda: InstanceDomainHead(5, 7, 0.0), (6, 5)),
    "instance with dropout": (lambda: InstanceDomainHead(5, 7, 0.5), (6, 5)),
    "no rows": (lambda: InstanceDomainHead(5, 7, 0.5), (0, 5)),
    "any": (lambda: nn.Sequential(nn.Linear(5, 3), nn.Tanh(), nn.LayerNorm(3)), (4, 5)),
}


def plain(head, x, factors, seed=3):
    """Each loss by a pass of its own, dropout drawn alike."""
    outputs = []
    for factor in factors:
        torch.manual_seed(seed)
        outputs.append(head(scale_gradient(x, factor)))
    return outputs


def forked(head, x, factors, seed=3):
    torch.manual_seed(seed)
    return fork(head, x, factors)


@pytest.mark.parametrize("factors", [FACTORS, (-1.0,), (0.0, 1.0, -2.0)])
@pytest.mark.parametrize("kind", HEADS)
def test_outputs_and_gradients(kind, factors):
    make, size = HEADS[kind]
    head, x = spread(make()), torch.randn(size, dtype=torch.float64, requires_grad=True)
    wanted = [x, *head.parameters()]
    slow, fast = plain(head, x, factors), forked(head, x, factors)
    for one, other in zip(fast, slow, strict=True):
        assert torch.equal(one, other)
    upstream = [torch.randn_like(each) for each in slow]
    expected = torch.autograd.grad(slow, wanted, upstream)
    for one, other in zip(torch.autograd.grad(fast, wanted, upstream), expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("looks", [0, 1])
def test_where_only_one_loss_looks(looks):
    head, x = spread(ImageDomainHead(3, 9)), torch.randn(1, 3, 4, 4, dtype=torch.float64)
    wanted = [x.requires_grad_(), *head.parameters()]
    expected = torch.autograd.grad(plain(head, x, FACTORS)[looks].square().sum(), wanted)
    found = torch.autograd.grad(fork(head, x, FACTORS)[looks].square().sum(), wanted)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)


def test_frozen_input_and_frozen_parameters():
    head, x = spread(InstanceDomainHead(5, 7, 0.0)), torch.randn(4, 5, dtype=torch.float64)
    head[0].weight.requires_grad_(False)
    fork(head, x, FACTORS)[0].sum().backward()
    assert [p.grad is None for p in head.parameters()] == [True, *[False] * 5]
    head.requires_grad_(False)
    x.requires_grad_()
    (found,) = torch.autograd.grad(fork(head, x, (-2.0,))[0].sum(), x)
    (expected,) = torch.autograd.grad(head(x).sum(), x)
    torch.testing.assert_close(found, -2.0 * expected)
    with torch.no_grad():
        assert not fork(head, x, FACTORS)[1].requires_grad


def test_by_hand():
    """One row, two hidden units a layer, the second of the first layer inactive."""
    head = InstanceDomainHead(1, 2, 0.0)
    first, second, last = (each for each in head if isinstance(each, nn.Linear))
    with torch.no_grad():
        first.weight.copy_(torch.tensor([[2.0], [-1.0]]))
        second.weight.copy_(torch.tensor([[3.0, 5.0], [1.0, 7.0]]))
        last.weight.copy_(torch.tensor([[0.5, -1.0]]))
    x = torch.tensor([[4.0]], requires_grad=True)
    (logit,) = fork(head, x, (-0.1,))
    # 4 -> (8, -4) -> (8, 0) -> (24, 8) -> 12 - 8
    assert logit.item() == 4.0
    logit.sum().backward()
    assert x.grad.item() == pytest.approx(-0.1 * (0.5 * 3 - 1.0 * 1) * 2)
    assert last.weight.grad.tolist() == [[24.0, 8.0]]
    assert second.weight.grad.tolist() == [[4.0, 0.0], [-8.0, 0.0]]
    assert first.weight.grad.tolist() == [[2.0], [0.0]]


def test_under_autocast():
    head, x = spread(InstanceDomainHead(16, 32, 0.0), torch.float32), torch.randn(12, 16)
    wanted = [x.requires_grad_(), *head.parameters()]
    upstream = [torch.randn(12, 1) for _ in FACTORS]
    exact = torch.autograd.grad(plain(head, x, FACTORS), wanted, upstream)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = fork(head, x, FACTORS)
    assert all(each.dtype == torch.bfloat16 for each in logits)
    found = torch.autograd.grad(logits, wanted, [each.bfloat16() for each in upstream])
    for one, other in zip(found, exact, strict=True):
        assert one.dtype == torch.float32
        assert (one - other).norm() < 0.05 * other.norm()


def test_small_factors_lose_nothing_in_float16():
    """Gradients of about 1e-6 times a factor of 0.0025 are below what float16 can hold."""
    head, x = spread(ImageDomainHead(8, 16), torch.float32), torch.randn(1, 8, 6, 6)
    x.requires_grad_()
    grads = []
    for way in (plain, fork):
        with torch.autocast("cpu", dtype=torch.float16):
            (logits,) = way(head, x, (0.0025,))
        grads.append(torch.autograd.grad(logits, x, torch.full_like(logits, 2e-6))[0])
    assert grads[0].norm() > 0
    assert (grads[1] - grads[0]).norm() < 0.01 * grads[0].norm()


def test_weights_that_changed_before_the_backward_pass_are_noticed():
    head, x = spread(InstanceDomainHead(5, 7, 0.0)), torch.randn(3, 5, dtype=torch.float64)
    (logits,) = fork(head, x.requires_grad_(), (1.0,))
    with torch.no_grad():
        head[3].weight.zero_()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        logits.sum().backward()
