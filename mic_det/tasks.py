"""What the engine asks of a task. It knows tasks through this and nothing else.

A task is a package beside `mic_det.detection`. ``MODEL.TASK`` names it; `task_of` finds its module
``mic_det.<task>.task`` and in it ``TASK``, an instance of `Task`. The student that the task's
meta-architecture builds (``MODEL.META_ARCHITECTURE`` of Detectron2's registry) is a module with

- ``forward(source, target, masked, pseudo)``: in training a dict of weighted losses, where
  ``target``, ``masked`` and ``pseudo`` are None if the method has no use for them; in eval mode
  ``forward(records)``: predictions for a list of input dicts;
- ``pseudo_label(target)``: labels of complete target images, each with its quality;
- ``teacher_copy()``: the module that an EMA teacher averages, without what only losses need;
- optionally ``lr_factor(name)``: what the learning rate of a parameter is multiplied by;
- optionally ``classifier``, a `Classifier`, for messages about weights of other classes.

Inputs are Detectron2's: lists of dicts with ``image``, (3, H, W) in 0..255.
"""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from mic_det.core import MaskedView, SharpnessAscent
from mic_det.errors import UserError

if TYPE_CHECKING:
    from detectron2.config import CfgNode
    from detectron2.engine import HookBase

    from mic_det.data.inputs import Frame, Input

MODULES = {
    "classification": "mic_det.classification.task",
    "detection": "mic_det.detection.task",
    "segmentation": "mic_det.segmentation.task",
}

Batch = list[dict[str, Any]]
Metrics = dict[str, float]


@dataclass(frozen=True)
class Classifier:
    """Where a student tells its classes: a tensor's name, with ``background`` rows for none of
    them, and the configuration key of their number."""

    tensor: str
    key: str
    background: int = 0


@dataclass(frozen=True)
class PredictOptions:
    """What a user asks of predictions.

    ``folder``: what is written goes there. ``threshold``: least score of a detection. ``pictures``:
    draw what is found. ``every``: of a video, each so many frames are given. ``classes``: names of
    the model's classes by id; empty: they are numbered.
    """

    folder: Path
    threshold: float = 0.5
    pictures: bool = True
    every: int = 1
    classes: Sequence[str] = ()


class Predictions(ABC):
    """Takes images one by one, and writes what a model makes of them."""

    def files(self, source: Input) -> list[Path]:
        """Files and folders that `add` and `end_input` write for an input alone."""
        return []

    @abstractmethod
    def add(self, source: Input, frame: Frame) -> None:
        """Predict on an image, or on a frame of a video."""

    def end_input(self) -> None:
        """The last frame of the current input has been added."""
        return

    @abstractmethod
    def write(self) -> str:
        """Write the results; returns a line that says what and where."""


class UnknownTaskError(UserError, ValueError):
    """``MODEL.TASK`` is none of `MODULES`."""


def task_of(cfg: CfgNode) -> Task:
    """The task of a configuration; its package, and so its networks, are imported first."""
    return task_named(cfg.MODEL.TASK)


def task_named(name: str) -> Task:
    """The task of this name."""
    if name not in MODULES:
        raise UnknownTaskError(f"MODEL.TASK is one of {', '.join(MODULES)}, not {name!r}")
    return importlib.import_module(MODULES[name]).TASK


class Task(ABC):
    """One kind of adaptation: its data, its evaluation, and what is special in its training.

    Attributes:
        headline: the metric that chooses the best checkpoint, e.g. "AP50". That of a class is
            ``<per_class>-<class>``.
        title: the headline as a reader is told it, e.g. "mAP50".
        columns: overall metrics in tables of results, the headline first.
        per_class: prefix of the metrics by class.
        files: what `evaluate` leaves for each data set.
        statistics_images: what ``MODEL.TEACHER.STATISTICS_IMAGES`` -1 stands for.
        network: keys, and sections, of the configuration that decide what the trained network
            makes of an image without changing the shape of a tensor, or that name its parts.
            Numbers of classes are not among them.
    """

    headline: str
    title: str
    columns: tuple[str, ...]
    per_class: str
    files: tuple[str, ...]
    statistics_images = 0
    network: tuple[str, ...]

    @abstractmethod
    def register(self, cfg: CfgNode) -> None:
        """Make known the data sets that ``cfg`` names. Calling it again is harmless."""

    @abstractmethod
    def missing_data_message(self, cfg: CfgNode, training: bool) -> str | None:
        """One message on all data that are not there and where they come from, None if all are."""

    @abstractmethod
    def check(self, cfg: CfgNode, *, training: bool = True) -> list[str]:
        """Register the data, fit all data sets to the model's classes, and return those.

        Args:
            training: whether source and target have to be there; for evaluation they need not.

        Raises:
            ConfigError: if the model has another number of classes.
            DataError: if data are missing or broken, or a set has a class that the model lacks.
        """

    @abstractmethod
    def class_names(self, cfg: CfgNode, datasets: Sequence[str]) -> list[str]:
        """Classes of the first of these registered data sets that has as many as the model.

        Empty if none has, or none is here.
        """

    @abstractmethod
    def labelled(self, name: str, classes: Sequence[str]) -> list[dict[str, Any]]:
        """Records of a data set that `check` has brought to these classes."""

    @abstractmethod
    def batches(self, cfg: CfgNode, seed: int, start: int) -> Iterator[tuple[Batch, Batch | None]]:
        """Endless (source, target) from iteration ``start`` on; target None if nothing uses it.

        Target inputs carry no labels, and none are read (`mic_det.data.loader.paired_batches`).
        """

    @abstractmethod
    def evaluate(self, cfg: CfgNode, model: nn.Module, folder: Path | None) -> dict[str, Metrics]:
        """Metrics in percent of a model on each of ``DATASETS.TEST``.

        Predictions are left in ``folder/<data set>``, unless it is None. Called by all processes;
        on those other than the first the metrics may be empty.
        """

    @abstractmethod
    def predictions(self, cfg: CfgNode, model: nn.Module, options: PredictOptions) -> Predictions:
        """For ``tools/predict.py``; nothing is written yet."""

    def stability(self, cfg: CfgNode) -> Callable[[nn.Module], float] | None:
        """A criterion in [0, 1] that chooses a checkpoint without labels, None if there is none.

        Called on the first process alone, once for all models that are compared.
        """
        return None

    def masked_view(self, cfg: CfgNode) -> Callable[[Batch], Batch] | None:
        """From the target batch to what the student gets to see of it; None: no MIC."""
        return MaskedView.from_config(cfg) if cfg.MODEL.MIC.ENABLED else None

    def ascent(self, cfg: CfgNode) -> SharpnessAscent | None:
        """Sharpness-aware minimisation, if the method has it."""
        return None

    def hooks(self, cfg: CfgNode, student: nn.Module) -> list[HookBase]:
        """The task's own hooks: pictures, watchdogs. ``student`` is not wrapped."""
        return []
