"""SADA's domain classifiers: structure, and each loss against loops and numbers by hand."""

import math

import pytest
import torch
from detectron2.structures import Boxes
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from mic_det.detection import SADAHeads
from mic_det.detection.domain_heads import (
    ImageDomainHead,
    InstanceDomainHead,
    image_domain_loss,
    mean_probability_in_boxes,
)


def bce(logit, label):
    probability = 1 / (1 + math.exp(-logit))
    return -math.log(probability) if label == 1 else -math.log(1 - probability)


def sigmoid(logit):
    return 1 / (1 + math.exp(-logit))


def slow_upsample(rows, height, width):
    """Bilinear, corners aligned, of a list of rows."""
    h, w = len(rows), len(rows[0])
    result = []
    for y in range(height):
        v = y * (h - 1) / (height - 1) if height > 1 else 0.0
        line = []
        for x in range(width):
            u = x * (w - 1) / (width - 1) if width > 1 else 0.0
            y0, x0 = min(int(v), h - 1), min(int(u), w - 1)
            y1, x1 = min(y0 + 1, h - 1), min(x0 + 1, w - 1)
            top = (1 - (u - x0)) * rows[y0][x0] + (u - x0) * rows[y0][x1]
            bottom = (1 - (u - x0)) * rows[y1][x0] + (u - x0) * rows[y1][x1]
            line.append((1 - (v - y0)) * top + (v - y0) * bottom)
        result.append(line)
    return result


def slow_image_loss(maps, sizes, stride, label):
    height, width = maps[0].shape[-2:]
    of_images = []
    for image, (pixels_high, pixels_wide) in enumerate(sizes):
        values = []
        for level in maps:
            full = slow_upsample(level[image, 0].tolist(), height, width)
            for y in range(math.ceil(pixels_high / stride)):
                for x in range(math.ceil(pixels_wide / stride)):
                    values.append(bce(full[y][x], label))
        of_images.append(sum(values) / len(values))
    return sum(of_images) / len(of_images)


def tiny_heads(levels=2, pooled=None, spread=0.5, **kwargs):
    heads = SADAHeads(
        image_channels=[6] * levels,
        strides=[4 * 2**i for i in range(levels)],
        instance_channels=10,
        pooled_levels=pooled or levels,
        **({"image_hidden": 7, "instance_hidden": 9} | kwargs),
    )
    with torch.no_grad():
        for parameter in heads.parameters():
            parameter.normal_(0.0, spread)
    return heads.eval()  # no dropout


def boxes_of(*rows):
    return Boxes(torch.tensor(rows, dtype=torch.float32).reshape(-1, 4))


def side(features, sizes, boxes, levels, channels=10):
    count = sum(len(each) for each in boxes)
    return {
        "features": features,
        "image_sizes": sizes,
        "boxes": boxes,
        "box_features": torch.randn(count, channels),
        "levels": torch.tensor(levels, dtype=torch.int64),
    }


