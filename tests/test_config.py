"""Configuration: all shipped files load; mistakes are refused by name, contradictions explained."""

import pytest
import torch
from detector import CONFIGS

from mic_det import config as config_module
from mic_det.config import ConfigError, check_config, get_cfg, load_config

SHIPPED = sorted(CONFIGS.glob("*.yaml"))
STREETS = CONFIGS / "base" / "streets.yaml"
MIC = ("MODEL.MIC.ENABLED", "True")


def write(tmp_path, text):
    path = tmp_path / "mine.yaml"
    path.write_text(f'_BASE_: "{STREETS}"\n{text}', encoding="utf-8")
    return path


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_shipped_configs_load(path):
    cfg = load_config(path)
    assert cfg.is_frozen()
    assert cfg.MODEL.META_ARCHITECTURE == "AdaptiveRCNN"
    assert cfg.DATASETS.TRAIN and cfg.DATASETS.TEST
    assert cfg.OUTPUT_DIR != get_cfg().OUTPUT_DIR, "runs must not overwrite one another"


@pytest.mark.parametrize("beside", [False, True], ids=["the file", "its base"])
def test_a_key_that_occurs_twice_is_refused(tmp_path, beside):
    """YAML readers keep the last one."""
    path = write(tmp_path, "SOLVER: {MAX_ITER: 7}\nSOLVER: {WARMUP_ITERS: 5}\n")
    if beside:
        (tmp_path / "on_it.yaml").write_text('_BASE_: "mine.yaml"\n')
        path = tmp_path / "on_it.yaml"
    with pytest.raises(ConfigError, match="'SOLVER' occurs twice"):
        load_config(path)


def test_there_are_shipped_configs():
    assert {"streets_source", "streets_mic"} <= {path.stem for path in SHIPPED}


def test_defaults_are_those_of_the_papers():
    mic, sada = get_cfg().MODEL.MIC, get_cfg().MODEL.SADA
    assert (mic.BLOCK_SIZE, mic.RATIO, mic.WEIGHT, mic.SCORE_THRESH) == (32, 0.5, 1.0, 0.8)
    assert (mic.AUGMENT.JITTER, mic.AUGMENT.HUE, mic.AUGMENT.JITTER_PROB) == (0.2, 0.2, 0.8)
    assert (tuple(mic.AUGMENT.BLUR_SIGMA), mic.AUGMENT.BLUR_PROB) == ((0.15, 1.15), 0.5)
    assert (sada.IMAGE_REVERSAL, sada.INSTANCE_REVERSAL, sada.CONSISTENCY_SCALE) == (
        0.025,
        0.1,
        0.1,
    )
    assert (sada.IMAGE_CHANNELS, sada.INSTANCE_CHANNELS, sada.DROPOUT) == (512, 1024, 0.5)
    assert get_cfg().MODEL.TEACHER.ALPHA == 0.9


def test_values_come_from_base_file_and_command_line_in_this_order(tmp_path):
    path = write(tmp_path, "MODEL: {MIC: {RATIO: 0.7}}\nSOLVER: {MAX_ITER: 7, WARMUP_ITERS: 5}\n")
    cfg = load_config(path, ["SOLVER.MAX_ITER", "9"])
    assert cfg.MODEL.FPN.OUT_CHANNELS == 64  # the base's
    assert cfg.MODEL.MIC.RATIO == 0.7
    assert cfg.SOLVER.MAX_ITER == 9
    assert cfg.MODEL.MIC.SCORE_THRESH == 0.8  # the default


@pytest.mark.parametrize(
    ("text", "given", "meant"),
    [
        ("MODEL:\n  MIC:\n    RATOI: 0.5\n", "MODEL.MIC.RATOI", "MODEL.MIC.RATIO"),
        ("MODEL:\n  MCI:\n    RATIO: 0.5\n", "MODEL.MCI.RATIO", "MODEL.MIC.RATIO"),
        ("DATASETS:\n  TARGTE: ('a',)\n", "DATASETS.TARGTE", "DATASETS.TARGET"),
        ("SEEED: 1\n", "SEEED", "SEED"),
    ],
)
def test_misspelt_key_in_the_file(tmp_path, text, given, meant):
    path = write(tmp_path, text)
    with pytest.raises(ConfigError) as error:
        load_config(path)
    message = str(error.value)
    assert given in message
    assert f"did you mean {meant}?" in message
    assert str(path) in message


