"""Settings that cannot work are refused before anything is loaded."""

from __future__ import annotations

from typing import Any

import torch
from detectron2.config import CfgNode as CN

from mic_det.config_checks_detection import check_detection
from mic_det.core import QUALITY_MODES
from mic_det.errors import ConfigError, Require
from mic_det.segmentation.config import check_segmentation_config

TEST_MODELS = ("student", "teacher")
# Detectron2's names of normalisation layers, "" for none.
NORMS = ("", "BN", "SyncBN", "FrozenBN", "GN", "LN", "nnSyncBN", "naiveSyncBN", "naiveSyncBN_N")
# What computes with a setting is float32 at most.
LARGEST = torch.finfo(torch.float32).max


def check_config(cfg: CN) -> None:
    """Raise ConfigError for settings that cannot work, before anything is loaded."""

    def require(holds: bool, message: str) -> None:
        if not holds:
            raise ConfigError(message)

    _check_finite(cfg, require)
    if cfg.MODEL.TASK == "detection":
        check_detection(cfg, require)
    if cfg.MODEL.TASK == "segmentation":
        check_segmentation_config(cfg, require)
    if cfg.MODEL.TASK == "classification":
        _check_without_meaning(cfg, require)
        _check_square(cfg, require)
    for check in (
        _check_target,
        _check_mic,
        _check_classifier,
        _check_solver,
        _check_data,
        _check_choices,
        _check_tests,
    ):
        check(cfg, require)


def _check_finite(node: Any, require: Require, key: str = "") -> None:
    """No number of the whole config is infinite, NaN or beyond float32."""
    if isinstance(node, CN):
        for name, value in node.items():
            _check_finite(value, require, f"{key}.{name}" if key else name)
    elif isinstance(node, (list, tuple)):
        for value in node:
            _check_finite(value, require, key)
    elif isinstance(node, (int, float)):
        require(
            abs(node) <= LARGEST,
            f"{key} is {node}: it must be a finite number, of float32 ({LARGEST:.2g} at most).",
        )


def _check_target(cfg: CN, require: Require) -> None:
    """Target images are there for what uses them."""
    classifier = cfg.MODEL.CLASSIFIER
    for part, enabled in (
        ("MODEL.SADA.ENABLED", cfg.MODEL.SADA.ENABLED),
        # Segmentation can mask the source alone: its own check knows.
        ("MODEL.MIC.ENABLED", cfg.MODEL.MIC.ENABLED and cfg.MODEL.TASK != "segmentation"),
        ("MODEL.CLASSIFIER.ALIGN.METHOD", classifier.ALIGN.METHOD != "none"),
        ("MODEL.CLASSIFIER.MCC.WEIGHT", classifier.MCC.WEIGHT > 0),
    ):
        require(
            not enabled or len(cfg.DATASETS.TARGET) > 0,
            f"{part} needs target images: set DATASETS.TARGET.",
        )


def _check_mic(cfg: CN, require: Require) -> None:
    """Masks, pseudo labels and the watchdog."""
    mic = cfg.MODEL.MIC
    require(0.0 <= mic.RATIO <= 1.0, f"MODEL.MIC.RATIO is in [0, 1], not {mic.RATIO}")
    require(mic.BLOCK_SIZE >= 1, f"MODEL.MIC.BLOCK_SIZE is in pixels, not {mic.BLOCK_SIZE}")
    require(
        0.0 <= mic.SCORE_THRESH <= 1.0,
        f"MODEL.MIC.SCORE_THRESH is in [0, 1], not {mic.SCORE_THRESH}",
    )
    require(
        0.0 <= mic.DOUBT_THRESH <= 1.0,
        f"MODEL.MIC.DOUBT_THRESH is in [0, 1], not {mic.DOUBT_THRESH}",
    )
    require(
        mic.QUALITY in QUALITY_MODES,
        f"MODEL.MIC.QUALITY is one of {', '.join(QUALITY_MODES)}, not {mic.QUALITY!r}",
    )
    _check_augmentation(cfg, require)
    factor = mic.WATCHDOG.EXPLOSION_FACTOR
    require(factor > 0, f"MODEL.MIC.WATCHDOG.EXPLOSION_FACTOR is above 0, not {factor}")
    idle = mic.WATCHDOG.COLLAPSE_ITERS
    require(idle >= 1, f"MODEL.MIC.WATCHDOG.COLLAPSE_ITERS is at least 1, not {idle}")


def _check_augmentation(cfg: CN, require: Require) -> None:
    """The student's copy of the target (`mic_det.core.StudentAugment`)."""
    augment = cfg.MODEL.MIC.AUGMENT
    for key, most in (("JITTER", 1.0), ("HUE", 0.5), ("JITTER_PROB", 1.0), ("BLUR_PROB", 1.0)):
        value = augment[key]
        require(0.0 <= value <= most, f"MODEL.MIC.AUGMENT.{key} is in [0, {most:g}], not {value}")
    sigma = tuple(augment.BLUR_SIGMA)
    require(
        len(sigma) == 2 and 0.0 < sigma[0] <= sigma[1],
        f"MODEL.MIC.AUGMENT.BLUR_SIGMA is the least and the largest, in pixels, above 0, not "
        f"{sigma}",
    )


