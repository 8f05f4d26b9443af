"""Segmentation trained by the engine: every method, exact resume, target labels unread."""

from __future__ import annotations

import json

import pytest
import torch
from seg_domains import SOURCES, TARGETS, TESTS, small_config, write_domains

from mic_det.config import ConfigError
from mic_det.engine import build_trainer, load_for_evaluation
from mic_det.engine.evaluation import evaluate
from mic_det.segmentation.drawing import read_labels
from mic_det.segmentation.hosts import HOST_REGISTRY, Host
from mic_det.tasks import task_of

LOSSES = {
    "source": {"loss_source"},
    "oracle": {"loss_source"},
    "adversarial": {"loss_source", "loss_adversarial", "loss_discriminator"},
    "self_training": {"loss_source", "loss_mixed"},
    "mic": {"loss_source", "loss_mixed", "loss_mic"},
    "hrda": {"loss_source", "loss_mixed"},
    "hrda_mic": {"loss_source", "loss_mixed", "loss_mic"},
}


@pytest.fixture(scope="module")
def domains(tmp_path_factory):
    return write_domains(tmp_path_factory.mktemp("domains"))


@pytest.fixture(autouse=True)
def catalogs(clean_catalogs):
    """Catalogs as they were after each test."""


@pytest.mark.parametrize("method", LOSSES)
def test_every_method_trains_and_is_evaluated(method, domains, tmp_path):
    cfg = small_config(method, domains, tmp_path, "SOLVER.MAX_ITER", 2)
    trainer = build_trainer(cfg, writers=list)
    trainer.train(0, 2)
    assert trainer.guard.skipped == 0
    logged = {name for name in trainer.storage.latest() if name.startswith("loss_")}
    assert logged == LOSSES[method]
    for which in ("student", "teacher"):
        metrics = trainer.last_results[which]["test"]
        assert 0 <= metrics["mIoU"] <= 100
        assert {"IoU-dark", "IoU-red", "IoU-green", "IoU-blue"} <= metrics.keys()
        folder = tmp_path / "inference" / which / "test"
        described = json.loads((folder / "test_set.json").read_text())
        assert described["classes"] == ["dark", "red", "green", "blue"]
        assert len(described["images"]) == TESTS
        assert read_labels(folder / described["images"][0]["predicted"]).shape == (64, 96)


def test_the_metrics_are_those_of_the_written_maps(domains, tmp_path):
    cfg = small_config("source", domains, tmp_path)
    task_of(cfg).check(cfg)
    results = evaluate(cfg, *load_for_evaluation(cfg))["student"]["test"]
    folder = tmp_path / "inference" / "student" / "test"
    both, either = torch.zeros(4), torch.zeros(4)
    for each in json.loads((folder / "test_set.json").read_text())["images"]:
        found, truth = read_labels(folder / each["predicted"]), read_labels(folder / each["truth"])
        for k in range(4):
            ours, theirs = (found == k) & (truth != 255), truth == k
            both[k] += (ours & theirs).sum()
            either[k] += (ours | theirs).sum()
    iou = 100 * both / either
    assert results["mIoU"] == pytest.approx(float(iou.mean()), abs=1e-3)
    assert results["IoU-red"] == pytest.approx(float(iou[1]), abs=1e-3)


def states(trainer):
    yield from trainer.student.state_dict().items()
    yield from trainer.teacher.model.state_dict().items()
    for state in trainer.optimizer.state_dict()["state"].values():
        yield from state.items()


@pytest.mark.parametrize("method", ["hrda_mic", "adversarial"])
def test_a_resumed_run_is_the_same_to_the_bit(method, domains, tmp_path):
    no_tests = ("DATASETS.TEST", "()")
    straight = build_trainer(small_config(method, domains, tmp_path / "a", *no_tests), writers=list)
    straight.train(0, 4)
    cfg = small_config(method, domains, tmp_path / "b", *no_tests)
    build_trainer(cfg, writers=list).train(0, 2)
    resumed = build_trainer(cfg, resume=True, writers=list)
    assert resumed.start_iter == 2
    resumed.train(2, 4)
    assert resumed.teacher.num_updates == straight.teacher.num_updates == 4
    pairs = list(zip(states(straight), states(resumed), strict=True))
    assert len(pairs) > 50
    for (name, ours), (_, theirs) in pairs:
        assert torch.equal(torch.as_tensor(ours), torch.as_tensor(theirs)), name


