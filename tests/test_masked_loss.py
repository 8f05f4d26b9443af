"""MIC's masked loss: each quality against loops, agreement with Detectron2's own losses."""

import math

import pytest
import torch
from detector import backward_of, no_labels, random_labels, tiny_model, unlabelled

from mic_det.detection import MaskedDetectionLoss
from mic_det.detection.batch import propose, run_rpn

MIC = {"MODEL.MIC.ENABLED": True, "MODEL.MIC.QUALITY": "none"}
SIZES = [(64, 96), (48, 80)]

pytestmark = pytest.mark.usefixtures("storage")


@pytest.fixture(scope="module")
def model():
    return tiny_model(MIC)


@pytest.fixture
def scene(model):
    """Two images of different sizes, three and two pseudo boxes."""
    model.zero_grad(set_to_none=True)
    images = [unlabelled(*size) for size in SIZES]
    pseudo = [
        random_labels(*size, count=count, scores=True)
        for size, count in zip(SIZES, (3, 2), strict=True)
    ]
    for labels in pseudo:  # far apart, so that a wrong one shows
        labels.gt_scores = torch.linspace(0.3, 0.95, len(labels))
    return images, pseudo


def sigmoid(logit):
    return 1 / (1 + math.exp(-logit))


def index_of(box, boxes):
    (index,) = [i for i, other in enumerate(boxes.tensor) if torch.equal(other, box)]
    return index


def slow_objectness_loss(rpn, output, pseudo, quality):
    """Over the anchors that Detectron2's own RPN samples, one at a time."""
    labels, matched = rpn.label_and_sample_anchors(output.anchors, pseudo)
    logits = torch.cat(output.logits, dim=1).tolist()
    total, kinds = 0.0, set()
    for image, each in enumerate(pseudo):
        mean = sum(each.gt_scores.tolist()) / len(each)
        for anchor, label in enumerate(labels[image].tolist()):
            if label == -1:
                continue
            kinds.add(label)
            probability = sigmoid(logits[image][anchor])
            loss = -math.log(probability if label == 1 else 1 - probability)
            weight = 1.0
            if quality == "student":
                weight = probability
            elif quality == "teacher" and label == 1:
                box = index_of(matched[image][anchor], each.gt_boxes)
                weight = float(each.gt_scores[box])
            elif quality == "teacher":
                weight = mean
            total += weight * loss
    assert kinds == {0, 1}
    return total / rpn.batch_size_per_image


def slow_class_loss(model, features, proposals, pseudo, quality):
    roi_heads = model.roi_heads
    sampled = roi_heads.label_and_sample_proposals(proposals, pseudo)
    total = 0.0
    for image, (each, labels) in enumerate(zip(sampled, pseudo, strict=True)):
        maps = [features[name][image : image + 1] for name in roi_heads.box_in_features]
        pooled = roi_heads.box_pooler(maps, [each.proposal_boxes])
        logits, _ = roi_heads.box_predictor(roi_heads.box_head(pooled))
        mean = sum(labels.gt_scores.tolist()) / len(labels)
        of_image, kinds = 0.0, set()
        for row, (scores, kind) in enumerate(
            zip(logits.tolist(), each.gt_classes.tolist(), strict=True)
        ):
            powers = [math.exp(score) for score in scores]
            loss = -math.log(powers[kind] / sum(powers))
            background = kind == roi_heads.num_classes
            kinds.add(background)
            weight = 1.0
            if quality == "student":
                weight = max(powers) / sum(powers)
            elif quality == "teacher" and not background:
                box = index_of(each.gt_boxes.tensor[row], labels.gt_boxes)
                assert int(labels.gt_classes[box]) == kind
                weight = float(labels.gt_scores[box])
            elif quality == "teacher":
                weight = mean
            of_image += weight * loss
        assert kinds == {True, False}
        total += of_image / len(each)
    return total


@pytest.mark.parametrize("quality", ["none", "teacher", "student"])
def test_objectness_against_loops(model, scene, quality):
    images, pseudo = scene
    output = run_rpn(model.proposal_generator, model.extract(images))
    torch.manual_seed(4)
    expected = slow_objectness_loss(model.proposal_generator, output, pseudo, quality)
    torch.manual_seed(4)
    loss = MaskedDetectionLoss(1.0, quality).objectness_loss(
        model.proposal_generator, output, pseudo
    )
    assert loss.item() == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("quality", ["none", "teacher", "student"])
