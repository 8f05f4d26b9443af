"""From a configuration to a trainer, and to models with their weights."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.engine import create_ddp_model, default_writers, hooks
from detectron2.modeling import build_model
from detectron2.solver import get_default_optimizer_params
from detectron2.solver.build import maybe_add_gradient_clipping
from detectron2.utils import comm
from detectron2.utils.env import seed_all_rng
from torch import nn

from mic_det.config import ConfigError
from mic_det.core import EMATeacher
from mic_det.tasks import task_of

from .checkpoint import AdaptationCheckpointer, last_checkpoint
from .description import Description, record_digests
from .evaluation import evaluate, evaluated_weights
from .health import StepGuard, likely_causes
from .health_curves import HealthCurves
from .keep_best import BestCheckpoints
from .schedule import LRScheduler, build_lr_scheduler
from .stopping import StopOnSigterm
from .trainer import AdaptationTrainer

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
        lr_factor_func=getattr(model, "lr_factor", None),
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


def build_student_and_teacher(cfg: CfgNode, weights: str = "") -> tuple[nn.Module, EMATeacher]:
    """The student, on its device, and a teacher that equals it; weights not loaded yet.

    ``weights``: the file that they will be loaded from, if it is not ``MODEL.WEIGHTS``: pretrained
    weights, which would be overwritten, are then not asked for.
    """
    task = task_of(cfg)  # imports what the registries have to know
    if weights:
        cfg = cfg.clone()
        cfg.defrost()
        cfg.MODEL.WEIGHTS = weights
    student = _network(cfg)
    if not hasattr(student, "teacher_copy"):
        raise ConfigError(
            f"MODEL.META_ARCHITECTURE {cfg.MODEL.META_ARCHITECTURE!r} has no teacher: the one for "
            "detection is AdaptiveRCNN. One of your own needs a method teacher_copy()."
        )
    if cfg.MODEL.CHANNELS_LAST:
        student.to(memory_format=torch.channels_last)
    images = cfg.MODEL.TEACHER.STATISTICS_IMAGES
    teacher = EMATeacher(
        student,
        alpha=cfg.MODEL.TEACHER.ALPHA,
        warmup=cfg.MODEL.TEACHER.WARMUP,
        model=student.teacher_copy(),
        statistics_images=task.statistics_images if images < 0 else images,
    )
    return student, teacher


def _network(cfg: CfgNode) -> nn.Module:
    """Detectron2's ``build_model``, with an error for people where GroupNorm does not fit."""
    try:
        return build_model(cfg)
    except ValueError as error:
        if "num_groups" not in str(error):
            raise
        keys = ", ".join(_keys_with(cfg, "NORM", "GN"))
        raise ConfigError(
            f"{keys}: GN normalises 32 groups of channels, and a layer has a number of channels "
            f"that is no multiple of 32 ({error}). Make all widths of the network multiples of 32, "
            "or choose BN or FrozenBN."
        ) from error


def _keys_with(node: CfgNode, name: str, value: Any, prefix: str = "") -> Iterator[str]:
    """Keys that end in ``name`` and have ``value``."""
    for key, each in node.items():
        if isinstance(each, CfgNode):
            yield from _keys_with(each, name, value, f"{prefix}{key}.")
        elif key == name and each == value:
            yield f"{prefix}{key}"


def check_batches(cfg: CfgNode) -> None:
    """Raise ConfigError unless the processes can share the batches out evenly."""
    world = comm.get_world_size()
    for key in ("IMS_PER_BATCH", "TARGET_IMS_PER_BATCH"):
        if cfg.SOLVER[key] % world:
            raise ConfigError(
                f"SOLVER.{key} is {cfg.SOLVER[key]}, over all processes; it must be a multiple of "
                f"their number, {world}."
            )


def load_for_evaluation(cfg: CfgNode, *, resume: bool = False) -> tuple[nn.Module, EMATeacher]:
    """Student and teacher with the weights of ``MODEL.WEIGHTS``.

    With ``resume`` those of the last checkpoint in ``OUTPUT_DIR``, if there is one. A file without
    a teacher fills both. Raises CheckpointError if its classes are not those of the data, or its
    network is another one than the config's.
    """
    description = Description.of(cfg, task_of(cfg).check(cfg, training=False))
    path = evaluated_weights(cfg, resume=resume)
    logger.info("Weights: %s", path or "random")
    student, teacher = build_student_and_teacher(cfg, path)
    checkpointer = AdaptationCheckpointer(student, teacher, cfg.OUTPUT_DIR)
    checkpointer.start_from(path, refused=("mis-shaped",), compare=description.check_served)
    checkpointer.load(path, checkpointables=["teacher"])
    return student, teacher


