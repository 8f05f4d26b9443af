"""Curves and pictures of training: what they say, and that training does not notice them."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from detector import CLASSES, masked_losses, random_labels, tiny_model, unlabelled
from small_runs import ALL_PARTS, config, differing, train

from mic_det.core import EMATeacher, RunningMeans
from mic_det.detection.domain_heads import SOURCE, TARGET
from mic_det.detection.pictures import AdaptationPictures
from mic_det.engine import build_trainer
from mic_det.engine.health_curves import added, balanced


def test_running_means_of_tensors_and_numbers():
    means = RunningMeans()
    means.add("a", torch.tensor(3), 2)
    means.add("a", torch.tensor(1.5, requires_grad=True), torch.tensor(4))
    means.add("b", 1.0, 1)
    assert means.pop() == {"a": (4.5, 6.0), "b": (1.0, 1)}
    assert means.pop() == {}


def test_means_over_processes_leave_out_what_never_happened():
    parts = [{"a": (1.0, 1.0), "b": (0.0, 0.0)}, {"a": (0.0, 3.0), "c": (2.0, 4.0)}]
    assert added(parts) == {"a": 0.25, "c": 0.5}


def test_accuracy_counts_both_domains_alike():
    found = balanced({"x/p2/source": 1.0, "x/p2/target": 0.5, "x/p3/source": 1.0, "y": 2.0})
    assert found == {"x/p2": 0.75, "y": 2.0}


@pytest.fixture(scope="module")
def heads():
    return tiny_model({"MODEL.SADA.ENABLED": True}).domain_heads


def test_accuracy_of_the_image_classifiers_ignores_padding(heads):
    heads.health.pop()
    # Two images padded to 64 x 64, the second 32 x 16 itself; p2 has stride 4 on this network.
    maps = [torch.full((2, 1, 64 // s, 64 // s), -1.0) for s in heads.strides]
    maps[0][1, 0, :4, :4] = 1.0  # half of the 8 x 4 positions of the second image
    maps[0][1, 0, :, 4:] = 1.0  # padding
    heads._count_image_hits(maps, [(64, 64), (32, 16)], SOURCE)
    heads._count_image_hits(maps, [(64, 64), (32, 16)], TARGET)
    found = balanced(added([heads.health.pop()]))
    assert found.pop("domain_accuracy_image/p2") == pytest.approx(0.5)
    assert set(found) == {f"domain_accuracy_image/p{k}" for k in (3, 4, 5, 6)}
    assert set(found.values()) == {0.5}  # all source wrong, all target right


def test_accuracy_of_the_image_classifiers_by_hand(heads):
    heads.health.pop()
    maps = [torch.full((1, 1, 64 // s, 64 // s), -1.0) for s in heads.strides]
    maps[1][0, 0, 0, 0] = 1.0
    heads._count_image_hits(maps, [(64, 64)], TARGET)
    found = added([heads.health.pop()])
    assert found["domain_accuracy_image/p3/target"] == pytest.approx(1 - 1 / 64)
    assert found["domain_accuracy_image/p2/target"] == 1.0


def test_accuracy_of_the_instance_classifiers_by_level(heads):
    heads.health.pop()
    logits = torch.tensor([2.0, -1.0, 3.0, -4.0, -5.0])
    levels = torch.tensor([0, 0, 1, 1, 1])
    heads._count_instance_hits(logits, levels, SOURCE)
    found = heads.health.pop()
    assert found["domain_accuracy_instance/p2/source"] == (1, 2)
    assert found["domain_accuracy_instance/p3/source"] == (1, 3)
    assert found["domain_accuracy_instance/p4/source"] == (0, 0)


def test_statistics_of_pseudo_labels(storage):
    model = tiny_model({"MODEL.MIC.ENABLED": True})
    sure, none = random_labels(scores=True), random_labels(count=0, scores=True)
    sure.gt_scores = torch.tensor([0.3, 0.85, 0.95])  # the threshold is 0.8
    masked_losses(model, [unlabelled(), unlabelled()], [sure, none])
    found = model.health.pop()
    assert found["pseudo_boxes_per_image"] == (2, 2)
    assert found["images_with_pseudo_boxes"] == (1, 2)
    assert found["teacher_score"] == (pytest.approx(1.8), 2)
    masked_losses(model, [unlabelled()], [none])
    assert "teacher_score" not in added([model.health.pop()])


def test_distance_of_teacher_and_student():
    student = torch.nn.Linear(3, 1)
    teacher = EMATeacher(student)
    assert teacher.distance(student).item() == 0.0
    with torch.no_grad():
        student.weight.copy_(torch.tensor([[3.0, 0.0, 0.0]]))
        student.bias.fill_(4.0)
        teacher.model.weight.zero_()
        teacher.model.bias.fill_(4.0)
    assert teacher.distance(student).item() == pytest.approx(3 / 5)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """The same training without and with pictures, metrics on disk."""
    folder = tmp_path_factory.mktemp("runs")
    done = {}
    for name, period in (("plain", 0), ("drawn", 1)):
        cfg = config(
            folder / name,
            *ALL_PARTS,
            *("VIS_PERIOD", str(period), "VIS_IMAGES", "2", "DATASETS.TEST", "()"),
            *("TEST.LABEL_FREE_IMAGES", "0"),
            iterations=2,
        )
        trainer = build_trainer(cfg)
        trainer.train(0, 2)
        done[name] = trainer, folder / name
    return done


def test_pictures_change_nothing_in_training(runs):
    plain, drawn = (runs[name][0] for name in ("plain", "drawn"))
    assert not differing(plain.student.state_dict(), drawn.student.state_dict())
    assert not differing(plain.teacher.model.state_dict(), drawn.teacher.model.state_dict())
    assert drawn.student.training and not drawn.teacher.model.training
    (hook,) = [each for each in drawn._hooks if isinstance(each, AdaptationPictures)]
    state = torch.get_rng_state()
    first, again = hook.draw(), hook.draw()
    assert torch.equal(torch.get_rng_state(), state)
    assert all(np.array_equal(a, b) for a, b in zip(first[0], again[0], strict=True))


def test_pictures_are_drawn_every_period_and_at_the_end(runs):
    assert not (runs["plain"][1] / "pictures").exists()
    folder = runs["drawn"][1] / "pictures"
    names = ["iteration_0000001.png", "iteration_0000002.png"]
    assert sorted(path.name for path in folder.iterdir()) == names
    sheet = cv2.imread(str(folder / names[0]))
    # Two rows of four panels of a 256 x 128 image at twice its size under a title of 26 pixels.
    assert sheet.shape == (2 * (2 * 128 + 26 + 6), 4 * 512 + 3 * 6, 3)
    target, masked = sheet[26:282, :512], sheet[26:282, 518:1030]
    assert (abs(target.astype(int) - masked) > 30).mean() > 0.1, "nothing is masked"


def test_pictures_are_in_tensorboard(runs):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(runs["drawn"][1]))
    events.Reload()
    assert {"target/0", "target/1"} <= set(events.Tags()["images"])
    assert "health/teacher_distance" in events.Tags()["scalars"]


def test_health_curves_are_written(runs):
    rows = [json.loads(line) for line in (runs["plain"][1] / "metrics.json").open()]
    last = {name: value for row in rows for name, value in row.items()}
    for k in (2, 3, 4, 5, 6):
        assert 0.0 <= last[f"health/domain_accuracy_image/p{k}"] <= 1.0
    assert any(name.startswith("health/domain_accuracy_instance/p") for name in last)
    assert not any(name.endswith(("/source", "/target")) for name in last)
    assert last["health/pseudo_boxes_per_image"] > 0
    assert 0 < last["health/images_with_pseudo_boxes"] <= 1
    assert 0.12 <= last["health/teacher_score"] <= 1
    assert 0 < last["health/teacher_distance"] < 1


def test_curves_of_a_run_without_adaptation(tmp_path):
    trainer = train(config(tmp_path, "DATASETS.TEST", "()", iterations=1))
    latest = trainer.storage.latest()
    curves = {name.split("/")[1] for name in latest if name.startswith("health/")}
    assert "teacher_distance" in curves
    assert not any("pseudo" in name or "domain" in name or "score" in name for name in curves)


def test_detections_of_the_evaluation_are_kept(tmp_path):
    cfg = config(tmp_path, iterations=1)
    train(cfg)
    (name,) = cfg.DATASETS.TEST
    for which in ("student", "teacher"):
        folder = tmp_path / "inference" / which / name
        assert isinstance(json.loads((folder / "coco_instances_results.json").read_text()), list)
        described = json.loads((folder / "test_set.json").read_text())
        assert len(described["classes"]) == CLASSES
        truth = json.loads(Path(described["annotations"]).read_text())
        for image in truth["images"]:
            assert (Path(described["images"]) / image["file_name"]).is_file()
