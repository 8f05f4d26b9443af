"""SIGTERM, with which SLURM and clouds announce the end, ends a run with a checkpoint."""

from __future__ import annotations

import logging
import signal
import sys
import threading
from typing import Any

import torch
import torch.distributed as dist
from detectron2.engine import HookBase
from detectron2.utils import comm

from .launch import STOPPED

logger = logging.getLogger(__name__)


class StopOnSigterm(HookBase):
    """Saves a checkpoint after the iteration in which SIGTERM came, and exits with `STOPPED`.

    It is enough if one process of a run gets it: all end after the same iteration. To stand after
    all other hooks, so that a resumed run continues as if nothing had happened. Outside of a main
    thread, where Python handles no signals, it does nothing of its own.

    Args:
        checkpointer: whose ``save(name, iteration=…)`` is called.
    """

    def __init__(self, checkpointer: Any) -> None:
        self.checkpointer = checkpointer
        self.asked = False
        self._former: Any = None

    def before_train(self) -> None:
        if threading.current_thread() is threading.main_thread():
            self._former = signal.signal(signal.SIGTERM, self._ask)

    def after_step(self) -> None:
        if not self._asked_anywhere():
            return
        done, end = self.trainer.iter + 1, self.trainer.max_iter
        if done < end:  # otherwise it has just been saved
            self.checkpointer.save(f"model_{done - 1:07d}", iteration=done - 1)
        # Who ends first ends the others, which must not be while one of them is saving.
        comm.synchronize()
        logger.warning(
            "Stopped by SIGTERM after %d of %d iterations; the same command with --resume goes on "
            "from there.",
            *(done, end),
        )
        sys.exit(STOPPED)

    def after_train(self) -> None:
        if self._former is not None:
            signal.signal(signal.SIGTERM, self._former)

    def _ask(self, *_: Any) -> None:
        self.asked = True

    def _asked_anywhere(self) -> bool:
        if comm.get_world_size() == 1:
            return self.asked
        # On the CPU: nothing waits for a GPU.
        asked = torch.tensor(int(self.asked))
        dist.all_reduce(asked, op=dist.ReduceOp.MAX)
        return bool(asked)
