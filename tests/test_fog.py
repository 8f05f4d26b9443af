"""The fog formula against hand-computed numbers and a slow loop."""

import math

import numpy as np
import pytest

from mic_det.data.fog import add_fog, transmission


def test_transmission_by_hand():
    distance = np.array([[0.0, 10.0], [100.0, np.inf]])
    expected = [[1.0, math.exp(-0.5)], [math.exp(-5.0), 0.0]]
    np.testing.assert_allclose(transmission(distance, 0.05), expected, rtol=1e-12)


def test_no_fog_is_fully_clear_even_for_the_sky():
    assert np.array_equal(transmission([0.0, 3.0, np.inf], 0.0), [1.0, 1.0, 1.0])


def test_add_fog_by_hand():
    image = np.array([[[100, 200, 0]]], np.uint8)
    distance = np.array([[math.log(2) / 0.1]])  # transmission is exactly one half
    foggy = add_fog(image, distance, 0.1, (200, 200, 50))
    assert foggy.dtype == np.uint8
    assert foggy.tolist() == [[[150, 200, 25]]]


def test_add_fog_equals_a_loop_over_pixels():
    rng = np.random.default_rng(0)
    image = rng.uniform(0, 255, (7, 9, 3))
    distance = rng.uniform(0, 80, (7, 9))
    light, beta = (180.0, 190.0, 200.0), 0.07
    slow = np.empty_like(image)
    for y in range(7):
        for x in range(9):
            t = math.exp(-beta * distance[y, x])
            for c in range(3):
                slow[y, x, c] = image[y, x, c] * t + light[c] * (1 - t)
    np.testing.assert_allclose(add_fog(image, distance, beta, light), slow, rtol=1e-12)


def test_far_pixels_become_the_light_and_near_ones_stay():
    image = np.zeros((1, 2, 3), np.float32)
    foggy = add_fog(image, np.array([[0.0, 1e6]], np.float32), 0.06, 200.0)
    assert foggy.dtype == np.float32
    assert foggy[0, 0].tolist() == [0, 0, 0]
    assert foggy[0, 1].tolist() == [200, 200, 200]


@pytest.mark.parametrize("beta", [-0.1, math.nan, math.inf])
def test_bad_beta(beta):
    with pytest.raises(ValueError, match="beta"):
        transmission(np.ones(2), beta)


@pytest.mark.parametrize("distance", [-1.0, math.nan])
def test_bad_distance(distance):
    with pytest.raises(ValueError, match="distance"):
        transmission(np.array([1.0, distance]), 0.1)


@pytest.mark.parametrize(
    ("image", "distance", "light", "word"),
    [
        (np.zeros((4, 4)), np.ones((4, 4)), 200.0, "image"),
        (np.zeros((4, 4, 3), np.int64), np.ones((4, 4)), 200.0, "image"),
        (np.zeros((4, 4, 3)), np.ones((4, 5)), 200.0, "distance"),
        (np.zeros((4, 4, 3)), np.ones((4, 4)), (1.0, 2.0), "light"),
        (np.zeros((4, 4, 3)), np.ones((4, 4)), -1.0, "light"),
        (np.zeros((4, 4, 3), np.uint8), np.ones((4, 4)), 256.0, "light"),
    ],
)
def test_bad_arguments(image, distance, light, word):
    with pytest.raises(ValueError, match=word):
        add_fog(image, distance, 0.1, light)
