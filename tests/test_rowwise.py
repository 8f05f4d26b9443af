"""The instance-level heads with their way back written out give the plain heads' numbers."""

import pytest
import torch
from torch import nn

from mic_det.core import scale_gradient
from mic_det.detection.domain_heads import InstanceDomainHead

FACTORS = (-0.1, 0.01)


def spread_head(channels=5, dropout=0.0, dtype=torch.float64):
    head = InstanceDomainHead(channels, 7, dropout).to(dtype)
    for parameter in head.parameters():
        torch.nn.init.normal_(parameter)
    return head


def plain(head, x, factors, seed=3):
    """Each loss through the layers by itself, dropout drawn alike."""
    found = []
    for factor in factors:
        torch.manual_seed(seed)
        found.append(head(scale_gradient(x, factor)).flatten())
    return found


def fast(head, x, factors, seed=3):
    torch.manual_seed(seed)
    return head.branches(x, factors)


def rows(count, channels=5, dtype=torch.float64):
    return torch.randn(count, channels, dtype=dtype, requires_grad=True)


@pytest.mark.parametrize("factors", [FACTORS, (1.0,), (0.0, -1.0, 2.0)])
@pytest.mark.parametrize("dropout", [0.0, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("count", [6, 1, 0])
def test_logits_and_gradients(count, dropout, factors):
    torch.manual_seed(0)
    head, x = spread_head(dropout=dropout), rows(count)
    wanted = [x, *head.parameters()]
    slow, quick = plain(head, x, factors), fast(head, x, factors)
    for one, other in zip(quick, slow, strict=True):
        assert one.shape == (count,)
        assert torch.equal(one, other)
    upstream = [torch.randn_like(each) for each in slow]
    expected = torch.autograd.grad(slow, wanted, upstream)
    found = torch.autograd.grad(quick, wanted, upstream)
    for one, other in zip(found, expected, strict=True):
        assert torch.allclose(one, other, rtol=1e-10, atol=1e-12)


def test_in_eval_mode_nothing_drops():
    torch.manual_seed(0)
    head, x = spread_head(dropout=0.5).eval(), rows(9)
    assert torch.equal(head.branches(x, FACTORS)[1], head(x).flatten())
    wanted = [x, *head.parameters()]
    found = torch.autograd.grad(head.branches(x, (-2.0,))[0].sum(), wanted)
    expected = torch.autograd.grad(plain(head, x, (-2.0,))[0].sum(), wanted)
    for one, other in zip(found, expected, strict=True):
        assert torch.allclose(one, other, rtol=1e-10, atol=1e-12)


def test_all_losses_see_one_draw_of_the_dropout():
    torch.manual_seed(0)
    head, x = spread_head(dropout=0.5), torch.ones(100, 5, dtype=torch.float64)
    first, second = head.branches(x, FACTORS)
    assert torch.equal(first, second)
    assert len(first.detach().unique()) > 20, "and each row a draw of its own"
    assert not torch.equal(first, head.branches(x, FACTORS)[0])


@pytest.mark.parametrize("looks", [0, 1])
def test_where_only_one_loss_looks(looks):
    torch.manual_seed(0)
    head, x = spread_head(dropout=0.5), rows(4)
    wanted = [x, *head.parameters()]
    expected = torch.autograd.grad(plain(head, x, FACTORS)[looks].square().sum(), wanted)
    found = torch.autograd.grad(fast(head, x, FACTORS)[looks].square().sum(), wanted)
    for one, other in zip(found, expected, strict=True):
        assert torch.allclose(one, other, rtol=1e-10, atol=1e-12)


def test_frozen_features_and_frozen_head():
    head, x = spread_head(), torch.randn(4, 5, dtype=torch.float64)
    head.branches(x, FACTORS)[0].sum().backward()
    assert all(p.grad is not None for p in head.parameters())
    head.requires_grad_(False)
    x.requires_grad_()
    (found,) = torch.autograd.grad(head.branches(x, (-2.0,))[0].sum(), x)
    (expected,) = torch.autograd.grad(head(x).sum(), x)
    assert torch.allclose(found, -2.0 * expected)
    with torch.no_grad():
        assert not head.branches(x, FACTORS)[1].requires_grad


def test_by_hand():
    """One row, two hidden units a layer, the second of the first layer inactive."""
    head = InstanceDomainHead(1, 2, 0.0)
    first, second, last = (each for each in head if isinstance(each, nn.Linear))
    with torch.no_grad():
        first.weight.copy_(torch.tensor([[2.0], [-1.0]]))
        second.weight.copy_(torch.tensor([[3.0, 5.0], [1.0, 7.0]]))
        last.weight.copy_(torch.tensor([[0.5, -1.0]]))
    x = torch.tensor([[4.0]], requires_grad=True)
    (logit,) = head.branches(x, (-0.1,))
    # 4 -> (8, -4) -> (8, 0) -> (24, 8) -> 12 - 8
    assert logit.item() == 4.0
    logit.sum().backward()
    assert x.grad.item() == pytest.approx(-0.1 * (0.5 * 3 - 1.0 * 1) * 2)
    assert last.weight.grad.tolist() == [[24.0, 8.0]]
    assert second.weight.grad.tolist() == [[4.0, 0.0], [-8.0, 0.0]]
    assert first.weight.grad.tolist() == [[2.0], [0.0]]
    assert second.bias.grad.tolist() == [0.5, -1.0]
    assert first.bias.grad.tolist() == [0.5, 0.0]


def test_under_autocast():
    torch.manual_seed(0)
    head, x = InstanceDomainHead(16, 32, 0.0), rows(12, 16, torch.float32)
    wanted = [x, *head.parameters()]
    upstream = [torch.randn(12) for _ in FACTORS]
    exact = torch.autograd.grad(plain(head, x, FACTORS), wanted, upstream)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = head.branches(x, FACTORS)
    assert all(each.dtype == torch.bfloat16 for each in logits)
    found = torch.autograd.grad(logits, wanted, [each.bfloat16() for each in upstream])
    for one, other in zip(found, exact, strict=True):
        assert one.dtype == torch.float32
        assert (one - other).norm() < 0.05 * other.norm()


def test_weights_that_changed_before_the_way_back_are_noticed():
    head, x = spread_head(), rows(3)
    (logits,) = head.branches(x, (1.0,))
    with torch.no_grad():
        head[3].weight.zero_()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        logits.sum().backward()
