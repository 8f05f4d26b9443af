"""AdaptiveRCNN: Detectron2's GeneralizedRCNN to the bit without its parts; the parts together."""

import copy

import pytest
import torch
from detector import (
    ALL_PARTS,
    backward_of,
    detections,
    equal_on,
    labelled,
    no_labels,
    random_labels,
    tiny_cfg,
    tiny_model,
    unlabelled,
)
from detectron2.modeling import GeneralizedRCNN, build_model

from mic_det.core import EMATeacher, MaskedView
from mic_det.detection import AdaptiveRCNN, as_pseudo_labels
from mic_det.detection.batch import propose, run_rpn

SOURCE_KEYS = {"loss_cls", "loss_box_reg", "loss_rpn_cls", "loss_rpn_loc"}
SADA_KEYS = {"loss_da_image", "loss_da_instance", "loss_da_consistency"}
MIC_KEYS = {"loss_mic_rpn_cls", "loss_mic_roi_cls"}

pytestmark = pytest.mark.usefixtures("storage")


@pytest.fixture(scope="module")
def full():
    return tiny_model(ALL_PARTS)


@pytest.fixture
def model(full):
    """The model with all parts, as it was built."""
    full.zero_grad(set_to_none=True)
    return full.train()


def plain_twin(model):
    """Detectron2's GeneralizedRCNN with the same weights."""
    plain = build_model(tiny_cfg({"MODEL.META_ARCHITECTURE": "GeneralizedRCNN"}))
    assert type(plain) is GeneralizedRCNN
    own = {k: v for k, v in model.state_dict().items() if not k.startswith("domain_heads")}
    plain.load_state_dict(own, strict=True)
    return plain.train(model.training)


def seeded(model, *args, seed=11, **kwargs):
    torch.manual_seed(seed)
    return model(*args, **kwargs)


def assert_same_detections(first, second):
    for one, other in zip(first, second, strict=True):
        one, other = one["instances"], other["instances"]
        assert len(one) > 0
        assert one.image_size == other.image_size
        assert torch.equal(one.pred_boxes.tensor, other.pred_boxes.tensor)
        assert torch.equal(one.scores, other.scores)
        assert torch.equal(one.pred_classes, other.pred_classes)


# --- Detectron2's own


def same_training_to_the_bit(model, arguments, source):
    plain = plain_twin(model)
    expected = seeded(plain, source)
    losses = seeded(model, source, *arguments)
    assert set(losses) == set(expected) == SOURCE_KEYS
    for name, loss in expected.items():
        assert torch.equal(losses[name], loss), name
    expected_grads, grads = backward_of(plain, expected), backward_of(model, losses)
    for name, grad in expected_grads.items():
        assert grad is not None and torch.equal(grads[name], grad), name


@pytest.mark.parametrize("sizes", [[(64, 96)], [(64, 96), (48, 80)]])
def test_training_without_the_parts_is_generalized_rcnn(sizes):
    source = [labelled(*size) for size in sizes]
    same_training_to_the_bit(tiny_model(), (), source)


def test_training_without_the_parts_ignores_the_target():
    target = [unlabelled()]
    same_training_to_the_bit(tiny_model(), (target, target, [random_labels()]), [labelled()])


def test_source_alone_is_generalized_rcnn_with_the_parts_too(model):
    same_training_to_the_bit(model, (), [labelled(), labelled(48, 80)])


@pytest.mark.parametrize("paths", ["plain", "fast"])
def test_source_losses_are_the_same_beside_the_others(model, paths, monkeypatch):
    equal = equal_on(paths, monkeypatch)
    source, target = [labelled()], [unlabelled()]
    expected = seeded(plain_twin(model), source)
    losses = seeded(model, source, target, target, [random_labels(scores=True)])
    for name, loss in expected.items():
        assert equal(losses[name], loss), name


@pytest.mark.parametrize("overrides", [{}, ALL_PARTS])
def test_detections_are_generalized_rcnns(overrides):
    student = tiny_model(overrides)
    teacher = EMATeacher(student, 0.9, model=student.teacher_copy())
    batch = [unlabelled(), unlabelled(48, 80) | {"height": 96, "width": 160}]
    student.eval()
    expected = plain_twin(student)(batch)
    assert_same_detections(student(batch), expected)
    assert_same_detections(teacher(batch), expected)


def test_source_image_without_boxes(model):
    losses = model([labelled(count=0)], [unlabelled()])
    assert all(torch.isfinite(loss) for loss in losses.values())


