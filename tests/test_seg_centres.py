"""Prototypes and centroids: closed forms, gradients, contrast against a loop, distances."""

import math

import pytest
import torch
import torch.nn.functional as F

from mic_det.segmentation.centres import ClassCentres, class_sums
from mic_det.segmentation.contrast import prototype_contrast
from mic_det.segmentation.distances import ClassCentreDistance


def test_sums_leave_out_what_is_no_class():
    features = torch.tensor([1.0, 2.0, 4.0, 8.0]).view(1, 1, 2, 2)
    labels = torch.tensor([[[0, 1], [255, -1]]])
    sums, counts = class_sums(features, labels, 2)
    assert sums.tolist() == [[1.0], [2.0]]
    assert counts.tolist() == [1.0, 1.0]


def test_sums_against_a_loop():
    features, labels = torch.randn(2, 5, 3, 4), torch.randint(0, 4, (2, 3, 4))
    sums, counts = class_sums(features, labels, 4)
    expected = torch.zeros(4, 5)
    for n in range(2):
        for y in range(3):
            for x in range(4):
                expected[labels[n, y, x]] += features[n, :, y, x]
    torch.testing.assert_close(sums, expected)
    assert counts.tolist() == [int((labels == k).sum()) for k in range(4)]


def assign(centres, sums, counts):
    """Give centres as sums over ``counts`` positions."""
    centres.means.copy_(sums / counts.clamp_min(1)[:, None])
    centres.seen.copy_(counts > 0)


def column(*vectors):
    """(1, D, 1, W) features from W vectors."""
    return torch.tensor(vectors, dtype=torch.float32).T[None, :, None]


def test_prototypes_are_means_of_unit_features():
    centres = ClassCentres(3, 2, keep=0.1)
    batches = [
        (column((3, 4), (5, 0)), torch.tensor([[[0, 1]]])),
        (column((0, 2)), torch.tensor([[[0]]])),
    ]
    centres.start_from(iter(batches))
    torch.testing.assert_close(centres.means[:2], torch.tensor([[0.3, 0.9], [1.0, 0.0]]))
    assert centres.coverage() == "2 of 3 classes; none of 2"


def test_update_in_closed_form_and_absent_classes_keep_theirs():
    centres = ClassCentres(3, 2, keep=0.1)
    assign(centres, torch.tensor([[2.0, 0.0], [0.0, 3.0], [0.0, 0.0]]), torch.tensor([2.0, 3.0, 0]))
    assert centres.seen.tolist() == [True, True, False]
    centres.update((column((0, 7), (0, 1), (3, 4)), torch.tensor([[[0, 0, 2]]])))
    expected = [[0.1, 0.9], [0.0, 1.0], [0.6, 0.8]]
    torch.testing.assert_close(centres.means, torch.tensor(expected))
    assert centres.seen.all()


def test_centroids_take_one_mean_over_both_domains():
    centres = ClassCentres(1, 1, keep=1 - 1e-4, normalise=False)
    assign(centres, torch.tensor([[10.0]]), torch.tensor([1.0]))
    zeros = torch.zeros(1, 1, 3, dtype=torch.long)
    centres.update((column((2,), (2,), (2,)), zeros), (column((6,)), zeros[:, :, :1]))
    assert centres.means.item() == pytest.approx((1 - 1e-4) * 10.0 + 1e-4 * 3.0, rel=1e-6)


def test_labels_of_another_size_fit_the_features():
    centres = ClassCentres(2, 1, keep=0.0, normalise=False)
    labels = torch.zeros(1, 2, 4, dtype=torch.long)
    labels[..., 2:] = 1
    centres.update((column((5,), (7,)), labels))
    assert centres.means.flatten().tolist() == [5.0, 7.0]


def test_no_gradient_reaches_prototypes():
    centres = ClassCentres(2, 3, keep=0.1)
    features = torch.randn(1, 3, 2, 2, requires_grad=True)
    labels = torch.tensor([[[0, 1], [0, 1]]])
    centres.update((features, labels))
    assert not centres.means.requires_grad
    centres.means.requires_grad_(True)
    prototype_contrast(features, labels, centres, 0.1).backward()
    assert centres.means.grad is None
    assert features.grad.abs().sum() > 0


def test_state_is_saved():
    centres = ClassCentres(2, 3, keep=0.1)
    centres.update((torch.randn(1, 3, 2, 2), torch.zeros(1, 2, 2, dtype=torch.long)))
    other = ClassCentres(2, 3, keep=0.1)
    other.load_state_dict(centres.state_dict())
    assert torch.equal(other.means, centres.means)
    assert other.seen.tolist() == [True, False]


@pytest.mark.parametrize("temperature", [100.0, 1.0, 0.1])
def test_contrast_against_a_loop(temperature):
    centres = ClassCentres(4, 6, keep=0.1)
    assign(centres, F.normalize(torch.randn(4, 6)), torch.tensor([1.0, 1.0, 1.0, 0.0]))
    features = torch.randn(2, 6, 3, 2)
    labels = torch.tensor([0, 1, 2, 3, 255, 0, 1, 1, 2, 2, -1, 7]).view(2, 3, 2)
    losses = []
    for n in range(2):
        for y in range(3):
            for x in range(2):
                if labels[n, y, x] not in (0, 1, 2):
                    continue
                feature = features[n, :, y, x] / features[n, :, y, x].norm()
                scores = [float(feature @ centres.means[k]) / temperature for k in range(3)]
                total = math.log(sum(math.exp(score) for score in scores))
                losses.append(total - scores[labels[n, y, x]])
    found = prototype_contrast(features, labels, centres, temperature)
    assert float(found) == pytest.approx(sum(losses) / len(losses), rel=1e-5)


