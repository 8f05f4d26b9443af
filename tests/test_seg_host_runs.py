"""Short runs of SPCL and DiGA through all their stages, with and without MIC, and resumed."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from small_runs import PowerCut, train
from tiny_label_maps import SOURCE, TARGET, block_config

from mic_det.config import ConfigError
from mic_det.core import RunningMeans
from mic_det.engine import build_trainer
from mic_det.segmentation.hosts import HOST_REGISTRY
from mic_det.segmentation.networks.base import SegmentationNetwork

pytestmark = pytest.mark.usefixtures("clean_catalogs")

# Each with a change of stage before iteration 2.
HOSTS = {
    "spcl": ("MODEL.SEG.SPCL.TEMPERATURE", "0.5", "MODEL.SEG.SPCL.SELF_TRAINING_FROM", "2"),
    "diga": ("MODEL.SEG.DIGA.WARMUP_ITERS", "2"),
}
LOSSES = {
    "spcl": {"loss_source", "loss_contrast_source", "loss_contrast_target", "loss_self_training"},
    "diga": {"loss_source", "loss_distillation", "loss_mixed"},
}


def config(folder: Path, host: str, *overrides: str):
    return block_config(folder, "MODEL.SEG.HOST", host, *HOSTS.get(host, ()), *overrides)


def everything(trainer) -> dict[str, torch.Tensor]:
    """Weights and buffers of student, host and teacher, and the optimizer's memory."""
    found = {f"student.{k}": v for k, v in trainer.student.state_dict().items()}
    found |= {f"teacher.{k}": v for k, v in trainer.teacher.model.state_dict().items()}
    for i, state in trainer.optimizer.state_dict()["state"].items():
        found |= {f"{i}.{k}": torch.as_tensor(v) for k, v in state.items()}
    return found


@pytest.mark.parametrize("mic", [False, True])
@pytest.mark.parametrize("host", HOSTS)
def test_all_stages_with_and_without_mic(tmp_path, host, mic):
    trainer = train(config(tmp_path / "run", host, "MODEL.MIC.ENABLED", str(mic)))
    last = {k: v[0] for k, v in trainer.storage.latest().items() if k.startswith("loss_")}
    assert last.keys() == LOSSES[host] | ({"loss_mic"} if mic else set())
    assert all(0.0 < value < 20.0 for value in last.values()), last
    metrics = trainer.last_results["student"][TARGET]
    assert 0.0 <= metrics["mIoU"] <= 100.0
    names = trainer.teacher.model.state_dict()
    assert not [name for name in names if "prototypes" in name or "centroids" in name]


@pytest.mark.parametrize("mic", [False, True])
@pytest.mark.parametrize("host", HOST_REGISTRY)
def test_each_pixel_is_counted_once_when_it_is_labelled(tmp_path, monkeypatch, host, mic):
    """Pictures, which ask the host for labels as well, count for nothing."""
    counted, labelled, pop = {}, [], RunningMeans.pop

    def read(means: RunningMeans) -> dict:
        popped = pop(means)
        counted.update(popped)
        return popped

    monkeypatch.setattr(RunningMeans, "pop", read)
    settings = ("MODEL.MIC.ENABLED", str(mic), "MODEL.SEG.PSEUDO.THRESHOLD", "0.35")
    settings += ("VIS_PERIOD", "2", "VIS_IMAGES", "1", "DATASETS.TEST", "()")
    trainer = build_trainer(config(tmp_path / "run", host, *settings), writers=list)
    trainer.student.register_forward_pre_hook(
        lambda _, views: labelled.append(views[3]) if len(views) == 4 and views[3] else None
    )
    trainer.train(0, 4)
    assert len(labelled) == (4 if mic or HOST_REGISTRY[host].uses_pseudo_labels else 0)
    if labelled:
        labels, weights = (
            torch.cat([getattr(pseudo, name) for pseudo in labelled])
            for name in ("labels", "weight")
        )
        kept = ((labels != 255) & (weights > 0)).sum().item()
        assert counted["pseudo_labelled_pixels"] == pytest.approx((kept, labels.numel()))
        total = weights.sum().item()
        assert counted["pseudo_label_weight"] == pytest.approx((total, labels.numel()))
        assert kept and total
    else:
        assert not [name for name in counted if "pseudo" in name]