def _check_classifier(cfg: CN, require: Require) -> None:
    """Network, alignment, MCC and SAM of classification."""
    classifier = cfg.MODEL.CLASSIFIER
    for key, value, least in (
        ("SAM_RHO", classifier.SAM_RHO, 0),
        ("MCC.WEIGHT", classifier.MCC.WEIGHT, 0),
        ("ALIGN.WEIGHT", classifier.ALIGN.WEIGHT, 0),
        ("ALIGN.WARMUP_ITERS", classifier.ALIGN.WARMUP_ITERS, 0),
        ("ALIGN.EXACT_UP_TO", classifier.ALIGN.EXACT_UP_TO, 0),
        ("ALIGN.RANDOM_DIM", classifier.ALIGN.RANDOM_DIM, 1),
        ("ALIGN.HIDDEN", classifier.ALIGN.HIDDEN, 1),
        ("BACKBONE_LR_FACTOR", classifier.BACKBONE_LR_FACTOR, 0),
        ("BOTTLENECK", classifier.BOTTLENECK, 0),
        ("NUM_CLASSES", classifier.NUM_CLASSES, 2),
    ):
        require(value >= least, f"MODEL.CLASSIFIER.{key} is at least {least}, not {value}")
    warm = classifier.MCC.TEMPERATURE
    require(warm > 0, f"MODEL.CLASSIFIER.MCC.TEMPERATURE is above 0, not {warm}")


def _check_without_meaning(cfg: CN, require: Require) -> None:
    """What other tasks have is not passed over in silence."""
    for key, used in (
        ("MODEL.SADA.ENABLED", cfg.MODEL.SADA.ENABLED),
        ("MODEL.MIC.CLASS_SHARES", cfg.MODEL.MIC.CLASS_SHARES),
        ("MODEL.MIC.DOUBT_THRESH", cfg.MODEL.MIC.DOUBT_THRESH < 1.0),
        ("INPUT.RESIZED_CACHE", bool(cfg.INPUT.RESIZED_CACHE)),
        ("INPUT.CROP.ENABLED", cfg.INPUT.CROP.ENABLED),
        ("DATALOADER.RARE_CLASSES.ENABLED", cfg.DATALOADER.RARE_CLASSES.ENABLED),
    ):
        require(not used, f"{key} has no meaning for classification: take it out of the config.")


def _check_square(cfg: CN, require: Require) -> None:
    """The way of an image to a classifier, and masks that leave something to see."""
    square, mic = cfg.INPUT.SQUARE, cfg.MODEL.MIC
    for key in ("RESIZE", "SIZE"):
        require(square[key] >= 1, f"INPUT.SQUARE.{key} is in pixels, not {square[key]}")
    require(
        square.CROP == "none" or square.SIZE <= square.RESIZE,
        f"INPUT.SQUARE.SIZE {square.SIZE} cannot be cut out of INPUT.SQUARE.RESIZE "
        f"{square.RESIZE}: raise RESIZE, or set INPUT.SQUARE.CROP to none.",
    )
    scale = tuple(square.SCALE)
    require(
        len(scale) == 2 and 0.0 < scale[0] <= scale[1] <= 1.0,
        f"INPUT.SQUARE.SCALE is the least and the largest share of the area, in (0, 1], not "
        f"{scale}",
    )
    flip = cfg.INPUT.RANDOM_FLIP
    require(
        flip in ("none", "horizontal"),
        f"INPUT.RANDOM_FLIP is none or horizontal for classification, not {flip!r}",
    )
    require(mic.WEIGHT >= 0, f"MODEL.MIC.WEIGHT is at least 0, not {mic.WEIGHT}")
    require(
        not mic.ENABLED or mic.RATIO == 0 or round(square.SIZE / max(1, mic.BLOCK_SIZE)) >= 2,
        f"MODEL.MIC.BLOCK_SIZE {mic.BLOCK_SIZE} hides an image of INPUT.SQUARE.SIZE {square.SIZE} "
        "whole or not at all: choose a third of SIZE or less.",
    )


def _check_solver(cfg: CN, require: Require) -> None:
    """Steps, clipping and the teacher."""
    solver = cfg.SOLVER
    for key, least in (
        ("MAX_ITER", 1),
        ("IMS_PER_BATCH", 1),
        ("TARGET_IMS_PER_BATCH", 0),
        ("MAX_SKIPPED_STEPS", 1),
        ("CHECKPOINTS_KEPT", 1),
    ):
        require(solver[key] >= least, f"SOLVER.{key} is at least {least}, not {solver[key]}")
    require(
        solver.MAX_ITER > solver.WARMUP_ITERS,
        f"SOLVER.WARMUP_ITERS is {solver.WARMUP_ITERS}, which leaves nothing of SOLVER.MAX_ITER "
        f"{solver.MAX_ITER}: the learning rate would stay near 0. Of a shorter run, shorten the "
        f"warm-up as well, e.g. SOLVER.WARMUP_ITERS {solver.MAX_ITER // 10}.",
    )
    clip = solver.CLIP_GRADIENTS.CLIP_VALUE
    require(clip > 0, f"SOLVER.CLIP_GRADIENTS.CLIP_VALUE is above 0, not {clip}")
    alpha = cfg.MODEL.TEACHER.ALPHA
    require(0.0 <= alpha <= 1.0, f"MODEL.TEACHER.ALPHA is in [0, 1], not {alpha}")
    images = cfg.MODEL.TEACHER.STATISTICS_IMAGES
    require(images >= -1, f"MODEL.TEACHER.STATISTICS_IMAGES is at least -1, not {images}")


