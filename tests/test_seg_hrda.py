"""HRDA: crops to the pixel, fusion on constant inputs, averaged windows, losses."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
import torch.nn.functional as F
from segmentor import Linear, linear_network, linear_parts, tiny_model, unlabelled

from mic_det.config import ConfigError
from mic_det.segmentation.losses import IGNORED, pixel_cross_entropy
from mic_det.segmentation.networks.base import upsample
from mic_det.segmentation.networks.crops import (
    Box,
    average_windows,
    random_crop,
    window_starts,
    windows,
)
from mic_det.segmentation.networks.hrda import HRDANetwork, fuse


def test_crops_lie_on_the_grid_and_reach_every_place():
    found = {random_crop((48, 64), (16, 32), 8) for _ in range(400)}
    assert all(box.size == (16, 32) for box in found)
    assert {box.top for box in found} == {0, 8, 16, 24, 32}
    assert {box.left for box in found} == {0, 8, 16, 24, 32}
    assert len(found) == 25


def test_a_crop_larger_than_the_image_is_the_image():
    assert random_crop((16, 64), (32, 32), 8).size == (16, 32)


@pytest.mark.parametrize(("size", "crop"), [((20, 32), (16, 16)), ((32, 32), (12, 16))])
def test_sizes_off_the_grid_are_refused(size, crop):
    with pytest.raises(ValueError, match="multiples of 8"):
        random_crop(size, crop, 8)


def test_a_box_on_a_map_is_exact_or_refused():
    assert Box(8, 16, 24, 48).divided(8) == Box(1, 2, 3, 6)
    with pytest.raises(ValueError, match="whole positions"):
        Box(4, 16, 24, 48).divided(8)


@pytest.mark.parametrize(
    ("whole", "side", "step", "starts"),
    [(8, 8, 4, [0]), (8, 16, 4, [0]), (16, 8, 4, [0, 4, 8]), (18, 8, 4, [0, 4, 8, 10])],
)
def test_windows_cover_everything(whole, side, step, starts):
    assert window_starts(whole, side, step) == starts


def test_overlapping_windows_are_averaged():
    image = torch.rand(1, 2, 12, 20)
    boxes = windows((12, 20), (8, 8), (4, 4))
    assert torch.allclose(
        average_windows(boxes, lambda some: torch.stack([b.of(image) for b in some]), (12, 20), 3),
        image,
    ), "what all windows agree on"
    numbers = iter(range(1, 99))
    found = average_windows(
        boxes,
        lambda some: torch.stack([torch.full((1, 1, 8, 8), float(next(numbers))) for _ in some]),
        (12, 20),
        at_once=2,
    )
    total, count = torch.zeros(12, 20), torch.zeros(12, 20)
    for number, box in enumerate(boxes, 1):
        box.of(total).add_(number)
        box.of(count).add_(1)
    assert count.min() >= 1 and count.max() == 4
    assert torch.allclose(found[0, 0], total / count)


def test_fusion_of_constants():
    box = Box(1, 2, 3, 6)
    context, detail = torch.full((1, 2, 4, 8), 3.0), torch.full((1, 2, 4, 8), 7.0)
    outside_is_context = fuse(context, detail, torch.zeros(1, 2, 4, 8), box, 2)
    assert torch.equal(outside_is_context, torch.full((1, 2, 8, 16), 3.0))
    fused = fuse(context, detail, torch.ones(1, 2, 4, 8), box, 2)
    # Away from the crop's border, where the enlarged attention is neither 0 nor 1.
    assert fused[0, 0, 3:5, 5:11].eq(7.0).all()
    assert fused[0, 0, 0].eq(3.0).all() and fused[0, 0, :, :3].eq(3.0).all()
    assert fused[0, 0, 7].eq(3.0).all() and fused[0, 0, :, 13:].eq(3.0).all()
    half = fuse(context, detail, torch.full((1, 2, 4, 8), 0.5), box, 2)
    assert half[0, 0, 3:5, 5:11].eq(5.0).all()


def test_fusion_is_class_wise():
    attention = torch.stack([torch.ones(4, 8), torch.zeros(4, 8)])[None]
    context, detail = torch.zeros(1, 2, 4, 8), torch.ones(1, 2, 8, 16)
    fused = fuse(context, detail, attention, Box(0, 0, 4, 8), 2)
    assert fused[0, 0].eq(1).all() and fused[0, 1].eq(0).all()


def test_the_detail_lands_on_its_pixels():
    """One bright position of the detail is found where the crop says, at detail resolution."""
    detail = torch.zeros(1, 1, 4, 4)
    detail[0, 0, 1, 2] = 1.0
    fused = fuse(torch.zeros(1, 1, 6, 8), detail, torch.ones(1, 1, 6, 8), Box(1, 1, 3, 3), 2)
    assert fused.nonzero().tolist() == [[0, 0, 2 + 1, 2 + 2]]


def hrda(**settings) -> HRDANetwork:
    """With the mean colours of 4x4 pixels as logits, and as attention what ``attends`` says."""
    attends = settings.pop("attends", 0.0)
    attention = Linear(torch.zeros(3, 3), torch.full((3,), attends))
    settings = {"detail_crop": (16, 16), "context_window": (32, 32)} | settings
    return HRDANetwork(attention=attention, **settings, **linear_parts())


SURE = 50.0  # sigmoid(50) is 1 in float32


@torch.no_grad()
@pytest.mark.parametrize("size", [(32, 32), (32, 48), (37, 50), (64, 40)])
def test_full_attention_gives_the_plain_network_at_full_resolution(size):
    images = torch.rand(2, 3, *size)
    network = hrda(attends=SURE)
    padded = F.pad(images, (0, -size[1] % 8, 0, -size[0] % 8))
    expected = linear_network()(padded)[..., : size[0], : size[1]]
    assert torch.allclose(network(images), expected, atol=1e-5)


@torch.no_grad()
def test_no_attention_gives_the_context_alone():
    images = torch.rand(1, 3, 32, 32)
    coarse = F.avg_pool2d(images, 8)
    expected = upsample(upsample(coarse, (8, 8)), (32, 32))
    assert torch.allclose(hrda(attends=-SURE)(images), expected, atol=1e-5)


@torch.no_grad()
def test_a_constant_image_is_seen_alike_at_all_scales():
    images = torch.tensor([0.2, 0.5, 0.9]).view(1, 3, 1, 1).expand(1, 3, 40, 56)
    assert torch.allclose(hrda()(images), images, atol=1e-6)


@torch.no_grad()
def test_windows_of_context_and_detail_overlap_by_half():
    network, seen = hrda(context_window=(64, 64)), Counter()

    def note(encoder, inputs, output):
        seen[tuple(inputs[0].shape[-2:])] += len(inputs[0])

    network.encoder.register_forward_hook(note)
    network(torch.rand(1, 3, 64, 128))
    # Detail windows of 16 pixels every 8, context windows of 64, seen at half that, every 32.
    assert seen == {(16, 16): 7 * 15, (32, 32): 3}


def test_the_loss_is_of_the_fused_and_of_the_detail_prediction():
    images, labels = torch.rand(2, 3, 32, 48), torch.randint(0, 3, (2, 32, 48))
    weight = torch.rand(2, 32, 48)
    network = hrda(detail_weight=0.3)
    torch.manual_seed(5)
    output = network.supervised(images, labels, weight)
    torch.manual_seed(5)
    box = random_crop((32, 48), (16, 16), 8)
    detail = F.avg_pool2d(box.of(images), 4)
    context = F.avg_pool2d(images, 8)
    fused = fuse(context, detail, torch.full((2, 3, 4, 6), 0.5), box.divided(8), 2)
    logits = upsample(fused, (32, 48))
    parts = (
        pixel_cross_entropy(logits, labels, weight),
        pixel_cross_entropy(upsample(detail, (16, 16)), box.of(labels), box.of(weight)),
    )
    assert torch.allclose(output.loss, 0.7 * parts[0] + 0.3 * parts[1], atol=1e-6)
    assert torch.allclose(output.logits, logits, atol=1e-6)
    assert torch.allclose(output.features[-1], context, atol=1e-6)


def test_an_image_off_the_grid_is_filled_up_with_the_mean_colour():
    network = hrda(attends=SURE)
    network.pixel_mean.fill_(0.25)
    images, labels = torch.rand(1, 3, 30, 45), torch.randint(0, 3, (1, 30, 45))
    output = network.supervised(images, labels)
    assert output.logits.shape == (1, 3, 30, 45) and torch.isfinite(output.loss)
    filled = network._filled_up(images)
    assert filled.shape[-2:] == (32, 48)
    assert torch.allclose(filled[..., :30, :45], images, atol=1e-6)
    assert filled[..., 30:, :].eq(0.25).all() and filled[..., 45:].eq(0.25).all()


def test_features_are_those_of_training_off_the_grid_as_well():
    """The feature distance compares them with another encoder's, position by position."""
    network, images = hrda(), torch.rand(1, 3, 33, 49)
    output = network.supervised(images, torch.randint(0, 3, (1, 33, 49)))
    assert torch.equal(network.encode_with(network.encoder, images)[-1], output.features[-1])