def random_side(images=1, per_image=5, levels=2):
    """32 x 48 pixels, maps of strides 4, 8, ..."""
    features = [torch.randn(images, 6, 8 // 2**i, 12 // 2**i) for i in range(levels)]
    boxes = []
    for _ in range(images):
        corner = torch.rand(per_image, 2) * torch.tensor([30.0, 18.0])
        boxes.append(Boxes(torch.cat([corner, corner + 2 + 12 * torch.rand(per_image, 2)], 1)))
    of_level = torch.randint(0, levels, (images * per_image,)).tolist()
    return side(features, [(32, 48)] * images, boxes, of_level)


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


# --- consistency


def test_constant_map():
    maps = [torch.full((1, 1, 8, 12), 0.7), torch.full((1, 1, 4, 6), -1.2)]
    boxes = boxes_of([0, 0, 48, 32], [3.3, 4.7, 20.1, 9.9], [10, 10, 11, 11])
    means = mean_probability_in_boxes(maps, [boxes], torch.tensor([0, 1, 0]), [4, 8])
    expected = torch.tensor([sigmoid(0.7), sigmoid(-1.2), sigmoid(0.7)])
    assert torch.allclose(means, expected, atol=1e-6)


def test_linear_ramp_by_hand():
    """Probability 0.05 + 0.05 x at map column x: over columns 2..5 the mean is that of x = 3.5."""
    ramp = (0.05 + 0.05 * torch.arange(12.0)).expand(8, 12)
    maps = [torch.logit(ramp)[None, None]]
    boxes = boxes_of([8, 0, 24, 32], [8, 4, 24, 8], [0, 0, 48, 32], [40, 28, 44, 32])
    means = mean_probability_in_boxes(maps, [boxes], torch.zeros(4, dtype=torch.int64), [4])
    expected = torch.tensor([0.225, 0.225, 0.05 + 0.05 * 5.5, 0.05 + 0.05 * 10])
    assert torch.allclose(means, expected, atol=1e-6)


def test_boxes_between_positions_on_a_ramp():
    """On a ramp the mean inside a box is the value at its centre, wherever the box lies."""
    ramp = (0.05 + 0.05 * torch.arange(12.0)).expand(8, 12)
    boxes = boxes_of([9, 5, 21, 13], [13.7, 6, 14.7, 30], [4, 4, 43, 11])
    means = mean_probability_in_boxes(
        [torch.logit(ramp)[None, None]], [boxes], torch.zeros(3, dtype=torch.int64), [4]
    )
    centres = boxes.get_centers()[:, 0] / 4 - 0.5  # position x has its centre at pixel 4 (x + 0.5)
    assert torch.allclose(means, 0.05 + 0.05 * centres, atol=1e-5)


@settings(deadline=None, max_examples=30)
@given(data=st.data(), seed=st.integers(0, 2**31))
def test_boxes_on_whole_positions_against_loops(data, seed):
    torch.manual_seed(seed)
    maps = [torch.randn(2, 1, 8, 12), torch.randn(2, 1, 4, 6)]
    boxes, levels, expected = [], [], []
    for image in range(2):
        rows = []
        for _ in range(data.draw(st.integers(0, 4))):
            level = data.draw(st.integers(0, 1))
            stride, (height, width) = 4 * 2**level, maps[level].shape[-2:]
            x0, y0 = data.draw(st.integers(0, width - 1)), data.draw(st.integers(0, height - 1))
            x1, y1 = data.draw(st.integers(x0 + 1, width)), data.draw(st.integers(y0 + 1, height))
            rows.append([x0 * stride, y0 * stride, x1 * stride, y1 * stride])
            levels.append(level)
            inside = [
                sigmoid(float(maps[level][image, 0, y, x]))
                for y in range(y0, y1)
                for x in range(x0, x1)
            ]
            expected.append(sum(inside) / len(inside))
        boxes.append(boxes_of(*rows))
    means = mean_probability_in_boxes(maps, boxes, torch.tensor(levels, dtype=torch.int64), [4, 8])
    assert torch.allclose(means, torch.tensor(expected), atol=1e-5)


def test_probability_is_averaged_not_the_logit():
    logits = torch.tensor([[4.0, -1.0]])[None, None]
    means = mean_probability_in_boxes(
        [logits], [boxes_of([0, 0, 8, 4])], torch.zeros(1, dtype=torch.int64), [4]
    )
    assert float(means) == pytest.approx((sigmoid(4.0) + sigmoid(-1.0)) / 2, rel=1e-6)


def test_thin_boxes():
    maps = [torch.randn(1, 1, 8, 12), torch.randn(1, 1, 4, 6)]
    boxes = boxes_of([10, 3, 11, 4], [10, 3, 11, 30], [0, 31, 48, 32], [47, 31, 48, 32])
    for level in (0, 1):
        means = mean_probability_in_boxes(maps, [boxes], torch.full((4,), level), [4, 8])
        low, high = torch.sigmoid(maps[level]).aminmax()
        assert ((means >= low - 1e-6) & (means <= high + 1e-6)).all()


def test_consistency_loss_against_loops():
    heads = tiny_heads(3, pooled=2, image_weight=0.0, instance_weight=0.0, consistency_weight=3.0)
    cells = [(0, 0, 12, 8, 0), (2, 1, 5, 7, 0), (1, 1, 4, 3, 1), (0, 0, 6, 4, 1), (11, 7, 12, 8, 0)]
    expected, sides = 0.0, []
    for first in (cells, cells[1:]):
        rows = [[c * 4 * 2**level for c in box] for *box, level in first]
        features = [torch.randn(1, 6, 8, 12), torch.randn(1, 6, 4, 6), torch.randn(1, 6, 2, 3)]
        each = side(features, [(32, 48)], [boxes_of(*rows)], [level for *_, level in first])
        sides.append(each)
        total = 0.0
        for (x0, y0, x1, y1, level), row in zip(first, each["box_features"], strict=True):
            logits = heads.image_heads[level](features[level])[0, 0]
            inside = [
                sigmoid(float(logits[y, x].detach())) for y in range(y0, y1) for x in range(x0, x1)
            ]
            mine = sigmoid(float(heads.instance_heads[level](row[None]).detach()))
            total += abs(mine - sum(inside) / len(inside))
        expected += 0.5 * total / len(first)
    loss = heads(*sides)["loss_da_consistency"]
    assert float(loss.detach()) == pytest.approx(3.0 * expected, rel=1e-5)


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
