"""Hosts of segmentation: what their losses are made of, and MIC around each of them."""

from __future__ import annotations

import pickle

import pytest
import torch
from detectron2.modeling import build_model
from segmentor import CONFIGS, labelled, linear_network, tiny_cfg, tiny_model, unlabelled
from torch import nn

from mic_det.config import ConfigError, load_config
from mic_det.core import StudentAugment
from mic_det.engine.build import build_optimizer
from mic_det.segmentation.hosts import HOST_REGISTRY, Host, Step
from mic_det.segmentation.hosts.adversarial import Adversarial, OutputDiscriminator, domain_loss
from mic_det.segmentation.hosts.self_training import (
    SelfTraining,
    feature_distance,
    fit,
    thing_mask,
)
from mic_det.segmentation.losses import IGNORED, pixel_cross_entropy
from mic_det.segmentation.pseudo_labels import PixelLabels

NO_AUGMENT = StudentAugment(jitter_probability=0.0, blur_probability=0.0, max_value=255.0)


def step_of(network, sources=2, targets=2, **changes):
    pseudo = PixelLabels(torch.randint(0, 3, (targets, 16, 16)), torch.rand(targets, 16, 16))
    parts = {
        "student": network,
        "source_images": torch.rand(sources, 3, 16, 16),
        "source_labels": torch.randint(0, 3, (sources, 16, 16)),
        "target_images": torch.rand(targets, 3, 16, 16),
        "pseudo": pseudo,
    }
    return Step(**(parts | changes))


def test_hosts_are_found_by_name():
    assert {"source_only", "self_training", "adversarial"} <= set(HOST_REGISTRY)
    with pytest.raises(
        ConfigError, match=r"MODEL\.SEG\.HOST is one of .*self_training.*, not 'dacs'"
    ):
        tiny_cfg({"MODEL.SEG.HOST": "dacs"})
    with pytest.raises(KeyError, match="there already"):
        HOST_REGISTRY.register("self_training")(Host)


def test_source_only_is_the_cross_entropy():
    network = linear_network()
    step = step_of(network)
    losses = HOST_REGISTRY["source_only"]().losses(step)
    expected = pixel_cross_entropy(network(step.source_images), step.source_labels)
    assert losses.keys() == {"loss_source"} and torch.equal(losses["loss_source"], expected)


def test_self_training_adds_the_loss_on_mixed_images():
    network = linear_network()
    host = SelfTraining(augment=NO_AUGMENT, weight=0.5)
    step = step_of(network)
    torch.manual_seed(3)
    images, labels = host.mixed(step)
    torch.manual_seed(3)
    losses = host.losses(step)
    expected = pixel_cross_entropy(network(images), labels.labels, labels.weight)
    assert losses.keys() == {"loss_source", "loss_mixed"}
    assert torch.allclose(losses["loss_mixed"], 0.5 * expected)
    from_source = (images == step.source_images).all(1)
    from_target = (images == step.target_images).all(1)
    assert (from_source ^ from_target).all() and from_source.any() and from_target.any()
    assert torch.equal(labels.labels[from_source], step.source_labels[from_source])
    assert labels.weight[from_source].eq(1).all()
    assert torch.equal(labels.weight[from_target], step.pseudo.weight[from_target])


def test_the_mixed_image_as_a_whole_gets_other_colours():
    """After it was mixed, source and target parts alike; the labels stay."""
    step, plain = step_of(linear_network()), SelfTraining(augment=NO_AUGMENT)
    darker = SelfTraining(augment=lambda images: images - 0.5)
    torch.manual_seed(3)
    images, labels = plain.mixed(step)
    torch.manual_seed(3)
    changed, same = darker.mixed(step)
    assert torch.equal(changed, images - 0.5)
    assert torch.equal(same.labels, labels.labels) and torch.equal(same.weight, labels.weight)


