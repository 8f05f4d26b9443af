"""Checkpoints in Detectron2's form, with the teacher inside: written atomically, read safely."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from detectron2.utils import comm

from mic_det.config import ConfigError
from mic_det.core import EMATeacher
from mic_det.data.files import write_atomically
from mic_det.errors import DivergedError
from mic_det.weights_checkpointer import (
    WeightsCheckpointer,
    check_weights,
    listed,
    not_finite,
    tensors_of,
)
from mic_det.weights_file import CheckpointError, DamagedFileError

from .description import CONFIG, Description
from .key_report import class_counts, key_report

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# Key of the `Description` in a file.
DESCRIPTION = "mic_det"
NUMBERED = re.compile(r"model_(\d{7})\.pth")
Compare = Callable[[Description, str], None]
# Names of the files that a run has written into its folder, in that order: another run may have
# left files there too.
HISTORY = "checkpoint_history"


def content_digest(value: Any) -> str:
    """SHA-256 over tensors (dtype, shape, bytes), numbers, strings and nested containers."""
    digest = hashlib.sha256()
    _digest_into(digest, value)
    return digest.hexdigest()


def _digest_into(digest: Any, value: Any) -> None:
    if isinstance(value, torch.Tensor):
        digest.update(f"{value.dtype}{tuple(value.shape)}".encode())
        flat = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        digest.update(flat.numpy())
    elif isinstance(value, Mapping):
        digest.update(f"{{{len(value)}".encode())
        for key, each in value.items():
            digest.update(f"{key!r}:".encode())
            _digest_into(digest, each)
    elif isinstance(value, (list, tuple)):
        digest.update(f"[{len(value)}".encode())
        for each in value:
            _digest_into(digest, each)
    else:
        digest.update(f"{value!r};".encode())


def last_checkpoint(folder: str) -> str:
    """Path of the last checkpoint of a run's folder, "" if there is none."""
    tag = Path(folder) / "last_checkpoint"
    return str(tag.parent / tag.read_text().strip()) if tag.is_file() else ""