@pytest.mark.parametrize("method", ["hrda_mic", "adversarial"])
def test_target_labels_are_never_read(method, domains, tmp_path, opened):
    stable = ("TEST.LABEL_FREE_IMAGES", 2, "VIS_PERIOD", 2)
    cfg = small_config(method, domains, tmp_path, *stable, "SOLVER.MAX_ITER", 2)
    trainer = build_trainer(cfg, writers=list)
    trainer.train(0, 2)
    labels = {name: str(domains.parent / name / "labels") for name in ("source", "target")}
    images = str(domains.parent / "target" / "images")
    assert any(path.startswith(images) for path in opened)
    assert any(path.startswith(labels["source"]) for path in opened), "the test sees label files"
    assert not [path for path in opened if path.startswith(labels["target"])]
    assert 0 < trainer.last_results["student"]["stability"] <= 100
    assert [path.name for path in (tmp_path / "pictures").iterdir()] == ["iteration_0000002.png"]


def test_targets_without_use_are_not_read(domains, tmp_path, opened):
    cfg = small_config("source", domains, tmp_path, "DATASETS.TEST", "()", "SOLVER.MAX_ITER", 1)
    build_trainer(cfg, writers=list).train(0, 1)
    assert not [path for path in opened if "/target/images/" in path]


class Counting(Host):
    """Remembers what it was shown."""

    def __init__(self, cfg, network):
        super().__init__()
        self.register_buffer("seen", torch.zeros(3))
        self.calls = []

    def losses(self, step):
        return HOST_REGISTRY["source_only"].losses(self, step)

    def stage_starts(self):
        return 0, 2

    def prepare(self, preparation):
        sources, targets = list(preparation.source()), list(preparation.target())
        assert not preparation.student.training and not torch.is_grad_enabled()
        assert all(images.shape[1:] == (3, 64, 96) for images, _ in sources)
        assert all(labels.shape == (len(images), 64, 96) for images, labels in sources)
        assert {int(k) for _, labels in sources for k in labels.unique()} == {0, 1, 2, 3, 255}
        shown = (sum(len(images) for images, _ in sources), sum(map(len, targets)))
        self.seen += torch.tensor([*shown, 1.0])
        self.calls.append(preparation.iteration)


def test_hosts_are_prepared_once_before_each_stage(domains, tmp_path, monkeypatch):
    monkeypatch.setitem(HOST_REGISTRY, "counting", Counting)
    extra = ("MODEL.SEG.HOST", "counting", "DATASETS.TEST", "()")
    cfg = small_config("source", domains, tmp_path, *extra)
    trainer = build_trainer(cfg, writers=list)
    trainer.train(0, 2)
    assert trainer.student.host.calls == [0]
    again = build_trainer(cfg, resume=True, writers=list)
    again.train(2, 4)
    assert again.student.host.calls == [2], "the first stage is not repeated"
    assert again.student.host.seen.tolist() == [2 * SOURCES, 2 * TARGETS, 2]


def test_another_number_of_classes_is_refused(domains, tmp_path):
    cfg = small_config("source", domains, tmp_path, "MODEL.SEM_SEG_HEAD.NUM_CLASSES", 5)
    with pytest.raises(ConfigError, match=r"source has 4 classes .*NUM_CLASSES is 5"):
        build_trainer(cfg, writers=list)


def test_rare_classes_and_crops_train(domains, tmp_path):
    crop = ("INPUT.CROP.ENABLED", True, "INPUT.CROP.TYPE", "absolute", "INPUT.CROP.SIZE", [48, 64])
    rare = ("DATALOADER.RARE_CLASSES.ENABLED", True, "DATALOADER.RARE_CLASSES.MIN_PIXELS", 50)
    others = ("SOLVER.MAX_ITER", 1, "DATASETS.TEST", "()")
    cfg = small_config("mic", domains, tmp_path, *crop, *rare, *others)
    trainer = build_trainer(cfg, writers=list)
    trainer.train(0, 1)
    assert {tuple(each["image"].shape) for b in trainer.batch for each in b} == {(3, 48, 64)}