def test_class_loss_against_loops(model, scene, quality):
    images, pseudo = scene
    masked = model.extract(images)
    proposals = propose(model.proposal_generator, masked, run_rpn(model.proposal_generator, masked))
    torch.manual_seed(4)
    expected = slow_class_loss(model, masked.features, proposals, pseudo, quality)
    torch.manual_seed(4)
    loss = MaskedDetectionLoss(1.0, quality).class_loss(model.roi_heads, masked, proposals, pseudo)
    assert loss.item() == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(("weight", "num_images"), [(1.0, 2), (0.3, 2), (1.0, 5)])
def test_weight_and_number_of_images(model, scene, weight, num_images):
    images, pseudo = scene
    masked = model.extract(images)
    torch.manual_seed(4)
    losses = MaskedDetectionLoss(weight, "none")(
        model.proposal_generator, model.roi_heads, masked, pseudo, num_images
    )
    assert list(losses) == ["loss_mic_rpn_cls", "loss_mic_roi_cls"]
    rpn = model.proposal_generator
    output = run_rpn(rpn, masked)
    torch.manual_seed(4)
    objectness = slow_objectness_loss(rpn, output, pseudo, "none")
    classes = slow_class_loss(model, masked.features, propose(rpn, masked, output), pseudo, "none")
    scale = weight / num_images
    assert losses["loss_mic_rpn_cls"].item() == pytest.approx(scale * objectness, rel=1e-4)
    assert losses["loss_mic_roi_cls"].item() == pytest.approx(scale * classes, rel=1e-4)


def test_objectness_is_detectron2s_own_for_quality_none(model, scene):
    images, pseudo = scene
    masked = model.extract(images)
    rpn = model.proposal_generator
    torch.manual_seed(4)
    _, theirs = rpn(masked.images, masked.features, pseudo)
    torch.manual_seed(4)
    ours = MaskedDetectionLoss(1.0, "none")(rpn, model.roi_heads, masked, pseudo, 2)
    assert torch.allclose(ours["loss_mic_rpn_cls"], theirs["loss_rpn_cls"], rtol=1e-6)


def test_class_loss_is_detectron2s_own_for_quality_none(model, scene):
    images, pseudo = scene
    masked = model.extract(images)
    rpn, roi_heads = model.proposal_generator, model.roi_heads
    proposals = propose(rpn, masked, run_rpn(rpn, masked))
    torch.manual_seed(4)
    sampled, theirs = roi_heads(masked.images, masked.features, proposals, pseudo)
    counts = {len(each) for each in sampled}
    assert counts == {roi_heads.batch_size_per_image}, "images must count the same"
    torch.manual_seed(4)
    ours = MaskedDetectionLoss(1.0, "none").class_loss(roi_heads, masked, proposals, pseudo)
    assert torch.allclose(ours / 2, theirs["loss_cls"], rtol=1e-6)


def test_proposals_are_detectron2s_own(model, scene):
    images, pseudo = scene
    masked = model.extract(images)
    rpn = model.proposal_generator
    theirs, _ = rpn(masked.images, masked.features, pseudo)
    ours = propose(rpn, masked, run_rpn(rpn, masked))
    for mine, other in zip(ours, theirs, strict=True):
        assert torch.equal(mine.proposal_boxes.tensor, other.proposal_boxes.tensor)
        assert torch.equal(mine.objectness_logits, other.objectness_logits)
        assert not mine.proposal_boxes.tensor.requires_grad


def test_box_regression_gets_no_gradient(model, scene):
    images, pseudo = scene
    grads = backward_of(model, model.masked_losses(images, pseudo))
    regression = [name for name in grads if "anchor_deltas" in name or "bbox_pred" in name]
    assert len(regression) == 4
    for name, grad in grads.items():
        if name in regression:
            assert grad is None or not grad.any(), name
        else:
            assert grad is not None and torch.isfinite(grad).all(), name
    for name in ("rpn_head.objectness_logits", "box_predictor.cls_score", "bottom_up.stem.conv1"):
        assert any(name in full and grad.any() for full, grad in grads.items()), name


