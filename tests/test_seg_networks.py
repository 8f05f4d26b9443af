"""Encoders and decoders: sizes, and the pieces against slow references."""

from __future__ import annotations

import copy
import os
import pickle

import pytest
import torch
import torch.nn.functional as F
from segmentor import tiny_cfg

from mic_det.config import ConfigError
from mic_det.segmentation.networks import build_network
from mic_det.segmentation.networks.daformer import DAFormerDecoder, MLPDecoder
from mic_det.segmentation.networks.deeplab import (
    ASPPDecoder,
    DilatedResNet,
    DilatedVGG16,
    load_encoder_weights,
)
from mic_det.segmentation.networks.mit import VARIANTS, MixTransformer


@pytest.fixture(scope="module")
def mit():
    torch.manual_seed(0)
    return MixTransformer("b0", drop_path=0.0).eval()


@torch.no_grad()
def test_mit_maps(mit):
    sizes = [tuple(each.shape[1:]) for each in mit(torch.randn(1, 3, 64, 96))]
    assert sizes == [(32, 16, 24), (64, 8, 12), (160, 4, 6), (256, 2, 3)]
    sizes = [tuple(each.shape[-2:]) for each in mit(torch.randn(1, 3, 20, 50))]
    assert sizes == [(5, 13), (3, 7), (2, 4), (1, 2)], "smaller than the largest stride"


@torch.no_grad()
def test_all_stages_of_a_mit_are_by_image_and_leave_nothing_to_chance(mit):
    images = torch.randn(2, 3, 64, 64)
    maps = mit(images)
    assert all(each.std() > 0 for each in maps)
    assert torch.equal(maps[-1], mit.model(images).last_hidden_state)
    for each, again, alone in zip(maps, mit(images), mit(images[:1]), strict=True):
        assert torch.equal(each, again) and torch.allclose(alone, each[:1], atol=1e-5)


def test_mit_sizes_are_those_of_the_paper():
    """SegFormer, table 6: parameters of the encoders in millions, here without building B5."""
    with torch.device("meta"):
        for variant, millions in (("b0", 3.3), ("b1", 13.1), ("b2", 24.2), ("b5", 81.4)):
            count = sum(p.numel() for p in MixTransformer(variant).parameters())
            assert count / 1e6 == pytest.approx(millions, abs=0.15), variant
    assert set(VARIANTS) == {f"b{i}" for i in range(6)}


def test_mit_weights_that_are_not_there(tmp_path):
    with pytest.raises(ConfigError, match=r"MODEL\.SEG\.ENCODER_WEIGHTS"):
        MixTransformer("b0", str(tmp_path / "nothing"))


def test_mit_weights_come_from_a_folder(mit, tmp_path):
    mit.model.save_pretrained(tmp_path)
    again = MixTransformer("b0", str(tmp_path), drop_path=0.0).eval()
    assert again.state_dict().keys() == mit.state_dict().keys()
    for name, tensor in mit.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor), name
    # In another place in memory sums may be made in another order.
    images = torch.randn(1, 3, 32, 32, dtype=torch.float64)
    with torch.no_grad():
        found, expected = again.double()(images)[-1], copy.deepcopy(mit).double()(images)[-1]
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


def test_mit_weights_of_a_classifier_and_of_another_variant(mit, tmp_path):
    """ImageNet weights come with a head, which is left aside; a block too many is an error."""
    from transformers import SegformerForImageClassification

    torch.manual_seed(1)
    trained = SegformerForImageClassification(mit.model.config)
    trained.save_pretrained(tmp_path / "b0")
    found = MixTransformer("b0", str(tmp_path / "b0")).model.state_dict()
    theirs = trained.segformer.state_dict()
    assert all(torch.equal(found[name], each) for name, each in theirs.items())
    for depths in ([2, 2, 3, 2], [2, 2, 1, 2]):
        config = type(mit.model.config)(**{**mit.model.config.to_dict(), "depths": depths})
        SegformerForImageClassification(config).save_pretrained(tmp_path / "other")
        with pytest.raises(ConfigError, match=r"not those of a MiT-B0 .*block.*2\."):
            MixTransformer("b0", str(tmp_path / "other"))


