"""What must hold for any sane input of core and detection."""

from __future__ import annotations

import functools

import pytest
import torch
from detector import ALL_PARTS, CLASSES, detections, masked_losses, tiny_model
from detectron2.structures import Boxes, ImageList, Instances
from detectron2.utils.events import EventStorage
from domain_sides import side, tiny_heads
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from mic_det.core import EMATeacher, PatchMask, scale_gradient
from mic_det.detection import MaskedDetectionLoss, as_pseudo_labels
from mic_det.detection.batch import FeatureBatch
from mic_det.detection.pooling import pool_in_one_dtype
from mic_det.detection.regions import Regions, run_box_head

SEEDS = st.integers(0, 2**31)


def fewer(examples: int):
    return settings(deadline=None, max_examples=examples, derandomize=True)


# Masks


@fewer(25)
@given(
    shape=st.tuples(st.integers(1, 4), st.integers(1, 70), st.integers(1, 70)),
    block=st.integers(1, 50),
    ratio=st.floats(0, 1),
    dtype=st.sampled_from([torch.float16, torch.bfloat16, torch.float32, torch.float64]),
    seed=SEEDS,
)
def test_mask_changes_values_and_nothing_else(shape, block, ratio, dtype, seed):
    count, height, width = shape
    generator = torch.Generator().manual_seed(seed)
    images = (torch.rand(count, 3, height, width, generator=generator) + 1).to(dtype)
    masked = PatchMask(block, ratio)(images, generator=generator)
    assert (masked.shape, masked.dtype, masked.device) == (images.shape, dtype, images.device)
    hidden = masked == 0
    assert torch.equal(masked[~hidden], images[~hidden])
    assert torch.equal(hidden.all(1), hidden.any(1)), "all channels of a pixel hide together"


@fewer(20)
@given(
    rows=st.integers(1, 6),
    columns=st.integers(1, 6),
    block=st.integers(1, 16),
    ratio=st.floats(0, 1),
    seed=SEEDS,
)
def test_blocks_are_aligned_and_whole(rows, columns, block, ratio, seed):
    draws = PatchMask(block, ratio).draw(
        3, rows * block, columns * block, generator=torch.Generator().manual_seed(seed)
    )
    blocks = draws.view(3, rows, block, columns, block)
    assert torch.equal(blocks.all(4).all(2), blocks.any(4).any(2))


@fewer(12)
@given(
    height=st.integers(20, 90),
    width=st.integers(20, 90),
    block=st.integers(3, 11),
    ratio=st.floats(0, 1),
    seed=SEEDS,
)
def test_hidden_share_over_many_draws(height, width, block, ratio, seed):
    draws = PatchMask(block, ratio).draw(
        400, height, width, generator=torch.Generator().manual_seed(seed)
    )
    share = 1 - draws.float().mean((1, 2, 3))
    error = max(float(share.std()), 0.01) / 400**0.5
    assert abs(float(share.mean()) - ratio) < 6 * error


# The teacher


@fewer(20)
@given(alpha=st.floats(0, 1), steps=st.integers(0, 40), seed=SEEDS)
def test_teacher_is_the_closed_form_and_copies_what_does_not_float(alpha, steps, seed):
    torch.manual_seed(seed)
    student = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)).double()
    teacher = EMATeacher(student, alpha)
    start = {name: each.clone() for name, each in teacher.model.state_dict().items()}
    history = []
    for _ in range(steps):
        with torch.no_grad():
            for each in student.state_dict().values():
                each.add_(1) if each.dtype == torch.int64 else each.copy_(torch.randn_like(each))
        history.append({name: each.clone() for name, each in student.state_dict().items()})
        teacher.update(student)
    for name, found in teacher.model.state_dict().items():
        if found.dtype == torch.int64:
            assert int(found) == steps
            continue
        expected = alpha**steps * start[name]
        for k, state in enumerate(history):
            expected = expected + (1 - alpha) * alpha ** (steps - 1 - k) * state[name]
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


# Pseudo labels


@fewer(25)
@given(
    images=st.lists(st.lists(st.floats(0, 1, width=32), max_size=6), max_size=12),
    threshold=st.floats(0, 1, width=32),
)
def test_pseudo_labels_of_many_images(images, threshold):
    found = [
        detections([[i, 0, i + 1, 9] for i in range(len(scores))], range(len(scores)), scores)
        for scores in images
    ]
    labels = as_pseudo_labels(found, threshold)
    for each, scores in zip(labels, images, strict=True):
        assert each.gt_classes.tolist() == [i for i, s in enumerate(scores) if s >= threshold]
        assert each.gt_boxes.tensor.shape == (len(each), 4)
    # Taken for detections once more, they are all kept.
    again = as_pseudo_labels(
        [
            Instances(
                each.image_size,
                pred_boxes=each.gt_boxes,
                pred_classes=each.gt_classes,
                scores=each.gt_scores,
            )
            for each in labels
        ],
        threshold,
    )
    assert [each.gt_scores.tolist() for each in again] == [e.gt_scores.tolist() for e in labels]


