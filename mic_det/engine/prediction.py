"""A trained model for inference."""

from __future__ import annotations

from typing import Any

from detectron2.config import CfgNode
from torch import nn

from mic_det.config import ConfigError
from mic_det.core import EMATeacher
from mic_det.weights_file import CheckpointError

from .build import build_student_and_teacher
from .checkpoint import AdaptationCheckpointer
from .key_report import class_counts


def load_model(cfg: CfgNode, weights: str, which: str | None = None) -> nn.Module:
    """The ``which`` ("student" or "teacher", default ``TEST.SERVE``) of a weights file, in eval.

    A file without a teacher serves for ``TEST.SERVE`` "teacher" as well; asked for by ``which``, a
    teacher must be there. Raises ConfigError if the file is missing, is none, or does not fit.
    """
    student, teacher = build_student_and_teacher(cfg, weights)
    checkpointer = _StrictCheckpointer(student, teacher)
    try:
        checkpointer.start_from(weights, which or cfg.TEST.SERVE)
    except ConfigError as error:
        raise ConfigError(str(error).replace("MODEL.WEIGHTS: ", "")) from error
    if which == "teacher" and not checkpointer.found_teacher:
        raise ConfigError(f"{weights}: holds no teacher; use --model student")
    return student.eval()


class _StrictCheckpointer(AdaptationCheckpointer):
    """Refuses a file that does not fill the whole model, where training only warns."""

    def __init__(self, student: nn.Module, teacher: EMATeacher) -> None:
        super().__init__(student, teacher)
        self.path = ""
        self.found_teacher = False

    def _load_file(self, filename: str) -> dict[str, Any]:
        self.path = filename
        try:
            loaded = super()._load_file(filename)
            self.found_teacher = "teacher" in loaded
        except (CheckpointError, OSError) as error:
            raise ConfigError(f"{filename}: cannot be read as weights: {error}") from error
        return loaded

    def _load_model(self, checkpoint: Any) -> Any:
        result = super()._load_model(checkpoint)
        counts = class_counts(result.incorrect_shapes, self.model)
        if counts is not None:
            raise ConfigError(
                f"{self.path}: was trained for {counts.in_file} classes, but the config's "
                f"{counts.key} is {counts.in_model}. Use the config that it was trained with."
            )
        wrong = [name for name, *_ in result.incorrect_shapes]
        needed = self._teacher.model.state_dict()  # the rest is for training alone
        missing = [name for name in result.missing_keys if name in needed]
        if wrong or missing:
            examples = ", ".join([*wrong, *missing][:3])
            raise ConfigError(
                f"{self.path}: does not fit the config's model: {len(wrong)} tensors of another "
                f"shape and {len(missing)} missing, such as {examples}. Use the config it was "
                "trained with."
            )
        return result
