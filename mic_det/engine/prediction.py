"""A trained model for inference."""

from __future__ import annotations

from typing import Any

from detectron2.config import CfgNode
from torch import nn

from mic_det.config import ConfigError
from mic_det.core import EMATeacher
from mic_det.tasks import task_of

from .build import build_student_and_teacher
from .checkpoint import AdaptationCheckpointer
from .description import Description
from .key_report import class_counts


def load_model(cfg: CfgNode, weights: str, which: str | None = None) -> tuple[nn.Module, list[str]]:
    """The ``which`` ("student" or "teacher", default ``TEST.SERVE``) of a weights file, in eval.

    A file without a teacher serves for ``TEST.SERVE`` "teacher" as well; asked for by ``which``, a
    teacher must be there. With the names of its classes, as the file has them, or, if it has none,
    the data; empty if they are not here either. Raises ConfigError if the file is missing or does
    not fit, CheckpointError if it is none or of other classes or settings.
    """
    task, data = task_of(cfg), cfg.DATASETS
    # Those of the tests need not be in the order of the model's.
    description = Description.of(cfg, task.class_names(cfg, data.TRAIN[:1]))
    student, teacher = build_student_and_teacher(cfg, weights)
    checkpointer = _StrictCheckpointer(student, teacher)
    try:
        checkpointer.start_from(weights, which or cfg.TEST.SERVE, compare=description.check_served)
    except ConfigError as error:
        raise ConfigError(str(error).replace("MODEL.WEIGHTS: ", "")) from error
    if which == "teacher" and not checkpointer.found_teacher:
        raise ConfigError(f"{weights}: holds no teacher; use --model student")
    file = checkpointer.file_description
    names = list(file.classes) if file else []
    return student.eval(), names or task.class_names(cfg, (*data.TRAIN, *data.TEST))


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
        except OSError as error:
            raise ConfigError(f"{filename}: cannot be read as weights: {error}") from error
        self.found_teacher = "teacher" in loaded
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
