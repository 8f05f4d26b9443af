"""StudentAugment: colour operations against torchvision's, blur against loops, the draws."""

import colorsys
import math

import pytest
import torch
import torchvision.transforms.functional as TF
from hypothesis import given, settings
from hypothesis import strategies as st

from mic_det.core import StudentAugment
from mic_det.core.augment import (
    adjust_brightness,
    adjust_contrast,
    adjust_saturation,
    gaussian_blur,
    rotate_hue,
)

OFF = {"jitter_probability": 0.0, "blur_probability": 0.0}
JITTER_ONLY = {"jitter_probability": 1.0, "blur_probability": 0.0}
BLUR_ONLY = {"jitter_probability": 0.0, "blur_probability": 1.0}


def generator(seed=3):
    return torch.Generator().manual_seed(seed)


def factors(*values):
    return torch.tensor(values).view(-1, 1, 1, 1)


def awkward_images():
    """Noise, ties between channels, greys, black, white, pure colours."""
    noise = torch.rand(3, 9, 11)
    few_levels = torch.randint(0, 3, (3, 9, 11)) / 2
    grey = torch.rand(1, 9, 11).expand(3, -1, -1)
    pure = torch.zeros(3, 9, 11)
    pure[0, :, :4], pure[1, :, 4:8], pure[2, :, 8:] = 1.0, 1.0, 1.0
    flat = torch.stack([torch.zeros(9, 11), torch.ones(9, 11), torch.ones(9, 11)])
    return torch.stack([noise, few_levels, grey, pure, flat])


# --- colour


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (adjust_brightness, TF.adjust_brightness),
        (adjust_contrast, TF.adjust_contrast),
        (adjust_saturation, TF.adjust_saturation),
    ],
)
@pytest.mark.parametrize("shift", [-1.0, -0.2, 0.0, 0.2, 0.7])
def test_blends_are_torchvisions(ours, theirs, shift):
    images = awkward_images()
    each = [1 + shift * share for share in (1.0, 0.9, 0.5, 0.2, 0.7)]
    expected = torch.stack([theirs(im, f) for im, f in zip(images, each, strict=True)])
    assert torch.allclose(ours(images, factors(*each)), expected, atol=1e-5)


@pytest.mark.parametrize("turns", [-0.5, -0.2, -0.05, 0.0, 0.1, 0.2, 0.5])
def test_hue_is_torchvisions(turns):
    images = awkward_images()
    each = [turns * share for share in (1.0, 0.9, 0.5, 0.2, 0.7)]
    expected = torch.stack([TF.adjust_hue(im, f) for im, f in zip(images, each, strict=True)])
    assert torch.allclose(rotate_hue(images, factors(*each)), expected, atol=1e-4)


@pytest.mark.parametrize("turns", [0.0, 1.0, -1.0, 2.0])
def test_full_turns_of_the_hue_change_nothing(turns):
    images = awkward_images()
    assert torch.allclose(rotate_hue(images, factors(*[turns] * 5)), images, atol=1e-5)


def test_a_third_of_a_turn_goes_from_red_to_green():
    red = torch.tensor([0.9, 0.1, 0.1]).view(1, 3, 1, 1)
    green = torch.tensor([0.1, 0.9, 0.1]).view(1, 3, 1, 1)
    assert torch.allclose(rotate_hue(red, factors(1 / 3)), green, atol=1e-6)
    assert torch.allclose(rotate_hue(green, factors(-1 / 3)), red, atol=1e-6)


@settings(deadline=None, max_examples=30)
@given(st.tuples(*[st.floats(0, 1, width=32)] * 3), st.floats(-1, 1, width=32))
def test_hue_of_any_colour(colour, turns):
    h, s, v = colorsys.rgb_to_hsv(*colour)
    expected = torch.tensor(colorsys.hsv_to_rgb((h + turns) % 1.0, s, v))
    result = rotate_hue(torch.tensor(colour).view(1, 3, 1, 1), factors(turns)).flatten()
    assert torch.allclose(result, expected.float(), atol=1e-4)


# --- blur


def slow_blur(image, sigma, reach):
    """Gaussian blur of a list of rows in both directions at once, borders mirrored."""
    height, width = len(image), len(image[0])

    def mirrored(i, size):
        return -i if i < 0 else 2 * (size - 1) - i if i >= size else i

    weights = {
        (dy, dx): math.exp(-(dy * dy + dx * dx) / (2 * sigma * sigma))
        for dy in range(-reach, reach + 1)
        for dx in range(-reach, reach + 1)
    }
    total = sum(weights.values())
    return [
        [
            sum(
                weight * image[mirrored(y + dy, height)][mirrored(x + dx, width)]
                for (dy, dx), weight in weights.items()
            )
            / total
            for x in range(width)
        ]
        for y in range(height)
    ]