# Domain losses


@st.composite
def domain_sides(draw):
    """Features, sizes and proposals of some images: thin boxes, none at all, extreme values."""
    images = draw(st.integers(1, 4))
    torch.manual_seed(draw(SEEDS))
    height, width = draw(st.sampled_from([(32, 48), (29, 45), (8, 8)]))
    spread = draw(st.sampled_from([0.0, 1.0, 1e3]))
    cells = [(-(-height // s), -(-width // s)) for s in (4, 8)]
    features = [spread * torch.randn(images, 6, *size) for size in cells]
    boxes = []
    for _ in range(images):
        count = draw(st.integers(0, 4))
        corner = torch.rand(count, 2) * torch.tensor([width - 1.0, height - 1.0])
        extent = torch.rand(count, 2) * 12 if draw(st.booleans()) else torch.tensor([1.0, 9.0])
        limit = torch.tensor([width, height], dtype=torch.float32)
        boxes.append(Boxes(torch.cat([corner, torch.minimum(corner + extent, limit)], 1)))
    total = sum(map(len, boxes))
    return side(features, [(height, width)] * images, boxes, torch.randint(0, 2, (total,)).tolist())


def reordered(given_side, order):
    """The same images in another order."""
    parts = [len(each) for each in given_side["boxes"]]
    rows = torch.arange(sum(parts)).split(parts)
    rows = torch.cat([rows[i] for i in order])
    return {
        "features": [level[order] for level in given_side["features"]],
        "image_sizes": [given_side["image_sizes"][i] for i in order],
        "boxes": [given_side["boxes"][i] for i in order],
        "box_features": given_side["box_features"][rows],
        "levels": given_side["levels"][rows],
    }


@fewer(25)
@given(source=domain_sides(), target=domain_sides(), seed=SEEDS)
def test_domain_losses_are_finite_and_know_no_order(source, target, seed):
    torch.manual_seed(seed)
    heads = tiny_heads()
    losses = heads(source, target)
    assert all(torch.isfinite(loss) and loss >= 0 for loss in losses.values())
    sum(losses.values()).backward()
    for name, parameter in heads.named_parameters():
        assert torch.isfinite(parameter.grad).all(), name
    orders = [torch.randperm(len(each["boxes"])) for each in (source, target)]
    again = heads(reordered(source, orders[0]), reordered(target, orders[1]))
    for name, loss in losses.items():
        torch.testing.assert_close(again[name], loss, rtol=1e-4, atol=1e-5, msg=name)


@fewer(20)
@given(factor=st.floats(-3, 3, width=32), seed=SEEDS)
def test_gradients_are_scaled_by_the_stated_factor(factor, seed):
    torch.manual_seed(seed)
    x = torch.randn(5, requires_grad=True)
    (plain,) = torch.autograd.grad(x.square().sum(), x)
    (scaled,) = torch.autograd.grad(scale_gradient(x, factor).square().sum(), x)
    torch.testing.assert_close(scaled, factor * plain)


@pytest.mark.parametrize(("part", "factor"), [("image", -0.025), ("instance", -0.1)])
def test_domain_gradients_are_reversed_into_features_and_not_into_heads(part, factor):
    other = "instance" if part == "image" else "image"
    weights = {f"{other}_weight": 0.0, "consistency_weight": 0.0}

    def gradients(**reversal):
        torch.manual_seed(5)
        heads = tiny_heads(**weights, **reversal)
        features = [torch.randn(1, 6, 8, 12), torch.randn(1, 6, 4, 6)]
        given_side = side(
            features, [(32, 48)], [Boxes(torch.tensor([[1.0, 2, 2, 30]] * 3))], [0, 1, 1]
        )
        inputs = [given_side["box_features"]] if part == "instance" else features
        for each in inputs:
            each.requires_grad_()
        loss = heads.domain_losses(1.0, **given_side)[f"loss_da_{part}"]
        parameters = list(heads.parameters())
        found = torch.autograd.grad(loss, [*inputs, *parameters])
        return found[: len(inputs)], found[len(inputs) :]

    into_features, into_heads = gradients()
    plain_features, plain_heads = gradients(**{f"{part}_reversal": -1.0})
    for found, plain in zip(into_features, plain_features, strict=True):
        assert plain.any()
        torch.testing.assert_close(found, factor * plain)
    for found, plain in zip(into_heads, plain_heads, strict=True):
        torch.testing.assert_close(found, plain)


# The masked loss


@functools.cache
def detector():
    return tiny_model(ALL_PARTS)


def pseudo(rows, size=(64, 96)):
    labels = Instances(size)
    labels.gt_boxes = Boxes(torch.tensor(rows, dtype=torch.float32).reshape(-1, 4))
    labels.gt_classes = torch.arange(len(rows)) % CLASSES
    labels.gt_scores = torch.linspace(0.8, 1.0, max(len(rows), 1))[: len(rows)]
    return labels


BOXES = st.one_of(
    st.just([40.0, 10.0, 41.0, 50.0]),  # one pixel wide
    st.just([0.0, 63.0, 96.0, 64.0]),
    st.just([0.0, 0.0, 96.0, 64.0]),
    st.tuples(st.floats(0, 80), st.floats(0, 50), st.floats(1, 16), st.floats(1, 14)).map(
        lambda b: [b[0], b[1], b[0] + b[2], b[1] + b[3]]
    ),
)


@fewer(8)
@given(st.lists(st.lists(BOXES, min_size=1, max_size=4), min_size=1, max_size=5), SEEDS)
def test_masked_loss_is_finite_for_any_boxes_and_many_images(images, seed):
    torch.manual_seed(seed)
    model = detector()
    batch = [{"image": torch.randint(0, 256, (3, 64, 96), dtype=torch.uint8)} for _ in images]
    with EventStorage(0):
        losses = masked_losses(model, batch, [pseudo(rows) for rows in images])
    assert set(losses) == {"loss_mic_rpn_cls", "loss_mic_roi_cls"}
    assert all(torch.isfinite(loss) and loss >= 0 for loss in losses.values())


@pytest.mark.parametrize("images", [1, 7])
def test_images_without_pseudo_labels_add_nothing(images, storage):
    batch = [{"image": torch.zeros(3, 64, 96, dtype=torch.uint8)} for _ in range(images)]
    assert masked_losses(detector(), batch, [pseudo([])] * images) == {}


def test_masked_class_loss_without_proposals(storage):
    """The pseudo boxes themselves are proposals then, as labels are in Detectron2."""
    model = detector()
    images = ImageList(torch.zeros(1, 3, 64, 96), [(64, 96)])
    features = FeatureBatch(images, model.backbone(images.tensor))
    none = Instances((64, 96), proposal_boxes=Boxes(torch.zeros(0, 4)))
    none.objectness_logits = torch.zeros(0)
    labels = [pseudo([[1.0, 1, 30, 40]])]
    sampled = model.roi_heads.label_and_sample_proposals([none], labels)
    regions = Regions(features, [each.proposal_boxes for each in sampled])
    run_box_head(model.roi_heads, [regions])
    logits = model.roi_heads.box_predictor.cls_score(regions.features)
    loss = MaskedDetectionLoss().class_loss(logits, sampled, labels, CLASSES)
    assert torch.isfinite(loss) and loss > 0
    assert MaskedDetectionLoss().class_loss(logits[:0], [sampled[0][:0]], labels, CLASSES) == 0


# Pooling


@pytest.mark.parametrize("wide", range(4))
def test_pyramid_levels_of_different_dtypes_are_pooled(wide):
    from detectron2.modeling.poolers import ROIPooler

    pooler = ROIPooler(7, [1 / 4, 1 / 8, 1 / 16, 1 / 32], 2, "ROIAlignV2")
    boxes = [Boxes(torch.tensor([[0, 0, s, s] for s in (10.0, 120.0, 300.0, 500.0)]))]
    levels = [torch.randn(1, 4, 128 >> i, 128 >> i) for i in range(4)]
    exact = pooler(levels, boxes)
    mixed = [level if i == wide else level.bfloat16() for i, level in enumerate(levels)]
    with torch.autocast("cpu", dtype=torch.bfloat16), pytest.raises(RuntimeError, match="dtypes"):
        pooler(mixed, boxes)
    pool_in_one_dtype(nn.Sequential(pooler))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        pooled = pooler(mixed, boxes)
    assert pooled.dtype == torch.float32
    torch.testing.assert_close(pooled, exact, rtol=0.02, atol=0.02)
    assert torch.equal(pooler(levels, boxes), exact)
