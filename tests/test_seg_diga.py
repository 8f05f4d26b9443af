"""DiGA as a host: warm-up without the target, agreement, centroids, distillation, mixing."""

import pytest
import torch
from tiny_segmentor import (
    CLASSES,
    TinyDecoder,
    TinyEncoder,
    frozen_copy,
    images,
    preparation,
    step_for,
    tiny_network,
)

from mic_det.segmentation.centres import ClassCentres
from mic_det.segmentation.distillation import symmetric_distillation
from mic_det.segmentation.hosts.diga import DiGA, embed_and_predict
from mic_det.segmentation.losses import pixel_cross_entropy, resize_labels
from mic_det.segmentation.networks.hrda import HRDANetwork
from mic_det.segmentation.translate import LabStatistics


def diga(keep=0.5, **settings):
    centroids = ClassCentres(CLASSES, 4, keep, normalise=False)
    settings = {"channels": "RGB", "num_classes": CLASSES, "max_iter": 20} | settings
    return DiGA(centroids=centroids, translator=LabStatistics(), **settings)


def prepared(**settings):
    student = tiny_network()
    teacher, host = frozen_copy(student), diga(**settings)
    host.prepare(preparation(student, teacher, [], [images(2), images(2)]))
    return host, student, teacher


def test_warmup_looks_at_no_target_image_but_for_its_style():
    host, student = diga(warmup_iters=10), tiny_network()
    teacher, target = frozen_copy(student), images(2)
    seen = []
    for network in (student, teacher):
        encode = network.encode
        network.encode = lambda pictures, encode=encode: seen.append(pictures) or encode(pictures)
    step = step_for(host, student, teacher, target_images=target, iteration=9)
    assert step.pseudo.labels.eq(255).all() and step.pseudo.weight.eq(0).all()
    losses = host.losses(step)
    assert losses.keys() == {"loss_source", "loss_distillation"}
    # The teacher sees both views in one pass.
    assert [len(each) for each in seen] == [4, 2, 2]
    assert not any(torch.equal(row, each) for row in torch.cat(seen) for each in target)
    assert not host.centroids.seen.any()


def test_warmup_losses_are_the_objective():
    host, student = diga(warmup_iters=10), tiny_network()
    teacher = frozen_copy(tiny_network())
    step = step_for(host, student, teacher, iteration=0)
    torch.manual_seed(7)
    losses = host.losses(step)
    torch.manual_seed(7)
    changed = host.changed_view(step, host.warmup_colour)
    expected = 0.5 * symmetric_distillation(
        student(step.source_images),
        student(changed),
        teacher(step.source_images),
        teacher(changed),
        0.5,
    )
    torch.testing.assert_close(losses["loss_distillation"], expected)
    plain = pixel_cross_entropy(student(step.source_images), step.source_labels)
    torch.testing.assert_close(losses["loss_source"], plain)


@pytest.mark.parametrize("channels", ["RGB", "BGR"])
def test_changed_view_keeps_half_the_classes_in_their_own_pixels(channels):
    host, student = diga(channels=channels, warmup_colour=0.0), tiny_network()
    step = step_for(host, student, frozen_copy(student))
    changed = host.changed_view(step, host.warmup_colour)
    source, target = host.as_rgb(step.source_images), host.as_rgb(step.target_images)
    translated = host.from_rgb(LabStatistics()(source, target))
    own = (changed - step.source_images).abs().amax(1) < 1e-3
    other = (changed - translated).abs().amax(1) < 1e-3
    assert (own | other).all()
    for row, truth in zip(own, step.source_labels, strict=True):
        kept = [k for k in range(CLASSES) if row[truth == k].all() and (truth == k).any()]
        assert len(kept) == len(truth[truth != 255].unique()) // 2


def test_hrda_predicts_by_its_windows_and_embeds_the_context():
    network = HRDANetwork(
        encoder=TinyEncoder(),
        decoder=TinyDecoder(),
        attention=TinyDecoder(),
        detail_crop=(8, 8),
        context_window=(16, 16),
        num_classes=CLASSES,
        pixel_mean=(120.0,) * 3,
        pixel_std=(60.0,) * 3,
    ).eval()
    pictures = images(1, (16, 24))
    embedding, logits = embed_and_predict(network, pictures)
    torch.testing.assert_close(logits, network(pictures))
    assert embedding.shape == (1, 4, 4, 6)
    torch.testing.assert_close(embedding, network.encode(pictures)[-1])


