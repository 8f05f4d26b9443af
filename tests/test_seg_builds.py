"""Every network and host that a shipped segmentation config names can be built."""

import json

import pytest
import torch
from detectron2.modeling import build_model
from segmentor import CONFIGS

import mic_det.segmentation.meta_arch  # noqa: F401  (registers the meta-architecture)
from mic_det.config import load_config

# Without weights, on a device that holds no numbers; MiT-B5 itself is built in test_seg_networks.
SMALL = ["MODEL.SEG.MIT_VARIANT", "b0"]
NOTHING = [*SMALL, "MODEL.WEIGHTS", "", "MODEL.SEG.ENCODER_WEIGHTS", "", "MODEL.DEVICE", "meta"]


@pytest.fixture(scope="module")
def models():
    """Configurations by what a model is built of: many differ in their data alone."""
    found = {}
    for path in sorted(CONFIGS.glob("*.yaml")):
        cfg = load_config(path, NOTHING)
        # Of this DiGA takes a file that tools/train_translator.py makes.
        if cfg.MODEL.SEG.DIGA.TRANSLATOR != "learnt":
            found.setdefault(json.dumps(cfg.MODEL, sort_keys=True, default=str), (path.stem, cfg))
    return found.values()


def test_all_models_are_built(models):
    assert len(models) > 20
    for name, cfg in models:
        with torch.device("meta"):
            model = build_model(cfg)
        classes = cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES
        assert model.network.num_classes == classes, name
        rows = dict(model.named_parameters())[model.classifier.tensor]
        assert len(rows) == classes, name
        assert hasattr(model.network, "attention") == cfg.MODEL.SEG.HRDA.ENABLED, name
