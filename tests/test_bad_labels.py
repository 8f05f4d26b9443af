"""Bad label data: each kind ends in one message that names the file, the value and the remedy.

Every case starts from a sound domain (`small_scenes`) and breaks one thing. What is wrong has to be
told to whoever uses the domain as training would, and to whoever checks it first.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from bad_label_cases import CASES, CHECKED, Case
from small_scenes import CLASSES, make_scenes

from mic_det.data.catalog import require_domain, unlabelled_dicts
from mic_det.data.errors import DataError
from mic_det.data.register import register_yaml
from mic_det.data.segmentation import (
    SegmentationMapper,
    labelled_seg_dicts,
    register_segmentation,
)
from mic_det.data.segmentation.check import check_segmentation_domain
from mic_det.data.segmentation.fit import fit_seg_classes

pytestmark = pytest.mark.usefixtures("clean_catalogs")


def register(root: Path, told: dict) -> None:
    told = dict(told)
    if "yaml" in told:
        register_yaml(told["yaml"])
        return
    trained = told.pop("trained", None)
    sound = {"images": root / "images", "labels": root / "labels", "classes": CLASSES}
    register_segmentation("t", **(sound | told))
    if trained:
        register_segmentation("source", root / "images", root / "labels", trained)
        fit_seg_classes(["source"], ["t"])


def use() -> None:
    """Read all of the domain, labels and images, as training does."""
    mapper = SegmentationMapper(is_train=True)
    require_domain("t")
    for record in (*labelled_seg_dicts("t"), *unlabelled_dicts("t")):
        mapper(record)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.kind)
def test_one_message_with_file_value_and_remedy(case: Case, tmp_path: Path):
    root = make_scenes(tmp_path / "my data")
    told = case.break_it(root) or {}
    says = [text.format(*[root] * text.count("{}")) for text in case.says]
    with pytest.raises(DataError) as info:
        register(root, told)
        use()
    message = str(info.value)
    for text in says:
        assert text in message
    assert "Traceback" not in message and len(message) < 1500
    try:
        register(root, told)
    except DataError:
        return  # what cannot be registered cannot be checked
    errors = check_segmentation_domain("t").errors
    assert errors, "check finds nothing"
    assert all(any(text in error for error in errors) for text in says)


@pytest.mark.parametrize("case", CHECKED, ids=lambda case: case.kind)
def test_what_only_a_look_at_all_labels_shows(case: Case, tmp_path: Path):
    root = make_scenes(tmp_path / "my data")
    register(root, case.break_it(root) or {})
    (error,) = check_segmentation_domain("t").errors
    assert all(text.format(root) in error for text in case.says)


def test_each_kind_once():
    assert len({case.kind for case in CASES}) == len(CASES) >= 50


def test_the_domain_is_sound_before_it_is_broken(tmp_path: Path):
    root = make_scenes(tmp_path / "my data")
    register(root, {})
    use()
    report = check_segmentation_domain("t")
    assert not report.errors and not report.warnings
    assert (report.images, report.labelled_images) == (3, 3)
    assert report.images_with.tolist() == [3, 2, 1]
    assert report.pixels.tolist() == [3 * 28 * 48 - 400 - 48 - 320, 400 + 320, 48]
    assert report.ignored == 3 * 4 * 48
