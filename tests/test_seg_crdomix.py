"""CrDoMix: masks exact, colours by hand; translators: statistics, inverses, learning."""

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance

from mic_det.config import ConfigError
from mic_det.segmentation.crdomix import (
    BlendedColour,
    CrossDomainMixture,
    adjust_sharpness,
    half_of_classes,
    own_style_mask,
)
from mic_det.segmentation.translate import (
    FourierAmplitude,
    LabStatistics,
    LearntTranslator,
    build_translator,
    translator_file,
)
from mic_det.segmentation.translate.lab import lab_to_rgb, rgb_to_lab


@pytest.mark.parametrize(("present", "chosen"), [(1, 0), (2, 1), (3, 1), (4, 2), (9, 4)])
def test_half_of_the_classes_rounded_down(present, chosen):
    labels = torch.tensor([3 * k for k in range(present)] + [255])
    for seed in range(5):
        found = half_of_classes(labels, 30, torch.Generator().manual_seed(seed))
        assert int(found.sum()) == chosen
        assert all(int(k) in labels for k in found.nonzero())


def test_every_class_is_as_likely():
    labels = torch.tensor([0, 1, 4])
    generator = torch.Generator().manual_seed(0)
    counts = sum(half_of_classes(labels, 5, generator).long() for _ in range(3000))
    assert counts[[2, 3]].tolist() == [0, 0]
    assert all(abs(int(count) - 1000) < 100 for count in counts[[0, 1, 4]])


@pytest.mark.parametrize("seed", range(6))
def test_mask_is_exactly_the_chosen_classes_and_what_has_none(seed):
    labels = torch.randint(0, 4, (2, 6, 5))
    labels[:, 0] = 255
    mask = own_style_mask(labels, 4, torch.Generator().manual_seed(seed))
    generator = torch.Generator().manual_seed(seed)
    for each, found in zip(labels, mask, strict=True):
        chosen = half_of_classes(each, 4, generator).nonzero().flatten().tolist()
        assert len(chosen) == 2
        expected = torch.isin(each, torch.tensor([*chosen, 255]))
        assert torch.equal(found[0], expected)


def test_mixture_takes_each_pixel_from_one_of_two_images():
    source, target = torch.rand(2, 3, 8, 8), torch.rand(1, 3, 5, 7) * 0.3
    labels = torch.randint(0, 6, (2, 8, 8))
    mixture = CrossDomainMixture(LabStatistics(), 6)
    mixed = mixture(source, labels, target, BlendedColour(0.0), torch.Generator().manual_seed(1))
    mask = own_style_mask(labels, 6, torch.Generator().manual_seed(1)).expand_as(source)
    assert torch.equal(mixed[mask], source[mask])
    assert torch.equal(mixed[~mask], LabStatistics()(source, target)[~mask])
    assert 0.2 < mask.float().mean() < 0.8


def test_colour_is_blended_by_weight_and_in_range():
    images = torch.rand(6, 3, 12, 12)
    full, part = (
        BlendedColour(weight)(images, torch.Generator().manual_seed(2)) for weight in (1.0, 0.4)
    )
    torch.testing.assert_close(part, 0.4 * full + 0.6 * images)
    assert full.min() >= 0.0 and full.max() <= 1.0
    assert (full - images).abs().amax((1, 2, 3)).gt(0.01).sum() >= 4
    assert torch.equal(BlendedColour(0.0)(images), images)


def test_colours_change_as_strongly_as_the_authors_do():
    assert BlendedColour.JITTER == (0.4, 0.4, 0.2, 0.1)  # brightness, contrast, saturation, hue
    grey = torch.full((500, 3, 1, 1), 0.5)
    swing = torch.linspace(-1.0, 1.0, 500)[:, None].repeat(1, 5) * torch.tensor([1, 0, 0, 0, 0])
    found = BlendedColour(1.0)._jitter(grey, swing)
    assert found.min().item() == pytest.approx(0.3) and found.max().item() == pytest.approx(0.7)


def test_grey_has_the_drawn_frequency():
    images = torch.tensor([0.9, 0.1, 0.2]).view(1, 3, 1, 1).repeat(400, 1, 2, 2)
    found = BlendedColour(1.0)(images, torch.Generator().manual_seed(0))
    grey = (found.amax(1) - found.amin(1)).amax((1, 2)) < 1e-5
    assert 0.24 < grey.float().mean() < 0.36


def test_sharpness_against_pillow():
    pixels = np.random.default_rng(0).integers(0, 256, (9, 11, 3), dtype=np.uint8)
    for factor in (0.5, 1.0, 1.5):
        rgb = torch.from_numpy(pixels).permute(2, 0, 1)[None] / 255.0
        found = adjust_sharpness(rgb, torch.full((1, 1, 1, 1), factor))[0].permute(1, 2, 0) * 255
        expected = np.asarray(ImageEnhance.Sharpness(Image.fromarray(pixels)).enhance(factor))
        inner = np.abs(found.numpy() - expected)[1:-1, 1:-1]
        assert inner.max() <= 1.0


def test_lab_of_known_colours():
    colours = torch.tensor([[1.0, 1, 1], [0, 0, 0], [1, 0, 0], [0, 0, 1]])
    lab = rgb_to_lab(colours.T[None, :, None])[0, :, 0].T
    expected = [[100, 0, 0], [0, 0, 0], [53.24, 80.09, 67.20], [32.30, 79.19, -107.86]]
    torch.testing.assert_close(lab, torch.tensor(expected), atol=0.05, rtol=0)


