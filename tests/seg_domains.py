"""Two small segmentation domains on disk, registered by a YAML file as a user would."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from segmentor import CONFIGS, TINY, labelled

from mic_det.config import load_config

SOURCES, TARGETS, TESTS = 5, 4, 2


def write_domains(root: Path) -> Path:
    """``source``, ``target`` (with labels, which nothing may read in training) and ``test``."""
    torch.manual_seed(7)
    lines = []
    for name, count in (("source", SOURCES), ("target", TARGETS), ("test", TESTS)):
        for folder in ("images", "labels"):
            (root / name / folder).mkdir(parents=True)
        for i in range(count):
            each = labelled()
            pixels = each["image"].permute(1, 2, 0).numpy()
            if name != "source":
                pixels = (0.6 * pixels + 80).astype(np.uint8)
            Image.fromarray(pixels).save(root / name / "images" / f"{i:02d}.png")
            labels = each["sem_seg"].numpy().astype(np.uint8)
            labels[:2] = 9
            Image.fromarray(labels).save(root / name / "labels" / f"{i:02d}.png")
        lines.append(
            f"{name}:\n  images: {name}/images\n  labels: {name}/labels\n"
            "  label_map: {0: dark, 1: red, 2: green, 3: blue, 9: ignore}\n"
        )
    path = root / "domains.yaml"
    path.write_text("".join(lines))
    return path


def small_config(method: str, domains: Path, output: Path, *overrides):
    """The shipped streets config of a method on these domains, with a tiny network."""
    oracle = method == "oracle"
    settings = TINY | {
        "DATASETS.REGISTER": (str(domains),),
        "DATASETS.TRAIN": ("target",) if oracle else ("source",),
        "DATASETS.TARGET": ("target",),
        "DATASETS.TEST": ("test",),
        "INPUT.MIN_SIZE_TRAIN": (64,),
        "INPUT.MAX_SIZE_TRAIN": 96,
        "INPUT.MIN_SIZE_TEST": 64,
        "INPUT.MAX_SIZE_TEST": 96,
        "MODEL.SEG.PSEUDO.THRESHOLD": 0.3,
        "MODEL.WEIGHTS": "",
        "SOLVER.MAX_ITER": 4,
        "SOLVER.CHECKPOINT_PERIOD": 2,
        "TEST.LABEL_FREE_IMAGES": 0,
        "OUTPUT_DIR": str(output),
    }
    pairs = [str(part) for item in settings.items() for part in item]
    return load_config(CONFIGS / f"streets_{method}.yaml", [*pairs, *map(str, overrides)])
