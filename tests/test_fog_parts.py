"""What the fog model needs, against slow loops and numbers worked out by hand."""

import math

import numpy as np
import pytest

from mic_det.data.fog import (
    atmospheric_light,
    blend,
    dark_channel,
    decode_disparity,
    distance_from_depth,
    distance_from_disparity,
    fill_missing,
    flat_road_distance,
    guided_filter,
    ray_lengths,
    sky_mask,
)

NAN, INF = math.nan, math.inf


def test_blend_by_hand():
    image = np.array([[[100, 0, 255]]], np.uint8)
    foggy = blend(image, np.array([[0.25]]), (200, 100, 255))
    assert foggy.dtype == np.uint8
    assert foggy.tolist() == [[[175, 75, 255]]]
    with pytest.raises(ValueError, match="transmission must be in"):
        blend(image, np.array([[1.01]]), 0)
    with pytest.raises(ValueError, match="transmission has shape"):
        blend(image, np.ones((1, 2)), 0)


# ---- distances -------------------------------------------------------------------------------


def test_disparity_decoding_by_hand():
    raw = np.array([[0, 1, 257, 65535]], np.uint16)
    np.testing.assert_array_equal(decode_disparity(raw), [[NAN, 0.0, 1.0, 65534 / 256]])
    with pytest.raises(ValueError, match="uint16"):
        decode_disparity(raw.astype(np.uint8))


def test_distance_from_disparity_by_hand():
    # f = 2000 px, baseline 0.2 m: depth is 400 / disparity. Pixel (u, v) = (1500, 0) with the
    # principal point at (0, 0) looks along (0.75, 0, 1), which is 1.25 long.
    disparity = np.full((1, 1501), 20.0)
    disparity[0, 1] = 0
    distance = distance_from_disparity(disparity, 0.2, 2000.0, 2000.0, 0.0, 0.0)
    assert distance[0, 0] == pytest.approx(20.0)
    assert distance[0, 1500] == pytest.approx(25.0)
    assert distance[0, 1] == INF


def test_ray_lengths_equal_a_loop():
    rays = ray_lengths((5, 7), 30.0, 40.0, 2.5, 1.5)
    for v in range(5):
        for u in range(7):
            expected = math.hypot((u - 2.5) / 30, (v - 1.5) / 40, 1)
            assert rays[v, u] == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    ("rows", "filled"),
    [
        ([[5, NAN, NAN, 2]], [[5, 2, 2, 2]]),  # the farther end, the background
        ([[2, NAN, 5, NAN, 3]], [[2, 2, 5, 3, 3]]),
        ([[NAN, 4, NAN]], [[4, 4, 4]]),  # ends of a row take their one neighbour
        ([[NAN, NAN], [1, NAN], [NAN, NAN]], [[1, 1], [1, 1], [1, 1]]),
        ([[1, 1], [NAN, NAN], [NAN, NAN], [7, 7]], [[1, 1], [1, 1], [7, 7], [7, 7]]),
        ([[0.0, NAN, 3.0]], [[0.0, 0.0, 3.0]]),
    ],
)
def test_filling_by_hand(rows, filled):
    rows = np.array(rows, float)
    before = rows.copy()
    np.testing.assert_array_equal(fill_missing(rows), filled)
    np.testing.assert_array_equal(rows, before)


def test_filling_equals_a_loop():
    rng = np.random.default_rng(0)
    disparity = rng.uniform(1, 90, (12, 17))
    disparity[rng.random(disparity.shape) < 0.6] = NAN
    disparity[4:6] = NAN
    slow = disparity.copy()
    for row, given in zip(slow, disparity, strict=True):
        for x in np.flatnonzero(np.isnan(given)):
            left = [v for v in given[:x] if not np.isnan(v)][-1:]
            right = [v for v in given[x + 1 :] if not np.isnan(v)][:1]
            row[x] = min(left + right, default=NAN)
    slow[4], slow[5] = slow[3], slow[6]
    np.testing.assert_array_equal(fill_missing(disparity), slow)
    with pytest.raises(ValueError, match="no pixel has a value"):
        fill_missing(np.full((2, 2), NAN))


def test_sky_is_bright_blue_and_reaches_the_top():
    image = np.zeros((6, 6, 3), np.uint8)
    image[:2, :, 2] = 250  # sky
    image[:2, 2] = 60  # a lamp post in front of it
    image[4, 4] = 250  # a white car: as bright, but on the road
    image[2, 5, 2] = 215  # a paler bit of sky, 0.86 of it
    image[2, 0, 2] = 205  # a façade, 0.82 of it
    candidates = np.ones((6, 6), bool)
    candidates[0, 0] = False  # has a distance of its own
    expected = np.zeros((6, 6), bool)
    expected[:2] = True
    expected[:2, 2] = False
    expected[2, 5] = True
    expected[0, 0] = False
    expected[:, 0] &= False  # (1, 0) reaches the top only by way of (1, 1)
    expected[1, 0] = True
    np.testing.assert_array_equal(sky_mask(image, candidates), expected)


def test_depth_maps_are_filled_with_what_is_behind():
    depth = np.array([[4.0, NAN, 0.0, 9.0], [INF, 2.0, NAN, 2.0]])
    np.testing.assert_allclose(distance_from_depth(depth), [[4, 9, 9, 9], [INF, 2, 2, 2]])
    with pytest.raises(ValueError, match=">= 0"):
        distance_from_depth(np.array([[-1.0, 2.0]]))


def test_depth_along_the_axis_becomes_distance():
    # 90 degrees over 4 pixels: f = 2; the outermost pixel centres are at 1.5 / 2 from the axis.
    distance = distance_from_depth(np.full((1, 4), 8.0), fov=90.0)
    np.testing.assert_allclose(distance[0, [0, 3]], 8 * 1.25)
    np.testing.assert_allclose(distance[0, [1, 2]], 8 * math.hypot(0.25, 1))


