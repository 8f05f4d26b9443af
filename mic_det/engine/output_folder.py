"""OUTPUT_DIR belongs to one run, and to one process of it at a time."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

from detectron2.config import CfgNode
from detectron2.utils import comm

from mic_det.config import ConfigError
from mic_det.errors import UserError

from .checkpoint import last_checkpoint

logger = logging.getLogger(__name__)

LOCK = "run.lock"


class FolderInUseError(UserError, RuntimeError):
    """Another process writes to the folder; the message names it."""


def refuse_former_run(cfg: CfgNode) -> None:
    """Raise ConfigError if OUTPUT_DIR has checkpoints: a new run would mix with theirs."""
    last = last_checkpoint(cfg.OUTPUT_DIR)
    if last:
        ended = "is finished" if Path(last).name == "model_final.pth" else "was begun"
        raise ConfigError(
            f"OUTPUT_DIR {cfg.OUTPUT_DIR} has a run that {ended} (last checkpoint: {last}). "
            "Continue it with --resume, choose another OUTPUT_DIR for a new run, or delete the "
            "folder."
        )


@contextlib.contextmanager
def sole_run(folder: str) -> Iterator[None]:
    """Hold the folder for this run, until it ends or is killed; the main process locks it.

    Raises FolderInUseError in all processes of the run if a process of another one has it, and
    ConfigError if it cannot be written. On a file system without locks a warning is all there is.
    """
    with contextlib.ExitStack() as held:
        refusal: UserError | None = None
        if comm.is_main_process():
            try:
                held.enter_context(_locked(Path(folder)))
            except UserError as error:
                refusal = error
        refusal = comm.all_gather(refusal)[0]
        if refusal is not None:
            raise refusal
        yield


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    path = folder / LOCK
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = path.open("a+", encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"OUTPUT_DIR {folder} cannot be written: {error}") from error
    with file:
        try:
            # Of this process alone: one by flock would outlive it in the workers that it forked,
            # and NFS has this one between machines.
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EAGAIN):
                file.seek(0)
                raise FolderInUseError(
                    f"OUTPUT_DIR {folder} is in use by {file.read() or 'another process'}. Wait "
                    "for it or end it, or choose another OUTPUT_DIR; for an evaluation beside a "
                    "training that and MODEL.WEIGHTS, the checkpoint."
                ) from error
            logger.warning(
                "%s: the file system has no locks (%s). A second run in this folder would not be "
                "noticed: start none.",
                *(path, error),
            )
        file.truncate(0)
        since = time.strftime("%Y-%m-%d %H:%M:%S %z")
        file.write(f"process {os.getpid()} on {socket.gethostname()} since {since}")
        file.flush()
        yield
