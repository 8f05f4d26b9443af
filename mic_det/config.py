"""Configuration: every key that mic_det adds to Detectron2's, with its default.

``load_config`` is what the tools use: Detectron2's defaults, these keys, a YAML file (with
``_BASE_``), then ``KEY VALUE`` overrides. A key that does not exist is refused by name.
"""

from __future__ import annotations

import difflib
import functools
import logging
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
import yaml

from mic_det.data.unique_keys import UniqueKeyLoader
from mic_det.env import require_detectron2
from mic_det.errors import ConfigError

require_detectron2()

from detectron2.config import CfgNode as CN  # noqa: E402
from detectron2.config import get_cfg as detectron2_cfg  # noqa: E402

from mic_det.config_checks import TEST_MODELS, check_config  # noqa: E402
from mic_det.segmentation.config import add_segmentation_config  # noqa: E402


def add_mic_config(cfg: CN) -> None:
    """Add mic_det's keys to a Detectron2 config, in place."""
    # What is learnt: "detection" or another key of mic_det.tasks.MODULES.
    cfg.MODEL.TASK = "detection"
    # Registered domains whose images, and nothing else, are used as the target. DATASETS.TRAIN
    # stays the labelled source, DATASETS.TEST the labelled sets to evaluate on.
    cfg.DATASETS.TARGET = ()
    # YAML files of domains to register (docs/datasets.md). A path is relative to the config file
    # that names it, or, if nothing is there or it is from the command line, to the working folder.
    cfg.DATASETS.REGISTER = ()
    # Light photometric jitter of training images of both domains: factors of brightness, contrast
    # and saturation are uniform in 1 -+ this. 0 switches it off.
    cfg.INPUT.COLOR_JITTER = 0.0
    # Segmentation: INPUT.MIN_SIZE_TRAIN and MAX_SIZE_TRAIN of target images; () and 0: as those.
    cfg.INPUT.MIN_SIZE_TARGET = ()
    cfg.INPUT.MAX_SIZE_TARGET = 0
    # Largest share of INPUT.CROP's window that one class may fill; another is drawn, a few times.
    cfg.INPUT.CROP.SINGLE_CATEGORY_MAX_AREA = 1.0
    # A folder that keeps resized training images of both domains, so that large ones are decoded
    # once and not in every pass; an image of 800x1600 takes 3.8 MB. Training is exactly the same
    # with it and without. "": no such folder.
    cfg.INPUT.RESIZED_CACHE = ""
    # Target images an iteration, over all processes; 0: as many as SOLVER.IMS_PER_BATCH.
    cfg.SOLVER.TARGET_IMS_PER_BATCH = 0
    # "SGD" or "AdamW".
    cfg.SOLVER.OPTIMIZER = "SGD"
    # The exponent of LR_SCHEDULER_NAME "WarmupPoly", (1 - t/T)^POWER, and of "WarmupInverse",
    # (1 + GAMMA t)^-POWER; the other names are Detectron2's.
    cfg.SOLVER.POWER = 0.75
    # "float16" (with loss scaling) or "bfloat16", when SOLVER.AMP.ENABLED.
    cfg.SOLVER.AMP.DTYPE = "float16"
    # Scale all gradients down together when their common norm is larger than CLIP_VALUE; a norm of
    # 1 to 10 is usual. "value" and "norm" (of each parameter by itself) are Detectron2's.
    cfg.SOLVER.CLIP_GRADIENTS.ENABLED = True
    cfg.SOLVER.CLIP_GRADIENTS.CLIP_TYPE = "full_model"
    cfg.SOLVER.CLIP_GRADIENTS.CLIP_VALUE = 35.0
    # A step whose loss or gradients are not finite is skipped; this many in a row stop the run.
    cfg.SOLVER.MAX_SKIPPED_STEPS = 20
    # Checkpoints by iteration that are kept, besides the best and the final one.
    cfg.SOLVER.CHECKPOINTS_KEPT = 3
    # Share of a data set's images that may be unreadable in training. Another image takes the place
    # of one that is; beyond this share the run stops with the list of them.
    cfg.DATALOADER.MAX_UNREADABLE = 0.01
    # Segmentation: before training, read all label images of DATASETS.TRAIN and TEST once (again
    # only when a file has changed) for values without a meaning, sizes and absent classes.
    cfg.DATALOADER.CHECK_LABELS = True
    # Segmentation: draw source images by the rarity of their classes (DAFormer: Hoyer et al., CVPR
    # 2022). A class with the share f of all pixels is drawn with P ~ exp((1 - f) / TEMPERATURE).
    cfg.DATALOADER.RARE_CLASSES = CN({"ENABLED": False})
    cfg.DATALOADER.RARE_CLASSES.TEMPERATURE = 0.01
    # Pixels of the class that an image has to have, as its label file is stored; and what part of
    # so many INPUT.CROP's window should show, as it is trained on (above 1 for enlarged images).
    cfg.DATALOADER.RARE_CLASSES.MIN_PIXELS = 3000
    cfg.DATALOADER.RARE_CLASSES.MIN_CROP_SHARE = 0.5
    # Batches of a domain that each worker makes ahead.
    cfg.DATALOADER.PREFETCH_FACTOR = 2
    # Seconds that the workers may take for a batch before the run stops and says what may be wrong;
    # 0: any number. Without workers (DATALOADER.NUM_WORKERS 0) it has no effect.
    cfg.DATALOADER.TIMEOUT = 300

    # Keep weights and feature maps with the channels innermost: the same numbers but for rounding,
    # and faster convolutions on most machines.
    cfg.MODEL.CHANNELS_LAST = False

    # Adversarial alignment (SADA: Chen et al., IJCV 2021).
    cfg.MODEL.SADA = CN({"ENABLED": False})
    # Weights of the three losses; 0 leaves the part out altogether.
    cfg.MODEL.SADA.IMAGE_WEIGHT = 1.0
    cfg.MODEL.SADA.INSTANCE_WEIGHT = 1.0
    cfg.MODEL.SADA.CONSISTENCY_WEIGHT = 1.0
    # Feature maps that the image-level heads look at, finest first; (): all of MODEL.RPN's. The
    # consistency term needs those that proposals are pooled from, MODEL.ROI_HEADS.IN_FEATURES.
    cfg.MODEL.SADA.IMAGE_LEVELS = ()
    # An instance-level head for each level that proposals are pooled from; False: one for all.
    cfg.MODEL.SADA.INSTANCE_PER_LEVEL = True
    # What gradients are multiplied by (negated) when they leave the domain heads for the features.
    cfg.MODEL.SADA.IMAGE_REVERSAL = 0.025
    cfg.MODEL.SADA.INSTANCE_REVERSAL = 0.1
    # The consistency term's gradients are multiplied by + this times the reversal factors.
    cfg.MODEL.SADA.CONSISTENCY_SCALE = 0.1
    # Hidden channels of the image and of the instance heads, and the latter's dropout.
    cfg.MODEL.SADA.IMAGE_CHANNELS = 512
    cfg.MODEL.SADA.INSTANCE_CHANNELS = 1024
    cfg.MODEL.SADA.DROPOUT = 0.5

    # Masked Image Consistency (MIC: Hoyer et al., CVPR 2023).
    cfg.MODEL.MIC = CN({"ENABLED": False})
    # lambda_M, the weight of the masked loss.
    cfg.MODEL.MIC.WEIGHT = 1.0
    # Side of a hidden patch in pixels, and the share of patches hidden. RATIO 0 hides nothing:
    # that is a plain mean teacher.
    cfg.MODEL.MIC.BLOCK_SIZE = 32
    cfg.MODEL.MIC.RATIO = 0.5
    # Teacher detections with at least this score, after NMS, are pseudo labels.
    cfg.MODEL.MIC.SCORE_THRESH = 0.8
    # Detections from this score up to SCORE_THRESH are doubtful: the student is not taught that
    # what overlaps them is background. 1 (as in the paper): nothing is doubtful.
    cfg.MODEL.MIC.DOUBT_THRESH = 1.0
    # Bring the classes of pseudo labels to the shares that they have among the source's labels
    # (`mic_det.core.ClassShares`). For domains in which classes are about equally frequent.
    cfg.MODEL.MIC.CLASS_SHARES = False
    # Whose confidence weights the masked loss: "teacher", "student" or "none".
    cfg.MODEL.MIC.QUALITY = "teacher"
    # Colour augmentation of the student's copy, before masking; each is drawn for each image.
    cfg.MODEL.MIC.AUGMENT = CN()
    cfg.MODEL.MIC.AUGMENT.JITTER = 0.2
    cfg.MODEL.MIC.AUGMENT.HUE = 0.2
    cfg.MODEL.MIC.AUGMENT.JITTER_PROB = 0.8
    cfg.MODEL.MIC.AUGMENT.BLUR_SIGMA = (0.15, 1.15)
    cfg.MODEL.MIC.AUGMENT.BLUR_PROB = 0.5
    # Watches the number of pseudo boxes: none at all for COLLAPSE_ITERS, or on average over 20
    # iterations more than EXPLOSION_FACTOR times as many an image as the source has labelled ones.
    # ACTION "warn" logs that and what to try, "stop" ends the run with it.
    cfg.MODEL.MIC.WATCHDOG = CN({"ENABLED": True})
    cfg.MODEL.MIC.WATCHDOG.COLLAPSE_ITERS = 1000
    cfg.MODEL.MIC.WATCHDOG.EXPLOSION_FACTOR = 10.0
    cfg.MODEL.MIC.WATCHDOG.ACTION = "warn"

    # The EMA teacher. It is kept, evaluated and saved in every run, MIC or not.
    cfg.MODEL.TEACHER = CN()
    cfg.MODEL.TEACHER.ALPHA = 0.9
    # Let alpha rise as min(1 - 1/(t+1), ALPHA).
    cfg.MODEL.TEACHER.WARMUP = False
    # By what trainable BatchNorm layers normalise while the teacher labels target images: by the
    # statistics of about this many target images, the batch's own if it has as many; 0: by running
    # statistics, which are of source and masked images; -1: 32 for classification, 2 for
    # segmentation, 0 for detection. Other normalisation is not concerned.
    cfg.MODEL.TEACHER.STATISTICS_IMAGES = -1
    # Which of the two a MODEL.WEIGHTS file of mic_det starts both student and teacher from.
    cfg.MODEL.WEIGHTS_FROM = "student"

    # Detectron2's own key, 0 there. Every so many iterations, and at the end, TensorBoard and
    # OUTPUT_DIR/pictures show target images, their masked copies, the teacher's pseudo labels and
    # what the student makes of them; for detection TensorBoard also has Detectron2's view of the
    # source. 0 switches it off.
    cfg.VIS_PERIOD = 1000
    # Target images shown, the same each time.
    cfg.VIS_IMAGES = 3

    # Models to evaluate on DATASETS.TEST.
    cfg.TEST.MODELS = TEST_MODELS
    # The model that counts when the best checkpoint is chosen.
    cfg.TEST.SERVE = "student"
    # Choose a best checkpoint without labels as well, by the stability of detections under masking
    # on this many images of DATASETS.TARGET, at each evaluation; 0 switches it off.
    cfg.TEST.LABEL_FREE_IMAGES = 50
    # Share of patches hidden for it, whatever MODEL.MIC.RATIO is, so that methods compare.
    cfg.TEST.LABEL_FREE_RATIO = 0.5

    add_segmentation_config(cfg)


