"""Every file of configs/cls: its network is built, and it is the method that its name says."""

from __future__ import annotations

import re

import pytest
import torch
from class_trees import CONFIGS

from mic_det.classification.meta_arch import AdaptiveClassifier
from mic_det.classification.task import TASK
from mic_det.config import load_config

PATHS = sorted(CONFIGS.glob("*.yaml"))
# Alignment, weight of MCC, length of SAM's ascent, MIC; the paper's.
METHODS = {
    "source": ("none", 0.0, 0.0, False),
    "burn_in": ("none", 0.0, 0.0, False),
    "oracle": ("none", 0.0, 0.0, False),
    "dann": ("DANN", 0.0, 0.0, False),
    "cdan": ("CDAN", 0.0, 0.0, False),
    "cdan_mcc": ("CDAN", 1.0, 0.0, False),
    "sdat": ("CDAN", 1.0, 0.02, False),
    "mic": ("CDAN", 1.0, 0.02, True),
}
# Classes, backbone, inputs of the domain classifier of CDAN, source images an iteration.
BENCHMARKS = {
    "office_home": (65, "vit_base_patch16_224", 256 * 65, 24),
    "visda_r101": (12, "resnet101", 256 * 12, 32),
    "visda": (12, "vit_base_patch16_224", 256 * 12, 32),
    "office31": (31, "resnet50", 256 * 31, 32),
    "domainnet": (345, "resnet101", 1024, 24),
    "digits": (10, "small_cnn", 64 * 10, 32),
}
_built: dict[str, AdaptiveClassifier] = {}


def network(cfg) -> AdaptiveClassifier:
    """The student without memory for its weights; those of equal settings once."""
    key = cfg.MODEL.CLASSIFIER.dump()
    if key not in _built:
        cfg = cfg.clone()
        cfg.defrost()
        cfg.MODEL.CLASSIFIER.PRETRAINED = False
        with torch.device("meta"):
            _built[key] = AdaptiveClassifier(cfg)
    return _built[key]


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_the_network_is_built_and_the_method_is_the_names(path):
    cfg = load_config(path)
    settings = cfg.MODEL.CLASSIFIER
    method = next(m for m in sorted(METHODS, key=len, reverse=True) if path.stem.endswith(m))
    parts = settings.ALIGN.METHOD, settings.MCC.WEIGHT, settings.SAM_RHO, cfg.MODEL.MIC.ENABLED
    assert parts == METHODS[method]
    assert settings.ALIGN.WEIGHT == cfg.MODEL.MIC.WEIGHT == 1.0
    classes, backbone, inputs, batch = next(
        found for name, found in BENCHMARKS.items() if path.stem.startswith(name)
    )
    student = network(cfg)
    assert settings.BACKBONE.split(".")[0] == backbone and batch == cfg.SOLVER.IMS_PER_BATCH
    assert student.head.out_features == settings.NUM_CLASSES == classes
    assert student.head.in_features == settings.BOTTLENECK
    assert (student.alignment is not None) == (parts[0] != "none")
    if parts[0] == "CDAN":
        assert student.alignment.layers[0].in_features == inputs
    assert (TASK.ascent(cfg) is not None) == (parts[2] > 0)
    if method == "mic" and not path.stem.startswith("digits"):
        mic = cfg.MODEL.MIC
        assert (mic.BLOCK_SIZE, mic.RATIO, mic.QUALITY) == (64, 0.7, "teacher")
        assert cfg.MODEL.TEACHER.ALPHA == 0.9 and cfg.INPUT.SQUARE.SIZE == 224


@pytest.mark.parametrize("path", [p for p in PATHS if "digits" not in p.stem], ids=lambda p: p.stem)
def test_the_recipe_is_the_papers(path):
    solver = load_config(path).SOLVER
    rate = 0.01 if "office31" in path.stem else 0.002
    assert (rate, 0.9, True) == (solver.BASE_LR, solver.MOMENTUM, solver.NESTEROV)
    assert solver.WEIGHT_DECAY == solver.WEIGHT_DECAY_NORM == 0.001
    assert (solver.LR_SCHEDULER_NAME, solver.GAMMA, solver.POWER) == ("WarmupInverse", 0.001, 0.75)
    assert solver.WARMUP_ITERS == 0 and not solver.CLIP_GRADIENTS.ENABLED


@pytest.mark.parametrize(
    ("stem", "figure", "temperature"),
    [("visda_mic", "92.8", 2.0), ("visda_r101_mic", None, 3.0), ("office_home_", "86.2", 2.0)],
)
def test_published_figures_are_in_the_headers(stem, figure, temperature):
    paths = [path for path in PATHS if path.stem.startswith(stem) and path.stem.endswith("_mic")]
    assert len(paths) == (12 if stem == "office_home_" else 1)
    for path in paths:
        assert temperature == load_config(path).MODEL.CLASSIFIER.MCC.TEMPERATURE
        header = re.match(r"(#.*\n)+", path.read_text()).group()
        assert figure is None or figure in header


def test_the_twelve_pairs_of_office_home():
    pairs = set()
    for path in PATHS:
        if path.stem.startswith("office_home") and path.stem.endswith("_mic"):
            data = load_config(path).DATASETS
            assert data.TEST == data.TARGET
            source, target = (n.removeprefix("office_home_") for n in (*data.TRAIN, *data.TARGET))
            assert path.stem == f"office_home_{source}2{target}_mic"
            pairs.add((source, target))
    assert len(pairs) == 12 and all(source != target for source, target in pairs)