def test_flat_road_by_hand():
    # 90 degrees over 201 pixels: f = 100.5. Horizon at row 100 of 0..200, camera 1.5 m up.
    distance = flat_road_distance((201, 201), 0.5, 1.5, 90.0, INF, 150.0)
    assert (distance[:101] == 150).all()  # on the horizon and above
    depth = 100.5 * 1.5 / 50
    assert distance[150, 100] == pytest.approx(depth * math.hypot(1, 50 / 100.5))
    assert distance[150, 20] == pytest.approx(depth * math.hypot(1, 50 / 100.5, 80 / 100.5))
    assert distance[101, 100] == 150  # 150.75 m of depth are cut
    assert np.all(np.diff(distance[:, 100]) <= 0), "the road comes nearer row by row"


def test_houses_line_the_flat_road():
    distance = flat_road_distance((201, 201), 0.5, 1.5, 90.0, 10.0, 150.0)
    # At 45 degrees a wall 10 m aside is 10 m ahead, and here at eye level.
    assert distance[100, 0] == pytest.approx(10 / (100 / 100.5) * math.hypot(1, 100 / 100.5))
    assert distance[100, 100] == 150
    assert np.all(np.diff(distance[50, :101]) >= 0), "far away in the middle, near at the sides"
    np.testing.assert_allclose(distance, distance[:, ::-1])


@pytest.mark.parametrize(
    "arguments",
    [
        {"horizon": -0.1},
        {"horizon": 1.1},
        {"camera_height": 0},
        {"half_width": 0},
        {"far": 0},
        {"far": NAN},
        {"fov": 0},
        {"fov": 180},
    ],
)
def test_flat_road_out_of_range(arguments):
    with pytest.raises(ValueError, match="must be"):
        flat_road_distance((4, 4), **arguments)


# ---- light -----------------------------------------------------------------------------------


def test_dark_channel_equals_a_loop():
    image = np.random.default_rng(0).integers(0, 256, (11, 13, 3)).astype(np.uint8)
    fast = dark_channel(image, 5)
    for y in range(11):
        for x in range(13):
            window = image[max(y - 2, 0) : y + 3, max(x - 2, 0) : x + 3]
            assert fast[y, x] == window.min()
    with pytest.raises(ValueError, match="odd"):
        dark_channel(image, 4)


def test_light_is_a_pixel_of_the_haze_and_not_of_a_small_white_thing():
    rng = np.random.default_rng(0)
    image = rng.integers(0, 120, (60, 80, 3)).astype(np.uint8)
    haze = rng.integers(200, 231, (20, 80, 3))
    image[:20] = haze
    image[40:45, 40:45] = 255  # a white thing, smaller than the window
    dark = dark_channel(image)
    count = 5  # 0.1 % of 4,800, made odd
    order = sorted(range(dark.size), key=lambda i: (-int(dark.ravel()[i]), i))[:count]
    colours = image.reshape(-1, 3)[order].astype(float)
    by_grey = sorted(colours.tolist(), key=lambda c: 0.299 * c[0] + 0.587 * c[1] + 0.114 * c[2])
    assert atmospheric_light(image).tolist() == by_grey[2]
    assert atmospheric_light(image, "brightest").tolist() == by_grey[-1]
    assert all(200 <= channel <= 230 for channel in atmospheric_light(image, "brightest"))


def test_light_of_a_tiny_image_and_bad_arguments():
    assert atmospheric_light(np.full((1, 1, 3), (10, 20, 30), np.uint8)).tolist() == [10, 20, 30]
    with pytest.raises(ValueError, match="pick"):
        atmospheric_light(np.zeros((1, 1, 3), np.uint8), "darkest")
    with pytest.raises(ValueError, match="share"):
        atmospheric_light(np.zeros((1, 1, 3), np.uint8), share=0)


# ---- smoothing -------------------------------------------------------------------------------


def test_guided_filter_equals_a_loop():
    rng = np.random.default_rng(0)
    values, guide = rng.random((9, 11)), rng.random((9, 11))
    radius, eps = 2, 0.01
    windows = {
        (y, x): np.s_[max(y - radius, 0) : y + radius + 1, max(x - radius, 0) : x + radius + 1]
        for y in range(9)
        for x in range(11)
    }
    slope, offset = np.empty_like(values), np.empty_like(values)
    for place, window in windows.items():
        p, g = values[window], guide[window]
        slope[place] = ((g * p).mean() - g.mean() * p.mean()) / (g.var() + eps)
        offset[place] = p.mean() - slope[place] * g.mean()
    expected = np.empty_like(values)
    for place, window in windows.items():
        expected[place] = slope[window].mean() * guide[place] + offset[window].mean()
    np.testing.assert_allclose(guided_filter(values, guide, radius, eps), expected, atol=1e-12)


def test_guided_filter_keeps_edges_of_the_guide_and_smooths_the_rest():
    guide = np.zeros((20, 40))
    guide[:, 20:] = 1.0
    noise = np.random.default_rng(0).normal(0, 0.1, guide.shape)
    smooth = guided_filter(guide + noise, guide, 4, 1e-3)
    assert abs(smooth - guide).max() < 0.12
    assert smooth[:, :18].std() < 0.3 * noise.std()
    assert np.array_equal(guided_filter(noise, guide, 0), noise)
    with pytest.raises(ValueError, match="shape"):
        guided_filter(noise, guide[1:])
    with pytest.raises(ValueError, match="eps"):
        guided_filter(noise, guide, eps=0)
