"""SADA's domain classifiers: structure, and each loss against loops and numbers by hand."""

import math

import pytest
import torch
from domain_sides import bce, boxes_of, random_side, slow_image_loss, tiny_heads
from torch import nn

from mic_det.detection import SADAHeads
from mic_det.detection.domain_heads import ImageDomainHead, InstanceDomainHead, image_domain_loss

# --- structure


def test_image_head():
    head = ImageDomainHead(256)
    convs = [module for module in head.modules() if isinstance(module, nn.Conv2d)]
    assert [(c.in_channels, c.out_channels, c.kernel_size) for c in convs] == [
        (256, 512, (1, 1)),
        (512, 1, (1, 1)),
    ]
    assert convs[0].weight.std().item() == pytest.approx(0.001, rel=0.02)
    assert convs[1].weight.std().item() == pytest.approx(0.001, rel=0.2)
    for conv in convs:
        assert abs(conv.weight.mean()) < 2e-4
        assert not conv.bias.any()


def test_image_head_by_hand():
    head = ImageDomainHead(2, 2)
    with torch.no_grad():
        convs = [module for module in head.modules() if isinstance(module, nn.Conv2d)]
        convs[0].weight.copy_(torch.tensor([[1.0, -1.0], [2.0, 1.0]])[:, :, None, None])
        convs[0].bias.copy_(torch.tensor([0.0, 1.0]))
        convs[1].weight.copy_(torch.tensor([[3.0, 0.5]])[:, :, None, None])
        convs[1].bias.fill_(-1.0)
    features = torch.tensor([[[[1.0, -2.0]], [[2.0, 3.0]]]])  # (1, -2) and (2, 3) at two positions
    # position 0: relu(-1) = 0, relu(5) = 5 -> 2.5 - 1; position 1: relu(-5) = 0, relu(0) = 0 -> -1
    assert head(features).flatten().tolist() == [1.5, -1.0]


def test_instance_head():
    head = InstanceDomainHead(1024)
    kinds = [type(module) for module in head]
    fc = [nn.Linear, nn.ReLU, nn.Dropout]
    assert kinds == fc + fc + [nn.Linear]
    layers = [module for module in head if isinstance(module, nn.Linear)]
    assert [(m.in_features, m.out_features) for m in layers] == [
        (1024, 1024),
        (1024, 1024),
        (1024, 1),
    ]
    for layer, tolerance in zip(layers, (0.01, 0.01, 0.2), strict=True):
        assert layer.weight.std().item() == pytest.approx(0.01, rel=tolerance)
        assert not layer.bias.any()
    assert {module.p for module in head if isinstance(module, nn.Dropout)} == {0.5}


def test_a_head_for_each_level():
    heads = SADAHeads(
        image_channels=[256] * 5,
        strides=[4, 8, 16, 32, 64],
        instance_channels=64,
        pooled_levels=4,
    )
    assert len(heads.image_heads) == 5
    assert len(heads.instance_heads) == 4
    weights = [parameter.data_ptr() for parameter in heads.parameters()]
    assert len(set(weights)) == len(weights) == 5 * 4 + 4 * 6


@pytest.mark.parametrize(
    ("image", "instance", "consistency", "maps", "rows"),
    [
        (1, 1, 1, True, True),
        (1, 0, 0, True, False),
        (0, 1, 0, False, True),
        (0, 0, 1, True, True),
        (1, 1, 0, True, True),
        (0, 0, 0, False, False),
    ],
)
def test_parts_switched_off_are_not_built(image, instance, consistency, maps, rows):
    heads = tiny_heads(image_weight=image, instance_weight=instance, consistency_weight=consistency)
    assert (len(heads.image_heads) > 0) is maps
    assert (len(heads.instance_heads) > 0) is rows
    assert heads.uses_instances is rows
    source, target = random_side(), random_side()
    if not rows:
        for each in (source, target):
            each["box_features"] = each["levels"] = None
    names = {"image": image, "instance": instance, "consistency": consistency}
    assert set(heads(source, target)) == {f"loss_da_{name}" for name, on in names.items() if on}


# --- image level