def features(channels=(4, 8), sizes=((8, 12), (4, 6))):
    return [torch.randn(2, c, *size) for c, size in zip(channels, sizes, strict=True)]


@torch.no_grad()
def test_daformer_decoder_written_out():
    decoder = DAFormerDecoder((4, 8), (4, 8), 5, channels=6, dilations=(1, 2), norm="").eval()
    maps = features()
    first, second = decoder.stages.maps
    joined = torch.cat(
        [first(maps[0]), F.interpolate(second(maps[1]), scale_factor=2, mode="bilinear")], 1
    )
    point, wide = decoder.branches
    one = F.relu(F.conv2d(joined, point[0].weight, point[0].bias))
    depth, mixing = wide[0][0], wide[1][0]
    each = F.conv2d(joined, depth.weight, depth.bias, padding=2, dilation=2, groups=12)
    two = F.relu(F.conv2d(F.relu(each), mixing.weight, mixing.bias))
    fuse = decoder.fuse[0]
    fused = F.relu(F.conv2d(torch.cat([one, two], 1), fuse.weight, fuse.bias, padding=1))
    assert torch.allclose(decoder.embed(maps), fused, atol=1e-6)
    last = decoder.classifier
    assert torch.allclose(decoder(maps), F.conv2d(fused, last.weight, last.bias), atol=1e-6)
    assert decoder(maps).shape == (2, 5, 8, 12)


def test_daformer_defaults_are_the_papers():
    decoder = DAFormerDecoder((64, 128, 320, 512), (4, 8, 16, 32), 19)
    assert decoder.embedding_channels == 256 and decoder.stride == 4
    dilations = [branch[0][0].dilation[0] for branch in list(decoder.branches)[1:]]
    assert dilations == [6, 12, 18] and decoder.branches[0][0].kernel_size == (1, 1)
    assert decoder.fuse[0].in_channels == 1024 and decoder.classifier.in_channels == 256


@torch.no_grad()
def test_mlp_decoder_written_out():
    decoder = MLPDecoder((4, 8), (4, 8), 3, channels=6, norm="").eval()
    maps = features()
    fine, coarse = (
        torch.einsum("kc,nchw->nkhw", each.weight[..., 0, 0], map_) + each.bias.view(1, -1, 1, 1)
        for each, map_ in zip(decoder.stages.maps, maps, strict=True)
    )
    coarse = F.interpolate(coarse, size=(8, 12), mode="bilinear", align_corners=False)
    fuse, last = decoder.fuse[0], decoder.classifier
    fused = F.relu(F.conv2d(torch.cat([fine, coarse], 1), fuse.weight, fuse.bias))
    expected = F.conv2d(fused, last.weight, last.bias)
    assert expected.shape == (2, 3, 8, 12)
    assert torch.allclose(decoder(maps), expected, atol=1e-6)


@torch.no_grad()
def test_aspp_is_the_sum_of_dilated_convolutions():
    decoder = ASPPDecoder(3, 8, 2, dilations=(1, 2))
    for branch in decoder.branches:
        branch.bias.normal_()
    image = torch.randn(1, 3, 5, 6)
    expected = torch.zeros(1, 2, 5, 6)
    for branch, d in zip(decoder.branches, (1, 2), strict=True):
        padded = F.pad(image, (d, d, d, d))
        for y in range(5):
            for x in range(6):
                window = padded[0, :, y : y + 2 * d + 1 : d, x : x + 2 * d + 1 : d]
                expected[0, :, y, x] += (branch.weight * window).sum((1, 2, 3)) + branch.bias
    assert torch.allclose(decoder([image]), expected, atol=1e-4)
    assert [b.dilation[0] for b in ASPPDecoder(8, 8, 2).branches] == [6, 12, 18, 24]


@pytest.mark.parametrize("depth", [18, 50])
def test_resnet_has_output_stride_8(depth):
    encoder = DilatedResNet(depth, "BN", 8, 16).eval()
    with torch.no_grad():
        (found,) = encoder(torch.randn(1, 3, 64, 96))
    assert found.shape == (1, encoder.channels[0], 8, 12) and encoder.strides == (8,)


