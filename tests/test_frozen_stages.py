"""What teacher and student share of the frozen stages changes nothing, and only then is shared."""

import pytest
import torch
from detector import ALL_PARTS, backward_of, labelled, random_labels, tiny_model, unlabelled

from mic_det.core import EMATeacher
from mic_det.detection.batch import CPU_PIXELS, extract_features, together_is_faster
from mic_det.detection.frozen_stages import frozen_stages

pytestmark = pytest.mark.usefixtures("storage")

FROZEN = ALL_PARTS | {"MODEL.BACKBONE.FREEZE_AT": 2, "MODEL.RESNETS.NORM": "FrozenBN"}


def pair(overrides=FROZEN):
    student = tiny_model(overrides)
    return student, EMATeacher(student, 0.9, model=student.teacher_copy())


def counting(stage):
    calls = []
    stage.register_forward_hook(lambda *_: calls.append(1))
    return calls


def scene():
    torch.manual_seed(1)
    target = [unlabelled(), unlabelled()]
    masked = [{**each, "image": each["image"] // 2} for each in target]
    pseudo = [random_labels(scores=True), random_labels(scores=True)]
    return [labelled(), labelled()], target, masked, pseudo


def step(student, teacher, share):
    source, target, masked, pseudo = scene()
    teacher.pseudo_label(target)
    if not share:
        student.shared_stages.drop()
    torch.manual_seed(2)
    losses = student(source, target, masked, pseudo)
    return losses, backward_of(student, losses)


@pytest.mark.parametrize("together", [False, True])
def test_losses_and_gradients_are_the_same(together, monkeypatch):
    monkeypatch.setattr("mic_det.detection.batch.together_is_faster", lambda _: together)
    student, teacher = pair()
    teacher.update(student)
    calls = counting(student.backbone.bottom_up.res2)
    shared = step(student, teacher, share=True)
    used = len(calls)
    plain = step(student, teacher, share=False)
    assert used == (1 if together else 2), "the stage ran on the target, too"
    tolerance = {"rtol": 1e-3, "atol": 1e-6} if together else {"rtol": 0, "atol": 0}
    for name, loss in plain[0].items():
        assert torch.allclose(loss, shared[0][name], **tolerance), name
    for name, grad in plain[1].items():
        other = shared[1][name]
        assert (grad is None) == (other is None)
        if grad is not None:
            close = {"rtol": 5e-2, "atol": 1e-4} if together else tolerance
            assert torch.allclose(grad, other, **close), name


def test_the_teacher_finds_what_it_finds_alone():
    student, teacher = pair()
    target = [unlabelled(), unlabelled(48, 80)]
    student.pseudo_threshold = teacher.model.pseudo_threshold = 0.2
    found = teacher.pseudo_label(target)
    assert student.shared_stages.kept is not None
    teacher.model.shared_stages = None
    alone = teacher.pseudo_label(target)
    assert len(alone[0]) > 0
    for one, other in zip(found, alone, strict=True):
        assert torch.equal(one.gt_boxes.tensor, other.gt_boxes.tensor)


@torch.no_grad()
def _nudge(parameter):
    parameter.view(-1)[0] += 1e-3


def thaw(student, teacher, target):
    student.backbone.bottom_up.res2.requires_grad_(True)
    return target


def other_student(student, teacher, target):
    _nudge(student.backbone.bottom_up.stem.conv1.weight)
    return target


def other_teacher(student, teacher, target):
    teacher.model.backbone.bottom_up.res2[0].conv1.norm.running_mean[0] += 1e-3
    return target


def other_image(student, teacher, target):
    return [target[0], {**target[1], "image": target[1]["image"].clone()}]


def other_order(student, teacher, target):
    return target[::-1]


def fewer(student, teacher, target):
    return target[:1]


def other_backbone(student, teacher, target):
    student.backbone.forward = student.backbone.forward
    student.backbone.bottom_up.register_forward_hook(lambda *_: None)
    return target


@pytest.mark.parametrize(
    "change",
    [None, thaw, other_student, other_teacher, other_image, other_order, fewer, other_backbone],
)
def test_only_the_same_is_shared(change):
    student, teacher = pair()
    target = [unlabelled(), unlabelled()]
    teacher.pseudo_label(target)
    if change is other_teacher:
        change(student, teacher, target)
        teacher.pseudo_label(target)
    elif change is not None:
        target = change(student, teacher, target)
    images = student.preprocess_image(target)
    taken = student.shared_stages.take(student.backbone, target, images.tensor)
    assert (taken is None) == (change is not None)
    if taken is not None:
        again = student.shared_stages.take(student.backbone, target, images.tensor)
        assert again is None, "only once"


def test_another_precision_is_not_shared():
    student, teacher = pair()
    target = [unlabelled()]
    teacher.pseudo_label(target)
    images = student.preprocess_image(target)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert student.shared_stages.take(student.backbone, target, images.tensor) is None


def test_weights_stay_shared_while_the_teacher_follows():
    student, teacher = pair()
    target = [unlabelled()]
    images = student.preprocess_image(target)
    for _ in range(5):
        with torch.no_grad():
            for parameter in student.parameters():
                if parameter.requires_grad:
                    parameter += 1e-3
        teacher.update(student)
        teacher.pseudo_label(target)
        assert student.shared_stages.take(student.backbone, target, images.tensor) is not None


@pytest.mark.parametrize(
    "overrides, names",
    [
        ({"MODEL.BACKBONE.FREEZE_AT": 0}, []),
        ({"MODEL.BACKBONE.FREEZE_AT": 1}, ["stem"]),
        ({"MODEL.BACKBONE.FREEZE_AT": 3}, ["stem", "res2", "res3"]),
    ],
)
def test_what_counts_as_frozen(overrides, names):
    model = tiny_model(ALL_PARTS | overrides)
    assert [name for name, _ in frozen_stages(model.backbone)] == names


def test_nothing_is_kept_where_the_student_never_looks():
    student, teacher = pair(FROZEN | {"MODEL.SADA.ENABLED": False})
    teacher.pseudo_label([unlabelled()])
    assert student.shared_stages.kept is None and teacher.model.shared_stages is None


# --- one pass of the backbone or several


@pytest.mark.parametrize(
    "shapes, together",
    [
        ([(4, 3, 128, 256)] * 3, True),
        ([(1, 3, 256, 512)] * 3, True),
        ([(1, 3, 256, 512), (1, 3, 256, 480)], False),
        ([(8, 3, 800, 1600)] * 3, False),
    ],
)
def test_when_batches_go_together(shapes, together):
    assert together_is_faster([torch.empty(shape, device="meta") for shape in shapes]) == together


@pytest.mark.parametrize("begun", [(0,), (1,), (0, 1), ()])
def test_one_pass_from_the_middle(begun):
    student, _ = pair()
    images = [student.preprocess_image([unlabelled()]) for _ in range(2)]
    shared = student.shared_stages
    outputs = []
    for i, each in enumerate(images):
        batch = [{"image": each.tensor}]
        shared.keep(student.backbone, batch, each.tensor)
        outputs.append(shared.kept if i in begun else None)
    for together in (True, False):
        found = extract_features(student.backbone, images, outputs, together)
        for one, each in zip(found, images, strict=True):
            for name, maps in student.backbone(each.tensor).items():
                assert torch.allclose(one.features[name], maps, rtol=1e-3, atol=1e-5)
    assert CPU_PIXELS > 0
