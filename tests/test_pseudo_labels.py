"""From detections to pseudo labels."""

import pytest
import torch
from detector import detections
from hypothesis import given, settings
from hypothesis import strategies as st

from mic_det.detection import as_pseudo_labels

BOXES = [[0, 0, 10, 10], [5, 5, 20, 30], [1, 2, 3, 4], [30, 10, 60, 60]]


def test_threshold_edges():
    exact = float(torch.tensor(0.8))
    below = float(torch.nextafter(torch.tensor(0.8), torch.tensor(0.0)))
    found = detections(BOXES, [0, 1, 2, 3], [below, exact, 0.0, 1.0])
    (labels,) = as_pseudo_labels([found], 0.8)
    assert labels.gt_boxes.tensor.tolist() == [BOXES[1], BOXES[3]]
    assert labels.gt_classes.tolist() == [1, 3]
    assert labels.gt_scores.tolist() == [exact, 1.0]


def test_fields_and_dtypes():
    (labels,) = as_pseudo_labels([detections(BOXES, [0, 1, 2, 3], [0.9] * 4, size=(70, 90))], 0.8)
    assert set(labels.get_fields()) == {"gt_boxes", "gt_classes", "gt_scores"}
    assert labels.image_size == (70, 90)
    assert labels.gt_classes.dtype == torch.int64
    assert labels.gt_scores.dtype == torch.float32
    assert labels.gt_boxes.tensor.dtype == torch.float32


@pytest.mark.parametrize("scores", [[], [0.1, 0.79]])
def test_nothing_confident(scores):
    found = detections(BOXES[: len(scores)], list(range(len(scores))), scores)
    (labels,) = as_pseudo_labels([found], 0.8)
    assert len(labels) == 0
    assert labels.gt_boxes.tensor.shape == (0, 4)
    assert labels.gt_classes.shape == labels.gt_scores.shape == (0,)


def test_images_stay_apart():
    found = [
        detections(BOXES[:1], [4], [0.9]),
        detections([], [], []),
        detections(BOXES, [0] * 4, [1.0] * 4),
    ]
    assert [len(labels) for labels in as_pseudo_labels(found, 0.8)] == [1, 0, 4]
    assert as_pseudo_labels([], 0.8) == []


@settings(deadline=None, max_examples=30)
@given(st.lists(st.floats(0, 1, width=32), max_size=8), st.floats(0, 1))
def test_idempotent_and_complete(scores, threshold):
    boxes = [[i, i, i + 5, i + 7] for i in range(len(scores))]
    (once,) = as_pseudo_labels([detections(boxes, list(range(len(scores))), scores)], threshold)
    limit = float(torch.tensor(threshold, dtype=torch.float32))
    kept = [i for i, score in enumerate(scores) if score >= limit]
    assert once.gt_classes.tolist() == kept
    again = detections(
        once.gt_boxes.tensor.tolist(), once.gt_classes.tolist(), once.gt_scores.tolist()
    )
    (twice,) = as_pseudo_labels([again], threshold)
    assert twice.gt_classes.tolist() == kept
    assert torch.equal(twice.gt_boxes.tensor, once.gt_boxes.tensor)
    assert torch.equal(twice.gt_scores, once.gt_scores)