class AdaptationCheckpointer(WeightsCheckpointer):
    """`DetectionCheckpointer` for a student (key ``model``) and its teacher (key ``teacher``).

    Detectron2's own loaders read the student of such a file as they read any other. A file without
    a teacher (a model of the zoo, ImageNet weights, a plain Detectron2 run) starts both from its
    ``model``. A digest of the content is saved with it and checked whenever the file is read.

    Args:
        keep: number of ``model_<iteration>.pth`` that are kept; older ones are deleted.
        description: saved in each file, so that whoever loads it can compare.
        **others: what else is saved, as in `DetectionCheckpointer`.
    """

    def __init__(
        self,
        student: torch.nn.Module,
        teacher: EMATeacher,
        save_dir: str = "",
        *,
        keep: int = 3,
        description: Description | None = None,
        **others: Any,
    ) -> None:
        super().__init__(student, save_dir, teacher=teacher.model, **others)
        self._teacher = teacher
        self._keep = keep
        self.description = description
        # That of the file that was read last, if it has one.
        self.file_description: Description | None = None
        self._start_with_teacher = False
        # Called with a file's description and path, where it is to be compared.
        self._compare: Compare | None = None
        # What is not accepted of a file that is being loaded; see `_log_incompatible_keys`.
        self._refused: tuple[str, ...] = ()
        # Names of this run's files, as in HISTORY.
        self._written: list[str] = []

    def save(self, name: str, **extra: Any) -> None:
        """Write ``<name>.pth``, tag it as the last one, delete what is too old.

        Raises CheckpointError when there is no room for it, DivergedError when a tensor of it is
        not finite; what was saved before is untouched.
        """
        if not self.save_dir or not self.save_to_disk:
            return
        data = {"model": self.model.state_dict()}
        data |= {key: each.state_dict() for key, each in self.checkpointables.items()}
        data |= extra
        if self.description is not None:
            data[DESCRIPTION] = self.description.content()
        path = Path(self.save_dir) / f"{name}.pth"
        if broken := not_finite(tensors_of(data)):
            raise DivergedError(self._diverged(path, broken))
        data["digest"] = content_digest(data)
        self.logger.info(f"Saving checkpoint to {path}")
        try:
            write_atomically(path, lambda file: torch.save(data, file))
            self._written = [each for each in self._written if each != path.name] + [path.name]
            history = "\n".join(self._written).encode()
            write_atomically(path.with_name(HISTORY), lambda file: file.write(history))
            self.tag_last_checkpoint(path.name)
        except (OSError, RuntimeError) as error:
            raise CheckpointError(self._no_room(path, error)) from error
        # While steps are skipped the weights may be lost, though finite: older ones are kept.
        health = data.get("trainer", {}).get("health", {})
        if NUMBERED.fullmatch(path.name) and not health.get("skipped_in_a_row"):
            self._prune(path)

    def tag_last_checkpoint(self, last_filename_basename: str) -> None:
        """Point ``last_checkpoint`` at a file of the folder."""
        write_atomically(
            Path(self.save_dir) / "last_checkpoint",
            lambda file: file.write(last_filename_basename.encode()),
        )

    def last(self) -> str:
        """Path of the last checkpoint of the folder, "" if there is none."""
        return self.get_checkpoint_file() if self.has_checkpoint() else ""

    def resume(self, compare: Compare | None = None) -> bool:
        """Load the last checkpoint of the folder that is intact; False if there is none at all.

        A damaged one is named in the log and the one before it taken. Raises CheckpointError if
        all are damaged, or the last does not fit the model and the optimizer, and what ``compare``
        raises of the file's description.
        """
        candidates = self._candidates()
        if not candidates:
            return False
        chosen = None
        if comm.is_main_process():
            chosen = self._first_intact(candidates, compare)
        decided = comm.all_gather(chosen)[0]
        if chosen is None:
            self._load_to_resume(decided, compare)
        return True

    def start_from(
        self,
        path: str,
        which: str = "student",
        refused: tuple[str, ...] = (),
        compare: Compare | None = None,
    ) -> None:
        """Start student and teacher from the ``which`` ("student" or "teacher") of a file.

        ``path`` may be empty (both start as they were initialised), a local file, or anything that
        Detectron2 resolves, such as ``detectron2://ImageNetPretrained/MSRA/R-50.pkl``. Differences
        between file and model are logged; those ``refused`` ("missing", "unexpected", "mis-shaped")
        raise CheckpointError, as a file does that is damaged or unsafe, and ``compare`` if the
        file's description says something else. Raises ConfigError if it does not exist.
        """
        if path and "://" not in path and not Path(path.partition("?")[0]).is_file():
            raise ConfigError(
                f"MODEL.WEIGHTS: {path}: no such file. If it is a burn-in, train that first; "
                'MODEL.WEIGHTS "" starts from random weights.'
            )
        self._start_with_teacher = which == "teacher"
        self._refused = refused
        self._compare = compare
        try:
            self.load(path, checkpointables=[])
        finally:
            self._start_with_teacher = False
            self._refused = ()
            self._compare = None
        self._teacher.copy_from(self.model)

    def remove_leftovers(self) -> None:
        """Delete what saves that were killed have left in the folder."""
        if self.save_dir and self.save_to_disk:
            for path in Path(self.save_dir).glob(".*.pth.*.tmp"):
                path.unlink(missing_ok=True)

    def _read(self, filename: str) -> dict[str, Any]:
        loaded = super()._read(filename)
        digest = loaded.pop("digest", None)
        content = {k: v for k, v in loaded.items() if k != "matching_heuristics"}
        if digest is not None and digest != content_digest(content):
            raise DamagedFileError(f"{filename}: its content is not what was saved, it is damaged")
        return loaded

    def _load_file(self, filename: str) -> dict[str, Any]:
        loaded = super()._load_file(filename)
        self._read_description(loaded, filename)
        if "teacher" in loaded:
            check_weights(filename, "teacher", loaded["teacher"], self._teacher.model)
        if self._start_with_teacher and "teacher" in loaded:
            loaded["model"] = loaded["teacher"]
        return loaded

    def _read_description(self, loaded: dict[str, Any], filename: str) -> None:
        content = loaded.pop(DESCRIPTION, None)
        self.file_description = None if content is None else Description.read(content, filename)
        if self._compare is None:
            return
        if self.file_description is not None:
            self._compare(self.file_description, filename)
        elif "teacher" in loaded:
            self.logger.warning(
                "%s does not say what its classes and settings are, it was made before mic_det "
                "wrote that: nothing was compared with the config.",
                filename,
            )

    def _log_incompatible_keys(self, incompatible: Any) -> None:
        misfits = {name for name, *_ in incompatible.incorrect_shapes}
        found = {
            "missing": [name for name in incompatible.missing_keys if name not in misfits],
            "unexpected": incompatible.unexpected_keys,
            "mis-shaped": incompatible.incorrect_shapes,
        }
        if not any(found.values()):
            return
        table = key_report(**{kind.replace("-", "_"): keys for kind, keys in found.items()})
        counts = class_counts(incompatible.incorrect_shapes, self.model)
        if counts is not None:
            table += (
                f"\nThe file's classifier has {counts.in_file} classes, the model has "
                f"{counts.in_model} ({counts.key})."
            )
        if any(found[kind] for kind in self._refused):
            raise CheckpointError(f"the file's tensors are not the model's:\n{table}")
        everything = len(self.model.state_dict())
        if len(found["missing"]) + len(found["mis-shaped"]) >= everything:
            raise CheckpointError(f"the file has no tensor for this model:\n{table}")
        self.logger.warning("Differences between the file and the model:\n%s", table)

    def _candidates(self) -> list[Path]:
        """Files to resume from, the best first: the tagged one, then what the run wrote before."""
        if not self.save_dir or not self.has_checkpoint():
            return []
        tagged = Path(self.get_checkpoint_file())
        history = tagged.with_name(HISTORY)
        names = history.read_text().split() if history.is_file() else []
        if tagged.name in names:
            before = [tagged.with_name(name) for name in names[: names.index(tagged.name)]]
        elif NUMBERED.fullmatch(tagged.name):  # written before there was a history
            before = [path for path in self._numbered() if path.name < tagged.name]
        else:
            before = []
        return [tagged, *(path for path in reversed(before) if path.is_file())]

    def _numbered(self) -> list[Path]:
        paths = Path(self.save_dir).glob("model_*.pth")
        return sorted(path for path in paths if NUMBERED.fullmatch(path.name))

    def _first_intact(self, candidates: list[Path], compare: Compare | None) -> Path:
        for path in candidates:
            try:
                self._load_to_resume(path, compare)
            except (DamagedFileError, FileNotFoundError) as error:
                self.logger.warning("%s. The checkpoint before it is tried.", error)
                continue
            if path != candidates[0]:
                self.logger.warning("Resuming from %s instead.", path)
            self._written = [each.name for each in reversed(candidates[candidates.index(path) :])]
            return path
        others = ", ".join(path.name for path in self._numbered() if path not in candidates)
        raise CheckpointError(
            f"{self.save_dir}: none of its checkpoints can be read "
            f"({', '.join(path.name for path in candidates)}). Start again without --resume, or "
            "set MODEL.WEIGHTS to another file."
            + (
                f" If one of {others} is of this run, write its name into last_checkpoint."
                if others
                else ""
            )
        )

    def _load_to_resume(self, path: Path, compare: Compare | None) -> None:
        if not path.is_file():
            raise FileNotFoundError(f"{path}: no such file, though last_checkpoint names it")
        self._refused = ("missing", "unexpected", "mis-shaped")
        self._compare = compare
        try:
            rest = self.load(str(path))
        except CheckpointError as error:
            if isinstance(error, DamagedFileError) or str(error).startswith(str(path)):
                raise
            raise CheckpointError(f"{path}: cannot be resumed: {error}") from None
        except (KeyError, ValueError) as error:
            raise CheckpointError(
                f"{path}: cannot be resumed with these settings ({error}). Resume with those it "
                f"was trained with ({CONFIG} beside it), or start anew from it: MODEL.WEIGHTS."
            ) from error
        finally:
            self._refused = ()
            self._compare = None
        if "trainer" in self.checkpointables and "iteration" not in rest:
            raise CheckpointError(f"{path}: holds weights alone; set MODEL.WEIGHTS to it instead.")

    def _prune(self, newest: Path) -> None:
        """Keep the last ``keep`` up to ``newest``; later ones belong to another run, leave them."""
        known = [path for path in self._numbered() if path.name <= newest.name]
        for path in known[: -self._keep]:
            path.unlink(missing_ok=True)

    def _diverged(self, path: Path, broken: list[str]) -> str:
        last = self.last()
        return (
            f"{path.name} is not written: {listed(broken)} NaN or infinite. The training has "
            "diverged: divide SOLVER.BASE_LR by 4, or warm up for longer (SOLVER.WARMUP_ITERS). "
            + (f"Saved before: {last}; --resume goes on from it." if last else "Start it anew.")
        )

    def _no_room(self, path: Path, error: Exception) -> str:
        number = getattr(error, "errno", None) or getattr(error.__context__, "errno", None)
        last = self.last()
        kept = f"{last} is untouched" if last else "nothing had been saved before"
        if number not in NO_ROOM:
            return f"{path}: cannot be written: {error}. {kept.capitalize()}."
        free = shutil.disk_usage(path.parent).free / 2**20
        return (
            f"{path}: no room to write it ({os.strerror(number)}; {free:.0f} MB free there). "
            f"{kept}. Free some space, or move the folder and set OUTPUT_DIR to where it is now; "
            "then run the same command with --resume."
        )
