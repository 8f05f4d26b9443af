"""What is computed once instead of twice gives the numbers of the plain way, gradients too."""

import itertools
from collections import Counter

import pytest
import torch
from detector import (
    ALL_PARTS,
    backward_of,
    equal_on,
    labelled,
    random_labels,
    tiny_model,
    unlabelled,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from mic_det.detection.batch import extract_features
from mic_det.detection.pseudo_labels import detect_confident
from mic_det.detection.regions import (
    random_boxes,
    run_box_head,
    sample_source_regions,
    uniform_sample_near,
)

pytestmark = pytest.mark.usefixtures("storage")


# --- regions


def count_subsets(strata, sampled_share, count, draws):
    """How often each subset comes out, for a sample that takes as given from each stratum."""
    found = Counter()
    strata = torch.tensor(strata)
    for _ in range(draws):
        sampled = []
        for stratum, share in sampled_share.items():
            members = (strata == stratum).nonzero().flatten()
            sampled.append(members[torch.randperm(len(members))[:share]])
        sampled = torch.cat(sampled)
        reused, others = uniform_sample_near(count, strata, sampled)
        found[frozenset(sampled[reused].tolist() + others.tolist())] += 1
    return found


def test_the_subset_near_a_sample_is_uniform():
    """Chi-square over all 15 subsets of 4 out of 6, of a sample that prefers stratum 1."""
    torch.manual_seed(0)
    draws = 6000
    found = count_subsets([1, 1, 0, 0, 0, -1], {1: 2, 0: 1}, 4, draws)
    subsets = [frozenset(each) for each in itertools.combinations(range(6), 4)]
    assert set(found) == set(subsets)
    expected = draws / len(subsets)
    chi_square = sum((found[each] - expected) ** 2 / expected for each in subsets)
    assert chi_square < 36.1  # the 0.1 % point of 14 degrees of freedom


@settings(deadline=None, max_examples=60)
@given(data=st.data())
def test_the_subset_near_a_sample_is_a_subset_and_near(data):
    strata = torch.tensor(data.draw(st.lists(st.sampled_from([-1, 0, 1]), max_size=30)))
    strata = strata.to(torch.int64)
    size = len(strata)
    sampled = torch.randperm(size)[: data.draw(st.integers(0, size))]
    count = data.draw(st.integers(0, size + 3))
    reused, others = uniform_sample_near(count, strata, sampled)
    subset = sampled[reused].tolist() + others.tolist()
    assert len(subset) == len(set(subset)) == min(count, size)
    assert not set(others.tolist()) & set(sampled.tolist())
    for stratum in (-1, 0, 1):
        spare = set((strata == stratum).nonzero().flatten().tolist()) & set(sampled.tolist())
        spare -= set(subset)
        taken = (strata[others] == stratum).sum()
        assert not spare or taken == 0, "something new is taken while a sampled one is to be had"


def source_scene(model, sizes=((64, 96), (48, 80))):
    source = [labelled(*size) for size in sizes]
    batch = model.extract(source)
    labels = [each["instances"] for each in source]
    proposals, _ = model.proposal_generator(batch.images, batch.features, labels)
    return batch, proposals, labels


def test_regions_of_the_source_serve_two_purposes():
    model = tiny_model(ALL_PARTS)
    heads = model.roi_heads
    batch, proposals, labels = source_scene(model)
    torch.manual_seed(3)
    expected = heads.label_and_sample_proposals(proposals, labels)
    torch.manual_seed(3)
    regions = sample_source_regions(heads, batch, proposals, labels, heads.batch_size_per_image)
    everything = torch.cat([each.tensor for each in regions.boxes])
    sampled = torch.cat([each.proposal_boxes.tensor for each in expected])
    assert torch.equal(everything[regions.detection_rows], sampled), "Detectron2's own sample"
    aligned = torch.cat([each.tensor for each in regions.alignment_boxes])
    assert torch.equal(everything[regions.alignment_rows], aligned)
    for boxes, each in zip(regions.alignment_boxes, proposals, strict=True):
        assert len(boxes) == heads.batch_size_per_image
        assert len({tuple(row) for row in boxes.tensor.tolist()}) == len(boxes)
        known = {tuple(row) for row in each.proposal_boxes.tensor.tolist()}
        assert {tuple(row) for row in boxes.tensor.tolist()} <= known, "labels are no proposals"
    assert len(everything) < len(sampled) + len(aligned)
    assert not expected[0].has("position")
    assert set(regions.sampled[0].get_fields()) == set(expected[0].get_fields())


def test_one_run_of_the_box_head_is_as_good_as_several():
    model = tiny_model(ALL_PARTS)
    heads = model.roi_heads
    batch, proposals, labels = source_scene(model)
    regions = [
        sample_source_regions(heads, batch, proposals, labels, 8),
        model.target_regions(model.extract([unlabelled()])),
    ]
    run_box_head(heads, regions)
    for each in regions:
        maps = [each.batch.features[name] for name in heads.box_in_features]
        alone = heads.box_head(heads.box_pooler(maps, each.boxes))
        assert torch.allclose(each.features, alone, rtol=1e-4, atol=1e-6)


def plain_domain_losses(model, source, target):
    """The same losses with everything computed anew for each purpose."""
    heads = model.roi_heads

    def side(regions, boxes):
        maps = [regions.batch.features[name] for name in heads.box_in_features]
        inputs = model._domain_inputs(regions)
        inputs["boxes"] = boxes
        inputs["box_features"] = heads.box_head(heads.box_pooler(maps, boxes))
        inputs["levels"] = torch.cat([model_levels(model, each) for each in boxes])
        return inputs

    return model.domain_heads(side(source, source.alignment_boxes), side(target, target.boxes))


def model_levels(model, boxes):
    """Level of each box by its area: log2(sqrt(area) / 224) + 4, from P2 to P5."""
    level = torch.floor(4 + torch.log2(boxes.area().sqrt() / 224 + 1e-8))
    return level.clamp(2, 5).long() - 2


def test_domain_losses_and_gradients_are_those_of_the_plain_way():
    model = tiny_model(ALL_PARTS | {"MODEL.SADA.DROPOUT": 0.0})
    wanted = [p for name, p in model.named_parameters() if "rpn" not in name]
    results = []
    for plain in (False, True):
        torch.manual_seed(5)
        source, target = [labelled(), labelled(48, 80)], [unlabelled(), unlabelled(48, 80)]
        on_source, on_target, _ = model.extract_all(source, target, [])
        torch.manual_seed(6)
        detection, _ = model.source_regions(source, on_source)
        alignment = model.target_regions(on_target)
        run_box_head(model.roi_heads, [detection, alignment])
        compute = plain_domain_losses if plain else model.domain_losses
        args = (model, detection, alignment) if plain else (detection, alignment)
        losses = compute(*args)
        grads = torch.autograd.grad(sum(losses.values()), wanted, allow_unused=True)
        results.append((losses, grads))
    (fast, fast_grads), (slow, slow_grads) = results
    for name in slow:
        assert torch.allclose(fast[name], slow[name], rtol=1e-5), name
    compared = 0
    for one, other in zip(fast_grads, slow_grads, strict=True):
        assert (one is None) == (other is None)
        if one is not None:
            compared += 1
            assert torch.allclose(one, other, rtol=1e-3, atol=1e-7)
    assert compared > 50


# --- the backbone


@pytest.mark.parametrize("batches", [([(64, 96)], [(64, 96)]), ([(64, 96)] * 2, [(50, 90)])])
def test_one_pass_of_the_backbone_is_as_good_as_several(batches):
    model = tiny_model()
    images = [model.preprocess_image([unlabelled(*size) for size in sizes]) for sizes in batches]
    together = extract_features(model.backbone, [images[0], None, images[1]], together=True)
    apart = extract_features(model.backbone, [images[0], None, images[1]], together=False)
    assert together[1] is None and apart[1] is None
    for one, other in zip(together[::2], apart[::2], strict=True):
        assert one.images.image_sizes == other.images.image_sizes
        for name, maps in other.features.items():
            assert torch.allclose(one.features[name], maps, rtol=1e-3, atol=1e-5)


def test_training_with_all_batches_together_gives_the_same_losses_and_gradients(monkeypatch):
    """With a backbone in float64, whose maps are the same in float32 whichever way they are made.

    Else rounding decides which of two like proposals survives NMS, in one way and not in the other.
    """
    model = tiny_model(ALL_PARTS)
    model.backbone.double()
    torch.manual_seed(1)
    arguments = [labelled()], [unlabelled()], [unlabelled()], [random_labels(scores=True)]
    results = []
    for together in (False, True):

        def extract_all(*batches, together=together):
            images = [model.preprocess_image(each) if each else None for each in batches]
            for each in images:
                each.tensor = each.tensor.double()
            found = extract_features(model.backbone, images, together=together)
            for each in found:
                each.features = {name: maps.float() for name, maps in each.features.items()}
            return found

        monkeypatch.setattr(model, "extract_all", extract_all)
        torch.manual_seed(2)
        losses = model(*arguments)
        results.append((losses, backward_of(model, losses)))
    (apart, grads_apart), (joint, grads_joint) = results
    for name, loss in apart.items():
        torch.testing.assert_close(loss, joint[name], rtol=1e-5, atol=0.0)
    for name, grad in grads_apart.items():
        # Of sums over some 1e4 positions in float32, in another order: 1e4 ** 0.5 * 6e-8.
        scale = grad.abs().max().item()
        torch.testing.assert_close(grad, grads_joint[name], rtol=1e-5, atol=1e-5 * scale)


def test_random_boxes_carry_no_gradient():
    model = tiny_model()
    _, proposals, _ = source_scene(model)
    assert not any(each.tensor.requires_grad for each in random_boxes(proposals, 4))


def test_channels_last_gives_the_same_losses():
    plain, other = tiny_model(ALL_PARTS), tiny_model(ALL_PARTS)
    other.to(memory_format=torch.channels_last)
    torch.manual_seed(1)
    arguments = [labelled()], [unlabelled()], [unlabelled()], [random_labels(scores=True)]
    losses = []
    for model in (plain, other):
        torch.manual_seed(2)
        losses.append(model(*arguments))
    weights = [p for p in other.parameters() if p.dim() == 4 and min(p.shape[1:]) > 1]
    assert weights and all(p.is_contiguous(memory_format=torch.channels_last) for p in weights)
    for name, loss in losses[0].items():
        assert torch.allclose(loss, losses[1][name], rtol=1e-3), name


@pytest.mark.parametrize("paths", ["plain", "fast"])
@pytest.mark.parametrize("threshold", [0.05, 0.2, 0.35, 0.9])
def test_confident_detections_are_those_of_the_whole_detector(threshold, paths, monkeypatch):
    equal = equal_on(paths, monkeypatch)
    model = tiny_model().eval()
    batch = [unlabelled(), unlabelled(48, 80)]
    with torch.no_grad():
        usual = model.inference(batch, do_postprocess=False)
        found = detect_confident(model, batch, threshold)
    assert len(usual[0]) > 0
    for one, other in zip(found, usual, strict=True):
        kept = other[other.scores >= threshold]
        assert equal(one.pred_boxes.tensor, kept.pred_boxes.tensor)
        assert equal(one.scores, kept.scores)
        assert torch.equal(one.pred_classes, kept.pred_classes)