def test_blur_against_a_slow_loop():
    images = torch.rand(2, 3, 9, 8)
    sigmas = torch.tensor([0.4, 1.15])
    blurred = gaussian_blur(images, sigmas)
    for i, sigma in enumerate(sigmas.tolist()):
        for channel in range(3):
            expected = torch.tensor(slow_blur(images[i, channel].tolist(), sigma, reach=4))
            assert torch.allclose(blurred[i, channel], expected, atol=1e-5)


@pytest.mark.parametrize("sigma", [0.15, 0.5, 0.8, 1.15, 2.0])
def test_blur_is_torchvisions_with_a_big_kernel(sigma):
    image = torch.rand(3, 30, 37)
    expected = TF.gaussian_blur(image, [25, 25], [sigma, sigma])
    result = gaussian_blur(image[None], torch.tensor([sigma]))[0]
    assert torch.allclose(result, expected, atol=4e-3)  # what lies beyond three sigma


@pytest.mark.parametrize("size", [(1, 1), (2, 9), (9, 2), (4, 4), (5, 5)])
def test_blur_of_tiny_images_keeps_the_mean_colour(size):
    flat = torch.tensor([0.2, 0.5, 0.9]).view(1, 3, 1, 1).expand(2, 3, *size)
    assert torch.allclose(gaussian_blur(flat, torch.tensor([0.3, 1.15])), flat, atol=1e-6)
    noise = torch.rand(2, 3, *size)
    blurred = gaussian_blur(noise, torch.tensor([0.3, 1.15]))
    assert blurred.shape == noise.shape
    assert blurred.amin() >= noise.amin() - 1e-6
    assert blurred.amax() <= noise.amax() + 1e-6


# --- the draws


def test_probability_zero_changes_nothing():
    images = torch.rand(5, 3, 8, 9)
    assert torch.equal(StudentAugment(**OFF)(images), images)


def test_the_image_given_is_not_changed():
    images = torch.rand(3, 3, 8, 9)
    before = images.clone()
    StudentAugment(jitter_probability=1.0, blur_probability=1.0)(images)
    assert torch.equal(images, before)


@pytest.mark.parametrize("only", [JITTER_ONLY, BLUR_ONLY])
def test_each_image_draws_for_itself(only):
    images = torch.rand(1, 3, 8, 9).expand(6, -1, -1, -1)
    results = StudentAugment(**only)(images)
    for i in range(6):
        for j in range(i):
            assert (results[i] - results[j]).abs().max() > 1e-4


def test_each_call_draws_anew():
    augment = StudentAugment(jitter_probability=1.0)
    image = torch.rand(3, 8, 9)
    assert (augment(image) - augment(image)).abs().max() > 1e-4


def test_an_image_does_not_depend_on_its_neighbours():
    """Contrast uses the image's own mean, the blur its own sigma."""
    augment = StudentAugment(jitter_probability=1.0, blur_probability=0.0)
    images = torch.rand(4, 3, 8, 9)
    others = torch.rand(4, 3, 8, 9)
    others[2] = images[2]
    together = augment(images, generator=generator())
    elsewhere = augment(others, generator=generator())
    assert torch.allclose(together[2], elsewhere[2], atol=1e-6)


@pytest.mark.parametrize(("jitter_p", "blur_p"), [(0.8, 0.5), (0.3, 0.9)])
def test_shares_of_jittered_and_blurred_images(jitter_p, blur_p):
    count = 3000
    images = torch.rand(1, 3, 6, 6).expand(count, -1, -1, -1)
    kwargs = {"jitter_probability": jitter_p, "blur_probability": blur_p}
    both = StudentAugment(**kwargs)(images)
    jitter = StudentAugment(**(kwargs | {"blur_probability": 0.0}))(images)
    blur = StudentAugment(**(kwargs | {"jitter_probability": 0.0}))(images)
    for result, p in (
        (jitter, jitter_p),
        (blur, blur_p),
        (both, 1 - (1 - jitter_p) * (1 - blur_p)),
    ):
        share = (result != images).flatten(1).any(1).float().mean().item()
        assert abs(share - p) < 5 * (p * (1 - p) / count) ** 0.5


def test_defaults_are_those_of_the_design():
    augment = StudentAugment()
    assert (augment.jitter, augment.hue, augment.jitter_probability) == (0.2, 0.2, 0.8)
    assert (augment.blur_sigma, augment.blur_probability) == ((0.15, 1.15), 0.5)


