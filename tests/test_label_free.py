"""Stability under masking: hand-computed cases."""

import pytest
import torch
from detector import detections, tiny_model, unlabelled
from torch import nn

from mic_det.core import PatchMask
from mic_det.detection.label_free import masking_stability, matched_overlap

A, B, C = [0, 0, 10, 10], [20, 20, 40, 40], [50, 0, 60, 30]
HALF = [0, 0, 10, 6]  # IoU 0.6 with A
EVERYTHING = PatchMask(8, ratio=1.0, fill=0.0)


def found(*rows):
    """Rows of (box, class, score)."""
    boxes, classes, scores = zip(*rows, strict=True) if rows else ((), (), ())
    return detections(list(boxes), list(classes), list(scores))


# --- matched_overlap


def test_the_same_detections():
    both = found((A, 0, 0.9), (B, 1, 0.9), (C, 0, 0.6))
    assert matched_overlap(both, both) == pytest.approx(3.0)


def test_overlaps_are_summed():
    first = found((A, 0, 0.9), (B, 1, 0.9))
    second = found((B, 1, 0.7), (HALF, 0, 0.8))
    assert matched_overlap(first, second) == pytest.approx(1.6)


def test_other_classes_do_not_match():
    assert matched_overlap(found((A, 0, 0.9)), found((A, 1, 0.9))) == 0.0


def test_overlap_of_one_half_is_enough_and_less_is_not():
    half, less = [0, 0, 10, 5], [0, 0, 10, 4.9]
    assert matched_overlap(found((A, 0, 0.9)), found((half, 0, 0.9))) == pytest.approx(0.5)
    assert matched_overlap(found((A, 0, 0.9)), found((less, 0, 0.9))) == 0.0


def test_matches_are_one_to_one():
    assert matched_overlap(found((A, 0, 0.9)), found((A, 0, 0.9), (A, 0, 0.8))) == 1.0
    assert matched_overlap(found((A, 0, 0.9), (HALF, 0, 0.9)), found((A, 0, 0.9))) == 1.0


def test_largest_overlap_first():
    # x1 overlaps y1 by 0.6 and y2 by 0.9, x2 overlaps y2 by 0.8: greedy takes 0.9, then what is
    # left of x2 with y1.
    x1, x2 = [0, 0, 10, 10], [0, 0, 10, 7.2]
    y1, y2 = [0, 0, 10, 6], [0, 0, 10, 9]
    total = matched_overlap(found((x1, 0, 0.9), (x2, 0, 0.9)), found((y1, 0, 0.9), (y2, 0, 0.9)))
    assert total == pytest.approx(0.9 + 6 / 7.2, rel=1e-5)


@pytest.mark.parametrize("first", [[], [(A, 0, 0.9)]])
def test_nothing_found(first):
    assert matched_overlap(found(*first), found()) == 0.0
    assert matched_overlap(found(), found(*first)) == 0.0


# --- masking_stability


class Scripted(nn.Module):
    """Detects ``seen`` in complete images (all ones), ``hidden`` in masked ones; n-th per image."""

    def __init__(self, seen, hidden):
        super().__init__()
        self.answers = {1.0: list(seen), 0.0: list(hidden)}
        self.modes = []

    def forward(self, batch):
        (record,) = batch
        assert "instances" not in record
        assert not torch.is_grad_enabled()
        self.modes.append(self.training)
        return [{"instances": found(*self.answers[float(record["image"].max())].pop(0))}]


def images(count):
    return [{"image": torch.ones(3, 64, 96), "instances": "never to be used"}] * count


def test_by_hand():
    model = Scripted([[(A, 0, 0.9), (B, 1, 0.9)]], [[(HALF, 0, 0.9)]])
    assert masking_stability(model, images(1), EVERYTHING) == pytest.approx(2 * 0.6 / 3)