def test_nothing_of_the_detail_labelled():
    labels = torch.full((1, 32, 32), IGNORED)
    output = hrda().supervised(torch.rand(1, 3, 32, 32), labels)
    assert output.loss == 0


def test_windows_off_the_grid_are_refused_with_the_key():
    with pytest.raises(ConfigError, match=r"MODEL\.SEG\.HRDA: detail_crop .* multiples of 16"):
        tiny_model({"MODEL.SEG.HRDA.ENABLED": True, "MODEL.SEG.HRDA.DETAIL_CROP": (24, 24)})


def test_every_part_learns_and_the_teacher_labels_whole_images():
    model, teacher = tiny_model({"MODEL.SEG.HRDA.ENABLED": True})
    images = torch.rand(2, 3, 64, 96) * 255
    loss = model.network.supervised(images, torch.randint(0, 4, (2, 64, 96))).loss
    loss.backward()
    assert all(p.grad is not None and p.grad.any() for p in model.network.attention.parameters())
    assert all(p.grad is not None for p in model.parameters())
    pseudo = teacher.pseudo_label([unlabelled(64, 96), unlabelled(50, 70)])
    assert pseudo.labels.shape == pseudo.weight.shape == (2, 64, 96)


def saved_bytes(network, side: int) -> int:
    """Memory that a training step holds for its backward pass, each storage once."""
    storages = {}

    def note(tensor):
        storage = tensor.untyped_storage()
        storages[storage.data_ptr()] = (storage.nbytes(), storage)
        return tensor

    images, labels = torch.rand(1, 3, side, side), torch.randint(0, 4, (1, side, side))
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        network.supervised(images, labels).loss.backward()
    weights = {each.untyped_storage().data_ptr() for each in network.parameters()}
    return sum(size for pointer, (size, _) in storages.items() if pointer not in weights)


def test_two_crops_take_less_memory_than_the_whole_at_full_resolution():
    """HRDA, section 3: half the pixels at s = 2 and a detail crop of half the sides."""
    hrda = "MODEL.SEG.HRDA"
    settings = {f"{hrda}.DETAIL_CROP": (128, 128), f"{hrda}.CONTEXT_WINDOW": (256, 256)}
    both, _ = tiny_model(settings | {"MODEL.SEG.HRDA.ENABLED": True})
    plain, _ = tiny_model()
    assert saved_bytes(both.network, 256) < 0.75 * saved_bytes(plain.network, 256)