def uniform(values, low, high):
    """Whether many draws fill [low, high] evenly."""
    values = (values - low) / (high - low)
    assert values.min() >= -1e-3 and values.max() <= 1 + 1e-3
    counts = torch.histc(values.clamp(0, 1), bins=4, min=0, max=1) / len(values)
    assert ((counts - 0.25).abs() < 5 * (0.25 * 0.75 / len(values)) ** 0.5).all()


def test_brightness_factor_is_uniform():
    grey = torch.full((2000, 3, 2, 2), 0.5)  # contrast, saturation and hue leave it alone
    uniform(StudentAugment(jitter=0.2, **JITTER_ONLY)(grey)[:, 0, 0, 0] / 0.5, 0.8, 1.2)


def test_hue_turn_is_uniform_both_ways():
    red = torch.tensor([0.8, 0.2, 0.2]).view(1, 3, 1, 1).expand(2000, -1, 2, 2)
    results = StudentAugment(jitter=0.0, hue=0.2, **JITTER_ONLY)(red)[:, :, 0, 0]
    turns = torch.tensor([colorsys.rgb_to_hsv(*colour)[0] for colour in results.tolist()])
    uniform(torch.where(turns > 0.5, turns - 1, turns), -0.2, 0.2)


def unrelated(*values):
    """Whether draws, given as rows, are uncorrelated."""
    table = torch.corrcoef(torch.stack(values)) - torch.eye(len(values))
    assert table.abs().max() < 5 / len(values[0]) ** 0.5


def test_contrast_factor_is_uniform_and_independent():
    ramp = torch.linspace(0.3, 0.6, 8).view(1, 1, 1, 8).expand(2000, 3, 2, -1)  # grey
    results = StudentAugment(jitter=0.2, **JITTER_ONLY)(ramp)[:, 0, 0]
    brightness = results.mean(1) / 0.45
    contrast = (results[:, -1] - results[:, 0]) / 0.3 / brightness
    uniform(brightness, 0.8, 1.2)
    uniform(contrast, 0.8, 1.2)
    unrelated(brightness, contrast)


def test_saturation_factor_is_independent():
    """The colour of a flat image is moved by contrast and by saturation: by their product."""
    flat = torch.tensor([0.6, 0.4, 0.4]).view(1, 3, 1, 1).expand(2000, -1, 2, 2)
    results = StudentAugment(jitter=0.2, hue=0.0, **JITTER_ONLY)(flat)[:, :, 0, 0]
    luma = torch.tensor([0.2989, 0.587, 0.114])
    brightness = (results @ luma) / (flat[0, :, 0, 0] @ luma)
    product = (results[:, 0] - results[:, 1]) / 0.2 / brightness
    unrelated(brightness, product)
    assert product.min() < 0.8 and product.max() > 1.2, "two factors, not one"
    variance = 0.4**2 / 12  # of each factor; the product's is 2 v + v^2, and 4 v were they one
    assert float(product.var()) == pytest.approx(2 * variance + variance**2, rel=0.15)


def test_hue_and_sigma_are_independent_of_the_rest():
    count = 2000
    spot = torch.zeros(1, 3, 9, 9)
    spot[0, :, 4, 4] = torch.tensor([0.8, 0.2, 0.2])
    spot = spot.expand(count, -1, -1, -1)
    augment = StudentAugment(0.2, 0.2, jitter_probability=1.0, blur_probability=1.0)
    results = augment(spot)
    turns = [colorsys.rgb_to_hsv(*each)[0] for each in results[:, :, 4, 4].tolist()]
    turns = torch.tensor([turn - 1 if turn > 0.5 else turn for turn in turns])
    total = results.sum((1, 2, 3))
    sharpness = results[:, :, 4, 4].sum(1) / total
    value = results.amax(1).sum((1, 2))
    unrelated(turns, sharpness, value)


def test_sigma_covers_its_range():
    impulse = torch.zeros(1, 3, 11, 11)
    impulse[..., 5, 5] = 1.0
    peaks = StudentAugment(**BLUR_ONLY)(impulse.expand(1500, -1, -1, -1))[:, 0, 5, 5]

    def peak(sigma):
        return 1 / sum(math.exp(-i * i / (2 * sigma * sigma)) for i in range(-4, 5)) ** 2

    assert peaks.max() <= peak(0.15) + 1e-5
    assert peaks.min() >= peak(1.15) - 1e-5
    assert peaks.min() < peak(1.13)
    below_middle = (peaks > peak(0.65)).float().mean()
    assert abs(below_middle - 0.5) < 0.07


