"""From a dataset dict to a classifier's input."""

from __future__ import annotations

import math
import random
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from PIL import Image, ImageEnhance

from mic_det.data.images import read_image

Box = tuple[float, float, float, float]
RATIO = (3 / 4, 4 / 3)


class SquareMapper:
    """Images of any size as squares of one size.

    In training: resized to ``resize``, cropped, flipped, jittered in colour; random draws are from
    Python's generator, which `SampleStream` seeds. In testing: resized, its middle cut out.

    Args:
        size: side of the result in pixels.
        resize: side of the square that an image is brought to first.
        crop: "random" (a part of ``scale`` of the area, brought to ``size``), "center" or "none".
        scale: least and largest share of the area of a random crop.
        flip: probability of a horizontal flip.
        jitter: brightness, contrast and saturation are multiplied by 1 -+ this.
        channels: "RGB" or "BGR".
        is_train: as above.
    """

    def __init__(
        self,
        size: int,
        resize: int,
        crop: str = "random",
        scale: tuple[float, float] = (0.08, 1.0),
        flip: float = 0.5,
        jitter: float = 0.0,
        channels: str = "RGB",
        *,
        is_train: bool,
    ) -> None:
        self.size, self.resize, self.crop, self.scale = size, resize, crop, scale
        self.flip, self.jitter, self.channels, self.is_train = flip, jitter, channels, is_train

    @classmethod
    def from_config(cls, cfg: CfgNode, *, is_train: bool) -> SquareMapper:
        """As ``INPUT`` says."""
        square = cfg.INPUT.SQUARE
        return cls(
            square.SIZE,
            square.RESIZE,
            square.CROP,
            tuple(square.SCALE),
            0.5 if cfg.INPUT.RANDOM_FLIP == "horizontal" else 0.0,
            cfg.INPUT.COLOR_JITTER,
            cfg.INPUT.FORMAT,
            is_train=is_train,
        )

    def __call__(self, record: dict[str, Any]) -> dict[str, Any]:
        """``record`` with ``image`` (3, size, size) uint8; a ``label`` stays if it has one."""
        image = read_image(Path(record["file_name"]), "RGB")
        return {**record, "image": self.tensor(self.transformed(image))}

    def transformed(self, image: np.ndarray) -> Image.Image:
        """An RGB image (H, W, 3) uint8 as a square."""
        picture = Image.fromarray(image).resize((self.resize,) * 2, Image.Resampling.BILINEAR)
        box = self._box()
        if box != (0, 0, self.size, self.size) or self.resize != self.size:
            sides = (self.size, self.size)
            picture = picture.resize(sides, Image.Resampling.BILINEAR, box=box)
        if not self.is_train:
            return picture
        if random.random() < self.flip:
            picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        if self.jitter:
            for kind in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color):
                factor = random.uniform(max(0.0, 1.0 - self.jitter), 1.0 + self.jitter)
                picture = kind(picture).enhance(factor)
        return picture

    def tensor(self, picture: Image.Image) -> torch.Tensor:
        array = np.asarray(picture)
        array = array[:, :, ::-1] if self.channels == "BGR" else array
        return torch.from_numpy(np.ascontiguousarray(array.transpose(2, 0, 1)))

    def _box(self) -> Box:
        if self.crop == "random" and self.is_train:
            return random_crop(self.resize, self.scale)
        if self.crop == "none":
            return (0, 0, self.resize, self.resize)
        near = (self.resize - self.size) // 2
        return (near, near, near + self.size, near + self.size)


def random_crop(side: int, scale: tuple[float, float]) -> Box:
    """Left, upper, right, lower of a part of a square: area and shape at random, then the place.

    As in Szegedy et al., CVPR 2015: the share of the area is uniform in ``scale``, the ratio of
    width and height log-uniform in 3/4..4/3; drawn again until it fits, ten times at most.
    """
    for _ in range(10):
        area = random.uniform(*scale) * side * side
        ratio = math.exp(random.uniform(math.log(RATIO[0]), math.log(RATIO[1])))
        width, height = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < width <= side and 0 < height <= side:
            left, upper = random.randint(0, side - width), random.randint(0, side - height)
            return (left, upper, left + width, upper + height)
    return (0, 0, side, side)
