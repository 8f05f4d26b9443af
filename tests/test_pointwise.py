"""The image-level heads with their way back written out give the plain heads' numbers."""

import copy

import pytest
import torch

from mic_det.core import scale_gradient
from mic_det.detection import pointwise
from mic_det.detection.domain_heads import ImageDomainHead

FACTORS = (-0.025, 0.0025)


def spread_head(channels, dtype=torch.float64):
    head = ImageDomainHead(channels, 9).to(dtype)
    for parameter in head.parameters():
        torch.nn.init.normal_(parameter)
    return head


def plain(head, x, factors):
    return [head(scale_gradient(x, factor)) for factor in factors]


@pytest.mark.parametrize("block", [pointwise.CPU_BLOCK, 40])  # at once, and in portions
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("factors", [FACTORS, (-1.0,), (0.0, 1.0, 2.0)])
@pytest.mark.parametrize("size", [(2, 4, 5, 3), (1, 3, 1, 1), (3, 1, 2, 4)])
def test_logits_and_gradients(size, factors, layout, block, monkeypatch):
    monkeypatch.setattr(pointwise, "CPU_BLOCK", block)
    torch.manual_seed(0)
    head = spread_head(size[1])
    x = torch.randn(size, dtype=torch.float64).to(memory_format=layout).requires_grad_()
    wanted = [x, *head.parameters()]
    slow, fast = plain(head, x, factors), head.branches(x, factors)
    upstream = [torch.randn_like(each) for each in slow]
    for one, other in zip(fast, slow, strict=True):
        assert torch.allclose(one, other, rtol=1e-12, atol=1e-12)
    expected = torch.autograd.grad(slow, wanted, upstream)
    for one, other in zip(torch.autograd.grad(fast, wanted, upstream), expected, strict=True):
        assert torch.allclose(one, other, rtol=1e-10, atol=1e-12)


def test_where_only_one_loss_looks():
    torch.manual_seed(0)
    head, x = spread_head(3), torch.randn(1, 3, 4, 4, dtype=torch.float64, requires_grad=True)
    wanted = [x, *head.parameters()]
    for i in (0, 1):
        expected = torch.autograd.grad(plain(head, x, FACTORS)[i].square().sum(), wanted)
        found = torch.autograd.grad(head.branches(x, FACTORS)[i].square().sum(), wanted)
        for one, other in zip(found, expected, strict=True):
            assert torch.allclose(one, other, rtol=1e-10, atol=1e-12)


def test_frozen_features_and_frozen_head():
    head, x = spread_head(3), torch.randn(1, 3, 4, 4, dtype=torch.float64)
    head.branches(x, FACTORS)[0].sum().backward()
    assert all(p.grad is not None for p in head.parameters())
    head.requires_grad_(False)
    x.requires_grad_()
    (found,) = torch.autograd.grad(head.branches(x, (-2.0,))[0].sum(), x)
    (expected,) = torch.autograd.grad(head(x).sum(), x)
    assert torch.allclose(found, -2.0 * expected)
    with torch.no_grad():
        assert not head.branches(x, FACTORS)[1].requires_grad


def test_under_autocast():
    torch.manual_seed(0)
    head, x = spread_head(16, torch.float32), torch.randn(2, 16, 6, 6, requires_grad=True)
    wanted = [x, *head.parameters()]
    upstream = [torch.randn(2, 1, 6, 6) for _ in FACTORS]
    exact = torch.autograd.grad(plain(head, x, FACTORS), wanted, upstream)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = head.branches(x, FACTORS)
    assert all(each.dtype == torch.bfloat16 for each in logits)
    found = torch.autograd.grad(logits, wanted, [each.bfloat16() for each in upstream])
    for one, other in zip(found, exact, strict=True):
        assert one.dtype == torch.float32
        assert (one - other).norm() < 0.05 * other.norm()


def test_weights_as_they_are_at_the_start_under_float16():
    """Their products are about 1e-6: no more is lost than the plain layers lose."""
    torch.manual_seed(0)
    head = ImageDomainHead(64)
    x, upstream = torch.randn(1, 64, 8, 8), 100 * torch.randn(1, 1, 8, 8)
    exact = copy.deepcopy(head).double()
    y = x.double().requires_grad_()
    (expected,) = torch.autograd.grad(exact(y), y, upstream.double())

    def error(logits_of):
        x.requires_grad_()
        with torch.autocast("cpu", dtype=torch.float16):
            logits = logits_of(x)
        (found,) = torch.autograd.grad(logits, x, upstream.to(logits.dtype))
        return float((found - expected).norm() / expected.norm())

    assert error(lambda maps: head.branches(maps, (1.0,))[0]) < 1.1 * error(head) < 0.05


def test_maps_in_another_memory_order():
    torch.manual_seed(0)
    head = spread_head(3)
    x = torch.randn(2, 5, 4, 3, dtype=torch.float64).permute(0, 3, 2, 1).requires_grad_()
    wanted = [x, *head.parameters()]
    expected = torch.autograd.grad(plain(head, x, (-2.0,))[0].square().sum(), wanted)
    found = torch.autograd.grad(head.branches(x, (-2.0,))[0].square().sum(), wanted)
    for one, other in zip(found, expected, strict=True):
        assert torch.allclose(one, other, rtol=1e-10, atol=1e-12)


def test_bits_by_hand():
    values = torch.tensor([True, False, False, True] + [False] * 3 + [True] + [False, True])
    packed = pointwise.pack_bits(values)
    assert packed.tolist() == [1 + 8 + 128, 2]
    assert pointwise.unpack_bits(packed, 10, torch.float32).tolist() == values.float().tolist()


@pytest.mark.parametrize("count", [1, 7, 8, 9, 64])
def test_bits_come_back(count):
    torch.manual_seed(0)
    values = torch.rand(3, 5, count) < 0.5
    packed = pointwise.pack_bits(values)
    assert packed.shape == (3, 5, -(-count // 8)) and packed.dtype == torch.uint8
    for dtype in (torch.float64, torch.bfloat16):
        found = pointwise.unpack_bits(packed, count, dtype)
        assert found.dtype == dtype and torch.equal(found, values.to(dtype))


def test_every_byte():
    values = (torch.arange(256)[:, None] >> torch.arange(8) & 1).bool()
    assert pointwise.pack_bits(values).flatten().tolist() == list(range(256))
