"""Configuration of the hosts "spcl" and "diga": keys below ``MODEL.SEG``, what they may be."""

from __future__ import annotations

from detectron2.config import CfgNode as CN

from mic_det.errors import Require


def add_prototype_hosts_config(seg: CN) -> None:
    """Add ``SPCL``, ``DIGA`` and what they share to ``MODEL.SEG``, in place."""
    # Images of source and of target, spread evenly over each, that both hosts look at before a
    # stage for first prototypes, thresholds and centroids; 0: all, as in the papers.
    seg.INIT_IMAGES = 0

    # Host "spcl" (SPCL: Xie et al., arXiv 2111.12358).
    spcl = seg.SPCL = CN()
    # xi, the share of its old value that a prototype keeps in an iteration.
    spcl.KEEP = 0.1
    # Dot products of features and prototypes, both of length 1 at most, are divided by this. The
    # authors' code divides by 100, which keeps the loss within 0.02 of ln K and its gradients
    # small; 1, 0.5 and 0.1 draw features to their prototypes ever more strongly.
    spcl.TEMPERATURE = 100.0
    # Weights of the contrastive losses.
    spcl.SOURCE_WEIGHT = 1.0
    spcl.TARGET_WEIGHT = 1.0
    # A class's confidence threshold is its median confidence over the target set, or this if the
    # median is above it.
    spcl.CEILING = 0.9
    # Iterations after which thresholds are made anew, for a teacher that follows the student; 0:
    # only at the start of a stage.
    spcl.THRESHOLD_PERIOD = 0
    # First iteration of the second stage, self-training; below 0: there is none, 0: nothing else.
    spcl.SELF_TRAINING_FROM = -1
    # Weight of its cross-entropy with pseudo labels.
    spcl.SELF_TRAINING_WEIGHT = 1.0
    # The second stage starts with a teacher that equals the student. With MODEL.TEACHER.ALPHA 1
    # each stage then learns the pseudo labels of the model that it started from, as the authors do.
    spcl.RENEW_LABELLER = True
    # Measure the class centre distance on DATASETS.TEST before and after the run, for the report.
    spcl.CLASS_DISTANCE = True

    # Host "diga" (DiGA: Shen et al., CVPR 2023).
    diga = seg.DIGA = CN()
    # First iteration of self-training; SOLVER.MAX_ITER or more: warm-up alone.
    diga.WARMUP_ITERS = 0
    # Weights of the symmetric distillation in warm-up and in self-training, and the share in it of
    # the term from the changed view to the plain one.
    diga.WARMUP_DISTILLATION = 0.5
    diga.DISTILLATION = 0.25
    diga.BACKWARD_SHARE = 0.5
    # Weights of the changed colours in the images they are blended into, in the two stages.
    diga.WARMUP_COLOUR = 0.4
    diga.COLOUR = 0.3
    # Weight of the cross-entropy on target images with source classes on them.
    diga.WEIGHT = 1.0
    # Share of its old value that a class's centroid keeps in an iteration.
    diga.CENTROID_KEEP = 0.9999
    # Iterations of self-training after which the centroids are started anew; 0: never.
    diga.CENTROID_PERIOD = 0
    # From source images to the target's style: "lab", "fourier" or "learnt".
    diga.TRANSLATOR = "lab"
    # Of "fourier": frequencies exchanged, as a share of the image's shorter side.
    diga.FOURIER_SHARE = 0.01
    # Of "learnt": the file that tools/train_translator.py has written.
    diga.TRANSLATOR_WEIGHTS = ""


def check_prototype_hosts_config(cfg: CN, require: Require) -> None:
    """Call ``require(holds, message)`` for each thing that must hold."""
    from .translate import TRANSLATORS

    seg = cfg.MODEL.SEG
    require(
        seg.INIT_IMAGES >= 0,
        f"MODEL.SEG.INIT_IMAGES is a number of images, or 0 for all, not {seg.INIT_IMAGES}",
    )
    shares = {
        "SPCL": ("KEEP", "CEILING"),
        "DIGA": ("CENTROID_KEEP", "WARMUP_COLOUR", "COLOUR"),
    }
    for host, keys in shares.items():
        for key in keys:
            value = seg[host][key]
            require(0.0 <= value <= 1.0, f"MODEL.SEG.{host}.{key} is in [0, 1], not {value}")
    require(
        seg.SPCL.TEMPERATURE > 0,
        f"MODEL.SEG.SPCL.TEMPERATURE is above 0, not {seg.SPCL.TEMPERATURE}",
    )
    for host, keys in {
        "SPCL": ("SOURCE_WEIGHT", "TARGET_WEIGHT", "SELF_TRAINING_WEIGHT", "THRESHOLD_PERIOD"),
        "DIGA": (
            "WARMUP_ITERS",
            "WARMUP_DISTILLATION",
            "DISTILLATION",
            "BACKWARD_SHARE",
            "WEIGHT",
            "CENTROID_PERIOD",
        ),
    }.items():
        for key in keys:
            value = seg[host][key]
            require(value >= 0, f"MODEL.SEG.{host}.{key} is at least 0, not {value}")
    diga = seg.DIGA
    require(
        diga.TRANSLATOR in TRANSLATORS,
        f"MODEL.SEG.DIGA.TRANSLATOR is one of {', '.join(TRANSLATORS)}, not {diga.TRANSLATOR!r}",
    )
    require(
        0.0 <= diga.FOURIER_SHARE <= 0.5,
        f"MODEL.SEG.DIGA.FOURIER_SHARE is in [0, 0.5], not {diga.FOURIER_SHARE}",
    )
    require(
        seg.HOST != "diga" or diga.TRANSLATOR != "learnt" or bool(diga.TRANSLATOR_WEIGHTS),
        "MODEL.SEG.DIGA.TRANSLATOR 'learnt' needs MODEL.SEG.DIGA.TRANSLATOR_WEIGHTS, a file that "
        "tools/train_translator.py writes.",
    )
