"""Bad input: each kind ends in one message that names the file, the record and the remedy.

Every case starts from a sound domain (`small_domain`) and breaks one thing. What is wrong has to be
told to whoever uses the domain as training would, and to whoever asks ``check_domain`` first.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from bad_input_cases import CASES, Case, xml
from detectron2.data import DatasetFromList, MapDataset
from detectron2.data import transforms as T
from small_domain import make_domain, write_coco_file
from torch.utils.data import DataLoader

from mic_det.cli import own_words
from mic_det.data.catalog import (
    fit_classes,
    labelled_dicts,
    register_domain,
    require_domain,
    unlabelled_dicts,
)
from mic_det.data.check import check_domain
from mic_det.data.errors import DataError
from mic_det.data.mapper import DomainMapper
from mic_det.data.register import register_yaml

pytestmark = pytest.mark.usefixtures("clean_catalogs")


def use() -> None:
    """Register the domain and read all of it, labels and images, as training does."""
    mapper = DomainMapper(is_train=True, augmentations=[T.NoOpTransform()], image_format="BGR")
    require_domain("t")
    for record in (*labelled_dicts("t"), *unlabelled_dicts("t")):
        mapper(record)


def register(root: Path, told: dict) -> None:
    told = dict(told)
    if "yaml" in told:
        register_yaml(told["yaml"])
        return
    trained = told.pop("trained", None)
    paths = {"images": root / "images", "annotations": root / "boxes.json"}
    register_domain("t", **(paths | told))
    if trained:
        register_domain("source", root / "images", root / "boxes.json", trained)
        fit_classes(["source"], ["t"])


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.kind)
def test_one_message_with_file_record_and_remedy(case: Case, tmp_path: Path):
    root = make_domain(tmp_path / "my data")
    told = case.break_it(root) or {}
    says = [text.format(root) for text in case.says]
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
    errors = check_domain("t").errors
    assert errors, "check finds nothing"
    assert all(any(text in error for error in errors) for text in says)


def test_there_are_forty_kinds_and_each_once():
    assert len({case.kind for case in CASES}) == len(CASES) >= 40


def test_the_domain_is_sound_before_it_is_broken(tmp_path: Path):
    root = make_domain(tmp_path / "my data")
    for number, labels in enumerate(("boxes.json", "xml", "txt")):
        register_domain(f"t{number}", root / "images", root / labels)
        report = check_domain(f"t{number}")
        assert not report.errors
        assert report.boxes == {"car": 2, "person": 1}
        assert (report.images, report.labelled_images) == (3, 3)


# ---- rights, which root has whatever a file says ---------------------------------------------


@pytest.fixture
def as_nobody() -> Iterator[Path]:
    """A domain in a folder that everybody may enter, seen by a user without special rights."""
    folder = Path(tempfile.mkdtemp(prefix="mic_det_rights_"))
    folder.chmod(0o755)
    make_domain(folder)
    root = os.geteuid() == 0
    yield folder
    if root:
        os.seteuid(0)
    for path in folder.rglob("*"):
        path.chmod(0o755)
    shutil.rmtree(folder)


def drop_rights() -> None:
    if os.geteuid() == 0:
        os.seteuid(65534)


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("boxes.json", ("cannot be read (Permission denied)", "chmod u+r")),
        ("images/a.png", ("cannot be read as an image", "Permission denied", "chmod u+r")),
        ("images/sub", ("cannot be listed (Permission denied)", "chmod u+rx")),
    ],
)
def test_what_may_not_be_read_is_named(as_nobody: Path, path: str, says):
    (as_nobody / path).chmod(0)
    drop_rights()
    register(as_nobody, {})
    with pytest.raises(DataError) as info:
        use()
    for text in (str(as_nobody / path), *says):
        assert text in str(info.value)


# ---- what is put right without guessing, and said --------------------------------------------


@pytest.mark.parametrize(
    ("box", "becomes", "says"),
    [
        ([4, 6, 0, 9], None, "has no area: 1 time, first [4, 6, 0, 9] (annotations[0], id 1)"),
        ([-6, 6, 20, 9], [0, 6, 14, 9], "cut at its border"),
        ([50, 40, 20, 9], [50, 40, 14, 8], "reaches beyond its image: 1 time, first [50, 40, 20,"),
        ([50, 40, 14.7, 8], [50, 40, 14.7, 8], None),
    ],
)
def test_boxes_without_area_or_beyond_the_border(tmp_path, caplog, box, becomes, says):
    root = make_domain(tmp_path)
    write_coco_file(root, lambda d: d["annotations"][0].update(bbox=box))
    register(root, {})
    for _ in range(2):  # said once
        first = next(d for d in labelled_dicts("t") if d["image_id"] == 1)
    boxes = [each["bbox"] for each in first["annotations"]]
    assert boxes == ([becomes] if becomes else []) + [[40, 10, 8, 30]]
    warnings = [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]
    assert len(warnings) == (says is not None)
    if says:
        assert says in warnings[0] and f"{root}/boxes.json" in warnings[0]
        assert any(says in text for text in check_domain("t").warnings)


def test_scores_of_labels_are_a_warning(tmp_path):
    """Perhaps they are detections; an area that fits is none, even of a box beyond the border."""
    root = make_domain(tmp_path)
    changed = {"score": 0.5, "bbox": [0, 0, 80, 60], "area": 80 * 60}
    write_coco_file(root, lambda d: d["annotations"][0].update(changed))
    register(root, {})
    report = check_domain("t")
    assert not report.errors
    assert "annotations[].score belongs to no label: 1 time, first 0.5" in report.warnings[0]


def test_a_link_back_up_is_followed_once(tmp_path, caplog):
    root = make_domain(tmp_path)
    (root / "images/sub/back").symlink_to(root / "images")
    register(root, {})
    assert len(unlabelled_dicts("t")) == 3
    assert f"{root}/images/sub/back: is a link to a folder that it lies in" in caplog.text


def test_images_of_one_name_in_two_folders_stay_apart(tmp_path):
    root = make_domain(tmp_path)
    shutil.copy(root / "images/a.png", root / "images/sub/a.png")
    register(root, {})
    assert [d["image_id"] for d in unlabelled_dicts("t")] == [
        *("a.png", "c d.png", "sub/a.png", "sub/b.jpg")
    ]
    (root / "xml/sub/a.xml").write_text(xml(""))
    register_domain("voc", root / "images", root / "xml")
    counts = {Path(d["file_name"]): len(d["annotations"]) for d in labelled_dicts("voc")}
    assert counts[root / "images/a.png"] == 2 and counts[root / "images/sub/a.png"] == 0


def test_hidden_files_and_folders_hold_no_images(tmp_path):
    root = make_domain(tmp_path)
    shutil.copytree(root / "images/sub", root / "images/.thumbnails")
    shutil.copy(root / "images/a.png", root / "images/._a.png")
    register(root, {})
    assert len(unlabelled_dicts("t")) == 3


def test_corners_are_not_suspected_where_boxes_are_sound(tmp_path):
    """Boxes that would also make sense as corners, in images that they do not leave."""
    root = make_domain(tmp_path)
    small = [[1, 2, 30, 40], [2, 1, 20, 30], [0, 0, 64, 48]]

    def change(data: dict) -> None:
        for each, box in zip(data["annotations"], small, strict=True):
            each["bbox"] = box

    write_coco_file(root, change)
    register(root, {})
    assert sum(len(d["annotations"]) for d in labelled_dicts("t")) == 3


def test_the_published_annotations_of_carla_are_refused_in_one_message(tmp_path):
    """The same faults as in the file published with the CARLA data: see its first records."""
    root = make_domain(tmp_path)
    image = {"file_name": "_semantic", "height": 380, "width": 640, "id": "_semantic"}
    images = [image, image, {**image, "file_name": "001500.png", "id": "001500"}]
    box = {"id": 1, "category_id": 1, "bbox": [1, 1, 9, 9], "image_id": "001500"}
    categories = [{"id": 1, "name": "vehicle"}]
    content = {"images": images, "annotations": [box], "categories": categories}
    (root / "boxes.json").write_text(json.dumps(content))
    register(root, {})
    with pytest.raises(DataError) as info:
        labelled_dicts("t")
    for text in (
        f"{root}/boxes.json: is not a sound COCO detection file",
        "images[].id is not an integer: 3 times, first '_semantic' (images[0])",
        "images[].id occurs twice: 1 time, first '_semantic' (images[1])",
        "images[].file_name occurs twice: 1 time, first '_semantic' (images[1])",
    ):
        assert text in str(info.value)


def test_what_a_worker_of_the_loader_finds_is_told_without_its_traceback(tmp_path):
    root = make_domain(tmp_path)
    register(root, {})
    records = labelled_dicts("t")[:1]
    (root / "images/a.png").write_bytes(b"")
    mapper = DomainMapper(is_train=True, augmentations=[T.NoOpTransform()], image_format="BGR")
    with pytest.raises(DataError) as alone:
        mapper(records[0])
    mapped = MapDataset(DatasetFromList(records), mapper)
    with pytest.raises(DataError) as of_worker:
        next(iter(DataLoader(mapped, num_workers=1, collate_fn=list)))
    assert "Traceback" in str(of_worker.value)
    assert own_words(of_worker.value) == str(alone.value) == own_words(alone.value)