def add_classification_config(cfg: CN) -> None:
    """Add the keys of MODEL.TASK "classification" to a config, in place."""
    # What a training image goes through: resized to a square of RESIZE pixels, then a crop brought
    # to SIZE: "random" (area and shape drawn from SCALE and 3/4..4/3), "center" or "none". In
    # testing "random" is "center".
    cfg.INPUT.SQUARE = CN({"RESIZE": 256, "SIZE": 224, "CROP": "random", "SCALE": (0.08, 1.0)})

    cfg.MODEL.CLASSIFIER = CN()
    # A model of timm's by name (resnet50, vit_base_patch16_224, …), after a dot the tag of its
    # weights if need be (resnet50.tv_in1k), or "small_cnn": three stages of convolutions for small
    # images.
    cfg.MODEL.CLASSIFIER.BACKBONE = "resnet50"
    # Start it from timm's own weights, which timm fetches; not asked for with MODEL.WEIGHTS.
    cfg.MODEL.CLASSIFIER.PRETRAINED = True
    # How a feature map becomes a vector, as timm calls it ("avg", "token", "map", …); "": as the
    # model itself does it: the mean for a CNN, the class token, without pooling, for a ViT.
    cfg.MODEL.CLASSIFIER.POOL = ""
    cfg.MODEL.CLASSIFIER.NUM_CLASSES = 65
    # Width of the layer between backbone and classifier; 0: none.
    cfg.MODEL.CLASSIFIER.BOTTLENECK = 256
    # Factor of the backbone's learning rate against that of new layers.
    cfg.MODEL.CLASSIFIER.BACKBONE_LR_FACTOR = 0.1
    # Adversarial alignment: "none", "DANN" or "CDAN".
    cfg.MODEL.CLASSIFIER.ALIGN = CN({"METHOD": "none", "WEIGHT": 1.0})
    # CDAN: weigh images by how sure the classifier is of them (CDAN+E).
    cfg.MODEL.CLASSIFIER.ALIGN.ENTROPY = True
    # CDAN: outer products with more elements than this are replaced by random projections of
    # RANDOM_DIM elements.
    cfg.MODEL.CLASSIFIER.ALIGN.EXACT_UP_TO = 4096
    cfg.MODEL.CLASSIFIER.ALIGN.RANDOM_DIM = 1024
    # Hidden channels of the domain classifier.
    cfg.MODEL.CLASSIFIER.ALIGN.HIDDEN = 1024
    # Gradients are reversed with 2 / (1 + exp(-t / WARMUP_ITERS)) - 1 at iteration t; 0: with 1.
    cfg.MODEL.CLASSIFIER.ALIGN.WARMUP_ITERS = 1000
    # Minimum class confusion; WEIGHT 0 leaves it out.
    cfg.MODEL.CLASSIFIER.MCC = CN({"WEIGHT": 0.0, "TEMPERATURE": 2.0})
    # Length of the ascent of sharpness-aware minimisation (SDAT: 0.02); 0: none.
    cfg.MODEL.CLASSIFIER.SAM_RHO = 0.0
    # What "accuracy" is: of "images", or the mean of the "classes", as VisDA-2017 counts.
    cfg.TEST.ACCURACY_OF = "images"