def test_counted_over_all_images_together():
    seen = [[(A, 0, 0.9)], [(A, 0, 0.9), (B, 0, 0.9), (C, 0, 0.9)]]
    hidden = [[], [(A, 0, 0.9), (B, 0, 0.9), (C, 0, 0.9)]]
    stability = masking_stability(Scripted(seen, hidden), images(2), EVERYTHING)
    assert stability == pytest.approx(2 * 3 / 7)


def test_a_model_that_sees_the_same_scores_one():
    same = [[(A, 0, 0.9), (B, 3, 0.51)], [(C, 1, 1.0)]]
    assert masking_stability(Scripted(same, same), images(2), EVERYTHING) == pytest.approx(1.0)


def test_a_model_that_detects_nothing_scores_zero():
    assert masking_stability(Scripted([[], []], [[], []]), images(2), EVERYTHING) == 0.0
    assert masking_stability(Scripted([], []), [], EVERYTHING) == 0.0


def test_detections_that_appear_only_when_masked_count_against():
    model = Scripted([[(A, 0, 0.9)]], [[(A, 0, 0.9), (B, 0, 0.9)]])
    assert masking_stability(model, images(1), EVERYTHING) == pytest.approx(2 / 3)


def test_low_scores_do_not_count():
    seen = [[(A, 0, 0.5), (B, 0, 0.49)]]
    hidden = [[(A, 0, 0.5), (C, 0, 0.3)]]
    model = Scripted(seen, hidden)
    assert masking_stability(model, images(1), EVERYTHING, 0.5) == pytest.approx(1.0)
    model = Scripted(seen, hidden)
    model.answers = {1.0: [seen[0]], 0.0: [hidden[0]]}
    assert masking_stability(model, images(1), EVERYTHING, 0.2) == pytest.approx(0.5)


@pytest.mark.parametrize("training", [True, False])
def test_mode_is_restored(training):
    model = Scripted([[]], [[]]).train(training)
    masking_stability(model, images(1), EVERYTHING)
    assert model.modes == [False, False]
    assert model.training is training
    with pytest.raises(IndexError):  # the script is at its end
        masking_stability(model, images(1), EVERYTHING)
    assert model.training is training


class Reader(nn.Module):
    """Remembers the images it is given."""

    def __init__(self):
        super().__init__()
        self.images = []

    def forward(self, batch):
        self.images.append(batch[0]["image"].clone())
        return [{"instances": found()}]


def test_masks_depend_on_the_seed_alone():
    batch = [{"image": torch.randint(1, 256, (3, 64, 96), dtype=torch.uint8)} for _ in range(2)]
    mask = PatchMask(8, 0.5, fill=[0.0, 0.0, 0.0])
    runs = []
    for state, seed in ((1, 0), (2, 0), (3, 5)):
        torch.manual_seed(state)
        reader = Reader()
        masking_stability(reader, batch, mask, seed=seed)
        runs.append(reader.images)
    assert len(runs[0]) == 4
    for first, again in zip(runs[0], runs[1], strict=True):
        assert torch.equal(first, again)
    assert not torch.equal(runs[0][1], runs[2][1])
    assert torch.equal(runs[0][0], batch[0]["image"])
    hidden = [(images == 0).all(0) for images in (runs[0][1], runs[0][3])]
    assert not torch.equal(hidden[0], hidden[1]), "each image has its own mask"


def test_a_real_detector_that_is_shown_the_same_twice():
    """Nothing hidden: the detector agrees with itself perfectly."""
    model = tiny_model()
    mask = PatchMask(16, 0.0, fill=model.pixel_mean.flatten().tolist())
    batch = [unlabelled(), unlabelled(48, 64)]
    assert masking_stability(model, batch, mask, 0.1) == pytest.approx(1.0, abs=1e-5)
    hidden = PatchMask(16, 0.7, fill=model.pixel_mean.flatten().tolist())
    assert 0.0 <= masking_stability(model, batch, hidden, 0.1) < 1.0
