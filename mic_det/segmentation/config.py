"""Configuration of segmentation: keys below ``MODEL.SEG``, and what they may be."""

from __future__ import annotations

from detectron2.config import CfgNode as CN

from mic_det.errors import Require

from .prototype_config import add_prototype_hosts_config, check_prototype_hosts_config

ENCODERS = ("mit", "resnet", "vgg16")
DECODERS = ("daformer", "deeplab_v2")
MIC_DOMAINS = ("target", "source", "source_target")
NORMS = ("BN", "SyncBN", "GN", "FrozenBN", "LN", "")


def add_segmentation_config(cfg: CN) -> None:
    """Add the keys of segmentation, in place."""
    # The number of classes is Detectron2's own MODEL.SEM_SEG_HEAD.NUM_CLASSES.
    seg = cfg.MODEL.SEG = CN()
    # "mit" (MiT-B0 to B5), "resnet" (Detectron2's, MODEL.RESNETS, made dilated) or "vgg16".
    seg.ENCODER = "mit"
    # Size of a MiT: "b0" to "b5".
    seg.MIT_VARIANT = "b5"
    # Weights that the encoder starts from: for a MiT the name of a transformers model or a folder
    # with one ("nvidia/mit-b5"), for a ResNet a file or address that Detectron2's MODEL.WEIGHTS
    # could be, for VGG-16 "IMAGENET1K_V1" or a file. "": random. MODEL.WEIGHTS is for whole models:
    # where it is set, only FEATURE_DISTANCE asks for these.
    seg.ENCODER_WEIGHTS = ""
    # "daformer" (of a MiT) or "deeplab_v2" (of any).
    seg.DECODER = "daformer"
    # Dilations of DeepLab-v2's classifier; smaller ones for small images.
    seg.ASPP_DILATIONS = (6, 12, 18, 24)
    # Channels of the DAFormer decoder, and normalisation in it ("BN", "SyncBN", "GN").
    seg.CHANNELS = 256
    seg.NORM = "BN"
    # Dropout before the classifier, and a MiT's largest stochastic depth.
    seg.DROPOUT = 0.1
    seg.DROP_PATH = 0.1
    # Factor of SOLVER.BASE_LR for the decoder.
    seg.HEAD_LR_FACTOR = 10.0

    # The method that masked image consistency is added to: docs/segmentation.md lists them.
    seg.HOST = "source_only"

    # The teacher's pseudo labels: an image's weight is the share of its pixels that are surer than
    # THRESHOLD; the first and last rows (rectified sky, the own car) can be left out.
    seg.PSEUDO = CN()
    seg.PSEUDO.THRESHOLD = 0.968
    seg.PSEUDO.IGNORE_TOP = 0
    seg.PSEUDO.IGNORE_BOTTOM = 0

    # Host "self_training" (DACS, DAFormer): colours of the mixed image, and its loss's weight.
    mix = seg.SELF_TRAINING = CN()
    mix.WEIGHT = 1.0
    mix.JITTER = 0.2
    mix.HUE = 0.2
    mix.JITTER_PROB = 0.8
    mix.BLUR_SIGMA = (0.15, 1.15)
    mix.BLUR_PROB = 0.5
    # Weight of the distance to the features of the encoder as ENCODER_WEIGHTS has it, on classes of
    # things; 0, or no such weights: left out. THINGS are the classes' numbers; a position counts
    # from this share of a thing's pixels on.
    mix.FEATURE_DISTANCE = 0.005
    mix.THINGS = (6, 7, 11, 12, 13, 14, 15, 16, 17, 18)
    mix.THING_SHARE = 0.75

    # Host "adversarial" (AdaptSegNet): weight of the student's term, the discriminator's channels
    # and its factor of SOLVER.BASE_LR.
    seg.ADVERSARIAL = CN()
    seg.ADVERSARIAL.WEIGHT = 0.001
    seg.ADVERSARIAL.CHANNELS = 64
    seg.ADVERSARIAL.LR_FACTOR = 1.0

    add_prototype_hosts_config(seg)

    # Images that MODEL.MIC masks: "target", "source" or "source_target".
    seg.MIC_DOMAINS = "target"

    # HRDA: a context crop (the training image as it comes, scaled down by SCALE) and a detail crop
    # in it at full resolution, (height, width).
    hrda = seg.HRDA = CN({"ENABLED": False})
    hrda.SCALE = 2
    hrda.DETAIL_CROP = (512, 512)
    # Size of the context window in pixels of the image, for pseudo labels and tests; windows follow
    # one another at half their size. Images that are not larger are one window.
    hrda.CONTEXT_WINDOW = (1024, 1024)
    # Weight of the loss on the detail prediction; the fused one's is 1 minus it.
    hrda.DETAIL_WEIGHT = 0.1
    hrda.ATTENTION_CHANNELS = 256
    # Detail windows that go through the network at once outside of training.
    hrda.WINDOWS_AT_ONCE = 4