def test_the_last_stages_of_a_bottleneck_resnet_are_dilated():
    encoder = DilatedResNet(50, "BN", 8, 16)
    dilations = {
        stage: {block.conv2.dilation[0] for block in getattr(encoder.resnet, stage)}
        for stage in ("res2", "res3", "res4", "res5")
    }
    assert dilations == {"res2": {1}, "res3": {1}, "res4": {2}, "res5": {4}}


def test_resnet_loads_detectron2s_weights(tmp_path):
    torch.manual_seed(1)
    donor = DilatedResNet(18, "BN", 8, 8)
    path = tmp_path / "weights.pth"
    torch.save({"model": donor.resnet.state_dict()}, path)
    encoder = DilatedResNet(18, "BN", 8, 8)
    load_encoder_weights(encoder, str(path))
    assert all(
        torch.equal(a, b)
        for a, b in zip(encoder.state_dict().values(), donor.state_dict().values(), strict=True)
    )
    with pytest.raises(ConfigError, match="ENCODER_WEIGHTS"):
        load_encoder_weights(encoder, str(tmp_path / "nothing.pth"))


class Payload:
    """A pickle of this makes a folder when it is loaded the usual way."""

    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder),)


@pytest.mark.parametrize("encoder", [DilatedResNet(18, "BN", 8, 8), DilatedVGG16(fc_channels=16)])
@pytest.mark.parametrize("suffix", ["pkl", "pth"])
def test_a_file_of_an_encoder_runs_nothing(tmp_path, encoder, suffix):
    path = tmp_path / f"w.{suffix}"
    if suffix == "pkl":
        path.write_bytes(pickle.dumps({"model": Payload(tmp_path / "run"), "__author__": "x"}))
    else:
        torch.save({"model": Payload(tmp_path / "run")}, path)
    with pytest.raises(ConfigError, match=r"ENCODER_WEIGHTS: .*w\.p"):
        load_encoder_weights(encoder, str(path))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("kind", ["nan", "int8", "list"])
def test_weights_of_vgg16_that_are_none(tmp_path, kind):
    encoder = DilatedVGG16(fc_channels=16)
    state = {k: v.clone() for k, v in encoder.state_dict().items() if k.startswith("features")}
    name = next(iter(state))
    state[name] = (
        torch.full_like(state[name], float("nan")) if kind == "nan" else state[name].char()
    )
    torch.save([1] if kind == "list" else state, tmp_path / "vgg.pth")
    with pytest.raises(ConfigError, match=f"vgg.pth.*({name} is NaN|{name} is int8|no dict)"):
        load_encoder_weights(encoder, str(tmp_path / "vgg.pth"))


def test_vgg16_has_output_stride_8_and_takes_torchvisions_weights(tmp_path):
    import torchvision

    encoder = DilatedVGG16(fc_channels=16).eval()
    torch.manual_seed(2)
    vgg = torchvision.models.vgg
    donor = vgg.make_layers(vgg.cfgs["D"])
    state = {f"features.{name}": value for name, value in donor.state_dict().items()}
    torch.save(state | {"classifier.0.bias": torch.zeros(1)}, tmp_path / "vgg.pth")
    load_encoder_weights(encoder, str(tmp_path / "vgg.pth"))
    images = torch.randn(1, 3, 32, 48)
    with torch.no_grad():
        (found,) = encoder(images)
        assert found.shape == (1, 16, 4, 6)
        # Up to the fourth pooling, which is left out, the two are the same network.
        assert torch.allclose(encoder.features[:23](images), donor[:23](images), atol=1e-5)
    assert [encoder.features[i].dilation for i in (24, 26, 28)] == [(2, 2)] * 3


@torch.no_grad()
def test_the_network_normalises_and_enlarges():
    network = build_network(tiny_cfg()).eval()
    images = torch.rand(1, 3, 50, 70) * 255
    normalised = (images - network.pixel_mean) / network.pixel_std
    logits = network.decoder(network.encoder(normalised))
    expected = F.interpolate(logits, size=(50, 70), mode="bilinear", align_corners=False)
    assert torch.allclose(network(images), expected)
    features_ = network.encode(images)
    assert torch.equal(network.decode(features_), logits)
    assert torch.equal(network.decoder.classify(network.embed(features_)), logits)
    assert network.output_stride == 8