def test_generator_decides():
    augment, images = StudentAugment(), torch.rand(6, 3, 8, 9)
    first = augment(images, generator=generator(5))
    torch.manual_seed(99)
    assert torch.equal(first, augment(images, generator=generator(5)))
    assert not torch.equal(first, augment(images, generator=generator(6)))


# --- forms of images


def test_bgr_is_rgb_flipped():
    images = torch.rand(8, 3, 8, 9) * 255
    rgb = StudentAugment(max_value=255.0, channels="RGB")(images, generator=generator())
    bgr = StudentAugment(max_value=255.0, channels="BGR")(images.flip(1), generator=generator())
    assert torch.allclose(bgr.flip(1), rgb, atol=1e-3)
    as_if_rgb = StudentAugment(max_value=255.0)(images.flip(1), generator=generator())
    assert (as_if_rgb - bgr).abs().max() > 1, "the order of channels matters"


@pytest.mark.parametrize("shape", [(3, 8, 9), (1, 3, 8, 9), (4, 3, 8, 9)])
@pytest.mark.parametrize(
    "dtype",
    [torch.uint8, torch.int64, torch.float16, torch.bfloat16, torch.float32, torch.float64],
)
def test_shape_and_dtype(shape, dtype):
    images = torch.randint(0, 256, shape).to(dtype)
    result = StudentAugment(max_value=255.0, jitter_probability=1.0, blur_probability=1.0)(images)
    assert result.shape == images.shape
    assert result.dtype == (dtype if dtype.is_floating_point else torch.float32)


def test_uint8_is_the_same_as_float():
    images = torch.randint(0, 256, (6, 3, 8, 9), dtype=torch.uint8)
    augment = StudentAugment(max_value=255.0)
    result = augment(images, generator=generator())
    assert torch.equal(result, augment(images.float(), generator=generator()))
    assert result.amax() > 1.5, "still in [0, 255]"


def test_images_that_are_not_contiguous():
    images = torch.rand(4, 8, 9, 3).permute(0, 3, 1, 2)
    augment = StudentAugment(jitter_probability=1.0, blur_probability=1.0)
    first = augment(images, generator=generator())
    assert torch.allclose(first, augment(images.contiguous(), generator=generator()), atol=1e-6)
    assert augment(images[0]).shape == images[0].shape


def test_max_value_is_only_a_unit():
    images = torch.rand(6, 3, 8, 9)
    unit = StudentAugment()(images, generator=generator())
    bytes_ = StudentAugment(max_value=255.0)(images * 255, generator=generator())
    assert torch.allclose(bytes_ / 255, unit, atol=1e-5)


@settings(deadline=None, max_examples=30)
@given(
    seed=st.integers(0, 2**31),
    height=st.integers(1, 12),
    width=st.integers(1, 12),
    jitter=st.floats(0, 1),
    hue=st.floats(0, 0.5),
    high=st.floats(0.2, 4.0),
    max_value=st.sampled_from([1.0, 255.0]),
    levels=st.sampled_from([2, 3, 256]),
)
def test_range_is_kept(seed, height, width, jitter, hue, high, max_value, levels):
    torch.manual_seed(seed)
    images = torch.randint(0, levels, (3, 3, height, width)) / (levels - 1) * max_value
    augment = StudentAugment(
        jitter, hue, 1.0, (0.15, high), 1.0, max_value=max_value, channels="BGR"
    )
    result = augment(images)
    assert result.shape == images.shape
    assert torch.isfinite(result).all()
    assert result.amin() >= -1e-5 * max_value
    assert result.amax() <= (1 + 1e-5) * max_value


@pytest.mark.parametrize(
    ("kwargs", "match"),
    [
        ({"jitter": -0.1}, "jitter"),
        ({"jitter": 1.1}, "jitter"),
        ({"hue": 0.6}, "hue"),
        ({"hue": -0.1}, "hue"),
        ({"jitter_probability": 1.5}, "probability"),
        ({"blur_probability": -0.5}, "probability"),
        ({"blur_sigma": (0.0, 1.0)}, "sigma"),
        ({"blur_sigma": (2.0, 1.0)}, "sigma"),
        ({"channels": "GBR"}, "channels"),
    ],
)
def test_values_out_of_range(kwargs, match):
    with pytest.raises(ValueError, match=match):
        StudentAugment(**kwargs)


def test_mixed_precision_around_it_changes_nothing():
    augment = StudentAugment(jitter_probability=1.0, blur_probability=1.0)
    images = torch.rand(2, 3, 20, 30)
    plain = augment(images, generator=torch.Generator().manual_seed(1))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = augment(images, generator=torch.Generator().manual_seed(1))
    assert mixed.dtype == torch.float32
    assert torch.equal(mixed, plain)