def test_the_authors_temperature_keeps_the_loss_near_its_start():
    centres = ClassCentres(5, 8, keep=0.1)
    assign(centres, F.normalize(torch.randn(5, 8)), torch.ones(5))
    labels = torch.arange(5).view(1, 1, 5)
    perfect = centres.means.T[None, :, None]
    assert abs(float(prototype_contrast(perfect, labels, centres, 100.0)) - math.log(5)) <= 0.02
    orthogonal = ClassCentres(2, 2, keep=0.1)
    assign(orthogonal, torch.eye(2), torch.ones(2))
    loss = prototype_contrast(column((1, 0), (0, 1)), torch.tensor([[[0, 1]]]), orthogonal, 0.1)
    assert float(loss) == pytest.approx(math.log1p(math.exp(-10)), rel=2e-3)


@pytest.mark.parametrize("seen", [0.0, 1.0])
def test_contrast_without_labels_is_zero_and_finite(seen):
    centres = ClassCentres(3, 4, keep=0.1)
    assign(centres, torch.ones(3, 4), torch.full((3,), seen))
    features = torch.randn(1, 4, 2, 2, requires_grad=True)
    labels = torch.full((1, 2, 2), 255 if seen else 1)
    loss = prototype_contrast(features, labels, centres, 0.1)
    loss.backward()
    assert loss.item() == 0.0
    assert features.grad.eq(0).all()


def test_contrast_refuses_a_temperature_of_zero():
    with pytest.raises(ValueError, match="temperature"):
        prototype_contrast(
            torch.ones(1, 2, 1, 1), torch.zeros(1, 1, 1), ClassCentres(2, 2, 0.1), 0.0
        )


def test_nearest_by_hand_and_unseen_classes_are_none():
    centres = ClassCentres(3, 2, keep=0.9, normalise=False)
    features = column((0, 1), (9, 1), (4, 4))
    assert centres.nearest(features).tolist() == [[[-1, -1, -1]]]
    assign(centres, torch.tensor([[0.0, 0.0], [10.0, 0.0], [4.0, 4.0]]), torch.tensor([1.0, 1, 0]))
    assert centres.nearest(features).tolist() == [[[0, 1, 0]]]


def test_class_centre_distance_against_its_definition():
    features, labels = torch.randn(3, 5, 4, 4), torch.randint(0, 3, (3, 4, 4))
    labels[0, 0] = 255
    meter = ClassCentreDistance(4, 5)
    for n in range(3):
        meter.add(features[n : n + 1], labels[n : n + 1])
    unit = F.normalize(features, dim=1).permute(0, 2, 3, 1).double()
    groups = [unit[labels == k] for k in range(3)]
    means = [group.mean(0) for group in groups]
    expected = []
    for i in range(3):
        within = sum(float((x - means[i]) @ (x - means[i])) for x in groups[i]) / len(groups[i])
        between = [float((means[i] - means[j]).norm() ** 2) for j in range(3) if j != i]
        expected.append(sum(within / each for each in between) / 2)
    values, mean = meter.result()
    assert values[:3] == pytest.approx(expected, rel=1e-5)
    assert math.isnan(values[3])
    assert mean == pytest.approx(sum(expected) / 3, rel=1e-5)


def test_one_class_alone_has_no_distance():
    meter = ClassCentreDistance(2, 3)
    meter.add(torch.randn(1, 3, 2, 2), torch.zeros(1, 2, 2, dtype=torch.long))
    assert math.isnan(meter.result()[1])


@pytest.mark.parametrize("keep", [-0.1, 1.1])
def test_keep_is_a_share(keep):
    with pytest.raises(ValueError, match="keep"):
        ClassCentres(2, 2, keep)


def half_a_batch(rank, folder):
    """What one of two processes does; its centres are left in ``folder``."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2
    )
    features, labels, centres = shared_batch()
    centres.update((features[rank::2], labels[rank::2]))
    torch.save(centres.state_dict(), f"{folder}/{rank}.pth")
    torch.distributed.destroy_process_group()


def shared_batch():
    torch.manual_seed(4)
    features, labels = torch.randn(2, 3, 4, 4), torch.randint(0, 2, (2, 4, 4))
    labels[0, :2] = 2  # a class that one process alone sees
    centres = ClassCentres(4, 3, keep=0.5)
    centres.means.copy_(torch.randn(4, 3))
    centres.seen.copy_(torch.tensor([True, True, False, True]))
    return features, labels, centres


def test_two_processes_move_centres_as_one(tmp_path):
    features, labels, centres = shared_batch()
    centres.update((features, labels))
    torch.multiprocessing.spawn(half_a_batch, args=(str(tmp_path),), nprocs=2)
    for rank in range(2):
        found = torch.load(tmp_path / f"{rank}.pth", weights_only=True)
        torch.testing.assert_close(found["means"], centres.means)
        assert torch.equal(found["seen"], centres.seen)