@pytest.mark.parametrize("label", [1.0, 0.0])
@pytest.mark.parametrize("sizes", [[(24, 32), (24, 32)], [(24, 32), (16, 20)], [(9, 32), (24, 5)]])
def test_image_loss_against_loops(label, sizes):
    maps = [torch.randn(2, 1, 6, 8), torch.randn(2, 1, 3, 4), torch.randn(2, 1, 2, 2)]
    loss = image_domain_loss(maps, sizes, 4, label)
    assert float(loss) == pytest.approx(slow_image_loss(maps, sizes, 4, label), rel=1e-5)


def test_image_loss_with_a_level_of_one_position():
    maps = [torch.randn(1, 1, 4, 4), torch.randn(1, 1, 1, 1)]
    loss = image_domain_loss(maps, [(16, 16)], 4, 1.0)
    assert float(loss) == pytest.approx(slow_image_loss(maps, [(16, 16)], 4, 1.0), rel=1e-5)


def test_padding_of_a_smaller_image_does_not_count():
    maps = [torch.zeros(2, 1, 6, 8)]
    maps[0][1, :, 4:] = 50.0
    maps[0][1, :, :, 5:] = -50.0
    loss = image_domain_loss(maps, [(24, 32), (16, 20)], 4, 1.0)
    assert float(loss) == pytest.approx(math.log(2), rel=1e-6)


def test_large_and_small_images_count_the_same():
    maps = [torch.full((2, 1, 6, 8), 2.0)]
    maps[0][1] = -1.0
    loss = image_domain_loss(maps, [(24, 32), (4, 4)], 4, 1.0)
    assert float(loss) == pytest.approx((bce(2.0, 1) + bce(-1.0, 1)) / 2, rel=1e-6)


def test_image_loss_of_both_domains():
    heads = tiny_heads(3, instance_weight=0.0, consistency_weight=0.0, image_weight=2.0)
    source, target = random_side(2, levels=3), random_side(2, levels=3)
    expected = 0.0
    for label, each in ((1, source), (0, target)):
        maps = [head(f) for head, f in zip(heads.image_heads, each["features"], strict=True)]
        expected += slow_image_loss([m.detach() for m in maps], each["image_sizes"], 4, label) / 2
    loss = heads(source, target)["loss_da_image"]
    assert float(loss.detach()) == pytest.approx(2.0 * expected, rel=1e-5)


# --- instance level


def test_each_proposal_goes_to_the_classifier_of_its_level():
    heads = tiny_heads(3)
    rows = torch.randn(12, 10)
    levels = [2, 0, 1, 1, 0, 2, 2, 0, 1, 0, 2, 1]
    for logits in heads.instance_logits(rows, torch.tensor(levels)):
        for row, level, logit in zip(rows, levels, logits, strict=True):
            expected = heads.instance_heads[level](row[None])[0, 0]
            assert torch.allclose(logit, expected, atol=1e-6)


def test_instance_loss_against_loops():
    heads = tiny_heads(3, image_weight=0.0, consistency_weight=0.0, instance_weight=0.5)
    source, target = random_side(2, levels=3), random_side(1, 7, levels=3)
    expected = 0.0
    for label, each in ((1, source), (0, target)):
        losses = [
            bce(float(heads.instance_heads[level](row[None]).detach()), label)
            for row, level in zip(each["box_features"], each["levels"].tolist(), strict=True)
        ]
        expected += 0.5 * sum(losses) / len(losses)
    loss = heads(source, target)["loss_da_instance"]
    assert float(loss.detach()) == pytest.approx(0.5 * expected, rel=1e-5)


def test_every_level_learns():
    heads = tiny_heads(3).train()
    source, target = random_side(levels=3, per_image=9), random_side(levels=3, per_image=9)
    for each in (source, target):
        each["levels"] = torch.tensor([0, 1, 2] * 3)
    sum(heads(source, target).values()).backward()
    for name, parameter in heads.named_parameters():
        assert parameter.grad.abs().max() > 0, name


def test_a_level_without_proposals_gets_zero_gradients_not_none():
    heads = tiny_heads(3, image_weight=0.0, consistency_weight=0.0)
    source, target = random_side(levels=3), random_side(levels=3)
    for each in (source, target):
        each["levels"].fill_(1)
    heads(source, target)["loss_da_instance"].backward()
    for level, head in enumerate(heads.instance_heads):
        for parameter in head.parameters():
            assert parameter.grad is not None
            assert bool(parameter.grad.any()) is (level == 1)


