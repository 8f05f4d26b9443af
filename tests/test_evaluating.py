"""A model looked at in the midst of its training, and the pairs of images it is looked at with."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from mic_det.core import PatchMask, eval_mode, masked_pairs


@pytest.mark.parametrize("training", [True, False])
def test_a_model_is_as_it_was(training: bool):
    model = nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.5)).train(training)
    with eval_mode(model):
        assert not model.training and not model[1].training and not torch.is_grad_enabled()
    assert model.training == training and torch.is_grad_enabled()
    with pytest.raises(KeyError), eval_mode(model):
        raise KeyError
    assert model.training == training and torch.is_grad_enabled()


def test_masks_depend_on_the_seed_alone():
    images = [torch.full((3, 8, 8), 200, dtype=torch.uint8), torch.full((3, 4, 12), 90.0)]
    records = [{"image": image} for image in images]
    mask = PatchMask(2, 0.5, (1.0, 2.0, 3.0))
    first = list(masked_pairs(records, mask, 5))
    torch.manual_seed(1)
    for (image, hidden), (_, again), given in zip(
        first, masked_pairs(records, mask, 5), images, strict=True
    ):
        assert image is given and torch.equal(hidden, again)
        kept = (hidden == given).all(0)
        assert 0 < kept.sum() < kept.numel()
        assert (hidden[:, ~kept] == torch.tensor([[1.0], [2.0], [3.0]])).all()
    others = masked_pairs(records, mask, 6)
    assert not all(torch.equal(a[1], b[1]) for a, b in zip(first, others, strict=True))
