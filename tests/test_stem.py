"""Pooling before relu in the stem gives Detectron2's stem to the bit, gradients too."""

import copy
import io

import pytest
import torch
from detector import labelled, tiny_model
from detectron2.modeling.backbone.resnet import BasicStem
from torch import nn

from mic_det.detection.stem import PoolFirstStem, pool_before_relu

pytestmark = pytest.mark.usefixtures("storage")


def stems(norm="GN", channels=32):
    torch.manual_seed(0)
    theirs = BasicStem(3, channels, norm)
    ours = copy.deepcopy(theirs)
    pool_before_relu(ours)
    assert type(ours) is PoolFirstStem and type(theirs) is BasicStem
    return theirs, ours


def outputs_and_gradients(stem, x, upstream_of):
    x = x.clone(memory_format=torch.preserve_format).requires_grad_()
    y = stem(x)
    return [y, *torch.autograd.grad(y, [x, *stem.parameters()], upstream_of(y))]


@pytest.mark.parametrize("norm", ["GN", "BN", ""])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("size", [(2, 32, 48), (1, 13, 7), (3, 4, 4)])
def test_the_same_to_the_bit(size, layout, norm):
    count, height, width = size
    theirs, ours = (each.to(memory_format=layout) for each in stems(norm))
    x = torch.randn(count, 3, height, width).to(memory_format=layout)
    upstream = torch.randn_like(theirs(x).detach())
    pairs = zip(
        outputs_and_gradients(theirs, x, lambda y: upstream),
        outputs_and_gradients(ours, x, lambda y: upstream),
        strict=True,
    )
    for expected, found in pairs:
        assert torch.equal(found, expected)
    assert theirs(x).stride() == ours(x).stride()


def test_equal_values_in_a_window():
    """A flat image: all places of a window are as large; both take the same one."""
    theirs, ours = stems("")
    x = torch.ones(1, 3, 16, 16)
    pairs = zip(
        outputs_and_gradients(theirs, x, torch.ones_like),
        outputs_and_gradients(ours, x, torch.ones_like),
        strict=True,
    )
    assert all(torch.equal(found, expected) for expected, found in pairs)


def test_not_a_number_passes_through():
    theirs, ours = stems("")
    x = torch.full((1, 3, 16, 16), float("nan"))
    assert ours(x).isnan().all() and theirs(x).isnan().all()


@pytest.mark.parametrize("learning", [False, True])
def test_it_can_be_traced_and_saved(learning):
    theirs, ours = stems("GN")
    x = torch.randn(1, 3, 16, 24)
    with torch.set_grad_enabled(learning):
        traced = torch.jit.trace(ours, x)
        torch.jit.save(traced, io.BytesIO())  # refuses functions written in Python
        assert torch.equal(traced(x), theirs(x))


def kept_bytes(stem, x):
    """Of what autograd keeps, the parameters left out."""
    kept = {}

    def note(tensor):
        if not isinstance(tensor, nn.Parameter):
            storage = tensor.untyped_storage()
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda each: each):
        y = stem(x)
    return sum(kept.values()), y


def test_less_is_kept():
    """The map before the pooling is kept once, for the norm, instead of twice."""
    theirs, ours = stems("GN")
    x = torch.randn(2, 3, 64, 64)
    before, y = kept_bytes(theirs, x)
    after, _ = kept_bytes(ours, x)
    assert y.shape == (2, 32, 16, 16)
    assert before - after == 4 * y.nbytes, "the map before the pooling is four times as large"


def test_the_detectors_stem_is_exchanged_and_its_weights_keep_their_names():
    model = tiny_model()
    stem = model.backbone.bottom_up.stem
    assert type(stem) is PoolFirstStem
    assert "backbone.bottom_up.stem.conv1.weight" in model.state_dict()
    assert type(copy.deepcopy(model).backbone.bottom_up.stem) is PoolFirstStem
    sum(model([labelled()]).values()).backward()
    assert stem.conv1.weight.grad.abs().max() > 0