def get_cfg() -> CN:
    """Detectron2's default config with mic_det's keys."""
    cfg = detectron2_cfg()
    add_mic_config(cfg)
    add_classification_config(cfg)
    return cfg


def _keys(node: CN, prefix: str = "") -> Iterator[str]:
    for name, value in node.items():
        if isinstance(value, CN):
            yield from _keys(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}"


def _refuse_unknown(given: Sequence[str], known: set[str], origin: str) -> None:
    unknown = [key for key in given if key not in known]
    if not unknown:
        return
    lines = []
    for key in unknown:
        close = difflib.get_close_matches(key, known, n=1, cutoff=0.6)
        lines.append(f"  {key}" + (f" (did you mean {close[0]}?)" if close else ""))
    raise ConfigError(f"{origin}: no such configuration key:\n" + "\n".join(lines))


def _read(path: str | Path) -> CN:
    """A YAML file and what it is based on; ConfigError if it is none."""
    if not Path(path).is_file():
        raise ConfigError(f"{path}: no such config file")
    try:
        loaded = CN.load_yaml_with_base(str(path), allow_unsafe=False)
        if not isinstance(loaded, dict):
            raise ValueError("it must be a mapping of configuration keys")
        list(_with_bases(Path(path)))  # for keys that occur twice
        return CN(loaded)
    except Exception as error:
        raise ConfigError(f"{path}: cannot be read as a configuration: {error}") from error