def _check_data(cfg: CN, require: Require) -> None:
    """Loading."""
    order, jitter = cfg.INPUT.FORMAT, cfg.INPUT.COLOR_JITTER
    require(order in ("RGB", "BGR"), f"INPUT.FORMAT is RGB or BGR, not {order!r}")
    require(jitter >= 0, f"INPUT.COLOR_JITTER is at least 0, not {jitter}")
    require(
        not cfg.INPUT.RESIZED_CACHE
        or (cfg.INPUT.MIN_SIZE_TRAIN_SAMPLING == "choice" and not cfg.INPUT.CROP.ENABLED),
        "INPUT.RESIZED_CACHE keeps one file for each image and size: set it to '', or "
        "INPUT.MIN_SIZE_TRAIN_SAMPLING to 'choice' and INPUT.CROP.ENABLED to False.",
    )
    ahead = cfg.DATALOADER.PREFETCH_FACTOR
    require(ahead >= 1, f"DATALOADER.PREFETCH_FACTOR is at least 1, not {ahead}")
    wait = cfg.DATALOADER.TIMEOUT
    require(wait >= 0, f"DATALOADER.TIMEOUT is in seconds, 0 for no limit, not {wait}")
    share = cfg.DATALOADER.MAX_UNREADABLE
    require(0.0 <= share <= 1.0, f"DATALOADER.MAX_UNREADABLE is a share in [0, 1], not {share}")


def _check_tests(cfg: CN, require: Require) -> None:
    """Pictures and evaluation."""
    require(cfg.VIS_PERIOD >= 0, f"VIS_PERIOD is in iterations, not {cfg.VIS_PERIOD}")
    require(cfg.VIS_IMAGES >= 1, f"VIS_IMAGES is at least 1, not {cfg.VIS_IMAGES}: see VIS_PERIOD")
    hidden = cfg.TEST.LABEL_FREE_RATIO
    require(0.0 < hidden < 1.0, f"TEST.LABEL_FREE_RATIO is between 0 and 1, not {hidden}")
    require(
        cfg.TEST.SERVE in cfg.TEST.MODELS,
        f"TEST.SERVE is {cfg.TEST.SERVE!r}, which TEST.MODELS leaves out",
    )


def _check_choices(cfg: CN, require: Require) -> None:
    """Values out of a list."""
    for key, norm in (
        ("MODEL.RESNETS.NORM", cfg.MODEL.RESNETS.NORM),
        ("MODEL.FPN.NORM", cfg.MODEL.FPN.NORM),
        ("MODEL.ROI_BOX_HEAD.NORM", cfg.MODEL.ROI_BOX_HEAD.NORM),
        ("MODEL.SEG.NORM", cfg.MODEL.SEG.NORM),
    ):
        require(norm in NORMS, f"{key} is '' or one of {', '.join(NORMS[1:])}, not {norm!r}")
    for key, value, allowed in (
        ("SOLVER.OPTIMIZER", cfg.SOLVER.OPTIMIZER, ("SGD", "AdamW")),
        (
            "SOLVER.CLIP_GRADIENTS.CLIP_TYPE",
            cfg.SOLVER.CLIP_GRADIENTS.CLIP_TYPE,
            ("full_model", "norm", "value"),
        ),
        ("MODEL.MIC.WATCHDOG.ACTION", cfg.MODEL.MIC.WATCHDOG.ACTION, ("warn", "stop")),
        ("SOLVER.AMP.DTYPE", cfg.SOLVER.AMP.DTYPE, ("float16", "bfloat16")),
        (
            "MODEL.CLASSIFIER.ALIGN.METHOD",
            cfg.MODEL.CLASSIFIER.ALIGN.METHOD,
            ("none", "DANN", "CDAN"),
        ),
        ("INPUT.SQUARE.CROP", cfg.INPUT.SQUARE.CROP, ("random", "center", "none")),
        ("TEST.ACCURACY_OF", cfg.TEST.ACCURACY_OF, ("images", "classes")),
        ("MODEL.WEIGHTS_FROM", cfg.MODEL.WEIGHTS_FROM, TEST_MODELS),
        ("TEST.SERVE", cfg.TEST.SERVE, TEST_MODELS),
        *(("TEST.MODELS", name, TEST_MODELS) for name in cfg.TEST.MODELS),
    ):
        require(value in allowed, f"{key} is one of {', '.join(allowed)}, not {value!r}")
