"""Normalisation layers that do not fit the network, or do not exist, are named."""

from __future__ import annotations

from pathlib import Path

import pytest
from class_trees import CONFIGS as CLASSIFIERS

from mic_det.config import ConfigError, load_config
from mic_det.engine.build import build_student_and_teacher

CONFIGS = CLASSIFIERS.parent


@pytest.mark.parametrize(
    ("config", "overrides", "key"),
    [
        ("streets_mic", ("MODEL.RESNETS.STEM_OUT_CHANNELS", "16"), "MODEL.RESNETS.NORM"),
        ("streets_mic", ("MODEL.FPN.OUT_CHANNELS", "40"), "MODEL.FPN.NORM"),
        ("seg/streets_hrda", ("MODEL.RESNETS.STEM_OUT_CHANNELS", "16"), "MODEL.RESNETS.NORM"),
    ],
)
def test_groups_that_do_not_divide_the_channels(config, overrides, key, tmp_path):
    path = CONFIGS / f"{config}.yaml"
    cfg = load_config(path, [*overrides, key, "GN", "MODEL.DEVICE", "cpu", "MODEL.WEIGHTS", ""])
    with pytest.raises(ConfigError, match=r"GN normalises 32 groups .* multiples of 32") as info:
        build_student_and_teacher(cfg)
    assert key in str(info.value)


@pytest.mark.parametrize("key", ["MODEL.RESNETS.NORM", "MODEL.FPN.NORM", "MODEL.SEG.NORM"])
def test_a_layer_that_does_not_exist(key):
    with pytest.raises(ConfigError, match=f"{key} is '' or one of BN.*GN.*, not 'GNN'"):
        load_config(Path(CONFIGS, "streets_mic.yaml"), [key, "GNN"])
