"""Doubtful teacher boxes: neither taught as objects nor as background."""

import pytest
import torch
from detector import equal_on, masked_losses, random_labels, tiny_model, unlabelled
from detectron2.structures import Boxes, Instances, pairwise_iou

from mic_det.detection import MaskedDetectionLoss
from mic_det.detection.batch import propose, run_rpn
from mic_det.detection.masked_loss import in_doubt

pytestmark = pytest.mark.usefixtures("storage")
SIZE = (64, 96)


@pytest.fixture(scope="module")
def model():
    return tiny_model({"MODEL.MIC.ENABLED": True, "MODEL.MIC.QUALITY": "none"})


def test_in_doubt_by_hand():
    boxes = Boxes(
        torch.tensor([[0, 0, 10, 10], [40, 0, 50, 10], [20, 0, 30, 10], [0, 0, 10, 20.0]])
    )
    doubtful = Boxes(torch.tensor([[0, 0, 10, 10], [20, 0, 30, 21.0]]))
    labels = Boxes(torch.tensor([[0, 0, 10, 21.0]]))
    # IoU with doubtful: 1, 0, 10/21, 1/2; with the label: 10/21, 0, 0, 20/21.
    assert in_doubt(boxes, doubtful, labels).tolist() == [True, False, False, False]
    assert in_doubt(boxes, doubtful, labels[:0]).tolist() == [True, False, False, True]
    assert not in_doubt(boxes, doubtful[:0], labels).any()
    assert in_doubt(boxes[:0], doubtful, labels).shape == (0,)


def pseudo_with_doubt(model) -> tuple[list[dict], Instances, Instances]:
    """An image, one label, and the same with the RPN's best proposals as doubtful boxes."""
    image = [unlabelled(*SIZE)]
    labels = random_labels(*SIZE, count=1, scores=True)
    labels.gt_scores = torch.tensor([0.9])
    with torch.no_grad():
        batch = model.extract(image)
        proposals = propose(
            model.proposal_generator, batch, run_rpn(model.proposal_generator, batch)
        )
    boxes = proposals[0].proposal_boxes[:5]
    unsure = Instances(
        SIZE,
        gt_boxes=boxes,
        gt_classes=torch.zeros(len(boxes), dtype=torch.int64),
        gt_scores=torch.full((len(boxes),), 0.4),
    )
    return image, labels, Instances.cat([labels, unsure])


def losses_of(model, loss, image, pseudo, seed=3):
    torch.manual_seed(seed)
    batch = model.extract(image)
    parts = loss(model.proposal_generator, model.roi_heads, batch, [pseudo], 1)
    return {name: float(value) for name, value in parts.items()}


def test_doubtful_boxes_are_no_labels_and_no_background(model, monkeypatch):
    equal_on("plain", monkeypatch)  # the paths that the pooler itself is called on
    image, labels, all_boxes = pseudo_with_doubt(model)
    sampled = {}

    def record(key):
        def hook(module, inputs, output):
            sampled.setdefault(key, []).append(inputs[1][0].tensor.clone())

        return hook

    loss = MaskedDetectionLoss(1.0, "none", threshold=0.8)
    handle = model.roi_heads.box_pooler.register_forward_hook(record("with doubt"))
    with_doubt = losses_of(model, loss, image, all_boxes)
    handle.remove()
    handle = model.roi_heads.box_pooler.register_forward_hook(record("without"))
    without = losses_of(model, loss, image, labels)
    handle.remove()
    doubtful = all_boxes.gt_boxes[1:]
    (kept,) = sampled["with doubt"]
    (usual,) = sampled["without"]
    assert not in_doubt(Boxes(kept), doubtful, labels.gt_boxes).any()
    assert in_doubt(Boxes(usual), doubtful, labels.gt_boxes).any(), "the case tests nothing"
    assert with_doubt != without


def test_without_doubtful_boxes_the_threshold_changes_nothing(model):
    image, labels, _ = pseudo_with_doubt(model)
    plain = losses_of(model, MaskedDetectionLoss(1.0, "teacher"), image, labels)
    strict = losses_of(model, MaskedDetectionLoss(1.0, "teacher", threshold=0.8), image, labels)
    assert plain == strict


def test_doubtful_anchors_are_not_sampled(model):
    image, labels, all_boxes = pseudo_with_doubt(model)
    loss = MaskedDetectionLoss(1.0, "none", threshold=0.8)
    rpn = model.proposal_generator
    output = run_rpn(rpn, model.extract(image))
    logits = [level.detach().requires_grad_() for level in output.logits]
    output.logits = logits
    doubtful = all_boxes.gt_boxes[1:]
    loss.objectness_loss(rpn, output, [labels], [doubtful]).backward()
    touched = torch.cat([level.grad for level in logits], dim=1)[0] != 0
    assert touched.any()
    anchors = Boxes.cat(output.anchors)
    _, kinds = rpn.anchor_matcher(pairwise_iou(labels.gt_boxes, anchors))
    doubts = in_doubt(anchors, doubtful, labels.gt_boxes)
    assert (doubts & (kinds == 0)).any(), "the case tests nothing"
    assert not (touched & doubts & (kinds == 0)).any()
    assert touched[kinds == 1].any(), "a label's anchors stay"


def test_image_with_doubtful_boxes_alone_adds_nothing(model):
    image, _, all_boxes = pseudo_with_doubt(model)
    assert masked_losses(model, image, [all_boxes[1:]]) == {}
