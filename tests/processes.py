"""Runs of ``tools/train_net.py`` on a few tiny images, as processes of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from mic_det.data.builtin import CITYSCAPES_CLASSES
from mic_det.data.formats.coco import write_coco

REPOSITORY = Path(__file__).parents[1]
TOOL = REPOSITORY / "tools" / "train_net.py"
HEIGHT, WIDTH = 64, 96
FOG = "_foggy_beta_0.02"
SOURCE, TARGET, TEST = "cityscapes_det_train", "foggy_cityscapes_train", "foggy_cityscapes_val"

# All parts of the method in a network that takes a tenth of a second a step; the teacher believes
# in something from the start.
SMALL = [
    *("DATASETS.TRAIN", f"('{SOURCE}',)", "DATASETS.TARGET", f"('{TARGET}',)"),
    *("DATASETS.TEST", f"('{TEST}',)", "MODEL.WEIGHTS", "", "MODEL.DEVICE", "cpu"),
    # Contiguous: sums over one image and over two are then made in one order.
    *("VIS_PERIOD", "0", "MODEL.CHANNELS_LAST", "False"),
    *("MODEL.RESNETS.STEM_OUT_CHANNELS", "32", "MODEL.RESNETS.RES2_OUT_CHANNELS", "32"),
    *("MODEL.FPN.OUT_CHANNELS", "32", "MODEL.ROI_BOX_HEAD.FC_DIM", "32"),
    *("MODEL.RPN.PRE_NMS_TOPK_TRAIN", "100", "MODEL.RPN.PRE_NMS_TOPK_TEST", "50"),
    *("MODEL.RPN.POST_NMS_TOPK_TRAIN", "40", "MODEL.RPN.POST_NMS_TOPK_TEST", "20"),
    *("MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE", "16", "TEST.DETECTIONS_PER_IMAGE", "5"),
    *("MODEL.SADA.ENABLED", "True", "MODEL.SADA.IMAGE_CHANNELS", "16"),
    *("MODEL.SADA.INSTANCE_CHANNELS", "16", "MODEL.ROI_HEADS.SCORE_THRESH_TEST", "0.1"),
    *("MODEL.MIC.SCORE_THRESH", "0.12", "TEST.LABEL_FREE_IMAGES", "0", "TEST.EVAL_PERIOD", "0"),
    *("INPUT.MIN_SIZE_TRAIN", "(64,)", "INPUT.MIN_SIZE_TEST", "64", "SOLVER.IMS_PER_BATCH", "2"),
    *("SOLVER.STEPS", "()", "SOLVER.WARMUP_ITERS", "1"),
]


def draw_tiny_cityscapes(root: Path) -> Path:
    """6 source, 7 foggy training and 5 foggy validation images with coloured boxes.

    Returns ``root``, for ``DETECTRON2_DATASETS``; they are in its folder ``cityscapes``.
    """
    place = root / "cityscapes"
    random = np.random.default_rng(0)
    classes = [{"id": i, "name": name} for i, name in enumerate(CITYSCAPES_CLASSES, 1)]
    for folder, split, count, suffix, json_name in (
        ("leftImg8bit", "train", 6, "", "cityscapes_train"),
        ("leftImg8bit_foggy", "train", 7, FOG, "cityscapes_foggy_train"),
        ("leftImg8bit_foggy", "val", 5, FOG, "cityscapes_foggy_val"),
    ):
        images, boxes = [], []
        for number in range(count):
            name = f"{number:02d}{suffix}.png"
            pixels = random.integers(90, 130, (HEIGHT, WIDTH, 3))
            for _ in range(3):
                x, y = (int(v) for v in random.integers(0, [WIDTH - 30, HEIGHT - 24]))
                w, h = (int(v) for v in random.integers(10, 24, 2))
                k = int(random.integers(len(classes)))
                pixels[y : y + h, x : x + w] = [30 * k, 255 - 30 * k, 80]
                box = {"image_id": number, "category_id": k + 1, "bbox": [x, y, w, h]}
                boxes.append(box | {"id": len(boxes) + 1, "area": w * h, "iscrowd": 0})
            path = place / folder / split / name
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels.astype(np.uint8)).save(path)
            images.append({"id": number, "file_name": name, "width": WIDTH, "height": HEIGHT})
        data = {"images": images, "annotations": boxes, "categories": classes}
        write_coco(place / "annotations" / f"{json_name}.json", data)
    return root


def environment(data: Path) -> dict[str, str]:
    """Of a process that finds the data sets in ``data`` and leaves the machine to others."""
    paths = os.pathsep.join([str(REPOSITORY), str(REPOSITORY / "tests")])
    own = {"DETECTRON2_DATASETS": str(data), "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    return os.environ | own | {"PYTHONWARNINGS": "ignore"}


def start(
    data: Path, *arguments: str, command: tuple[str, ...] = (), **keywords: Any
) -> subprocess.Popen:
    """``tools/train_net.py`` with these arguments, stdout and stderr together in ``.stdout``."""
    return subprocess.Popen(
        [*(command or (sys.executable, str(TOOL))), *arguments],
        cwd=REPOSITORY,
        env=environment(data),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        **keywords,
    )


def run(data: Path, *arguments: str, command: tuple[str, ...] = ()) -> tuple[int, str]:
    """Exit code and output."""
    process = start(data, *arguments, command=command)
    output, _ = process.communicate(timeout=600)
    return process.returncode, output


def training(output: Path, *overrides: str, flags: tuple[str, ...] = ()) -> list[str]:
    """Arguments of a small run."""
    config = ("--config", "configs/streets_mic.yaml")
    return [*config, *flags, *SMALL, "OUTPUT_DIR", str(output), *overrides]