def _with_bases(path: Path) -> Iterator[tuple[Path, dict]]:
    """A config file and those that it is based on, each with its own content."""
    content = yaml.load(path.read_bytes(), UniqueKeyLoader)
    yield path, content
    bases = content.get("_BASE_") or []
    for base in [bases] if isinstance(bases, str) else bases:
        yield from _with_bases(path.parent / Path(base).expanduser())


def _naming_file(path: Path) -> Path:
    """The config file that sets DATASETS.REGISTER: ``path`` or the first of its bases to do so."""
    naming = (
        p for p, content in _with_bases(path) if "REGISTER" in (content.get("DATASETS") or {})
    )
    return next(naming, path)


def _find_domain_files(paths: Sequence[str], beside: Path | None, origin: str) -> tuple[str, ...]:
    """Absolute paths of DATASETS.REGISTER, looked for in ``beside`` and in the working folder."""
    if isinstance(paths, str):
        raise ConfigError(f"{origin}: DATASETS.REGISTER is a list of files: [{paths}]")
    found = []
    for path in paths:
        folders = ([] if beside is None else [beside.absolute()]) + [Path.cwd()]
        places = [Path(os.path.normpath(folder / Path(path).expanduser())) for folder in folders]
        there = [place for place in places if place.is_file()]
        if not there:
            looked = " and ".join(dict.fromkeys(str(place.parent) for place in places))
            raise ConfigError(
                f"{origin}: DATASETS.REGISTER: no file {path} (looked in {looked}). Correct the "
                "path; it is relative to the config file that names it, or to the working folder."
            )
        found.append(str(there[0]))
    return tuple(found)