def test_lab_there_and_back():
    rgb = torch.rand(2, 3, 5, 5)
    torch.testing.assert_close(lab_to_rgb(rgb_to_lab(rgb)), rgb, atol=1e-5, rtol=0)


def test_lab_statistics_become_the_targets():
    source = 0.3 + 0.3 * torch.rand(2, 3, 32, 32)
    target = torch.tensor([0.5, 0.45, 0.4]).view(1, 3, 1, 1) + 0.1 * torch.rand(1, 3, 16, 24)
    found = rgb_to_lab(LabStatistics()(source, target))
    wanted = rgb_to_lab(target)
    torch.testing.assert_close(
        found.mean((2, 3)), wanted.mean((2, 3)).repeat(2, 1), atol=0.1, rtol=0
    )
    torch.testing.assert_close(
        found.std((2, 3)), wanted.std((2, 3)).repeat(2, 1), atol=0.1, rtol=0.02
    )


@pytest.mark.parametrize("translator", [LabStatistics(), FourierAmplitude(0.1)])
def test_an_image_in_its_own_style_is_itself(translator):
    images = torch.rand(2, 3, 15, 20)
    torch.testing.assert_close(translator(images, images), images, atol=1e-4, rtol=0)


def test_source_images_take_turns_with_target_images():
    source = torch.rand(1, 3, 8, 8).repeat(3, 1, 1, 1)
    target = torch.rand(2, 3, 8, 8) * torch.tensor([0.2, 1.0]).view(2, 1, 1, 1)
    found = LabStatistics()(source, target)
    torch.testing.assert_close(found[0], found[2])
    assert found[0].mean() < found[1].mean()


def test_fourier_amplitudes_against_a_loop():
    source, target = 0.5 + 0.1 * torch.rand(1, 3, 10, 14), 0.4 + 0.2 * torch.rand(1, 3, 10, 14)
    found = FourierAmplitude(0.2)(source, target)  # up to 2 cycles
    spectrum, like = np.fft.fft2(source[0].numpy()), np.fft.fft2(target[0].numpy())
    for row in range(10):
        for column in range(14):
            if min(row, 10 - row) <= 2 and min(column, 14 - column) <= 2:
                phase = np.angle(spectrum[:, row, column])
                spectrum[:, row, column] = np.abs(like[:, row, column]) * np.exp(1j * phase)
    np.testing.assert_allclose(found[0].numpy(), np.fft.ifft2(spectrum).real, atol=1e-5)


def test_fourier_share_of_zero_moves_the_mean_alone():
    source, target = 0.3 * torch.rand(1, 3, 9, 9), 0.5 + 0.1 * torch.rand(1, 3, 12, 6)
    found = FourierAmplitude(0.0)(source, target)
    resized = torch.nn.functional.interpolate(target, (9, 9), mode="bilinear", antialias=True)
    shift = resized.mean((2, 3), keepdim=True) - source.mean((2, 3), keepdim=True)
    torch.testing.assert_close(found, source + shift, atol=1e-5, rtol=0)


def test_learnt_translator_learns_the_targets_light():
    generator = torch.Generator().manual_seed(0)
    source, target = (
        torch.nn.functional.interpolate(each, (16, 16), mode="bilinear")
        for each in torch.rand(2, 4, 3, 5, 5, generator=generator)
    )
    target = 0.15 * target
    model = LearntTranslator(width=8)
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    first = sum(model.losses(source, target).values()).item()
    for _ in range(40):
        optimizer.zero_grad()
        loss = sum(model.losses(source, target).values())
        loss.backward()
        optimizer.step()
    found = model(source, target)
    assert loss.item() < 0.4 * first
    assert abs(found.mean() - target.mean()) < 0.25 * abs(source.mean() - target.mean())
    # Content: what was lighter than its surroundings still is.
    flat = torch.stack((found.mean(1).flatten(), source.mean(1).flatten()))
    assert torch.corrcoef(flat)[0, 1] > 0.7
    assert not found.requires_grad


@pytest.mark.parametrize("size", [(7, 9), (16, 20)])
def test_learnt_translator_keeps_any_size(size):
    assert LearntTranslator(4)(torch.rand(2, 3, *size), torch.rand(1, 3, 11, 13)).shape[2:] == size


@pytest.mark.parametrize(
    "build", [lambda: BlendedColour(1.2), lambda: FourierAmplitude(0.6), lambda: BlendedColour(-1)]
)
def test_values_out_of_range(build):
    with pytest.raises(ValueError, match="must be in"):
        build()


def test_a_learnt_translator_is_read_back(tmp_path):
    model, path = LearntTranslator(4), tmp_path / "translator.pth"
    torch.save(translator_file(model), path)
    source, target = torch.rand(2, 1, 3, 8, 8)
    found = build_translator("learnt", weights=str(path))
    assert torch.equal(found(source, target), model(source, target))
    assert not any(each.requires_grad for each in found.parameters())


@pytest.mark.parametrize(
    "content", [b"", b"no translator", {"width": 4, "translator": {}}, {"model": {}}, [1, 2]]
)
def test_files_that_are_no_translator(tmp_path, content):
    path = tmp_path / "translator.pth"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        torch.save(content, path)
    with pytest.raises(ConfigError, match=r"translator\.pth: .*train_translator"):
        build_translator("learnt", weights=str(path))


def test_no_translator_file_and_no_such_name():
    with pytest.raises(ConfigError, match="no file given"):
        build_translator("learnt")
    with pytest.raises(ConfigError, match="lab, fourier, learnt"):
        build_translator("photoshop")
