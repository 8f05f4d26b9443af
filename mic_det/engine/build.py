"""From a configuration to a trainer, and to evaluated models."""

from __future__ import annotations

import logging
import math
import sys
from collections.abc import Callable, Iterator
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.engine import create_ddp_model, default_writers, hooks
from detectron2.modeling import build_model
from detectron2.solver import build_lr_scheduler, get_default_optimizer_params
from detectron2.solver.build import maybe_add_gradient_clipping
from detectron2.utils import comm
from detectron2.utils.env import seed_all_rng
from torch import nn

from mic_det.config import ConfigError
from mic_det.core import EMATeacher, PatchMask
from mic_det.data.catalog import (
    fit_classes,
    labelled_dicts,
    missing_data_message,
    require_domain,
    unlabelled_dicts,
)
from mic_det.data.loader import domain_batches
from mic_det.data.mapper import DomainMapper
from mic_det.data.register import register_from_config
from mic_det.detection.label_free import masking_stability

from .checkpoint import AdaptationCheckpointer
from .evaluation import detections_folder, evaluate_model
from .health import StepGuard, likely_causes
from .health_curves import HealthCurves
from .keep_best import BestCheckpoints
from .pictures import picture_hooks
from .student_view import MaskedView
from .trainer import AdaptationTrainer
from .watchdog import PseudoLabelWatchdog

logger = logging.getLogger(__name__)

# Iterations between lines of the metrics; a GPU is waited for once in so many.
LOG_PERIOD = 20


def build_optimizer(cfg: CfgNode, model: nn.Module) -> torch.optim.Optimizer:
    """SGD or AdamW over the trainable parameters, with Detectron2's parameter groups."""
    solver = cfg.SOLVER
    groups = get_default_optimizer_params(
        model,
        base_lr=solver.BASE_LR,
        weight_decay=solver.WEIGHT_DECAY,
        weight_decay_norm=solver.WEIGHT_DECAY_NORM,
        bias_lr_factor=solver.BIAS_LR_FACTOR,
        weight_decay_bias=solver.WEIGHT_DECAY_BIAS,
    )
    if solver.OPTIMIZER == "AdamW":
        return _clipping(cfg, torch.optim.AdamW)(groups, lr=solver.BASE_LR, fused=True)
    optimizer = _clipping(cfg, torch.optim.SGD)(
        groups,
        lr=solver.BASE_LR,
        momentum=solver.MOMENTUM,
        nesterov=solver.NESTEROV,
        fused=True,
    )
    if solver.MOMENTUM:
        # The fused kernel would begin with memory as it finds it if its first step were skipped.
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    return optimizer


def _clipping(cfg: CfgNode, kind: type[torch.optim.Optimizer]) -> type[torch.optim.Optimizer]:
    """``kind`` with Detectron2's clipping of each parameter; that of all is `StepGuard`'s."""
    if cfg.SOLVER.CLIP_GRADIENTS.CLIP_TYPE == "full_model":
        return kind
    return maybe_add_gradient_clipping(cfg, kind)


def build_guard(cfg: CfgNode, checkpointer: AdaptationCheckpointer) -> StepGuard:
    """Clipping and skipping as ``SOLVER`` says."""
    clip = cfg.SOLVER.CLIP_GRADIENTS
    norm = clip.CLIP_VALUE if clip.ENABLED and clip.CLIP_TYPE == "full_model" else None
    logger.info(
        "Warm-up over %d iterations to a learning rate of %g; gradients %s.",
        cfg.SOLVER.WARMUP_ITERS,
        cfg.SOLVER.BASE_LR,
        f"clipped ({clip.CLIP_TYPE}) at {clip.CLIP_VALUE:g}" if clip.ENABLED else "not clipped",
    )
    causes = likely_causes(cfg)
    return StepGuard(norm, cfg.SOLVER.MAX_SKIPPED_STEPS, causes, checkpointer.last)


def build_student_and_teacher(cfg: CfgNode) -> tuple[nn.Module, EMATeacher]:
    """The student, on its device, and a teacher that equals it; weights not loaded yet."""
    student = build_model(cfg)
    if cfg.MODEL.CHANNELS_LAST:
        student.to(memory_format=torch.channels_last)
    teacher = EMATeacher(
        student,
        alpha=cfg.MODEL.TEACHER.ALPHA,
        warmup=cfg.MODEL.TEACHER.WARMUP,
        model=student.teacher_copy(),
    )
    return student, teacher