@pytest.mark.parametrize("quality", ["teacher", "student"])
def test_quality_has_no_gradient(model, scene, quality):
    """The gradient is the weighted loss's with the weight held fixed."""
    images, pseudo = scene
    output = run_rpn(model.proposal_generator, model.extract(images[:1]))
    output.logits = [level.detach().requires_grad_() for level in output.logits]
    torch.manual_seed(4)
    loss = MaskedDetectionLoss(1.0, quality).objectness_loss(
        model.proposal_generator, output, pseudo[:1]
    )
    grads = torch.autograd.grad(loss, output.logits)
    torch.manual_seed(4)
    rpn = model.proposal_generator
    (labels,), (matched,) = rpn.label_and_sample_anchors(output.anchors, pseudo[:1])
    (gradient,) = torch.cat(grads, dim=1)
    (logits,) = torch.cat(output.logits, dim=1).detach()
    for anchor, label in enumerate(labels.tolist()):
        if label == -1:
            assert gradient[anchor] == 0
            continue
        probability = sigmoid(float(logits[anchor]))
        if quality == "student":
            weight = probability
        elif label == 1:
            weight = float(pseudo[0].gt_scores[index_of(matched[anchor], pseudo[0].gt_boxes)])
        else:
            weight = float(pseudo[0].gt_scores.mean())
        expected = weight * (probability - label) / rpn.batch_size_per_image
        assert float(gradient[anchor]) == pytest.approx(expected, rel=1e-3, abs=1e-8)


def test_image_without_pseudo_boxes_adds_exactly_nothing(model, scene):
    images, pseudo = scene
    images = [images[0], unlabelled(*SIZES[0]), unlabelled(*SIZES[0])]
    torch.manual_seed(4)
    alone = model.masked_losses(images[:1], pseudo[:1])
    alone_grads = backward_of(model, alone)
    for position in (0, 1, 2):
        batch = [images[1], images[2]]
        batch.insert(position, images[0])
        labels = [no_labels(*SIZES[0])] * 2
        labels.insert(position, pseudo[0])
        torch.manual_seed(4)
        losses = model.masked_losses(batch, labels)
        for name, loss in alone.items():
            assert torch.allclose(losses[name] * 3, loss, rtol=1e-6), name
        for name, grad in backward_of(model, losses).items():
            if grad is not None:
                scale = alone_grads[name].abs().max().item()
                assert torch.allclose(grad * 3, alone_grads[name], atol=1e-4 * scale), name


def test_pixels_of_an_image_without_pseudo_boxes_do_not_matter(model, scene):
    images, pseudo = scene
    labels = [pseudo[0], no_labels(*SIZES[1])]
    torch.manual_seed(4)
    first = model.masked_losses(images, labels)
    images[1] = {"image": torch.full((3, *SIZES[1]), float("nan"))}
    torch.manual_seed(4)
    second = model.masked_losses(images, labels)
    for name, loss in first.items():
        assert torch.equal(second[name], loss), name


def test_processes_average_to_what_one_computes():
    """Processes with an image each; everything is sampled, nothing is left to chance."""
    huge = {"MODEL.RPN.BATCH_SIZE_PER_IMAGE": 10**6, "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE": 10**6}
    model = tiny_model(MIC | huge | {"MODEL.RPN.LOSS_WEIGHT": 1e4})
    images = [unlabelled(), unlabelled(), unlabelled()]
    pseudo = [random_labels(scores=True), random_labels(count=1, scores=True), no_labels()]
    together = model.masked_losses(images, pseudo)
    apart = [
        model.masked_losses([image], [labels]) for image, labels in zip(images, pseudo, strict=True)
    ]
    for name, loss in together.items():
        average = sum(each.get(name, 0.0) for each in apart) / 3
        assert torch.allclose(loss, average, rtol=1e-4), name


def test_no_pseudo_boxes_no_loss(model, scene):
    images, _ = scene
    assert model.masked_losses(images, [no_labels(*size) for size in SIZES]) == {}


def test_labels_are_not_changed(model, scene):
    images, pseudo = scene
    before = [each.gt_boxes.tensor.clone() for each in pseudo]
    classes = [each.gt_classes.clone() for each in pseudo]
    model.masked_losses(images, pseudo)
    for each, boxes, kinds in zip(pseudo, before, classes, strict=True):
        assert set(each.get_fields()) == {"gt_boxes", "gt_classes", "gt_scores"}
        assert torch.equal(each.gt_boxes.tensor, boxes)
        assert torch.equal(each.gt_classes, kinds)


def test_log_of_source_samples_is_not_mixed_with_the_masked(model, scene, storage):
    images, pseudo = scene
    model.masked_losses(images, [pseudo[0], no_labels(*SIZES[1])])
    names = set(storage.latest())
    assert "roi_head/num_fg_samples" not in names
    assert "mic/roi_head/num_fg_samples" in names
    assert storage.latest()["mic/pseudo_boxes_per_image"][0] == pytest.approx(0.5), (
        "one label of three boxes"
    )
    assert storage.latest()["mic/images_with_pseudo_boxes"][0] == pytest.approx(0.5)


def test_unknown_quality():
    with pytest.raises(ValueError, match="teacher"):
        MaskedDetectionLoss(1.0, "both")