def test_colours_of_the_mixed_image_are_those_of_the_config():
    model, _ = tiny_model(
        {
            "MODEL.SEG.HOST": "self_training",
            "MODEL.SEG.SELF_TRAINING.JITTER": 0.3,
            "MODEL.SEG.SELF_TRAINING.HUE": 0.1,
            "MODEL.SEG.SELF_TRAINING.JITTER_PROB": 0.7,
            "MODEL.SEG.SELF_TRAINING.BLUR_SIGMA": (0.2, 2.0),
            "MODEL.SEG.SELF_TRAINING.BLUR_PROB": 0.4,
            "MODEL.SEG.SELF_TRAINING.WEIGHT": 0.6,
        }
    )
    augment = model.host.augment
    assert (augment.jitter, augment.hue, augment.max_value) == (0.3, 0.1, 255.0)
    assert (augment.jitter_probability, augment.blur_probability) == (0.7, 0.4)
    assert augment.blur_sigma == (0.2, 2.0) and model.host.weight == 0.6
    assert augment.channels == tiny_cfg().INPUT.FORMAT


@pytest.mark.parametrize(("sources", "targets"), [(1, 3), (3, 2)])
def test_batches_of_different_sizes_are_mixed(sources, targets):
    host = SelfTraining(augment=NO_AUGMENT)
    images, labels = host.mixed(step_of(linear_network(), sources, targets))
    assert len(images) == len(labels) == targets


def test_a_source_of_another_size_is_cut_or_filled_up():
    pixels = torch.arange(6.0).view(1, 2, 3)
    assert fit(pixels, (3, 2), 9.0).tolist() == [[[0, 1], [3, 4], [9, 9]]]
    assert fit(pixels, (2, 3), 9.0) is pixels


def test_thing_positions_are_those_that_one_thing_fills():
    labels = torch.tensor([[[1, 1, 2, 2], [1, 0, 1, 1]]])
    assert thing_mask(labels, [1], (1, 2), 0.75).tolist() == [[[True, False]]]
    assert thing_mask(labels, [1, 2], (1, 2), 0.5).tolist() == [[[True, True]]]
    assert thing_mask(labels, [1, 2], (1, 2), 0.75).tolist() == [[[True, False]]], "one thing"
    assert not thing_mask(labels, [], (1, 2), 0.5).any()


def test_feature_distance_by_hand():
    features, reference = torch.zeros(1, 2, 1, 3), torch.zeros(1, 2, 1, 3)
    features[0, :, 0, 0] = torch.tensor([3.0, 4.0])
    features[0, :, 0, 1] = torch.tensor([0.0, 1.0])
    features[0, :, 0, 2] = 100.0
    mask = torch.tensor([[[True, True, False]]])
    assert float(feature_distance(features, reference, mask)) == pytest.approx(3.0)
    assert feature_distance(features, reference, ~mask & mask) == 0
    same = torch.zeros(1, 2, 1, 3, requires_grad=True)
    feature_distance(same, reference, mask).backward()
    assert torch.isfinite(same.grad).all()


def test_features_are_kept_near_the_reference():
    network = linear_network()
    network.encoder.scale = nn.Parameter(torch.tensor(2.0))
    forward = network.encoder.forward
    network.encoder.forward = lambda images: [network.encoder.scale * forward(images)[0]]
    host = SelfTraining(
        augment=NO_AUGMENT,
        make_reference=lambda: linear_network().encoder,
        distance_weight=0.1,
        things=[0, 1, 2],
        thing_share=0.0,
    )
    step = step_of(network)
    loss = host.losses(step)["loss_feature_distance"]
    pooled = nn.functional.avg_pool2d(step.source_images, 4)
    assert torch.allclose(loss, 0.1 * pooled.square().sum(1).sqrt().mean(), atol=1e-5)
    loss.backward()
    assert network.encoder.scale.grad > 0
    assert not host.state_dict(), "the reference is neither trained nor saved"


