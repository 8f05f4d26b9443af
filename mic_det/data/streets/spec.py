"""Constants of the data set: classes, sizes, domains, splits and the generator's version."""

from __future__ import annotations

from typing import NamedTuple

# Raise this when a change alters any pixel, box or file: the cache folder's name depends on it.
GENERATOR_VERSION = 5

IMAGE_HEIGHT = 128
IMAGE_WIDTH = 256

STREETS_CLASSES: tuple[str, ...] = (
    "person",
    "rider",
    "car",
    "truck",
    "bus",
    "train",
    "motorcycle",
    "bicycle",
)
PERSON, RIDER, CAR, TRUCK, BUS, TRAIN, MOTORCYCLE, BICYCLE = range(8)

# Cityscapes train ids of the semantic map.
ROAD, SIDEWALK, BUILDING, WALL, FENCE, POLE = 0, 1, 2, 3, 4, 5
TRAFFIC_LIGHT, TRAFFIC_SIGN, VEGETATION, TERRAIN, SKY = 6, 7, 8, 9, 10
FIRST_THING = 11  # train id of STREETS_CLASSES[0]; the others follow in order
VOID = 255

STREETS_DOMAINS: tuple[str, ...] = ("clear", "foggy", "night")


class SplitSpec(NamedTuple):
    """Size of one split and the seed of its first scene (image i has seed first_seed + i)."""

    count: int
    first_seed: int


# Seeds lie far apart, so no two splits can share a scene.
STREETS_SPLITS: dict[tuple[str, str], SplitSpec] = {
    ("clear", "train"): SplitSpec(600, 1_000_000),
    ("clear", "val"): SplitSpec(150, 2_000_000),
    ("foggy", "train"): SplitSpec(600, 3_000_000),
    ("foggy", "val"): SplitSpec(200, 4_000_000),
    ("night", "train"): SplitSpec(600, 5_000_000),
    ("night", "val"): SplitSpec(150, 6_000_000),
}

# Fog: attenuation per scene metre and grey level of the atmospheric light, uniform per image.
FOG_BETA_RANGE = (0.03, 0.12)
FOG_LIGHT_RANGE = (175.0, 225.0)

# What counts as a visible instance.
MIN_VISIBLE_PIXELS = 20
MIN_VISIBLE_SHARE = 0.25
MIN_BOX_SIDE = 4

# Class crops.
CROP_SIZE = 32
CROP_MARGIN = 0.15
MIN_CROP_SIDE = 12
