"""What SPCL and DiGA see of whole data sets before a stage, and in how many passes."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tiny_label_maps import block_config

from mic_det.data.errors import DataError
from mic_det.engine.build import build_student_and_teacher
from mic_det.segmentation import preparation
from mic_det.segmentation.hosts import Host, Preparation, Step
from mic_det.segmentation.preparation import (
    HostPreparation,
    evenly_spread,
    in_batches,
    labelled_pass,
    labelled_reader,
)
from mic_det.tasks import task_of

pytestmark = pytest.mark.usefixtures("clean_catalogs")


@pytest.mark.parametrize(
    ("length", "count", "expected"),
    [
        (5, 0, [0, 1, 2, 3, 4]),
        (5, 5, [0, 1, 2, 3, 4]),
        (5, 9, [0, 1, 2, 3, 4]),
        (6, 3, [0, 2, 4]),
        (7, 3, [0, 2, 4]),
        (600, 2, [0, 300]),
        (5, 4, [0, 1, 2, 3]),
        (5, 1, [0]),
        (0, 3, []),
    ],
)
def test_evenly_spread(length, count, expected):
    assert evenly_spread(range(length), count) == expected


@pytest.mark.parametrize(
    ("items", "expected"),
    [
        ("", []),
        ("aaa", ["aa", "a"]),
        ("aabbb", ["aa", "bb", "b"]),
        ("abab", ["a", "b", "a", "b"]),
    ],
)
def test_batches_keep_the_order_and_never_join_what_differs(items, expected):
    assert ["".join(each) for each in in_batches(iter(items), 2, str)] == expected


class Looks(Host):
    """Keeps what it was shown."""

    def stage_starts(self) -> tuple[int, ...]:
        return (0,)

    def losses(self, step: Step) -> dict[str, torch.Tensor]:
        raise AssertionError("nothing is trained here")

    def prepare(self, preparation: Preparation) -> None:
        self.preparation, self.gradients = preparation, torch.is_grad_enabled()
        self.modes = preparation.student.training, preparation.teacher.training
        self.source, self.target = list(preparation.source()), list(preparation.target())


def shown(cfg) -> tuple[Looks, list]:
    """A host that has looked at the data, and the source image by image."""
    student = looked(cfg, Looks())
    return student.host, list(labelled_pass(cfg, cfg.DATASETS.TRAIN, student))


def looked(cfg, host: Host | None = None):
    """A student whose host, its own or ``host``, was prepared for iteration 0."""
    task_of(cfg).check(cfg)
    torch.manual_seed(0)
    student, teacher = build_student_and_teacher(cfg)
    student.host = host or student.host
    hook = HostPreparation(cfg, student)
    hook.trainer = SimpleNamespace(iter=0, teacher=teacher)
    hook.before_step()
    return student


@pytest.mark.parametrize(("count", "which"), [(0, [0, 1, 2, 3]), (3, [0, 1, 2]), (2, [0, 2])])
def test_a_host_sees_all_images_or_so_many(tmp_path, monkeypatch, count, which):
    monkeypatch.setattr(preparation, "AT_ONCE", 3)
    cfg = block_config(tmp_path / "run", "MODEL.SEG.INIT_IMAGES", str(count))
    host, singly = shown(cfg)
    assert max(len(images) for images, _ in host.source) == min(3, len(which))
    for part in (0, 1):
        expected = torch.cat([singly[i][part] for i in which])
        assert torch.equal(torch.cat([each[part] for each in host.source]), expected)
    assert sum(map(len, host.target)) == len(which)
    assert [len(each) for each in host.target] == [len(images) for images, _ in host.source]


def test_networks_are_the_runs_own_and_in_eval_mode_for_as_long_as_it_takes(tmp_path):
    student = looked(block_config(tmp_path / "run"), Looks())
    host, (teacher,) = student.host, student._teacher
    assert host.preparation.student is student.network
    assert host.preparation.teacher is teacher.network
    assert host.modes == (False, False) and not host.gradients
    assert student.training and student.network.training and torch.is_grad_enabled()


@pytest.mark.parametrize("host", ["spcl", "diga"])
def test_batches_do_not_change_what_a_host_starts_from(tmp_path, monkeypatch, host):
    found = []
    for at_once in (1, 4):
        monkeypatch.setattr(preparation, "AT_ONCE", at_once)
        cfg = block_config(tmp_path / str(at_once), "MODEL.SEG.HOST", host)
        found.append(dict(looked(cfg).host.named_buffers()))
    assert found[0].keys() == found[1].keys()
    for name, value in found[0].items():
        assert value.any(), name
        # Sums in another order; a confidence at the edge of a bin may fall into the next one.
        torch.testing.assert_close(value, found[1][name], atol=2e-4, rtol=1e-4)


def broken_domains(folder, monkeypatch):
    """The blocks, where one image of each domain turns out to be cut off when it is read."""
    from mic_det.segmentation.preparation import SegmentationMapper

    whole = SegmentationMapper.__call__

    def read(self, record):
        if record["file_name"].endswith("/2.png"):
            raise DataError(f"{record['file_name']}: is cut off")
        return whole(self, record)

    monkeypatch.setattr(SegmentationMapper, "__call__", read)
    return block_config(folder, "DATALOADER.MAX_UNREADABLE", "0.25")


def test_what_cannot_be_read_is_left_out_as_in_training(tmp_path, monkeypatch, caplog):
    host = looked(broken_domains(tmp_path / "run", monkeypatch), Looks()).host
    assert sum(len(images) for images, _ in host.source) == 3
    assert sum(map(len, host.target)) == 3
    assert caplog.text.count("2.png: is cut off cannot be read") == 2


def test_too_much_that_cannot_be_read_is_an_error(tmp_path, monkeypatch):
    cfg = broken_domains(tmp_path / "run", monkeypatch)
    cfg.defrost()
    cfg.DATALOADER.MAX_UNREADABLE = 0.2
    with pytest.raises(DataError, match=r"(?s)DATASETS.TRAIN: 1 of its 4 images.*2\.png: is cut"):
        looked(cfg, Looks())


def test_a_label_of_another_size_is_an_error_and_not_stretched(tmp_path, monkeypatch):
    cfg = block_config(tmp_path / "run")
    task_of(cfg).check(cfg)
    student, _ = build_student_and_teacher(cfg)
    monkeypatch.setattr(
        preparation.LabelReaders, "__call__", lambda self, record: np.zeros((32, 40), np.uint8)
    )
    (record, *_) = preparation.labelled_seg_dicts(cfg.DATASETS.TRAIN[0])
    with pytest.raises(DataError, match=r"is 40x32, but its image .* is 48x32"):
        labelled_reader(cfg, student)(record)