# --- all parts together


@pytest.mark.parametrize("counts", [(1, 1), (2, 1), (1, 3)])
def test_all_parts_together(model, counts):
    sizes = [(64, 96), (48, 80), (64, 64)]
    source = [labelled(*size) for size in sizes[: counts[0]]]
    target = [unlabelled(*size) for size in sizes[: counts[1]]]
    pseudo = [random_labels(*size, scores=True) for size in sizes[: counts[1]]]
    masked = MaskedView.from_config(tiny_cfg(ALL_PARTS))(target)
    losses = model(source, target, masked, pseudo)
    assert set(losses) == SOURCE_KEYS | SADA_KEYS | MIC_KEYS
    for name, loss in losses.items():
        assert loss.shape == () and torch.isfinite(loss) and loss > 0, name
    trainable = {name for name, p in model.named_parameters() if p.requires_grad}
    grads = backward_of(model, losses)
    assert {name for name, grad in grads.items() if grad is not None} == trainable
    for name, grad in grads.items():
        assert torch.isfinite(grad).all(), name
        if "instance_heads" not in name:  # a level may have no proposals
            assert grad.any(), name


def test_mixed_precision(model):
    source, target = [labelled()], [unlabelled()]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = model(source, target, target, [random_labels(scores=True)])
    assert set(losses) == SOURCE_KEYS | SADA_KEYS | MIC_KEYS
    for name, loss in losses.items():
        assert torch.isfinite(loss), name
        if name not in SOURCE_KEYS:
            assert loss.dtype == torch.float32, name
    assert all(torch.isfinite(grad).all() for grad in backward_of(model, losses).values())


def test_the_weights_of_the_config():
    changed = {
        "MODEL.SADA.IMAGE_WEIGHT": 3.0,
        "MODEL.SADA.INSTANCE_WEIGHT": 0.5,
        "MODEL.SADA.CONSISTENCY_WEIGHT": 0.25,
        "MODEL.MIC.WEIGHT": 2.0,
        "MODEL.SADA.DROPOUT": 0.0,
    }
    other = tiny_model(ALL_PARTS | changed)
    plain = tiny_model(ALL_PARTS | {"MODEL.SADA.DROPOUT": 0.0})
    arguments = [labelled()], [unlabelled()], [unlabelled()], [random_labels(scores=True)]
    one, two = seeded(plain, *arguments), seeded(other, *arguments)
    factors = dict.fromkeys(SOURCE_KEYS, 1.0) | dict.fromkeys(MIC_KEYS, 2.0)
    factors |= {"loss_da_image": 3.0, "loss_da_instance": 0.5, "loss_da_consistency": 0.25}
    for name, factor in factors.items():
        assert torch.allclose(two[name], factor * one[name], rtol=1e-5), name


def test_no_pseudo_boxes_no_mic_losses(model):
    target = [unlabelled(), unlabelled()]
    losses = model([labelled()], target, target, [no_labels(), no_labels()])
    assert set(losses) == SOURCE_KEYS | SADA_KEYS


@pytest.mark.parametrize("labels", [[0, 2], [1, 0]])
def test_some_pseudo_boxes(model, labels):
    target = [unlabelled(), unlabelled()]
    pseudo = [random_labels(count=count, scores=True) for count in labels]
    losses = model([labelled()], target, target, pseudo)
    assert set(losses) >= MIC_KEYS
    assert all(torch.isfinite(loss) for loss in losses.values())


@pytest.mark.parametrize(
    ("overrides", "keys"),
    [
        ({"MODEL.SADA.ENABLED": True}, SOURCE_KEYS | SADA_KEYS),
        ({"MODEL.MIC.ENABLED": True}, SOURCE_KEYS | MIC_KEYS),
        (
            {"MODEL.SADA.ENABLED": True, "MODEL.SADA.INSTANCE_WEIGHT": 0.0}
            | {"MODEL.SADA.CONSISTENCY_WEIGHT": 0.0},
            SOURCE_KEYS | {"loss_da_image"},
        ),
        (
            {"MODEL.SADA.ENABLED": True, "MODEL.SADA.IMAGE_WEIGHT": 0.0},
            SOURCE_KEYS | {"loss_da_instance", "loss_da_consistency"},
        ),
    ],
)
def test_one_part_at_a_time(overrides, keys):
    model = tiny_model(overrides)
    target = [unlabelled()]
    losses = model([labelled()], target, target, [random_labels(scores=True)])
    assert set(losses) == keys
    grads = backward_of(model, losses)
    # DistributedDataParallel waits for every parameter of the model.
    assert [name for name, grad in grads.items() if grad is None] == []


