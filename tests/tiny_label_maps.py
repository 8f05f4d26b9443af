"""A source and a target of coloured blocks with label images, and short runs on them."""

from __future__ import annotations

import atexit
import shutil
from functools import cache
from pathlib import Path
from tempfile import mkdtemp

import numpy as np
import yaml
from PIL import Image

from mic_det.config import load_config
from mic_det.data.segmentation import register_segmentation

SOURCE, TARGET, UNLABELLED = "blocks_light", "blocks_dark", "blocks_dark_unlabelled"
CLASSES = ("ground", "wall", "sky")
_COLOURS = np.array([[90, 160, 60], [150, 120, 110], [120, 170, 230]], dtype=np.float64)


def _draw(folder: Path, count: int, light: float, seed: int) -> None:
    generator = np.random.default_rng(seed)
    for part in ("images", "labels"):
        (folder / part).mkdir(parents=True)
    for i in range(count):
        blocks = generator.integers(0, 3, (4, 6)).astype(np.uint8)
        ids = blocks.repeat(8, 0).repeat(8, 1)
        pixels = light * (_COLOURS[ids] + generator.normal(0.0, 12.0, (*ids.shape, 3)))
        ids[:2, :8] = 255
        pixels = pixels.clip(0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / "images" / f"{i}.png")
        Image.fromarray(ids).save(folder / "labels" / f"{i}.png")


@cache
def draw_blocks() -> Path:
    """4 light and 4 dark images of 32 x 48 pixels with their labels; returns their folder."""
    root = Path(mkdtemp(prefix="mic_det_tests_"))
    atexit.register(shutil.rmtree, root, ignore_errors=True)
    _draw(root / "light", 4, 1.0, 1)
    _draw(root / "dark", 4, 0.4, 2)
    return root


def register_blocks() -> Path:
    """Register them, the dark ones also without their labels; returns their folder."""
    root = draw_blocks()
    for name, folder in ((SOURCE, "light"), (TARGET, "dark")):
        register_segmentation(name, root / folder / "images", root / folder / "labels", CLASSES)
    register_segmentation(UNLABELLED, root / "dark" / "images")
    return root


SETTINGS = {
    "MODEL": {
        "TASK": "segmentation",
        "META_ARCHITECTURE": "AdaptiveSegmentor",
        "DEVICE": "cpu",
        "WEIGHTS": "",
        "SEM_SEG_HEAD": {"NUM_CLASSES": 3},
        "RESNETS": {"DEPTH": 18, "STEM_OUT_CHANNELS": 32, "RES2_OUT_CHANNELS": 32, "NORM": "GN"},
        "SEG": {"ENCODER": "resnet", "DECODER": "deeplab_v2", "NORM": "GN", "HEAD_LR_FACTOR": 1.0},
        "MIC": {"BLOCK_SIZE": 8, "RATIO": 0.5},
        "TEACHER": {"ALPHA": 0.9, "WARMUP": True},
    },
    "DATASETS": {"TRAIN": [SOURCE], "TARGET": [UNLABELLED], "TEST": [TARGET]},
    "INPUT": {"MIN_SIZE_TRAIN": [32], "MIN_SIZE_TEST": 32},
    "DATALOADER": {"NUM_WORKERS": 0},
    "SOLVER": {"IMS_PER_BATCH": 2, "BASE_LR": 0.001, "MAX_ITER": 4, "WARMUP_ITERS": 0},
    "TEST": {"EVAL_PERIOD": 0, "LABEL_FREE_IMAGES": 0},
    "VIS_PERIOD": 0,
    "SEED": 3,
}


def block_config(folder: Path, *overrides: str):
    """A run of 4 iterations on the blocks; ``folder`` is its OUTPUT_DIR."""
    register_blocks()
    return load_config(write_settings(folder), ["OUTPUT_DIR", str(folder), *overrides])


def write_settings(folder: Path) -> Path:
    """The settings of such runs as a file beside ``folder``."""
    path = folder.parent / f"{folder.name}.yaml"
    path.write_text(yaml.safe_dump(SETTINGS))
    return path
