"""Shares of classes: the correction in numbers worked out by hand, and where it leads."""

import pytest
import torch
from detector import CLASSES, labelled, tiny_model, unlabelled
from detectron2.utils.events import EventStorage

from mic_det.core import ClassShares, EMATeacher


def _classes(*counts):
    return torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))


def _observe(shares, labels, predictions):
    shares.observe(labels, predictions, torch.ones(len(predictions)))


def test_nothing_seen_changes_nothing():
    probabilities = torch.rand(5, 3, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(ClassShares(3)(probabilities), probabilities)


def test_by_hand():
    shares = ClassShares(2, momentum=0.5, limit=10.0, prior=1.0)
    _observe(shares, _classes(3, 3), _classes(5, 1))
    # Labelled (3+1)/8 each; predicted 6/8 and 2/8.
    torch.testing.assert_close(shares.factors(), torch.tensor([2 / 3, 2.0]))
    # (0.6, 0.3) -> (0.4, 0.6), back to a sum of 0.9.
    found = shares(torch.tensor([[0.6, 0.3]]))
    torch.testing.assert_close(found, torch.tensor([[0.36, 0.54]]))


def test_scores_count_and_old_steps_fade():
    shares = ClassShares(2, momentum=0.5)
    shares.observe(_classes(2, 0), _classes(1, 1), torch.tensor([0.75, 0.5]))
    shares.observe(_classes(0, 4), _classes(0, 1), torch.tensor([0.25]))
    torch.testing.assert_close(shares.labelled, torch.tensor([1.0, 4.0]))
    torch.testing.assert_close(shares.predicted, torch.tensor([0.375, 0.5]))


def test_factors_are_limited():
    shares = ClassShares(2, limit=3.0)
    _observe(shares, _classes(0, 1000), _classes(1000, 0))
    torch.testing.assert_close(shares.factors(), torch.tensor([1 / 3, 3.0]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_sums_and_types_stay(dtype):
    shares = ClassShares(4)
    _observe(shares, _classes(1, 5, 2, 9), _classes(9, 1, 0, 1))
    probabilities = torch.rand(7, 4, generator=torch.Generator().manual_seed(1)).to(dtype) / 4
    found = shares(probabilities)
    assert found.dtype == dtype and (found >= 0).all()
    tolerance = 2e-2 if dtype == torch.bfloat16 else 1e-6
    torch.testing.assert_close(found.sum(-1), probabilities.sum(-1), rtol=tolerance, atol=0)
    assert shares(torch.zeros(1, 4)).tolist() == [[0.0] * 4]


def test_at_rest_a_share_is_the_geometric_mean():
    """A teacher that says bus of 3 trucks in 4; the corrected shares are counted again."""
    shares = ClassShares(2, momentum=0.9, limit=100.0, prior=1e-3)
    raw = torch.tensor([0.8, 0.2])
    for _ in range(300):
        found = shares(raw)
        shares.observe(_classes(5, 5), torch.arange(2), found / found.sum())
    expected = (raw * 0.5).sqrt()
    torch.testing.assert_close(found, expected / expected.sum(), rtol=1e-3, atol=0)


@pytest.mark.parametrize("wrong", [{"momentum": 1.0}, {"limit": 0.5}, {"prior": 0.0}])
def test_arguments(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        ClassShares(3, **wrong)


# --- in the detector

SHARES = {"MODEL.MIC.ENABLED": True, "MODEL.MIC.CLASS_SHARES": True, "MODEL.MIC.SCORE_THRESH": 0.2}


def _pair():
    student = tiny_model(SHARES)
    return student, EMATeacher(student, 0.9, model=student.teacher_copy())


def test_the_student_counts_and_its_teacher_corrects():
    student, teacher = _pair()
    image = [unlabelled()]
    (before,) = teacher.pseudo_label(image)
    assert len(before) > 0
    often = before.gt_classes.mode().values.item()
    source = labelled()
    source["instances"].gt_classes[:] = (often + 1) % CLASSES
    with EventStorage():
        for _ in range(30):
            student([source], image, image, [before])
    assert student.class_shares.predicted.argmax() == often
    factors = student.class_shares.factors()
    assert factors[often] < 0.5 and factors[(often + 1) % CLASSES] > 2.0
    (after,) = teacher.pseudo_label(image)
    assert (after.gt_classes == often).sum() < (before.gt_classes == often).sum()


def test_shares_are_the_students_and_change_no_detection():
    student, teacher = _pair()
    assert any(name.startswith("class_shares.") for name in student.state_dict())
    assert not any("class_shares" in name for name in teacher.model.state_dict())
    image = [unlabelled()]
    student.class_shares.observe(torch.tensor([1, 1]), torch.tensor([2, 2]), torch.ones(2))
    (found,) = student.eval()(image)
    (plain,) = tiny_model({"MODEL.MIC.ENABLED": True}).eval()(image)
    assert torch.equal(found["instances"].scores, plain["instances"].scores)


def test_off_by_default():
    assert tiny_model({"MODEL.MIC.ENABLED": True}).class_shares is None