def test_weights_of_the_encoder_make_the_reference(tmp_path, storage):
    """Only where such weights are given: then the features are held to them, and they stay."""
    without, _ = tiny_model({"MODEL.SEG.HOST": "self_training"})
    assert without.host.make_reference is None
    encoder = without.network.encoder.resnet.state_dict()
    with open(tmp_path / "resnet.pkl", "wb") as file:
        arrays = {name: each.numpy() for name, each in encoder.items()}
        pickle.dump({"model": arrays, "__author__": "a test"}, file)
    given = {"MODEL.SEG.ENCODER_WEIGHTS": str(tmp_path / "resnet.pkl"), "MODEL.WEIGHTS": ""}
    model, _ = tiny_model(given | {"MODEL.SEG.HOST": "self_training"}, seed=1)
    network = model.network.encoder.resnet.state_dict()
    assert all(torch.equal(network[name], each) for name, each in encoder.items())
    model.network.encoder.resnet.stem.conv1.weight.data.add_(0.1)  # a burn-in, a resumed run
    before = torch.get_rng_state()
    reference = model.host._reference_on(model.device)
    assert torch.equal(torch.get_rng_state(), before), "draws of the iteration stay as they are"
    kept = {name: each.clone() for name, each in reference.resnet.state_dict().items()}
    assert all(torch.equal(kept[name], each) for name, each in encoder.items())
    losses = forward(model, model)
    assert "loss_feature_distance" in losses
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    sum(losses.values()).backward()
    optimizer.step()
    assert not reference.training
    for name, each in reference.resnet.state_dict().items():
        assert torch.equal(each, kept[name]), name
    none = given | {"MODEL.SEG.SELF_TRAINING.FEATURE_DISTANCE": 0.0}
    assert tiny_model(none | {"MODEL.SEG.HOST": "self_training"})[0].host.make_reference is None


def test_weights_of_the_encoder_are_not_asked_for_where_the_whole_model_has_weights():
    """As in inference, on a machine without a network; the host needs them in training alone."""
    nowhere = {"MODEL.SEG.ENCODER_WEIGHTS": "nowhere.pkl", "MODEL.SEG.HOST": "self_training"}
    model, _ = tiny_model(nowhere | {"MODEL.WEIGHTS": "burn_in.pth"})
    with pytest.raises(ConfigError, match=r"ENCODER_WEIGHTS: nowhere\.pkl"):
        model.host._reference_on(model.device)
    with pytest.raises(ConfigError, match=r"ENCODER_WEIGHTS: nowhere\.pkl"):
        tiny_model(nowhere | {"MODEL.WEIGHTS": ""})


def test_alignment_trains_each_side_by_its_own_loss():
    discriminator = OutputDiscriminator(3, 4)
    host = Adversarial(discriminator=discriminator, weight=0.5)
    source, target = (torch.randn(1, 3, 32, 32, requires_grad=True) for _ in range(2))
    losses = host.alignment(source, target)
    with torch.no_grad():
        told = [discriminator(each.softmax(1)) for each in (source, target)]
    right = 0.5 * (domain_loss(told[0], 1.0) + domain_loss(told[1], 0.0))
    assert torch.allclose(losses["loss_discriminator"], right)
    assert torch.allclose(losses["loss_adversarial"], 0.5 * domain_loss(told[1], 1.0))
    losses["loss_adversarial"].backward(retain_graph=True)
    assert target.grad is not None and target.grad.any() and source.grad is None
    assert all(p.grad is None for p in discriminator.parameters())
    target.grad = None
    losses["loss_discriminator"].backward()
    assert target.grad is None and source.grad is None
    assert all(p.grad is not None for p in discriminator.parameters())


def test_the_discriminator_halves_five_times():
    assert OutputDiscriminator(19, 4)(torch.zeros(1, 19, 64, 96)).shape == (1, 1, 2, 3)


def forward(model, teacher):
    source, target = [labelled(), labelled()], [unlabelled(), unlabelled()]
    pseudo = teacher.pseudo_label(target)
    return model(source, target, target, pseudo)