def check_classes(cfg: CfgNode, *, training: bool = True) -> list[str]:
    """Register what ``cfg`` names, find the classes to train, and bring all labelled sets to them.

    The classes are those of the first of ``DATASETS.TRAIN``. Those of the other sets are matched by
    name, whatever their order and ids (`mic_det.data.catalog.fit_classes`).

    Args:
        training: whether source and target have to be there; for evaluation alone they need not.

    Raises:
        ConfigError: if MODEL.ROI_HEADS.NUM_CLASSES is another number.
        DataError: if data are missing or broken, or a set has a class that is none of the model's.
    """
    register_from_config(cfg)
    sources, tests = tuple(cfg.DATASETS.TRAIN), tuple(cfg.DATASETS.TEST)
    for name in cfg.DATASETS.TARGET if training else ():
        require_domain(name, labelled=False)
    for name in (*sources, *tests) if training else tests:
        require_domain(name)
    first = sources[0] if sources and (training or not missing_data_message([sources[0]])) else None
    if first is None and not tests:
        return []
    if first is None:
        logger.warning("No source data here: the model's classes are taken to be %s's.", tests[0])
    classes = fit_classes(sources if first else tests[:1], tests)
    expected = cfg.MODEL.ROI_HEADS.NUM_CLASSES
    if len(classes) != expected:
        raise ConfigError(
            f"{first or tests[0]} has {len(classes)} classes ({', '.join(classes)}), but "
            f"MODEL.ROI_HEADS.NUM_CLASSES is {expected}. Set it to {len(classes)}, or list the "
            "classes to train where the source is registered."
        )
    for name in (*sources, *tests) if training else tests:
        labelled_dicts(name)
        found = list(MetadataCatalog.get(name).thing_classes)
        if found != classes:  # only sets that are registered with Detectron2 alone
            raise ConfigError(
                f"{name} has the classes {found}, {first} has {classes}: they must be the same in "
                "the same order. Register it with mic_det.data.register_domain: then classes are "
                "matched by name."
            )
    return classes


def check_batches(cfg: CfgNode) -> None:
    """Raise ConfigError unless the processes can share the batches out evenly."""
    world = comm.get_world_size()
    for key in ("IMS_PER_BATCH", "TARGET_IMS_PER_BATCH"):
        if cfg.SOLVER[key] % world:
            raise ConfigError(
                f"SOLVER.{key} is {cfg.SOLVER[key]}, over all processes; it must be a multiple of "
                f"their number, {world}."
            )


def evaluate(cfg: CfgNode, student: nn.Module, teacher: EMATeacher) -> dict[str, Any]:
    """Evaluate ``TEST.MODELS``: COCO metrics on each test set, and the label-free criterion.

    Returns ``{"student": {dataset: metrics, …}, "teacher": …}``; with ``TEST.LABEL_FREE_IMAGES``
    each also has ``stability``, in percent (see `masking_stability`). Detections are left in
    ``OUTPUT_DIR/inference``.
    """
    check_classes(cfg, training=False)
    models = {"student": student, "teacher": teacher.model}
    unlabelled = _unlabelled_sample(cfg)
    pixel_mean = list(cfg.MODEL.PIXEL_MEAN)
    mask = PatchMask(cfg.MODEL.MIC.BLOCK_SIZE, cfg.TEST.LABEL_FREE_RATIO, pixel_mean)
    results: dict[str, Any] = {}
    for which in cfg.TEST.MODELS:
        model = models[which]
        results[which] = evaluate_model(cfg, model, detections_folder(cfg.OUTPUT_DIR, which))
        if unlabelled and comm.is_main_process():
            results[which]["stability"] = 100.0 * masking_stability(model, unlabelled, mask)
    return results


def _unlabelled_sample(cfg: CfgNode) -> list[dict[str, Any]]:
    """Evenly spread images of ``DATASETS.TARGET``, at test size."""
    if not cfg.TEST.LABEL_FREE_IMAGES or not cfg.DATASETS.TARGET or not comm.is_main_process():
        return []
    dicts = [record for name in cfg.DATASETS.TARGET for record in unlabelled_dicts(name)]
    step = math.ceil(len(dicts) / cfg.TEST.LABEL_FREE_IMAGES)
    mapper = DomainMapper(cfg, is_train=False)
    return [mapper(record) for record in dicts[::step]]


def load_for_evaluation(cfg: CfgNode, *, resume: bool = False) -> tuple[nn.Module, EMATeacher]:
    """Student and teacher with the weights of ``MODEL.WEIGHTS``.

    With ``resume`` those of the last checkpoint in ``OUTPUT_DIR``, if there is one. A file without
    a teacher fills both.
    """
    register_from_config(cfg)
    student, teacher = build_student_and_teacher(cfg)
    checkpointer = AdaptationCheckpointer(student, teacher, cfg.OUTPUT_DIR)
    path = cfg.MODEL.WEIGHTS
    if resume and checkpointer.has_checkpoint():
        path = checkpointer.get_checkpoint_file()
    checkpointer.start_from(path, refused=("mis-shaped",))
    checkpointer.load(path, checkpointables=["teacher"])
    return student, teacher


