"""From the drawn scene to a photograph of it: clear, foggy or at night, with sensor noise."""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from ..fog import add_fog
from .canvas import Glow
from .spec import FOG_BETA_RANGE, FOG_LIGHT_RANGE


@dataclass(frozen=True)
class Radiance:
    """A drawn scene before any weather.

    image: (H, W, 3) float32 RGB in 0..255; depth: (H, W) float32 metres along the line of sight;
    elements: (H, W) uint8 ids of what is seen; glows: shapes that shine at night.
    """

    image: NDArray[np.float32]
    depth: NDArray[np.float32]
    elements: NDArray[np.uint8]
    glows: list[Glow]


def fog_parameters(rng: np.random.Generator) -> tuple[float, NDArray[np.float32]]:
    """Attenuation in 1/m and the greyish atmospheric light (3,) in 0..255 of one image."""
    beta = float(rng.uniform(*FOG_BETA_RANGE))
    light = rng.uniform(*FOG_LIGHT_RANGE) + rng.uniform(-5, 5, 3)
    return beta, light.astype(np.float32)


def sensor(
    image: NDArray[np.float32], rng: np.random.Generator, low: float, high: float
) -> NDArray[np.uint8]:
    """Add Gaussian noise with a strength drawn from low..high (grey levels); (H, W, 3) uint8."""
    sigma = rng.uniform(low, high)
    noise = rng.standard_normal(image.shape, dtype=np.float32)
    noise *= np.float32(sigma)
    # OpenCV rounds to the nearest even number and clips to 0..255.
    return cv2.add(image, noise, dtype=cv2.CV_8U)


def foggy_before_noise(
    scene: Radiance, rng: np.random.Generator
) -> tuple[NDArray[np.float32], float, NDArray[np.float32]]:
    """The scene in fog without noise (H, W, 3) float32, with the beta and light drawn for it."""
    beta, light = fog_parameters(rng)
    return add_fog(scene.image, scene.depth, beta, light), beta, light


def night_before_noise(scene: Radiance, rng: np.random.Generator) -> NDArray[np.float32]:
    """The scene at night: dark and blue, with lamps, lit windows and our own headlights."""
    height, width = scene.depth.shape
    ambient = rng.uniform(0.16, 0.26) * np.array([0.75, 0.85, 1.2], np.float32)
    x = np.arange(width, dtype=np.float32)
    y = np.arange(height, dtype=np.float32)[:, None]
    beam = np.exp(-(((x - width / 2) / (0.36 * width)) ** 2) - ((y - 0.62 * height) / 40) ** 2)
    reach = np.exp(-((scene.depth / rng.uniform(16, 24)) ** 2))
    ours = rng.uniform(0.35, 0.6) * beam * reach
    light = cv2.merge(
        [
            base + ours * np.float32(tone)
            for base, tone in zip(ambient, (1.0, 0.95, 0.82), strict=True)
        ]
    )
    emission = np.zeros_like(scene.image)
    seen = set(np.flatnonzero(np.bincount(scene.elements.ravel())).tolist())
    for glow in scene.glows:
        if glow.element in seen:
            _emit(emission, scene.elements, glow)
    halo = cv2.GaussianBlur(emission, (0, 0), 2.0) * 0.5 + cv2.GaussianBlur(
        emission, (0, 0), 7.0
    ) * np.float32(0.55)
    # Lamps also light up what is around them, not only the air.
    spill = cv2.GaussianBlur(emission, (0, 0), 14.0) / 255 * 1.5
    light += np.minimum(spill, 0.5)
    night = scene.image * light
    return night + emission * 0.75 + halo


def _emit(emission: NDArray[np.float32], elements: NDArray[np.uint8], glow: Glow) -> None:
    """Add a glow where its own element is what the camera sees."""
    height, width = elements.shape
    x0, y0 = (max(math.floor(v), 0) for v in glow.polygon.min(axis=0).tolist())
    x1, y1 = (math.ceil(v) + 1 for v in glow.polygon.max(axis=0).tolist())
    x1, y1 = min(x1, width), min(y1, height)
    if x0 >= x1 or y0 >= y1:
        return
    mask = np.zeros((y1 - y0, x1 - x0), np.uint8)
    points = np.clip((glow.polygon - (x0, y0) - 0.5) * 16, -30000, 30000)
    cv2.fillPoly(mask, [np.rint(points).astype(np.int32)], 1, cv2.LINE_8, 4)
    seen = elements[y0:y1, x0:x1] == glow.element
    seen &= mask.view(bool)
    if not seen.any():
        return
    # fillPoly covers at least one pixel, but a small far lamp fills only part of it.
    area = cv2.contourArea(glow.polygon.astype(np.float32))
    share = min(1.0, max(area, 0.08) / max(cv2.countNonZero(mask), 1))
    emission[y0:y1, x0:x1][seen] += np.float32(share) * np.array(glow.colour, np.float32)


def photograph(scene: Radiance, domain: str, rng: np.random.Generator) -> NDArray[np.uint8]:
    """The image (H, W, 3) uint8 RGB of a drawn scene in one domain."""
    if domain == "clear":
        return sensor(scene.image, rng, 1.5, 4.0)
    if domain == "foggy":
        return sensor(foggy_before_noise(scene, rng)[0], rng, 1.5, 3.0)
    if domain == "night":
        return sensor(night_before_noise(scene, rng), rng, 2.5, 5.0)
    raise ValueError(f"unknown domain {domain!r}: take clear, foggy or night")