@pytest.mark.parametrize("hrda", [False, True])
@pytest.mark.parametrize("host", ["source_only", "self_training", "adversarial"])
@pytest.mark.parametrize("domains", ["", "target", "source", "source_target"])
def test_mic_around_each_host(host, domains, hrda, storage):
    overrides = {"MODEL.SEG.HOST": host, "MODEL.SEG.HRDA.ENABLED": hrda}
    if domains:
        overrides |= {"MODEL.MIC.ENABLED": True, "MODEL.SEG.MIC_DOMAINS": domains}
    model, teacher = tiny_model(overrides)
    losses = forward(model, teacher)
    own = {
        "source_only": {"loss_source"},
        "self_training": {"loss_source", "loss_mixed"},
        "adversarial": {"loss_source", "loss_adversarial", "loss_discriminator"},
    }[host]
    expected = own | ({"loss_mic"} if "target" in domains else set())
    expected |= {"loss_mic_source"} if "source" in domains else set()
    assert losses.keys() == expected
    sum(losses.values()).backward()
    assert all(p.grad is not None for p in model.parameters()), "what several processes need"


def test_the_masked_loss_is_weighted_cross_entropy_with_the_hosts_labels(storage):
    model, teacher = tiny_model({"MODEL.MIC.ENABLED": True, "MODEL.MIC.WEIGHT": 0.5})
    model.network.eval()  # BatchNorm must see each batch alike
    target = [unlabelled(), unlabelled()]
    pseudo = teacher.pseudo_label(target)
    pseudo.weight.uniform_()
    losses = model([labelled()], target, target, pseudo)
    logits = model.network(model.images(target))
    expected = 0.5 * pixel_cross_entropy(logits, pseudo.labels, pseudo.weight)
    assert torch.allclose(losses["loss_mic"], expected)


def test_masked_source_images_are_trained_on_their_labels(storage):
    masks = {"MODEL.MIC.ENABLED": True, "MODEL.SEG.MIC_DOMAINS": "source", "MODEL.MIC.WEIGHT": 0.5}
    model, _ = tiny_model(masks)
    model.network.eval()  # BatchNorm must see each batch alike
    source = [labelled() | {"sample_seed": 5}]  # which masks follow from
    losses = model(source)
    masked = model.images(model.mask_source(source))
    hidden = (masked == model.network.pixel_mean).all(1).float().mean()
    assert 0.4 < hidden < 0.95, "the ratio is 0.7"
    expected = 0.5 * pixel_cross_entropy(model.network(masked), source[0]["sem_seg"][None])
    assert torch.allclose(losses["loss_mic_source"], expected)


@pytest.mark.parametrize("hrda", [False, True])
def test_masked_images_leave_no_trace_in_running_statistics(hrda, storage):
    """The host's own passes do, with MIC as without."""
    states = []
    for weight in (0.0, 1.0):
        masks = {"MODEL.MIC.ENABLED": True, "MODEL.SEG.MIC_DOMAINS": "source_target"}
        hosted = {"MODEL.SEG.HOST": "source_only", "MODEL.SEG.HRDA.ENABLED": hrda}
        model, teacher = tiny_model(masks | hosted | {"MODEL.MIC.WEIGHT": weight})
        torch.manual_seed(1)
        forward(model, teacher)
        states.append({name: each.clone() for name, each in model.named_buffers()})
    assert any(each.ne(0).any() for name, each in states[0].items() if "running_mean" in name)
    assert all(torch.equal(each, states[1][name]) for name, each in states[0].items())


def test_the_teacher_labels_by_the_students_host(storage):
    model, teacher = tiny_model({"MODEL.SEG.HOST": "self_training"})
    calls = []

    def pseudo_label(network, images):
        calls.append(network)
        return PixelLabels(torch.full((1, 64, 96), IGNORED), torch.zeros(1, 64, 96))

    model.host.pseudo_label = pseudo_label
    assert teacher.pseudo_label([unlabelled()]).weight.sum() == 0
    assert calls == [teacher.model.network] and not teacher.model.network.training
    assert {name.split(".")[0] for name in teacher.model.state_dict()} == {"network"}
    seen = []
    model.host.losses = lambda step: seen.append(step) or {}
    model([labelled()], [unlabelled()])
    assert seen[0].teacher is teacher.model.network and seen[0].iteration == storage.iter


