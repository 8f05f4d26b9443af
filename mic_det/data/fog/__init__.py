"""Fog over clear images: the optical model, the distances it needs, the light of the air."""

from .distance import (
    decode_disparity,
    distance_from_depth,
    distance_from_disparity,
    fill_missing,
    flat_road_distance,
    ray_lengths,
    sky_mask,
)
from .light import atmospheric_light, dark_channel
from .model import add_fog, blend, transmission
from .smooth import guided_filter

__all__ = [
    "add_fog",
    "atmospheric_light",
    "blend",
    "dark_channel",
    "decode_disparity",
    "distance_from_depth",
    "distance_from_disparity",
    "fill_missing",
    "flat_road_distance",
    "guided_filter",
    "ray_lengths",
    "sky_mask",
    "transmission",
]
