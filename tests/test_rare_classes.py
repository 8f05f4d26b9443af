"""Rare class sampling, and the pixel counts that it rests on."""

from __future__ import annotations

import math
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from small_scenes import CLASSES, ids_of, make_scenes

from mic_det.data.segmentation import labelled_seg_dicts, register_segmentation
from mic_det.data.segmentation.pixel_counts import pixel_counts
from mic_det.data.segmentation.rare_classes import RareClassStream, class_probabilities

pytestmark = pytest.mark.usefixtures("clean_catalogs")


def test_probabilities_by_hand():
    pixels = np.array([900, 60, 0, 40])
    weights = [math.exp((1 - f) / 0.1) for f in (0.9, 0.06, 0.04)]
    expected = np.array([weights[0], weights[1], 0.0, weights[2]]) / sum(weights)
    np.testing.assert_allclose(class_probabilities(pixels, 0.1), expected, rtol=1e-12)
    # Hot: all alike. Cold: the rarest alone. No overflow at the paper's 0.01 or below.
    np.testing.assert_allclose(class_probabilities(pixels, 1e6)[[0, 1, 3]], 1 / 3, atol=1e-5)
    np.testing.assert_allclose(class_probabilities(pixels, 1e-4), [0, 0, 0, 1], atol=1e-12)
    with pytest.raises(ValueError, match="no class has a pixel"):
        class_probabilities(np.zeros(3), 0.01)


def stream_of(counts: np.ndarray, seed: int = 0, **kwargs: object) -> RareClassStream:
    dicts = [{"file_name": str(i)} for i in range(len(counts))]
    return RareClassStream(dicts, lambda record: dict(record), seed, 0, counts=counts, **kwargs)


COUNTS = np.array(
    [[9000, 0, 0], [9000, 500, 0], [9000, 4000, 0], [9000, 5000, 20], [9000, 0, 30], [9000, 10, 0]]
)


def test_frequencies_of_classes_and_images():
    """10,000 draws against the probabilities, by 5 standard deviations."""
    stream = stream_of(COUNTS, temperature=0.5, min_pixels=400)
    draws = [stream.draw(k) for k in range(10_000)]
    classes = np.bincount([c for c, _ in draws], minlength=3) / len(draws)
    spread = np.sqrt(stream.probabilities * (1 - stream.probabilities) / len(draws))
    assert (np.abs(classes - stream.probabilities) < 5 * spread).all()
    assert stream.probabilities.argmax() == 2
    # Images of each class: those with enough pixels, alike; of class 2 no image has enough.
    for c, images in ((0, [0, 1, 2, 3, 4, 5]), (1, [1, 2, 3]), (2, [3, 4])):
        found = np.bincount([i for each, i in draws if each == c], minlength=6)
        assert np.flatnonzero(found).tolist() == images
        share = 1 / len(images)
        allowed = 5 * math.sqrt(share * (1 - share) / found.sum())
        assert (np.abs(found[images] / found.sum() - share) < allowed).all()


def test_a_sample_follows_from_seed_and_number_alone():
    forward = [stream_of(COUNTS).draw(k) for k in range(50)]
    stream = stream_of(COUNTS)
    backward = [stream.draw(k) for k in reversed(range(50))][::-1]
    assert forward == backward
    assert forward != [stream_of(COUNTS, seed=1).draw(k) for k in range(50)]
    sample = stream[7]
    wanted, index = stream.draw(7)
    assert sample["wanted_class"] == wanted and sample["file_name"] == str(index)
    assert stream.index_of(7) == index


def test_another_image_takes_the_place_of_an_unreadable_one():
    def mapper(record: dict) -> dict:
        if record["file_name"] == "3":
            raise OSError("broken")
        return dict(record)

    stream = stream_of(COUNTS, temperature=0.01, min_pixels=400)
    stream.mapper = mapper
    stream.why_unreadable = lambda record: "broken" if record["file_name"] == "3" else None
    samples = [stream[k] for k in range(40)]
    assert all(sample["file_name"] != "3" for sample in samples)
    replaced = [sample for sample in samples if sample["unreadable"]]
    assert replaced and replaced[0]["unreadable"][0] == ("3", "broken")
    again = [stream[k]["file_name"] for k in range(40)]
    assert again == [sample["file_name"] for sample in samples]


def test_counts_must_fit_the_images():
    with pytest.raises(ValueError, match="counts of 2 images for 1"):
        RareClassStream([{}], dict, 0, 0, counts=np.ones((2, 3)))


# ---- pixel counts -------------------------------------------------------------------------------


@pytest.fixture
def day(tmp_path: Path) -> Path:
    root = make_scenes(tmp_path / "data")
    register_segmentation("day", root / "images", root / "labels", CLASSES)
    return root


def test_counts_are_the_pixels(day: Path):
    records = labelled_seg_dicts("day")
    found = pixel_counts(records, CLASSES)
    for record, row in zip(records, found.counts, strict=True):
        ids = ids_of(record["image_id"])
        assert row.tolist() == [int((ids == k).sum()) for k in range(3)]
    assert not found.faults


def test_they_are_kept_until_a_file_or_its_meaning_changes(day: Path, tmp_path: Path):
    counted = []

    def progress(results, total, title):
        counted.append(total)
        return results

    def counts_again(name: str = "day", classes: tuple[str, ...] = CLASSES) -> bool:
        counted.clear()
        pixel_counts(labelled_seg_dicts(name), classes, progress)
        return bool(counted)

    assert counts_again()
    assert not counts_again()
    path = day / "labels/a.png"
    ids = ids_of("a.png")
    ids[20] = 0
    Image.fromarray(ids).save(path)
    assert counts_again()
    assert not counts_again()
    content = bytearray(path.read_bytes())
    content[-1] ^= 1  # another content of the same size and time
    status = path.stat()
    path.write_bytes(content)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert counts_again()
    for damage in (lambda text: text[:-30], lambda text: text.replace(": [[", ": [[1")):
        for kept in (tmp_path / "cache").glob("pixels-*.json"):
            kept.write_text(damage(kept.read_text()))
        assert counts_again()
        assert not counts_again()
    register_segmentation(
        "other", day / "images", day / "labels", None, {0: "car", "other": "ignore"}
    )
    assert counts_again("other", ("car",))
    assert pixel_counts(labelled_seg_dicts("other"), ("car",)).counts.shape == (3, 1)


def test_label_images_that_cannot_be_read_are_told(day: Path):
    (day / "labels/a.png").write_bytes(b"")
    records = labelled_seg_dicts("day")
    found = pixel_counts(records, CLASSES)
    ((path, fault),) = found.faults.items()
    assert path == records[0]["sem_seg_file_name"] and "it is empty" in fault
    assert found.counts[0].tolist() == [0, 0, 0] and found.counts[1:].any()
    assert pixel_counts(records, CLASSES).faults == found.faults  # kept as well


def test_progress_is_shown(day: Path):
    seen = []

    def progress(results, total, title):
        for result in results:
            seen.append(total)
            yield result

    pixel_counts(labelled_seg_dicts("day"), CLASSES, progress)
    assert seen == [3, 3, 3]