@pytest.mark.parametrize(
    ("host", "cut"),
    [
        ("spcl", 0),  # in the first stage
        ("spcl", 1),  # just before the second stage starts
        ("diga", 1),  # just before self-training starts
        ("diga", 2),  # in it
    ],
)
def test_a_run_that_is_cut_ends_the_same(tmp_path, host, cut):
    mic = ("MODEL.MIC.ENABLED", "True", "DATASETS.TEST", "()")
    straight = everything(train(config(tmp_path / "straight", host, *mic)))
    cfg = config(tmp_path / "cut", host, *mic, "SOLVER.CHECKPOINT_PERIOD", "1")
    with pytest.raises(PowerCut):
        train(cfg, cut_after=cut)
    resumed = everything(train(cfg, resume=True))
    assert straight.keys() == resumed.keys()
    assert [k for k in straight if not torch.equal(straight[k], resumed[k])] == []
    assert any("host." in name and "means" in name for name in straight)


def test_diga_warmup_does_not_depend_on_what_the_target_shows(tmp_path, monkeypatch):
    """Nothing but the style of target images reaches warm-up; here it is made the same."""
    from mic_det.segmentation.translate import LabStatistics

    monkeypatch.setattr(LabStatistics, "translate", lambda self, source, target: 0.5 * source)
    settings = ("MODEL.SEG.DIGA.WARMUP_ITERS", "4", "DATASETS.TEST", "()")
    with_dark = train(config(tmp_path / "dark", "diga", *settings))
    with_light = train(
        config(tmp_path / "light", "diga", *settings, "DATASETS.TARGET", f"('{SOURCE}',)")
    )
    first, second = everything(with_dark), everything(with_light)
    assert [k for k in first if not torch.equal(first[k], second[k])] == []


def test_mic_has_no_pass_of_its_own_before_there_are_pseudo_labels(tmp_path, monkeypatch):
    passes = []
    supervised = SegmentationNetwork.supervised
    monkeypatch.setattr(
        SegmentationNetwork,
        "supervised",
        lambda self, *args: passes.append(1) or supervised(self, *args),
    )
    mic = ("MODEL.MIC.ENABLED", "True", "DATASETS.TEST", "()")
    trainer = train(config(tmp_path / "run", "diga", *mic))
    assert len(passes) == 2 * 1 + 2 * 3  # warm-up: plain source; then also mixed and masked target
    assert "loss_mic" in trainer.storage.latest()


@pytest.mark.parametrize("host", HOSTS)
def test_labels_of_the_target_are_never_opened(tmp_path, opened, host):
    cfg = config(tmp_path / "run", host, "DATASETS.TARGET", f"('{TARGET}',)", "DATASETS.TEST", "()")
    train(cfg)
    labels = [path for path in opened if "dark/labels" in path and path.endswith(".png")]
    assert labels == []
    assert any("dark/images" in path for path in opened)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("MODEL.SEG.SPCL.TEMPERATURE", "0.0"), "TEMPERATURE is above 0"),
        (("MODEL.SEG.SPCL.KEEP", "1.5"), "KEEP is in"),
        (("MODEL.SEG.DIGA.TRANSLATOR", "photoshop"), "lab, fourier, learnt"),
        (("MODEL.SEG.DIGA.WARMUP_ITERS", "-1"), "WARMUP_ITERS is at least 0"),
        (("MODEL.SEG.DIGA.FOURIER_SHARE", "0.7"), "FOURIER_SHARE"),
        (("MODEL.SEG.INIT_IMAGES", "-1"), "INIT_IMAGES"),
        (("DATASETS.TARGET", "()"), "DATASETS.TARGET"),
    ],
)
def test_settings_that_cannot_be_meant(tmp_path, overrides, message):
    with pytest.raises(ConfigError, match=message):
        config(tmp_path / "run", "diga", *overrides)


def test_a_learnt_translator_needs_its_file(tmp_path):
    with pytest.raises(ConfigError, match="TRANSLATOR_WEIGHTS"):
        config(tmp_path / "run", "diga", "MODEL.SEG.DIGA.TRANSLATOR", "learnt")