def test_domain_heads_follow_the_config(model):
    heads = model.domain_heads
    assert heads.strides == (4, 8, 16, 32, 64)
    assert (len(heads.image_heads), len(heads.instance_heads)) == (5, 4)
    assert (heads.image_reversal, heads.instance_reversal, heads.consistency_scale) == (
        0.025,
        0.1,
        0.1,
    )
    assert heads.image_weight == heads.instance_weight == heads.consistency_weight == 1.0
    assert heads.image_heads[0].hidden.out_channels == 16
    assert heads.instance_heads[0][0].in_features == 32


def test_image_features_are_reversed_in_the_whole_model():
    """One step down the backbone's gradient makes the image-level classifier worse, not better."""
    off = {"MODEL.SADA.INSTANCE_WEIGHT": 0.0, "MODEL.SADA.CONSISTENCY_WEIGHT": 0.0}
    model = tiny_model({"MODEL.SADA.ENABLED": True, "MODEL.SADA.IMAGE_REVERSAL": 1.0} | off)
    source, target = [labelled()], [unlabelled()]

    def image_loss():
        return seeded(model, source, target)["loss_da_image"]

    before = image_loss()
    parameters = list(model.backbone.parameters())
    grads = torch.autograd.grad(before, parameters)
    norm = sum(grad.square().sum() for grad in grads).sqrt()
    with torch.no_grad():
        for parameter, grad in zip(parameters, grads, strict=True):
            parameter -= 1e-2 * grad / norm
    assert image_loss() > before


def test_target_proposals_are_limited_and_random(model):
    batch = model.extract([unlabelled(), unlabelled(48, 80)])
    rpn = model.proposal_generator
    proposals = propose(rpn, batch, run_rpn(rpn, batch))
    limit = model.roi_heads.batch_size_per_image
    assert min(len(each) for each in proposals) > limit
    drawn = [model.target_regions(batch).boxes for _ in range(2)]
    for boxes in drawn:
        assert [len(each) for each in boxes] == [limit, limit]
        for few, each in zip(boxes, proposals, strict=True):
            everything = {tuple(row) for row in each.proposal_boxes.tensor.tolist()}
            assert {tuple(row) for row in few.tensor.tolist()} <= everything
    assert not torch.equal(drawn[0][0].tensor, drawn[1][0].tensor)


# --- the target carries no labels


def test_labels_of_the_target_make_no_difference(model):
    source, target = [labelled()], [unlabelled(), unlabelled(48, 80)]
    masked = [unlabelled(), unlabelled(48, 80)]
    pseudo = [random_labels(scores=True), random_labels(48, 80, scores=True)]
    clean = seeded(model, source, target, masked, pseudo)
    clean_grads = backward_of(model, clean)
    lies = [random_labels(count=40), "no instances at all"]
    dirty_target = [each | {"instances": lie} for each, lie in zip(target, lies, strict=True)]
    dirty_masked = [each | {"instances": lie} for each, lie in zip(masked, lies, strict=True)]
    dirty = seeded(model, source, dirty_target, dirty_masked, pseudo)
    for name, loss in clean.items():
        assert torch.equal(dirty[name], loss), name
    for name, grad in backward_of(model, dirty).items():
        assert torch.equal(grad, clean_grads[name]), name


def test_pseudo_labels_do_not_see_labels_either():
    model = tiny_model({"MODEL.MIC.SCORE_THRESH": 0.2}).eval()
    target = [unlabelled()]
    (clean,) = model.pseudo_label(target)
    (dirty,) = model.pseudo_label([target[0] | {"instances": random_labels(count=9)}])
    assert len(clean) > 0
    assert torch.equal(clean.gt_boxes.tensor, dirty.gt_boxes.tensor)


# --- pseudo labels and the teacher


def test_pseudo_labels_are_in_the_networks_coordinates():
    model = tiny_model({"MODEL.MIC.SCORE_THRESH": 0.2}).eval()
    image = unlabelled(64, 96)
    (labels,) = model.pseudo_label([image])
    (larger,) = model.pseudo_label([image | {"height": 640, "width": 960}])
    assert len(labels) > 0
    assert larger.image_size == (64, 96)
    assert torch.equal(labels.gt_boxes.tensor, larger.gt_boxes.tensor)
    assert not labels.gt_boxes.tensor.requires_grad
    assert not labels.gt_scores.requires_grad