def test_centroids_start_from_the_target_set_and_the_teachers_classes():
    student, host = tiny_network(), diga()
    teacher, target = frozen_copy(student), [images(2), images(1)]
    host.prepare(preparation(student, teacher, [], target))
    found = [[] for _ in range(CLASSES)]
    for pictures in target:
        features = teacher.encode(pictures)[-1].permute(0, 2, 3, 1)
        classes = resize_labels(teacher(pictures).argmax(1), (4, 4))
        for k in range(CLASSES):
            found[k].append(features[classes == k])
    for k in range(CLASSES):
        rows = torch.cat(found[k])
        assert bool(host.centroids.seen[k]) == (len(rows) > 0)
        if len(rows):
            torch.testing.assert_close(host.centroids.means[k], rows.mean(0))


def test_pseudo_labels_are_what_classifier_and_nearest_centroid_agree_on():
    host, _, teacher = prepared(ignore_bottom=2)
    target = images(2)
    pseudo = host.pseudo_label(teacher, target)
    embedding, logits = embed_and_predict(teacher, target)
    torch.testing.assert_close(logits, teacher(target))
    classes = logits.argmax(1)
    for n in range(2):
        for y in range(8):
            for x in range(8):
                here = embedding[n, :, y // 2, x // 2]
                distances = [
                    float((here - host.centroids.means[k]).norm())
                    if host.centroids.seen[k]
                    else float("inf")
                    for k in range(CLASSES)
                ]
                nearest = distances.index(min(distances))
                agree = nearest == classes[n, y, x] and y < 6
                assert int(pseudo.labels[n, y, x]) == (int(nearest) if agree else 255)
    assert (pseudo.labels != 255).any()


def test_centroids_move_with_both_domains():
    host, student, teacher = prepared(keep=0.75)
    host.centroids.seen.fill_(True)
    step = step_for(host, student, teacher)
    before = host.centroids.means.clone()
    torch.manual_seed(3)
    host.losses(step)
    torch.manual_seed(3)
    changed = host.changed_view(step, host.colour)
    rows, classes = [], []
    for pictures, truth in (
        (step.target_images, step.pseudo.labels),
        (changed, step.source_labels),
    ):
        rows.append(teacher.encode(pictures)[-1].permute(0, 2, 3, 1).flatten(0, 2))
        classes.append(resize_labels(truth, (4, 4)).flatten())
    rows, classes = torch.cat(rows), torch.cat(classes)
    for k in range(CLASSES):
        mine = rows[classes == k]
        expected = 0.75 * before[k] + 0.25 * mine.mean(0) if len(mine) else before[k]
        torch.testing.assert_close(host.centroids.means[k], expected)


def test_self_training_learns_mixed_images_and_goes_on_distilling():
    host, student, teacher = prepared(distillation=0.25, weight=2.0)
    step = step_for(host, student, teacher)
    torch.manual_seed(5)
    losses = host.losses(step)
    assert losses.keys() == {"loss_source", "loss_distillation", "loss_mixed"}
    torch.manual_seed(5)
    host.changed_view(step, host.colour)
    mixed, truth = host.mixed(step)
    expected = 2.0 * pixel_cross_entropy(student(mixed), truth.labels, truth.weight)
    torch.testing.assert_close(losses["loss_mixed"], expected)
    pasted = (mixed == step.source_images).all(1)
    assert torch.equal(truth.labels[pasted], step.source_labels[pasted])
    assert torch.equal(truth.labels[~pasted], step.pseudo.labels[~pasted])
    sum(losses.values()).backward()
    assert all(each.grad is not None for each in student.parameters())
    assert all(each.grad is None for each in teacher.parameters())


def test_batches_of_other_sizes():
    host, student, teacher = prepared()
    target = images(3, (6, 10))
    losses = host.losses(step_for(host, student, teacher, target_images=target))
    assert all(torch.isfinite(each) for each in losses.values())


@pytest.mark.parametrize(
    ("settings", "starts"),
    [
        ({"warmup_iters": 8}, (8,)),
        ({"warmup_iters": 8, "centroid_period": 5}, (8, 13, 18)),
        ({"warmup_iters": 20}, ()),
        ({"warmup_iters": 25}, ()),
        ({}, (0,)),
    ],
)
def test_stage_starts(settings, starts):
    assert diga(**settings).stage_starts() == starts