def check_segmentation_config(cfg: CN, require: Require) -> None:
    """Call ``require(holds, message)`` for each thing that must hold."""
    from .hosts import HOST_REGISTRY

    seg = cfg.MODEL.SEG
    for key, value, allowed in (
        ("ENCODER", seg.ENCODER, ENCODERS),
        ("DECODER", seg.DECODER, DECODERS),
        ("MIT_VARIANT", seg.MIT_VARIANT, tuple(f"b{i}" for i in range(6))),
        ("HOST", seg.HOST, tuple(sorted(HOST_REGISTRY))),
        ("MIC_DOMAINS", seg.MIC_DOMAINS, MIC_DOMAINS),
    ):
        require(value in allowed, f"MODEL.SEG.{key} is one of {', '.join(allowed)}, not {value!r}")
    host = HOST_REGISTRY[seg.HOST]
    uses_target = host.uses_target or host.uses_pseudo_labels
    uses_target = uses_target or (cfg.MODEL.MIC.ENABLED and seg.MIC_DOMAINS != "source")
    require(
        not uses_target or len(cfg.DATASETS.TARGET) > 0,
        f"MODEL.SEG.HOST {seg.HOST!r}{' with MODEL.MIC' if cfg.MODEL.MIC.ENABLED else ''} needs "
        "target images: set DATASETS.TARGET.",
    )
    require(
        not cfg.MODEL.SADA.ENABLED,
        "MODEL.SADA.ENABLED is for detection. Segmentation aligns domains by MODEL.SEG.HOST "
        "'adversarial'.",
    )
    classes = cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES
    require(2 <= classes < 255, f"MODEL.SEM_SEG_HEAD.NUM_CLASSES is in [2, 254], not {classes}")
    require(
        seg.DECODER != "daformer" or seg.ENCODER == "mit",
        f"MODEL.SEG.DECODER 'daformer' goes with MODEL.SEG.ENCODER 'mit', not {seg.ENCODER!r}; "
        "take 'deeplab_v2'.",
    )
    pseudo = seg.PSEUDO
    require(
        0.0 <= pseudo.THRESHOLD <= 1.0,
        f"MODEL.SEG.PSEUDO.THRESHOLD is in [0, 1], not {pseudo.THRESHOLD}",
    )
    for key in ("IGNORE_TOP", "IGNORE_BOTTOM"):
        require(pseudo[key] >= 0, f"MODEL.SEG.PSEUDO.{key} is a number of rows, not {pseudo[key]}")
    ignored, crop = pseudo.IGNORE_TOP + pseudo.IGNORE_BOTTOM, cfg.INPUT.CROP
    require(
        not crop.ENABLED or crop.TYPE != "absolute" or not ignored or ignored < crop.SIZE[0],
        f"MODEL.SEG.PSEUDO.IGNORE_TOP and IGNORE_BOTTOM leave nothing of INPUT.CROP.SIZE "
        f"{list(crop.SIZE)}: {ignored} rows of {crop.SIZE[0]}",
    )
    _check_network(cfg, require)
    _check_self_training(seg.SELF_TRAINING, require)
    hrda = seg.HRDA
    require(hrda.SCALE >= 1, f"MODEL.SEG.HRDA.SCALE is at least 1, not {hrda.SCALE}")
    for key in ("DETAIL_CROP", "CONTEXT_WINDOW"):
        size = hrda[key]
        require(
            len(size) == 2 and min(size) >= 1,
            f"MODEL.SEG.HRDA.{key} is (height, width) in pixels, not {size}",
        )
    require(
        0.0 <= hrda.DETAIL_WEIGHT <= 1.0,
        f"MODEL.SEG.HRDA.DETAIL_WEIGHT is in [0, 1], not {hrda.DETAIL_WEIGHT}",
    )
    for key in ("ATTENTION_CHANNELS", "WINDOWS_AT_ONCE"):
        require(hrda[key] >= 1, f"MODEL.SEG.HRDA.{key} is at least 1, not {hrda[key]}")
    adversarial = seg.ADVERSARIAL
    for key in ("WEIGHT", "LR_FACTOR"):
        value = adversarial[key]
        require(value >= 0, f"MODEL.SEG.ADVERSARIAL.{key} is at least 0, not {value}")
    require(
        adversarial.CHANNELS >= 1,
        f"MODEL.SEG.ADVERSARIAL.CHANNELS is at least 1, not {adversarial.CHANNELS}",
    )
    check_prototype_hosts_config(cfg, require)