def build_trainer(
    cfg: CfgNode,
    *,
    resume: bool = False,
    allow_changes: bool = False,
    writers: Callable[[], list[Any]] | None = None,
    log_period: int = LOG_PERIOD,
) -> AdaptationTrainer:
    """Everything that ``tools/train_net.py`` trains with; call ``train()``.

    Args:
        resume: continue from the last checkpoint of ``OUTPUT_DIR``, if there is one.
        allow_changes: even if settings or data have changed since, as far as that is possible.
        writers: what metrics are written to; Detectron2's own by default.
        log_period: iterations that a logged loss is the mean of.
    """
    task = task_of(cfg)
    classes = task.check(cfg)
    check_batches(cfg)
    description = Description.of(cfg, classes, record_digests(cfg, classes))
    seed = cfg.SEED if cfg.SEED >= 0 else comm.shared_random_seed()
    logger.info("Seed of weights, data order, augmentation and masks: %d", seed)
    seed_all_rng(seed)
    amp = cfg.SOLVER.AMP
    if amp.ENABLED and amp.DTYPE == "float16" and cfg.MODEL.DEVICE == "cpu":
        logger.warning(
            "SOLVER.AMP.DTYPE float16 on a CPU: steps take ten times as long as in float32, or "
            "longer. Set SOLVER.AMP.DTYPE bfloat16 (about 0.8 times on a CPU that has it in "
            "hardware) or SOLVER.AMP.ENABLED False."
        )
    resumed_from = last_checkpoint(cfg.OUTPUT_DIR) if resume else ""
    student, teacher = build_student_and_teacher(cfg, resumed_from)
    checkpointer = AdaptationCheckpointer(
        student, teacher, cfg.OUTPUT_DIR, keep=cfg.SOLVER.CHECKPOINTS_KEPT
    )
    trainer = build_trainer_around(
        cfg,
        student,
        teacher,
        lambda start: task.batches(cfg, trainer.seed, start),
        seed,
        guard=build_guard(cfg, checkpointer),
        log_period=log_period,
    )
    checkpointer.add_checkpointable("trainer", trainer)
    trainer.register_hooks(_hooks(cfg, trainer, student, checkpointer, writers))
    checkpointer.remove_leftovers()
    if resume and checkpointer.resume(partial(description.check_resumed, allow=allow_changes)):
        trainer.start_iter = trainer.iter + 1
    else:
        weights, which = cfg.MODEL.WEIGHTS, cfg.MODEL.WEIGHTS_FROM
        checkpointer.start_from(weights, which, compare=description.check_start)
    settings = {**description.settings, "SEED": trainer.seed}
    checkpointer.description = replace(description, settings=settings)
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
    task = task_of(cfg)
    return AdaptationTrainer(
        student=_distributed(student),
        teacher=teacher,
        optimizer=build_optimizer(cfg, student),
        make_batches=make_batches,
        guard=guard,
        mask_target=task.masked_view(cfg),
        ascent=task.ascent(cfg),
        amp_dtype=getattr(torch, cfg.SOLVER.AMP.DTYPE) if cfg.SOLVER.AMP.ENABLED else None,
        seed=seed,
        max_iter=cfg.SOLVER.MAX_ITER,
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
    task, optimizer = task_of(cfg), trainer.optimizer
    period = cfg.TEST.EVAL_PERIOD

    def evaluate_now() -> dict[str, Any]:
        trainer.last_results = evaluate(cfg, student, trainer.teacher)
        return trainer.last_results

    built: list[Any] = [
        hooks.IterationTimer(),
        LRScheduler(optimizer, build_lr_scheduler(cfg, optimizer)),
        Evaluation(period, evaluate_now),
        HealthCurves(student, LOG_PERIOD),
        *task.hooks(cfg, student),
    ]
    served, headline = cfg.TEST.SERVE, task.headline
    metrics = [(f"{served}/{name}/{headline}", "model_best") for name in cfg.DATASETS.TEST]
    if cfg.TEST.LABEL_FREE_IMAGES and cfg.DATASETS.TARGET:
        metrics.append((f"{served}/stability", "model_best_label_free"))
    if period:
        best = {file: metric for metric, file in reversed(metrics)}
        built.append(BestCheckpoints(checkpointer, best))
    if comm.is_main_process():
        built.append(hooks.PeriodicCheckpointer(checkpointer, cfg.SOLVER.CHECKPOINT_PERIOD))
        make = writers or (lambda: default_writers(cfg.OUTPUT_DIR, cfg.SOLVER.MAX_ITER))
        built.append(hooks.PeriodicWriter(make(), period=LOG_PERIOD))
    return [*built, StopOnSigterm(checkpointer)]