def test_what_fills_up_a_smaller_image_has_no_label():
    _, teacher = tiny_model()
    pseudo = teacher.pseudo_label([unlabelled(64, 96), unlabelled(40, 80)])
    assert (pseudo.labels[0] != IGNORED).all() and (pseudo.labels[1, :40, :80] != IGNORED).all()
    assert (pseudo.labels[1, 40:] == IGNORED).all() and (pseudo.labels[1, :, 80:] == IGNORED).all()
    filled_by_mapper = unlabelled(64, 96) | {"shown": (40, 80)}
    pseudo = teacher.pseudo_label([filled_by_mapper])
    assert (pseudo.labels[0, :40, :80] != IGNORED).all()
    assert int((pseudo.labels == IGNORED).sum()) == 64 * 96 - 40 * 80


def test_health_is_of_the_pseudo_labels_that_are_trained_on(storage):
    model, teacher = tiny_model({"MODEL.SEG.HOST": "self_training"})
    target = [unlabelled(), unlabelled()]
    pseudo = teacher.pseudo_label(target)
    pseudo.weight[:] = 0.25
    pseudo.weight[1] = 0.0
    assert not model.host.health.pop(), "pictures and the like do not count"
    model([labelled()], target, None, pseudo)
    found, pixels = model.host.health.pop(), pseudo.labels.numel()
    assert found["pseudo_label_weight"] == (0.125 * pixels, pixels)
    assert found["pseudo_labelled_pixels"] == (0.5 * pixels, pixels)


def test_groups_of_the_optimizer_are_daformers():
    """AdamW 6e-5, ten times that for all but the encoder, no decay of any normalisation."""
    overrides = ["MODEL.SEG.MIT_VARIANT", "b0", "MODEL.SEG.ENCODER_WEIGHTS", ""]
    cfg = load_config(CONFIGS / "gta2cs_hrda_mic.yaml", [*overrides, "MODEL.DEVICE", "cpu"])
    model = build_model(cfg)
    optimizer = build_optimizer(cfg, model)
    assert isinstance(optimizer, torch.optim.AdamW) and optimizer.defaults["betas"] == (0.9, 0.999)
    groups = {id(p): group for group in optimizer.param_groups for p in group["params"]}
    assert len(groups) == len(list(model.parameters()))
    norms = (nn.LayerNorm, nn.BatchNorm2d)
    kinds = set()
    for prefix, module in model.named_modules():
        for name, parameter in module.named_parameters(prefix, recurse=False):
            group, of_encoder = groups[id(parameter)], name.startswith("network.encoder.")
            assert group["lr"] == pytest.approx(6e-5 if of_encoder else 6e-4), name
            assert group["weight_decay"] == (0.0 if isinstance(module, norms) else 0.01), name
            kinds.add((of_encoder, type(module)))
    assert {(True, nn.LayerNorm), (True, nn.Linear), (False, nn.BatchNorm2d)} <= kinds


def test_learning_rates_by_part():
    model, _ = tiny_model(
        {
            "MODEL.SEG.HOST": "adversarial",
            "MODEL.SEG.HEAD_LR_FACTOR": 10.0,
            "MODEL.SEG.ADVERSARIAL.LR_FACTOR": 0.4,
            "MODEL.SEG.HRDA.ENABLED": True,
        }
    )
    factors = {}
    for name, _ in model.named_parameters():
        factors.setdefault(".".join(name.split(".")[:2]), set()).add(model.lr_factor(name))
    assert factors == {
        "network.encoder": {1.0},
        "network.decoder": {10.0},
        "network.attention": {10.0},
        "host.discriminator": {0.4},
    }