def _check_network(cfg: CN, require: Require) -> None:
    """Sizes of encoder and decoder."""
    from .networks.deeplab import BLOCKS

    seg, depth = cfg.MODEL.SEG, cfg.MODEL.RESNETS.DEPTH
    require(
        seg.ENCODER != "resnet" or depth in BLOCKS,
        f"MODEL.RESNETS.DEPTH is one of {', '.join(map(str, BLOCKS))}, not {depth}",
    )
    dilations = list(seg.ASPP_DILATIONS)
    require(
        bool(dilations) and all(isinstance(each, int) and each >= 1 for each in dilations),
        f"MODEL.SEG.ASPP_DILATIONS are whole numbers of at least 1, not {dilations}",
    )
    require(seg.CHANNELS >= 1, f"MODEL.SEG.CHANNELS is at least 1, not {seg.CHANNELS}")
    require(seg.NORM in NORMS, f"MODEL.SEG.NORM is one of {', '.join(NORMS)}, not {seg.NORM!r}")
    for key in ("DROPOUT", "DROP_PATH"):
        require(0.0 <= seg[key] < 1.0, f"MODEL.SEG.{key} is in [0, 1), not {seg[key]}")
    require(
        seg.HEAD_LR_FACTOR > 0,
        f"MODEL.SEG.HEAD_LR_FACTOR is above 0, not {seg.HEAD_LR_FACTOR}",
    )
    # Detectron2's GroupNorm has 32 groups.
    for key, value, used in (
        ("CHANNELS", seg.CHANNELS, seg.DECODER == "daformer"),
        ("HRDA.ATTENTION_CHANNELS", seg.HRDA.ATTENTION_CHANNELS, seg.HRDA.ENABLED),
    ):
        require(
            seg.NORM != "GN" or not used or value % 32 == 0,
            f"MODEL.SEG.{key} is a multiple of 32 with MODEL.SEG.NORM 'GN', not {value}",
        )


def _check_self_training(mix: CN, require: Require) -> None:
    """Weights, colours and the feature distance of self-training."""
    key = "MODEL.SEG.SELF_TRAINING"
    for name in ("WEIGHT", "FEATURE_DISTANCE"):
        require(mix[name] >= 0, f"{key}.{name} is at least 0, not {mix[name]}")
    for name, most in (
        ("JITTER", 1.0),
        ("HUE", 0.5),
        ("JITTER_PROB", 1.0),
        ("BLUR_PROB", 1.0),
        ("THING_SHARE", 1.0),
    ):
        require(0.0 <= mix[name] <= most, f"{key}.{name} is in [0, {most:g}], not {mix[name]}")
    sigma = tuple(mix.BLUR_SIGMA)
    require(
        len(sigma) == 2 and 0.0 < sigma[0] <= sigma[1],
        f"{key}.BLUR_SIGMA is (low, high) in pixels with 0 < low <= high, not {sigma}",
    )
