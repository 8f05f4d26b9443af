"""All shipped segmentation configs load and fit together; contradictions are explained."""

import pytest
from segmentor import CONFIGS, tiny_cfg

from mic_det.config import ConfigError, get_cfg, load_config

SHIPPED = sorted(CONFIGS.glob("*.yaml"))
HOSTS = {
    "source": "source_only",
    "oracle": "source_only",
    "adversarial": "adversarial",
    "self_training": "self_training",
    "mic": "self_training",
    "hrda": "self_training",
    "hrda_mic": "self_training",
}
SETTINGS = ("gta2cs", "synthia2cs", "synthia2cs13", "cs2acdc", "cs2dz", "day2dusk", "streets")
NO_ORACLE = ("cs2dz", "day2dusk")


def test_every_setting_has_every_method():
    names = {path.stem for path in SHIPPED}
    expected = {f"{s}_{m}" for s in SETTINGS for m in HOSTS}
    assert expected - {f"{s}_oracle" for s in NO_ORACLE} <= names


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_shipped_configs_load_and_say_what_their_names_say(path):
    cfg = load_config(path)
    _, method = path.stem.split("_", 1)
    assert cfg.MODEL.TASK == "segmentation" and cfg.MODEL.META_ARCHITECTURE == "AdaptiveSegmentor"
    assert cfg.OUTPUT_DIR.endswith(f"seg/{path.stem}"), "runs must not overwrite one another"
    if method not in HOSTS:
        return
    assert HOSTS[method] == cfg.MODEL.SEG.HOST
    assert method.endswith("mic") == cfg.MODEL.MIC.ENABLED
    assert method.startswith("hrda") == cfg.MODEL.SEG.HRDA.ENABLED
    if cfg.MODEL.SEG.HRDA.ENABLED and cfg.INPUT.CROP.ENABLED:
        assert list(cfg.INPUT.CROP.SIZE) == list(cfg.MODEL.SEG.HRDA.CONTEXT_WINDOW)
        align = cfg.MODEL.SEG.HRDA.SCALE * (4 if cfg.MODEL.SEG.DECODER == "daformer" else 8)
        sides = (*cfg.INPUT.CROP.SIZE, *cfg.MODEL.SEG.HRDA.DETAIL_CROP)
        assert all(side % align == 0 for side in sides)
    if method == "oracle":
        assert cfg.DATASETS.TRAIN == cfg.DATASETS.TARGET


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_class_numbers_fit_the_data(path):
    from mic_det.data.register import register_from_config
    from mic_det.data.segmentation.records import own_classes

    cfg = load_config(path)
    register_from_config(cfg)
    for name in (*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST):
        assert len(own_classes(name)) == cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES
    if cfg.MODEL.SEG.ENCODER_WEIGHTS and cfg.MODEL.SEG.HOST == "self_training":
        names = {own_classes(cfg.DATASETS.TRAIN[0])[k] for k in cfg.MODEL.SEG.SELF_TRAINING.THINGS}
        assert {"person", "rider", "car", "bus", "bicycle", "traffic sign"} <= names
        assert not names & {"road", "sky", "building", "vegetation", "wall", "fence", "pole"}


def test_defaults_are_those_of_the_papers():
    seg = get_cfg().MODEL.SEG
    assert seg.PSEUDO.THRESHOLD == 0.968 and seg.SELF_TRAINING.FEATURE_DISTANCE == 0.005
    assert seg.HEAD_LR_FACTOR == 10 and seg.CHANNELS == 256
    assert (seg.HRDA.SCALE, seg.HRDA.DETAIL_WEIGHT) == (2, 0.1)
    assert tuple(seg.HRDA.DETAIL_CROP) == (512, 512)
    assert tuple(seg.ASPP_DILATIONS) == (6, 12, 18, 24)
    cfg = load_config(CONFIGS / "gta2cs_mic.yaml")
    assert (cfg.MODEL.MIC.BLOCK_SIZE, cfg.MODEL.MIC.RATIO, cfg.MODEL.MIC.WEIGHT) == (64, 0.7, 1.0)
    assert (cfg.MODEL.TEACHER.ALPHA, cfg.MODEL.TEACHER.WARMUP) == (0.999, True)
    solver = cfg.SOLVER
    assert (solver.BASE_LR, solver.WARMUP_ITERS, solver.MAX_ITER) == (6e-5, 1500, 40000)
    rare = cfg.DATALOADER.RARE_CLASSES
    assert rare.ENABLED and rare.TEMPERATURE == 0.01
    assert (rare.MIN_PIXELS, rare.MIN_CROP_SHARE) == (3000, 0.5)
    # HRDA's images have four times as many pixels.
    hrda = load_config(CONFIGS / "gta2cs_hrda_mic.yaml")
    assert hrda.DATALOADER.RARE_CLASSES.MIN_CROP_SHARE == 2.0
    for each, times in ((cfg, 1), (hrda, 2)):
        assert 15 * times == each.MODEL.SEG.PSEUDO.IGNORE_TOP
        assert 120 * times == each.MODEL.SEG.PSEUDO.IGNORE_BOTTOM


