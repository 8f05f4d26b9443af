"""The optical model of fog: attenuation of a clear view plus scattered atmospheric light.

Source: C. Sakaridis, D. Dai, L. Van Gool, "Semantic Foggy Scene Understanding with Synthetic
Data", International Journal of Computer Vision 2018, equations (1) and (2):

    I(x) = R(x) t(x) + L (1 - t(x))        (1)
    t(x) = exp(-beta * l(x))               (2)

with the clear view R, the foggy view I, the transmission t, the atmospheric light L, the
attenuation coefficient beta in 1/m and the distance l from the camera in metres.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray


def transmission(distance: ArrayLike, beta: float) -> NDArray[np.floating]:
    """Share of the light of each pixel that reaches the camera, ``exp(-beta * distance)``.

    Args:
        distance: any shape, metres along the line of sight, >= 0 (infinity is allowed for sky).
        beta: attenuation coefficient in 1/m, finite and >= 0.

    Returns:
        Array of the shape of ``distance`` with values in [0, 1]; float32 for float32 input,
        float64 otherwise.

    Raises:
        ValueError: for a negative or NaN distance, or a beta that is negative or not finite.
    """
    distance = np.asarray(distance)
    if distance.dtype != np.float32:
        distance = distance.astype(np.float64)
    if not (np.isfinite(beta) and beta >= 0):
        raise ValueError(f"beta must be finite and >= 0, got {beta}")
    # "not all >= 0" instead of "any < 0" also catches NaN.
    if not np.all(distance >= 0):
        raise ValueError("distance must be >= 0 everywhere and hold no NaN")
    if beta == 0:
        # 0 * infinity is NaN; without fog the sky is as clear as everything else.
        return np.ones_like(distance)
    return np.exp(-distance * distance.dtype.type(beta))


def add_fog(
    image: NDArray, distance: ArrayLike, beta: float, light: ArrayLike
) -> NDArray[np.uint8] | NDArray[np.floating]:
    """Fog over a clear image: ``image * t + light * (1 - t)`` with ``t = transmission(...)``.

    Args:
        image: (H, W, C) uint8 in 0..255, or floating point in any linear range.
        distance: (H, W) metres along the line of sight, >= 0.
        beta: attenuation coefficient in 1/m, >= 0.
        light: atmospheric light in the units of ``image``: one number or one per channel (C,),
            finite and >= 0.

    Returns:
        (H, W, C) foggy image. For uint8 input uint8, rounded to nearest; for floating point
        input the same dtype, neither rounded nor clipped.

    Raises:
        ValueError: for shapes that do not fit, other dtypes, or values out of range.
    """
    image = np.asarray(image)
    distance = np.asarray(distance)
    if distance.shape != image.shape[:2]:
        raise ValueError(f"distance has shape {distance.shape}, image needs {image.shape[:2]}")
    return blend(image, transmission(distance, beta), light)


def blend(
    image: NDArray, t: NDArray[np.floating], light: ArrayLike
) -> NDArray[np.uint8] | NDArray[np.floating]:
    """`add_fog` for a transmission that is known: ``image * t + light * (1 - t)``.

    Args:
        image, light: as in `add_fog`.
        t: (H, W) transmission, each in [0, 1].

    Raises:
        ValueError: for shapes that do not fit, other dtypes, or values out of range.
    """
    image = np.asarray(image)
    if image.ndim != 3:
        raise ValueError(f"image must be (H, W, C), got shape {image.shape}")
    if image.dtype != np.uint8 and not np.issubdtype(image.dtype, np.floating):
        raise ValueError(f"image must be uint8 or floating point, got {image.dtype}")
    if t.shape != image.shape[:2]:
        raise ValueError(f"transmission has shape {t.shape}, image needs {image.shape[:2]}")
    if not np.all((t >= 0) & (t <= 1)):
        raise ValueError("transmission must be in [0, 1] everywhere")
    light = np.asarray(light, dtype=np.float64)
    if light.shape not in ((), (1,), (image.shape[2],)):
        raise ValueError(f"light must be a number or {image.shape[2]} numbers, got {light.shape}")
    if not np.all(np.isfinite(light)) or np.any(light < 0):
        raise ValueError("light must be finite and >= 0")
    if image.dtype == np.uint8 and np.any(light > 255):
        raise ValueError("light must be <= 255 for a uint8 image")

    t = t[:, :, None]
    work = np.float64 if image.dtype == np.uint8 else image.dtype
    foggy = image.astype(work) * t + light * (1.0 - t)
    if image.dtype == np.uint8:
        return np.rint(foggy).astype(np.uint8)
    return foggy.astype(image.dtype)