def test_order_of_proposals_does_not_matter():
    heads = tiny_heads(2)
    source, target = random_side(1, 8), random_side(1, 8)
    before = heads(source, target)
    order = torch.randperm(8)
    shuffled = target | {
        "boxes": [target["boxes"][0][order]],
        "box_features": target["box_features"][order],
        "levels": target["levels"][order],
    }
    after = heads(source, shuffled)
    for name, loss in before.items():
        assert torch.allclose(after[name], loss, rtol=1e-5), name


# --- numbers of images and proposals


@pytest.mark.parametrize("empty", ["source", "target", "both"])
def test_no_proposals(empty):
    heads = tiny_heads(2)
    sides = {"source": random_side(2), "target": random_side(2)}
    for name in sides if empty == "both" else [empty]:
        sides[name] = random_side(2, per_image=0)
    losses = heads(sides["source"], sides["target"])
    assert all(torch.isfinite(loss) for loss in losses.values())
    assert losses["loss_da_image"] > 0
    if empty == "both":
        assert losses["loss_da_instance"] == losses["loss_da_consistency"] == 0
    sum(losses.values()).backward()
    for parameter in heads.parameters():
        assert parameter.grad is not None and torch.isfinite(parameter.grad).all()


def test_one_image_of_a_batch_without_proposals():
    heads = tiny_heads(2)
    source, target = random_side(2), random_side(2)
    alone = {
        "boxes": [target["boxes"][0], boxes_of()],
        "box_features": target["box_features"][:5],
        "levels": target["levels"][:5],
    }
    losses = heads(source, target | alone)
    first = {
        "features": [level[:1] for level in target["features"]],
        "image_sizes": target["image_sizes"][:1],
        "boxes": target["boxes"][:1],
    }
    expected = heads(source, target | alone | first)
    for name in ("loss_da_instance", "loss_da_consistency"):
        assert torch.allclose(losses[name], expected[name], rtol=1e-5)


def test_one_source_and_three_target_images_are_balanced():
    heads = tiny_heads(2)
    source, target = random_side(1), random_side(1)
    thrice = {
        "features": [level.repeat(3, 1, 1, 1) for level in target["features"]],
        "image_sizes": target["image_sizes"] * 3,
        "boxes": target["boxes"] * 3,
        "box_features": target["box_features"].repeat(3, 1),
        "levels": target["levels"].repeat(3),
    }
    one, three = heads(source, target), heads(source, thrice)
    for name, loss in one.items():
        assert torch.allclose(three[name], loss, rtol=1e-5), name
    swapped = heads(thrice, target)
    for name, loss in heads(target, target).items():
        assert torch.allclose(swapped[name], loss, rtol=1e-5), name


def test_a_classifier_at_chance():
    """Logits of 0 everywhere: both cross-entropies are log 2, the consistency 0."""
    losses = tiny_heads(2, spread=0.0)(random_side(1), random_side(3))
    assert losses["loss_da_image"].item() == pytest.approx(math.log(2), rel=1e-5)
    assert losses["loss_da_instance"].item() == pytest.approx(math.log(2), rel=1e-5)
    assert losses["loss_da_consistency"].item() == pytest.approx(0.0, abs=1e-6)


def test_source_is_one_and_target_zero():
    """A classifier that says "source" of everything is right for the source alone."""
    heads = tiny_heads(2, spread=0.0)
    with torch.no_grad():
        for head in heads.image_heads:
            head.logit.bias.fill_(6.0)
        for head in heads.instance_heads:
            head[-1].bias.fill_(6.0)
    each = random_side()
    arguments = {key: each[key] for key in each}
    of_source = heads.domain_losses(1.0, **arguments)
    of_target = heads.domain_losses(0.0, **arguments)
    for name in ("loss_da_image", "loss_da_instance"):
        assert of_source[name].item() == pytest.approx(bce(6.0, 1), rel=1e-4)
        assert of_target[name].item() == pytest.approx(bce(6.0, 0), rel=1e-4)
    total = heads(each, each)["loss_da_image"]
    assert total.item() == pytest.approx((bce(6.0, 1) + bce(6.0, 0)) / 2, rel=1e-4)
