"""Checkpoints in Detectron2's form, with the teacher inside, written atomically."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from detectron2.checkpoint import DetectionCheckpointer

from mic_det.config import ConfigError
from mic_det.core import EMATeacher


def write_atomically(path: Path, write: Any) -> None:
    """Call ``write(file)`` on a temporary file beside ``path``, flush it to disk, and rename it.

    A process that is killed meanwhile leaves the former ``path`` as it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


class AdaptationCheckpointer(DetectionCheckpointer):
    """`DetectionCheckpointer` for a student (key ``model``) and its teacher (key ``teacher``).

    Detectron2's own loaders read the student of such a file as they read any other. A file without
    a teacher (a model of the zoo, ImageNet weights, a plain Detectron2 run) starts both from its
    ``model``.
    """

    def __init__(
        self, student: torch.nn.Module, teacher: EMATeacher, save_dir: str = "", **others: Any
    ) -> None:
        super().__init__(student, save_dir, teacher=teacher.model, **others)
        self._teacher = teacher

    def save(self, name: str, **extra: Any) -> None:
        """Write ``<name>.pth`` and tag it as the last one."""
        if not self.save_dir or not self.save_to_disk:
            return
        data = {"model": self.model.state_dict()}
        data |= {key: each.state_dict() for key, each in self.checkpointables.items()}
        path = Path(self.save_dir) / f"{name}.pth"
        self.logger.info(f"Saving checkpoint to {path}")
        write_atomically(path, lambda file: torch.save(data | extra, file))
        self.tag_last_checkpoint(path.name)

    def tag_last_checkpoint(self, last_filename_basename: str) -> None:
        """Point ``last_checkpoint`` at a file of the folder."""
        write_atomically(
            Path(self.save_dir) / "last_checkpoint",
            lambda file: file.write(last_filename_basename.encode()),
        )

    def start_from(self, path: str, which: str = "student") -> None:
        """Start student and teacher from the ``which`` ("student" or "teacher") of a file.

        ``path`` may be empty (both start as they were initialised), a local file, or anything that
        Detectron2 resolves, such as ``detectron2://ImageNetPretrained/MSRA/R-50.pkl``. Raises
        ConfigError if the file does not exist.
        """
        if path and "://" not in path and not Path(path).is_file():
            raise ConfigError(f"MODEL.WEIGHTS: {path}: no such file")
        self._start_with_teacher = which == "teacher"
        try:
            self.load(path, checkpointables=[])
        finally:
            self._start_with_teacher = False
        self._teacher.copy_from(self.model)

    _start_with_teacher = False

    def _load_file(self, filename: str) -> dict[str, Any]:
        loaded = super()._load_file(filename)
        if self._start_with_teacher and "teacher" in loaded:
            loaded["model"] = loaded["teacher"]
        return loaded
