"""Label maps as pictures, stability under masking."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mic_det.core import PatchMask
from mic_det.segmentation.drawing import (
    colour_map,
    legend,
    overlay,
    read_labels,
    write_labels,
)
from mic_det.segmentation.label_free import masking_stability, overlap_counts
from mic_det.segmentation.losses import IGNORED

COLOURS = [(255, 0, 0), (0, 255, 0)]


def test_colours_and_ignored_pixels():
    labels = np.array([[0, 1, IGNORED]])
    assert colour_map(labels, COLOURS).tolist() == [[[255, 0, 0], [0, 255, 0], [0, 0, 0]]]
    image = np.full((1, 3, 3), 100, np.uint8)
    drawn = overlay(image, labels, COLOURS)
    assert drawn[0, 0].tolist() == [177, 50, 50] and drawn[0, 2].tolist() == [100] * 3


def test_labels_come_back_from_the_file(tmp_path):
    labels = np.random.default_rng(0).integers(0, 256, (7, 5))
    write_labels(tmp_path / "sub" / "a.png", labels)
    assert np.array_equal(read_labels(tmp_path / "sub" / "a.png"), labels)
    with pytest.raises(FileNotFoundError):
        read_labels(tmp_path / "b.png")


def test_the_legend_shows_every_colour():
    sheet = legend(["road", "car"], COLOURS, 200)
    found = {tuple(each) for each in sheet.reshape(-1, 3).tolist()}
    assert set(COLOURS) <= found and sheet.shape[1] == 200


def test_overlaps_are_counted_by_class():
    first, second = torch.tensor([[0, 0, 1, 2]]), torch.tensor([[0, 1, 1, 1]])
    both, either = overlap_counts(first, second, 4)
    assert both.tolist() == [1, 1, 0, 0] and either.tolist() == [2, 3, 1, 0]


class Threshold(torch.nn.Module):
    """Two classes by the brightness of the pixel: bright ones are class 1."""

    def __init__(self, level: float) -> None:
        super().__init__()
        self.level = level

    def forward(self, batch):
        (image,) = (each["image"].float().mean(0) for each in batch)
        return [{"sem_seg": torch.stack([torch.full_like(image, self.level), image])}]


def test_stability_of_a_model_that_masks_cannot_move_is_the_share_of_its_classes():
    batch = [{"image": torch.randint(0, 255, (3, 32, 32), dtype=torch.uint8)}]
    mask = PatchMask(8, 0.5, [0.0, 0.0, 0.0])
    assert masking_stability(Threshold(-1.0), batch, mask) == 0.5, "one of two classes, everywhere"
    half = masking_stability(Threshold(127.0), batch, mask)
    assert 0.2 < half < 0.9 and half == masking_stability(Threshold(127.0), batch, mask)
    assert masking_stability(Threshold(127.0), batch, PatchMask(8, 0.0, [0.0])) == 1.0


def test_stability_leaves_the_mode_as_it_was():
    model = Threshold(1.0).train()
    masking_stability(model, [], PatchMask(8, 0.5))
    assert model.training