def test_misspelt_key_in_the_base(tmp_path):
    base = tmp_path / "base.yaml"
    base.write_text("MODEL:\n  TEACHER:\n    ALHPA: 0.5\n", encoding="utf-8")
    path = tmp_path / "mine.yaml"
    path.write_text("_BASE_: base.yaml\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"MODEL\.TEACHER\.ALHPA .*MODEL\.TEACHER\.ALPHA"):
        load_config(path)


def test_misspelt_key_on_the_command_line():
    with pytest.raises(ConfigError) as error:
        load_config(STREETS, ["SOLVER.MAX_ITER", "5", "MODEL.MIC.RATOI", "0.5"])
    message = str(error.value)
    assert "command line" in message
    assert "MODEL.MIC.RATOI (did you mean MODEL.MIC.RATIO?)" in message
    assert "SOLVER.MAX_ITER" not in message


def test_every_unknown_key_is_named():
    with pytest.raises(ConfigError) as error:
        load_config(STREETS, ["MODEL.MIC.RATOI", "1", "QQQQQQQQ", "2"])
    assert "MODEL.MIC.RATOI" in str(error.value) and "QQQQQQQQ" in str(error.value)
    assert "QQQQQQQQ (did" not in str(error.value)


def test_wrong_type_in_the_file(tmp_path):
    path = write(tmp_path, 'MODEL:\n  MIC:\n    BLOCK_SIZE: "large"\n')
    with pytest.raises(ConfigError) as error:
        load_config(path)
    assert "MODEL.MIC.BLOCK_SIZE" in str(error.value) and str(path) in str(error.value)


def test_wrong_type_on_the_command_line():
    with pytest.raises(ConfigError, match=r"command line: .*MODEL\.MIC\.BLOCK_SIZE"):
        load_config(STREETS, ["MODEL.MIC.BLOCK_SIZE", "large"])


def test_odd_overrides():
    with pytest.raises(ConfigError, match="pairs"):
        load_config(STREETS, ["SOLVER.MAX_ITER"])
    with pytest.raises(ConfigError, match="pairs"):
        load_config(STREETS, ["SOLVER.MAX_ITER", "5", "SEED"])


def test_missing_file(tmp_path):
    with pytest.raises(ConfigError, match="no such config file"):
        load_config(tmp_path / "nothing.yaml")
    with pytest.raises(ConfigError, match="no such config file"):
        load_config(tmp_path)


def test_missing_base(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("_BASE_: nothing.yaml\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"nothing\.yaml"):
        load_config(path)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "MODEL: [1\n",
        "- MODEL\n- SOLVER\n",
        "only words\n",
        "MODEL: 3\n",
        "MODEL:\n  MIC: 3\n",
        "MODEL:\n  MIC:\n    WEIGHT: {a: 1}\n",
        "MODEL:\n  MIC:\n    WEIGHT: 2020-01-01\n",
        "1: 2\n",
        "SEED: !!python/object/apply:os.getcwd []\n",
    ],
    ids=[
        "empty",
        "broken",
        "list",
        "text",
        "scalar-for-section",
        "scalar-for-subsection",
        "section-for-scalar",
        "date",
        "number-key",
        "python-object",
    ],
)
def test_malformed_file(tmp_path, text):
    path = tmp_path / "mine.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=r"mine\.yaml"):
        load_config(path)


def test_base_on_the_command_line():
    with pytest.raises(ConfigError):
        load_config(STREETS, ["_BASE_", "other.yaml"])


@pytest.mark.parametrize(
    ("overrides", "match"),
    [
        (["MODEL.MIC.ENABLED", "True", "DATASETS.TARGET", "()"], r"DATASETS\.TARGET"),
        (["MODEL.SADA.ENABLED", "True", "DATASETS.TARGET", "()"], r"DATASETS\.TARGET"),
        (["MODEL.MIC.RATIO", "1.5"], r"MODEL\.MIC\.RATIO .*1\.5"),
        (["MODEL.MIC.RATIO", "-0.5"], r"MODEL\.MIC\.RATIO"),
        (["MODEL.MIC.BLOCK_SIZE", "0"], r"MODEL\.MIC\.BLOCK_SIZE"),
        (["MODEL.MIC.SCORE_THRESH", "8.0"], r"MODEL\.MIC\.SCORE_THRESH"),
        (["MODEL.MIC.QUALITY", "both"], r"MODEL\.MIC\.QUALITY .*teacher.*'both'"),
        (["SOLVER.BASE_LR", "1e400"], r"SOLVER\.BASE_LR is inf: it must be a finite number"),
        (["SOLVER.BASE_LR", "-1e400"], r"SOLVER\.BASE_LR is -inf"),
        (["SOLVER.BASE_LR", "1e39"], r"SOLVER\.BASE_LR is 1e\+39: .*float32"),
        (["SOLVER.GAMMA", "1e999"], r"SOLVER\.GAMMA is inf"),
        (["MODEL.TEACHER.STATISTICS_IMAGES", "-2"], r"STATISTICS_IMAGES is at least -1, not -2"),
        (["SOLVER.MAX_ITER", "1" + "0" * 400], r"SOLVER\.MAX_ITER is 10+: .*finite"),
        (["MODEL.PIXEL_STD", "[1.0, 1e999, 1.0]"], r"MODEL\.PIXEL_STD is inf"),
        (["MODEL.ANCHOR_GENERATOR.SIZES", "[[32], [1e999]]"], r"ANCHOR_GENERATOR\.SIZES is inf"),
        (["MODEL.MIC.WATCHDOG.EXPLOSION_FACTOR", "1e999"], r"EXPLOSION_FACTOR is inf"),
        (["MODEL.TEACHER.ALPHA", "1.1"], r"MODEL\.TEACHER\.ALPHA"),
        (["SOLVER.MAX_SKIPPED_STEPS", "0"], r"SOLVER\.MAX_SKIPPED_STEPS"),
        (["SOLVER.CHECKPOINTS_KEPT", "0"], r"SOLVER\.CHECKPOINTS_KEPT"),
        (["SOLVER.CLIP_GRADIENTS.CLIP_VALUE", "0.0"], r"CLIP_VALUE is above 0"),
        (["SOLVER.CLIP_GRADIENTS.CLIP_TYPE", "all"], r"CLIP_TYPE .*full_model.*'all'"),
        (["DATALOADER.MAX_UNREADABLE", "1.5"], r"DATALOADER\.MAX_UNREADABLE .*1\.5"),
        (["MODEL.MIC.WATCHDOG.ACTION", "shout"], r"WATCHDOG\.ACTION .*warn, stop"),
        (["MODEL.MIC.WATCHDOG.COLLAPSE_ITERS", "0"], r"COLLAPSE_ITERS is at least 1"),
        (["MODEL.MIC.WATCHDOG.EXPLOSION_FACTOR", "0.0"], r"EXPLOSION_FACTOR is above 0"),
        (["MODEL.MIC.AUGMENT.HUE", "0.7"], r"AUGMENT\.HUE is in \[0, 0\.5\], not 0\.7"),
        (["MODEL.MIC.AUGMENT.JITTER", "-0.1"], r"AUGMENT\.JITTER is in \[0, 1\]"),
        (["MODEL.MIC.AUGMENT.JITTER_PROB", "2.0"], r"AUGMENT\.JITTER_PROB is in \[0, 1\]"),
        (["MODEL.MIC.AUGMENT.BLUR_PROB", "2.0"], r"AUGMENT\.BLUR_PROB is in \[0, 1\]"),
        (["MODEL.MIC.AUGMENT.BLUR_SIGMA", "(1.0,)"], r"BLUR_SIGMA .*\(1\.0,\)"),
        (["MODEL.MIC.AUGMENT.BLUR_SIGMA", "(2.0, 1.0)"], r"BLUR_SIGMA .*\(2\.0, 1\.0\)"),
        (
            ["SOLVER.MAX_ITER", "50"],
            r"SOLVER\.WARMUP_ITERS is 50.* SOLVER\.MAX_ITER 50: .*SOLVER\.WARMUP_ITERS 5",
        ),
        (["SOLVER.MAX_ITER", "0"], r"SOLVER\.MAX_ITER is at least 1"),
        (["SOLVER.IMS_PER_BATCH", "0"], r"SOLVER\.IMS_PER_BATCH is at least 1"),
        (["SOLVER.TARGET_IMS_PER_BATCH", "-1"], r"TARGET_IMS_PER_BATCH is at least 0"),
        (["INPUT.FORMAT", "L"], r"INPUT\.FORMAT is RGB or BGR, not 'L'"),
        (["INPUT.COLOR_JITTER", "-0.1"], r"INPUT\.COLOR_JITTER is at least 0"),
        (["MODEL.MASK_ON", "True"], r"MODEL\.MASK_ON: .*boxes alone"),
        (["MODEL.KEYPOINT_ON", "True"], r"MODEL\.KEYPOINT_ON: .*boxes alone"),
        (["MODEL.ROI_HEADS.NAME", "Res5ROIHeads"], r"ROI_HEADS\.NAME .*'Res5ROIHeads'"),
        (["MODEL.ROI_HEADS.NAME", "CascadeROIHeads"], r"ROI_HEADS\.NAME .*'CascadeROIHeads'"),
        (["MODEL.PROPOSAL_GENERATOR.NAME", "RRPN"], r"PROPOSAL_GENERATOR\.NAME is RPN"),
        (["MODEL.SADA.DROPOUT", "1.0"], r"MODEL\.SADA\.DROPOUT is in \[0, 1\)"),
        (["MODEL.LOAD_PROPOSALS", "True"], r"MODEL\.LOAD_PROPOSALS .*not used"),
        (["DATALOADER.SAMPLER_TRAIN", "RepeatFactorTrainingSampler"], r"SAMPLER_TRAIN .*not used"),
        (["SOLVER.REFERENCE_WORLD_SIZE", "8"], r"REFERENCE_WORLD_SIZE .*not used"),
        (["TEST.AUG.ENABLED", "True"], r"TEST\.AUG\.ENABLED .*not used"),
        (["TEST.PRECISE_BN.ENABLED", "True"], r"TEST\.PRECISE_BN\.ENABLED .*not used"),
        ([*MIC, "MODEL.ROI_BOX_HEAD.USE_SIGMOID_CE", "True"], r"USE_SIGMOID_CE .*MIC"),
        ([*MIC, "MODEL.ROI_BOX_HEAD.USE_FED_LOSS", "True"], r"USE_FED_LOSS .*MIC"),
        ([*MIC, "MODEL.RPN.BOUNDARY_THRESH", "0"], r"BOUNDARY_THRESH .*MIC"),
        (["SOLVER.OPTIMIZER", "Adam"], r"SOLVER\.OPTIMIZER .*AdamW"),
        (["SOLVER.AMP.DTYPE", "half"], r"SOLVER\.AMP\.DTYPE .*bfloat16"),
        (["MODEL.WEIGHTS_FROM", "best"], r"MODEL\.WEIGHTS_FROM .*student"),
        (["TEST.SERVE", "ema"], r"TEST\.SERVE .*teacher"),
        (["TEST.MODELS", "('student', 'ema')"], r"TEST\.MODELS .*'ema'"),
        (["TEST.MODELS", "('student',)", "TEST.SERVE", "teacher"], r"TEST\.SERVE .*leaves out"),
    ],
)
def test_contradictions_are_explained(overrides, match):
    with pytest.raises(ConfigError, match=match):
        load_config(STREETS, overrides)


@pytest.mark.parametrize("value", [".inf", "-.inf", ".nan", "1.0e+400"])
@pytest.mark.parametrize("task", ["detection", "segmentation", "classification"])
def test_numbers_of_a_file_are_finite(tmp_path, value, task):
    path = tmp_path / "c.yaml"
    path.write_text(f"MODEL: {{TASK: {task}}}\nSOLVER: {{WEIGHT_DECAY: {value}}}\n")
    with pytest.raises(ConfigError, match=r"SOLVER\.WEIGHT_DECAY is (-?inf|nan): .*finite"):
        load_config(path)


def test_edges_that_are_allowed():
    for overrides in (
        ["MODEL.MIC.RATIO", "0.0"],
        ["MODEL.MIC.RATIO", "1.0"],
        ["MODEL.MIC.SCORE_THRESH", "0.0"],
        ["MODEL.TEACHER.ALPHA", "1.0"],
        ["MODEL.MIC.BLOCK_SIZE", "1"],
        ["DATASETS.TARGET", "()"],
        ["SOLVER.STEPS", "(1, 2)"],
        ["DATASETS.TARGET", "('a', 'b')"],
        ["MODEL.ROI_BOX_HEAD.USE_SIGMOID_CE", "True"],
        ["MODEL.RPN.BOUNDARY_THRESH", "0"],
        ["MODEL.MIC.AUGMENT.HUE", "0.5"],
        ["MODEL.MIC.AUGMENT.BLUR_SIGMA", "(1.0, 1.0)"],
        ["MODEL.SADA.DROPOUT", "0.0"],
    ):
        load_config(STREETS, overrides)


def test_default_config_passes_the_check():
    check_config(get_cfg())


def test_config_error_is_a_value_error():
    assert issubclass(ConfigError, ValueError)


def test_no_gpu_falls_back_to_the_cpu_and_says_so_once(monkeypatch, caplog):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    config_module._say_no_gpu.cache_clear()
    devices = [load_config(STREETS, ["MODEL.DEVICE", "cuda"]).MODEL.DEVICE for _ in range(3)]
    assert devices == ["cpu"] * 3
    assert caplog.text.count("No GPU here: MODEL.DEVICE is set to cpu.") == 1


def test_with_a_gpu_it_is_used(monkeypatch, caplog):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    config_module._say_no_gpu.cache_clear()
    assert load_config(STREETS, ["MODEL.DEVICE", "cuda"]).MODEL.DEVICE == "cuda"
    assert "No GPU" not in caplog.text