@pytest.mark.parametrize(
    ("key", "value", "named"),
    [
        ("MODEL.SEG.HOST", "dacs", "MODEL.SEG.HOST is one of"),
        ("MODEL.SEG.ENCODER", "swin", "MODEL.SEG.ENCODER is one of"),
        ("MODEL.SEG.DECODER", "daformer", "goes with MODEL.SEG.ENCODER 'mit'"),
        ("MODEL.SEG.MIC_DOMAINS", "both", "MODEL.SEG.MIC_DOMAINS is one of"),
        ("MODEL.SEG.PSEUDO.THRESHOLD", 1.5, "MODEL.SEG.PSEUDO.THRESHOLD"),
        ("MODEL.SEG.PSEUDO.IGNORE_TOP", -1, "MODEL.SEG.PSEUDO.IGNORE_TOP"),
        ("MODEL.SEG.HRDA.DETAIL_WEIGHT", 2.0, "MODEL.SEG.HRDA.DETAIL_WEIGHT"),
        ("MODEL.SEG.HRDA.DETAIL_CROP", (32,), "MODEL.SEG.HRDA.DETAIL_CROP"),
        ("MODEL.SEG.HRDA.WINDOWS_AT_ONCE", 0, "MODEL.SEG.HRDA.WINDOWS_AT_ONCE"),
        ("MODEL.RESNETS.DEPTH", 20, "MODEL.RESNETS.DEPTH is one of 18"),
        ("MODEL.SEG.ASPP_DILATIONS", (6, 0), "MODEL.SEG.ASPP_DILATIONS"),
        ("MODEL.SEG.ASPP_DILATIONS", (), "MODEL.SEG.ASPP_DILATIONS"),
        ("MODEL.SEG.NORM", "Batch", "MODEL.SEG.NORM is one of BN"),
        ("MODEL.SEG.DROPOUT", 1.0, "MODEL.SEG.DROPOUT"),
        ("MODEL.SEG.HEAD_LR_FACTOR", 0.0, "MODEL.SEG.HEAD_LR_FACTOR"),
        ("MODEL.SEG.ADVERSARIAL.CHANNELS", 0, "MODEL.SEG.ADVERSARIAL.CHANNELS"),
        ("MODEL.SEG.ADVERSARIAL.WEIGHT", -0.1, "MODEL.SEG.ADVERSARIAL.WEIGHT"),
        ("MODEL.SEG.SELF_TRAINING.WEIGHT", -1.0, "MODEL.SEG.SELF_TRAINING.WEIGHT"),
        ("MODEL.SEG.SELF_TRAINING.HUE", 0.6, "SELF_TRAINING.HUE is in [0, 0.5]"),
        ("MODEL.SEG.SELF_TRAINING.BLUR_SIGMA", (0.0, 1.0), "0 < low <= high"),
        ("MODEL.SEG.SELF_TRAINING.THING_SHARE", 1.2, "MODEL.SEG.SELF_TRAINING.THING_SHARE"),
        ("MODEL.SEM_SEG_HEAD.NUM_CLASSES", 1, "MODEL.SEM_SEG_HEAD.NUM_CLASSES"),
        ("MODEL.SADA.ENABLED", True, "MODEL.SEG.HOST 'adversarial'"),
        ("MODEL.SEG.HOSTS", "x", "did you mean MODEL.SEG.HOST"),
    ],
)
def test_mistakes_are_named(key, value, named):
    with pytest.raises(ConfigError) as error:
        tiny_cfg({key: value})
    assert named in str(error.value)


def test_rows_left_out_must_leave_some_of_the_crop():
    """Else the target would silently teach nothing."""
    crop = {"INPUT.CROP.ENABLED": True, "INPUT.CROP.TYPE": "absolute"}
    rows = {"MODEL.SEG.PSEUDO.IGNORE_TOP": 30, "MODEL.SEG.PSEUDO.IGNORE_BOTTOM": 98}
    tiny_cfg(crop | rows | {"INPUT.CROP.SIZE": [129, 64]})
    with pytest.raises(ConfigError, match=r"IGNORE_BOTTOM leave nothing .*128 rows of 128"):
        tiny_cfg(crop | rows | {"INPUT.CROP.SIZE": [128, 256]})


def test_group_norm_takes_32_channels_at_a_time():
    group = {"MODEL.SEG.NORM": "GN", "MODEL.SEG.HRDA.ENABLED": True}
    tiny_cfg(group | {"MODEL.SEG.HRDA.ATTENTION_CHANNELS": 64})
    with pytest.raises(ConfigError, match=r"HRDA\.ATTENTION_CHANNELS is a multiple of 32"):
        tiny_cfg(group | {"MODEL.SEG.HRDA.ATTENTION_CHANNELS": 16})


def test_masked_source_images_need_no_target():
    masked = {"MODEL.MIC.ENABLED": True, "MODEL.SEG.MIC_DOMAINS": "source"}
    assert tiny_cfg(masked | {"DATASETS.TARGET": ()}).MODEL.MIC.ENABLED


def test_a_host_that_needs_the_target_says_so():
    for overrides in ({"MODEL.SEG.HOST": "adversarial"}, {"MODEL.MIC.ENABLED": True}):
        with pytest.raises(ConfigError, match=r"DATASETS\.TARGET"):
            tiny_cfg(overrides | {"DATASETS.TARGET": ()})
    assert tiny_cfg({"DATASETS.TARGET": ()}).MODEL.SEG.HOST == "source_only"