@pytest.mark.parametrize("paths", ["plain", "fast"])
def test_pseudo_labels_are_the_confident_detections(paths, monkeypatch):
    equal = equal_on(paths, monkeypatch)
    model = tiny_model({"MODEL.MIC.SCORE_THRESH": 0.2}).eval()
    image = unlabelled()
    with torch.no_grad():
        found = model([image])[0]["instances"]
    kept = [i for i, score in enumerate(found.scores.tolist()) if score >= 0.2]
    assert 0 < len(kept) < len(found)
    (labels,) = model.pseudo_label([image])
    assert equal(labels.gt_boxes.tensor, found.pred_boxes.tensor[kept])
    assert torch.equal(labels.gt_classes, found.pred_classes[kept])
    assert equal(labels.gt_scores, found.scores[kept])


def test_pseudo_labels_can_be_trained_on(model):
    """From the teacher's detections to a masked loss, without a conversion in between."""
    (labels,) = as_pseudo_labels([detections([[4, 4, 40, 40]], [2], [0.9])], 0.8)
    losses = model([labelled()], [unlabelled()], [unlabelled()], [labels])
    assert torch.isfinite(sum(losses.values()))


def test_teacher_copy(model):
    heads = model.domain_heads
    before = {name: value.clone() for name, value in model.state_dict().items()}
    teacher = model.teacher_copy()
    assert isinstance(teacher, AdaptiveRCNN)
    assert model.domain_heads is heads and heads is not None
    assert teacher.domain_heads is None
    assert not [name for name in teacher.state_dict() if "domain_heads" in name]
    own = {name for name in before if not name.startswith("domain_heads")}
    assert set(teacher.state_dict()) == own
    for name, value in teacher.state_dict().items():
        assert torch.equal(value, before[name])
    with torch.no_grad():
        next(teacher.parameters()).add_(1.0)
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), "the copy shares tensors with the student"


def test_teacher_follows_the_student(model):
    student = copy.deepcopy(model)
    teacher = EMATeacher(student, 0.5, model=student.teacher_copy())
    optimizer = torch.optim.SGD(student.parameters(), lr=0.01)
    name = "roi_heads.box_predictor.cls_score.weight"
    old = student.state_dict()[name].clone()
    sum(student([labelled()], [unlabelled()]).values()).backward()
    optimizer.step()
    teacher.update(student)
    new = student.state_dict()[name]
    assert not torch.equal(old, new)
    assert torch.allclose(teacher.model.state_dict()[name], (old + new) / 2, atol=1e-7)
    assert not teacher.model.training


def test_training_forward_leaves_the_batch_alone(model):
    source, target = [labelled()], [unlabelled()]
    copies = copy.deepcopy((source, target))
    model(source, target, target, [random_labels(scores=True)])
    for batch, kept in zip((source, target), copies, strict=True):
        assert batch[0].keys() == kept[0].keys()
        assert torch.equal(batch[0]["image"], kept[0]["image"])
    boxes = [each[0]["instances"].gt_boxes.tensor for each in (source, copies[0])]
    assert torch.equal(*boxes)


# --- what the student sees


def test_masked_view():
    cfg = tiny_cfg(ALL_PARTS | {"MODEL.MIC.AUGMENT.JITTER_PROB": 0.0})
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.MIC.AUGMENT.BLUR_PROB = 0.0
    target = [unlabelled() | {"file_name": "x.png"}, unlabelled(48, 80)]
    originals = [each["image"].clone() for each in target]
    views = MaskedView.from_config(cfg)(target)
    mean = torch.tensor(cfg.MODEL.PIXEL_MEAN).view(3, 1, 1)
    assert views[0]["file_name"] == "x.png"
    for view, each, original in zip(views, target, originals, strict=True):
        assert torch.equal(each["image"], original), "the complete image is the teacher's"
        assert view["image"].dtype == torch.float32
        assert view["image"].shape == original.shape
        hidden = (view["image"] == mean).all(0)
        assert 0.1 < hidden.float().mean() < 0.9
        kept = (view["image"] == original.float()).all(0)
        assert (hidden | kept).all()


def test_hidden_patches_are_zero_for_the_network(model):
    cfg = tiny_cfg(ALL_PARTS | {"MODEL.MIC.RATIO": 1.0})
    views = MaskedView.from_config(cfg)([unlabelled()])
    assert not model.preprocess_image(views).tensor.any()
