"""Small trees of class folders, and configs of classifiers that train on them in a moment."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from mic_det.config import load_config
from mic_det.data.classification.folders import register_class_folders

CONFIGS = Path(__file__).parents[1] / "configs" / "cls"
CLASSES = ("circle", "cross", "line")
SIZE = 16
TINY = [
    *("MODEL.WEIGHTS", "", "SOLVER.BASE_LR", "0.02"),
    *("MODEL.CLASSIFIER.NUM_CLASSES", "3", "MODEL.CLASSIFIER.BOTTLENECK", "8"),
    *("MODEL.CLASSIFIER.ALIGN.HIDDEN", "8", "MODEL.MIC.BLOCK_SIZE", "4"),
    *("INPUT.SQUARE.RESIZE", "18", "INPUT.SQUARE.SIZE", "16", "INPUT.SQUARE.CROP", "random"),
    *("SOLVER.IMS_PER_BATCH", "4", "SOLVER.WARMUP_ITERS", "1", "TEST.LABEL_FREE_IMAGES", "3"),
]


def draw(kind: int, random: np.random.Generator, level: int) -> np.ndarray:
    """A shape on noise, (16, 16, 3) uint8."""
    y, x = np.mgrid[:SIZE, :SIZE] - 7.5
    radius = random.uniform(4, 6)
    shapes = (
        np.abs(np.hypot(x, y) - radius) < 1.3,
        (np.abs(x) < 1.5) | (np.abs(y) < 1.5),
        np.abs(x - random.uniform(-4, 4)) < 1.5,
    )
    image = random.integers(0, 60, (SIZE, SIZE, 3))
    image[shapes[kind]] += level
    return image.clip(0, 255).astype(np.uint8)


def make_tree(root: Path, count: int = 5, seed: int = 0, level: int = 150) -> Path:
    """``root/<class>/00.png`` …"""
    random = np.random.default_rng(seed)
    for kind, name in enumerate(CLASSES):
        (root / name).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            Image.fromarray(draw(kind, random, level)).save(root / name / f"{number:02d}.png")
    return root


def register_trees(root: Path) -> None:
    """Domains "shapes" and "pale", and the latter as "pale_val", below ``root``."""
    make_tree(root / "shapes", 6, seed=1)
    make_tree(root / "pale", 5, seed=2, level=70)
    register_class_folders("shapes", root / "shapes", CLASSES)
    register_class_folders("pale", root / "pale")
    register_class_folders("pale_val", root / "pale")


def tiny_config(output: Path, method: str, *overrides: str, iterations: int = 3):
    """``configs/cls/digits_<method>.yaml`` on these trees, with a smaller network."""
    settings = [
        *("DATASETS.TEST", "('pale_val',)", "SOLVER.MAX_ITER", str(iterations)),
        *("OUTPUT_DIR", str(output), "DATASETS.TRAIN", "('shapes',)"),
        *("SOLVER.WARMUP_ITERS", str(min(1, iterations - 1))),
    ]
    if method != "oracle":
        settings += ["DATASETS.TARGET", "('pale',)"]
    return load_config(CONFIGS / f"digits_{method}.yaml", [*TINY, *settings, *overrides])