@functools.cache
def _say_no_gpu() -> None:
    """Once in a process: a study loads a config for each of its runs."""
    logging.getLogger(__name__).warning("No GPU here: MODEL.DEVICE is set to cpu.")


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> CN:
    """Read a YAML config and ``KEY VALUE`` overrides on top of the defaults; frozen and checked.

    Raises ConfigError when the file is missing or malformed, a key does not exist, a value has the
    wrong type, or the settings contradict each other.
    """
    cfg = get_cfg()
    known = set(_keys(cfg))
    loaded = _read(path)
    _refuse_unknown(list(_keys(loaded)), known, str(path))
    if len(overrides) % 2:
        raise ConfigError(f"overrides come in pairs, KEY VALUE; got {' '.join(overrides)}")
    _refuse_unknown(list(overrides[::2]), known, "command line")
    try:
        cfg.merge_from_other_cfg(loaded)
    except (ValueError, AssertionError, KeyError) as error:
        raise ConfigError(f"{path}: {error}") from error
    named = cfg.DATASETS.REGISTER
    try:
        cfg.merge_from_list(list(overrides))
    except (ValueError, AssertionError) as error:
        raise ConfigError(f"command line: {error}") from error
    if "DATASETS.REGISTER" in overrides[::2]:
        found = _find_domain_files(cfg.DATASETS.REGISTER, None, "command line")
    else:
        beside = _naming_file(Path(path)).parent if named else None
        found = _find_domain_files(named, beside, str(path))
    cfg.DATASETS.REGISTER = found
    if cfg.MODEL.DEVICE.startswith("cuda") and not torch.cuda.is_available():
        _say_no_gpu()
        cfg.MODEL.DEVICE = "cpu"
    check_config(cfg)
    cfg.freeze()
    return cfg
