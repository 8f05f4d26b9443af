"""SPCL as a host: what a stage starts from, losses, and which weights they reach."""

import pytest
import torch
import torch.nn.functional as F
from tiny_segmentor import (
    CLASSES,
    frozen_copy,
    images,
    labels,
    preparation,
    step_for,
    tiny_network,
)

from mic_det.segmentation.centres import ClassCentres
from mic_det.segmentation.contrast import prototype_contrast
from mic_det.segmentation.hosts.spcl import SPCL
from mic_det.segmentation.losses import pixel_cross_entropy, resize_labels
from mic_det.segmentation.thresholds import ClassThresholds


def spcl(**settings):
    prototypes, thresholds = ClassCentres(CLASSES, 4, 0.1), ClassThresholds(CLASSES)
    return SPCL(prototypes=prototypes, thresholds=thresholds, **{"temperature": 0.1} | settings)


def prepared(iteration=0, **settings):
    student = tiny_network()
    teacher, host = frozen_copy(student), spcl(**settings)
    source = [(images(2), labels(2)) for _ in range(2)]
    host.prepare(preparation(student, teacher, source, [images(2)] * 2, iteration))
    return host, student, teacher


def test_first_prototypes_are_means_over_the_whole_source_set():
    student, host = tiny_network(), spcl()
    source = [(images(2), labels(2)), (images(1), labels(1))]
    host.prepare(preparation(student, frozen_copy(student), source, [images(1)]))
    found = [[] for _ in range(CLASSES)]
    for pictures, truth in source:
        features = F.normalize(student.encode(pictures)[-1], dim=1).permute(0, 2, 3, 1)
        small = resize_labels(truth, (4, 4))
        for k in range(CLASSES):
            found[k].append(features[small == k])
    expected = torch.stack([torch.cat(each).mean(0) for each in found])
    torch.testing.assert_close(host.prototypes.means, expected)


def test_thresholds_are_medians_over_the_whole_target_set():
    student, host = tiny_network(), spcl(ignore_top=2, ignore_bottom=1)
    teacher, target = frozen_copy(student), [images(2), images(1)]
    host.prepare(preparation(student, teacher, [(images(1), labels(1))], target))
    confidence, classes = torch.cat([teacher(each).softmax(1)[:, :, 2:-1] for each in target]).max(
        1
    )
    for k in range(CLASSES):
        values = confidence[classes == k]
        if len(values):
            exact = min(float(values.median()), 0.9)
            assert float(host.thresholds.values[k]) == pytest.approx(exact, abs=2e-4)


def test_pseudo_labels_reach_their_thresholds_and_leave_rows_out():
    host, _, teacher = prepared(ignore_top=1, ignore_bottom=3)
    target = images(2)
    pseudo = host.pseudo_label(teacher, target)
    confidence, classes = teacher(target).softmax(1).max(1)
    expected = classes.where(confidence >= host.thresholds.values[classes], 255)
    expected[:, :1] = 255
    expected[:, -3:] = 255
    assert torch.equal(pseudo.labels, expected)
    assert (pseudo.labels != 255).any()
    assert pseudo.weight.eq(1).all()


@pytest.mark.parametrize("weights", [(1.0, 1.0), (0.5, 2.0)])
def test_losses_are_the_objective(weights):
    host, student, teacher = prepared(source_weight=weights[0], target_weight=weights[1])
    step = step_for(host, student, teacher)
    before = host.prototypes.means.clone()
    losses = host.losses(step)
    source = student.encode(step.source_images)[-1]
    moved = ClassCentres(CLASSES, 4, 0.1)
    moved.means.copy_(before)
    moved.seen.fill_(True)
    moved.update((source, step.source_labels))
    torch.testing.assert_close(host.prototypes.means, moved.means)
    target = student.encode(step.target_images)[-1]
    expected = {
        "loss_source": pixel_cross_entropy(student(step.source_images), step.source_labels),
        "loss_contrast_source": weights[0]
        * prototype_contrast(source, step.source_labels, moved, 0.1),
        "loss_contrast_target": weights[1]
        * prototype_contrast(target, step.pseudo.labels, moved, 0.1),
    }
    assert losses.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(losses[name], value)
        assert value > 0


def test_each_loss_reaches_the_encoder_and_one_the_classifier():
    host, student, teacher = prepared()
    for name, loss in host.losses(step_for(host, student, teacher)).items():
        student.zero_grad()
        loss.backward(retain_graph=True)
        assert student.encoder.layers[0].weight.grad.abs().sum() > 0
        classifier = student.decoder.classifier.weight.grad
        assert (classifier is not None) == (name == "loss_source")
    assert not any(each.requires_grad for each in host.buffers())


def test_second_stage_learns_pseudo_labels_as_well():
    host, student, teacher = prepared(self_training_from=5, self_training_weight=0.5)
    assert "loss_self_training" not in host.losses(step_for(host, student, teacher, iteration=4))
    step = step_for(host, student, teacher, iteration=5)
    losses = host.losses(step)
    expected = 0.5 * pixel_cross_entropy(student(step.target_images), step.pseudo.labels)
    torch.testing.assert_close(losses["loss_self_training"], expected)


@pytest.mark.parametrize("renew", [True, False])
def test_second_stage_is_labelled_by_the_student_as_it_is(renew):
    student, teacher = tiny_network(), frozen_copy(tiny_network())
    host = spcl(self_training_from=5, renew_labeller=renew)
    before = frozen_copy(teacher)
    prototypes = torch.randn(CLASSES, 4)
    host.prototypes.means.copy_(prototypes)
    target = images(2)
    host.prepare(preparation(student, teacher, [], [target], 5))
    torch.testing.assert_close(teacher(target), (student if renew else before)(target))
    assert torch.equal(host.prototypes.means, prototypes)
    confidence, classes = teacher(target).softmax(1).max(1)
    commonest = int(classes.flatten().mode().values)
    median = min(float(confidence[classes == commonest].median()), 0.9)
    assert float(host.thresholds.values[commonest]) == pytest.approx(median, abs=2e-4)


@pytest.mark.parametrize(
    ("settings", "starts"),
    [
        ({}, (0,)),
        ({"self_training_from": 6}, (0, 6)),
        ({"self_training_from": 0}, (0,)),
        ({"threshold_period": 4}, (0, 4, 8)),
        ({"threshold_period": 4, "self_training_from": 6}, (0, 4, 6, 8)),
    ],
)
def test_stage_starts(settings, starts):
    assert spcl(max_iter=10, **settings).stage_starts() == starts
