"""The trainer on a few real images: end to end, resumed, and with target labels out of reach."""

from __future__ import annotations

import json

import pytest
import torch
from small_runs import ALL_PARTS, PowerCut, config, differing, train
from tiny_streets import CLEAR, FOGGY, register_tiny_streets

from mic_det.config import ConfigError
from mic_det.data.catalog import register_domain
from mic_det.engine import build_trainer, evaluate, load_for_evaluation


def test_all_parts_train_and_leave_a_checkpoint_with_student_and_teacher(tmp_path):
    trainer = train(config(tmp_path, *ALL_PARTS))
    latest = trainer.storage.latest()
    for name in ("loss_cls", "loss_da_image", "loss_da_instance", "loss_da_consistency"):
        assert latest[name][0] > 0
    assert latest["loss_mic_roi_cls"][0] > 0, "the masked branch took no part"
    saved = torch.load(tmp_path / "model_final.pth", weights_only=True)
    assert {"model", "teacher", "trainer", "iteration"} <= saved.keys()
    assert not any(name.startswith("domain_heads") for name in saved["teacher"])
    assert not differing(saved["teacher"], trainer.teacher.model.state_dict())
    results = trainer.last_results
    assert results.keys() == {"student", "teacher"}
    assert 0.0 <= results["student"][FOGGY]["AP50"] <= 100.0
    assert "AP50-rider" in results["teacher"][FOGGY]


def test_resumed_run_ends_with_the_same_weights_to_the_bit(tmp_path):
    straight = train(config(tmp_path / "a", *ALL_PARTS, iterations=5))
    cfg = config(tmp_path / "b", *ALL_PARTS, "SOLVER.CHECKPOINT_PERIOD", "3", iterations=5)
    with pytest.raises(PowerCut):
        train(cfg, cut_after=3)
    assert (tmp_path / "b/last_checkpoint").read_text() == "model_0000002.pth"
    resumed = train(cfg, resume=True)
    assert resumed.start_iter == 3
    assert not differing(straight.student.state_dict(), resumed.student.state_dict())
    assert not differing(straight.teacher.model.state_dict(), resumed.teacher.model.state_dict())
    assert resumed.teacher.num_updates == straight.teacher.num_updates == 5


def test_data_loader_workers_change_nothing(tmp_path):
    alone = train(config(tmp_path / "a", iterations=3))
    helped = train(config(tmp_path / "b", "DATALOADER.NUM_WORKERS", "2", iterations=3))
    assert not differing(alone.student.state_dict(), helped.student.state_dict())


def test_evaluation_in_between_changes_nothing_and_chooses_the_best(tmp_path):
    straight = train(config(tmp_path / "a", *ALL_PARTS, iterations=5))
    often = train(config(tmp_path / "b", *ALL_PARTS, "TEST.EVAL_PERIOD", "2", iterations=5))
    assert not differing(straight.student.state_dict(), often.student.state_dict())
    assert not differing(straight.teacher.model.state_dict(), often.teacher.model.state_dict())
    for name in ("model_best.pth", "model_best_label_free.pth"):
        assert (tmp_path / "b" / name).is_file() and not (tmp_path / "a" / name).exists()


def test_target_annotations_are_never_read_in_training(tmp_path):
    root = register_tiny_streets()
    trap = tmp_path / "labels-are-a-folder.json"
    trap.mkdir()
    register_domain("trapped_target", root / "foggy/train/images", trap)
    trainer = train(config(tmp_path / "run", *ALL_PARTS, target="trapped_target", iterations=2))
    assert trainer.iter == 2


def test_weights_of_a_source_run_start_student_and_teacher(tmp_path):
    source = train(config(tmp_path / "source", iterations=2))
    weights = ["MODEL.WEIGHTS", str(tmp_path / "source/model_final.pth")]
    for which, state in (
        ("student", source.student.state_dict()),
        ("teacher", source.teacher.model.state_dict()),
    ):
        cfg = config(tmp_path / which, *ALL_PARTS, *weights, "MODEL.WEIGHTS_FROM", which)
        trainer = build_trainer(cfg, writers=list)
        student = trainer.student.state_dict()
        assert not differing(state, {k: student[k] for k in state})
        assert not differing(state, trainer.teacher.model.state_dict())


def test_evaluation_of_a_checkpoint_repeats_what_training_measured(tmp_path):
    trainer = train(config(tmp_path / "run", iterations=2))
    cfg = config(tmp_path / "run", "MODEL.WEIGHTS", str(tmp_path / "run/model_final.pth"))
    again = evaluate(cfg, *load_for_evaluation(cfg))
    assert json.dumps(again) == json.dumps(trainer.last_results)


def test_weights_that_are_not_there_are_named(tmp_path):
    cfg = config(tmp_path, "MODEL.WEIGHTS", "nowhere/model.pth")
    with pytest.raises(ConfigError, match=r"MODEL.WEIGHTS: nowhere/model.pth"):
        build_trainer(cfg, writers=list)


def test_wrong_number_of_classes_is_named(tmp_path):
    cfg = config(tmp_path, "MODEL.ROI_HEADS.NUM_CLASSES", "3")
    with pytest.raises(ConfigError, match=r"has 8 classes .*NUM_CLASSES is 3"):
        build_trainer(cfg, writers=list)


def test_four_images_are_learnt(tmp_path):
    cfg = config(
        tmp_path,
        *("DATASETS.TEST", f"('{CLEAR}',)", "INPUT.COLOR_JITTER", "0.0"),
        *("INPUT.RANDOM_FLIP", "none", "SOLVER.BASE_LR", "0.001", "SOLVER.IMS_PER_BATCH", "3"),
        *("SOLVER.STEPS", "(100,)", "SOLVER.WARMUP_ITERS", "10"),
        iterations=120,
    )
    trainer = train(cfg)
    assert trainer.last_results["student"][CLEAR]["AP50"] > 60.0