def build_trainer(
    cfg: CfgNode,
    *,
    resume: bool = False,
    writers: Callable[[], list[Any]] | None = None,
    log_period: int = LOG_PERIOD,
) -> AdaptationTrainer:
    """Everything that ``tools/train_net.py`` trains with; call ``train(start_iter, max_iter)``.

    Args:
        resume: continue from the last checkpoint of ``OUTPUT_DIR``, if there is one.
        writers: what metrics are written to; Detectron2's own by default.
        log_period: iterations that a logged loss is the mean of.
    """
    check_classes(cfg)
    check_batches(cfg)
    seed = cfg.SEED if cfg.SEED >= 0 else comm.shared_random_seed()
    logger.info("Seed of weights, data order, augmentation and masks: %d", seed)
    seed_all_rng(seed)
    student, teacher = build_student_and_teacher(cfg)
    checkpointer = AdaptationCheckpointer(
        student, teacher, cfg.OUTPUT_DIR, keep=cfg.SOLVER.CHECKPOINTS_KEPT
    )
    trainer = build_trainer_around(
        cfg,
        student,
        teacher,
        lambda start: domain_batches(cfg, trainer.seed, start),
        seed,
        guard=build_guard(cfg, checkpointer),
        log_period=log_period,
    )
    checkpointer.add_checkpointable("trainer", trainer)
    trainer.register_hooks(_hooks(cfg, trainer, student, checkpointer, writers))
    checkpointer.remove_leftovers()
    if resume and checkpointer.resume():
        trainer.start_iter = trainer.iter + 1
    else:
        checkpointer.start_from(cfg.MODEL.WEIGHTS, cfg.MODEL.WEIGHTS_FROM)
    return trainer


def build_trainer_around(
    cfg: CfgNode,
    student: nn.Module,
    teacher: EMATeacher,
    make_batches: Callable[[int], Iterator[tuple[Any, Any]]],
    seed: int,
    guard: StepGuard | None = None,
    log_period: int = LOG_PERIOD,
) -> AdaptationTrainer:
    """The trainer of these models on these batches, without hooks and checkpoints."""
    return AdaptationTrainer(
        student=_distributed(student),
        teacher=teacher,
        optimizer=build_optimizer(cfg, student),
        make_batches=make_batches,
        guard=guard,
        mask_target=MaskedView.from_config(cfg) if cfg.MODEL.MIC.ENABLED else None,
        amp_dtype=getattr(torch, cfg.SOLVER.AMP.DTYPE) if cfg.SOLVER.AMP.ENABLED else None,
        seed=seed,
        log_period=log_period,
    )


def _distributed(student: nn.Module) -> nn.Module:
    """DistributedDataParallel if there are several processes. Each step uses every parameter."""
    on_gpu = next(student.parameters()).is_cuda
    devices = [comm.get_local_rank()] if on_gpu else None
    return create_ddp_model(student, broadcast_buffers=False, device_ids=devices)


class Evaluation(hooks.EvalHook):
    """Detectron2's hook, but not at the end of a run that failed.

    There it would wait for processes that know nothing of the failure.
    """

    def after_train(self) -> None:
        if sys.exc_info()[0] is None:
            super().after_train()


def _hooks(
    cfg: CfgNode,
    trainer: AdaptationTrainer,
    student: nn.Module,
    checkpointer: AdaptationCheckpointer,
    writers: Callable[[], list[Any]] | None,
) -> list[Any]:
    optimizer = trainer.optimizer
    period = cfg.TEST.EVAL_PERIOD

    def evaluate_now() -> dict[str, Any]:
        trainer.last_results = evaluate(cfg, student, trainer.teacher)
        return trainer.last_results

    built: list[Any] = [
        hooks.IterationTimer(),
        hooks.LRScheduler(optimizer, build_lr_scheduler(cfg, optimizer)),
        Evaluation(period, evaluate_now),
        HealthCurves(student, LOG_PERIOD),
        *picture_hooks(cfg, student),
    ]
    metrics = [(f"{cfg.TEST.SERVE}/{name}/AP50", "model_best") for name in cfg.DATASETS.TEST]
    if cfg.TEST.LABEL_FREE_IMAGES and cfg.DATASETS.TARGET:
        metrics.append((f"{cfg.TEST.SERVE}/stability", "model_best_label_free"))
    if period:
        best = {file: metric for metric, file in reversed(metrics)}
        built.append(BestCheckpoints(checkpointer, best))
    if cfg.MODEL.MIC.ENABLED and cfg.MODEL.MIC.WATCHDOG.ENABLED:
        watchdog = cfg.MODEL.MIC.WATCHDOG
        built.append(
            PseudoLabelWatchdog(watchdog.COLLAPSE_ITERS, watchdog.EXPLOSION_FACTOR, watchdog.ACTION)
        )
    if comm.is_main_process():
        built.append(hooks.PeriodicCheckpointer(checkpointer, cfg.SOLVER.CHECKPOINT_PERIOD))
        make = writers or (lambda: default_writers(cfg.OUTPUT_DIR, cfg.SOLVER.MAX_ITER))
        built.append(hooks.PeriodicWriter(make(), period=LOG_PERIOD))
    return built
