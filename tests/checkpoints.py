"""A student and a teacher of two layers, and the checkpoints of their run."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from mic_det.core import EMATeacher
from mic_det.engine.checkpoint import AdaptationCheckpointer


class Position:
    """What is saved beside the weights, in place of a trainer."""

    def __init__(self) -> None:
        self.iteration = -1

    def state_dict(self):
        return {"iteration": self.iteration}

    def load_state_dict(self, state):
        self.iteration = state["iteration"]


def checkpointer(folder: Path, width: int = 3, keep: int = 3, seed: int = 0):
    torch.manual_seed(seed)
    student = nn.Sequential(nn.Linear(4, width), nn.Linear(width, 2))
    return AdaptationCheckpointer(
        student, EMATeacher(student, 0.9), str(folder), keep=keep, trainer=Position()
    )


def save_iterations(folder: Path, *iterations: int, keep: int = 3):
    """Checkpoints in which every weight is the iteration."""
    saver = checkpointer(folder, keep=keep)
    for iteration in iterations:
        with torch.no_grad():
            for model in (saver.model, saver._teacher.model):
                for tensor in model.state_dict().values():
                    tensor.fill_(iteration)
        saver.checkpointables["trainer"].iteration = iteration
        saver.save(f"model_{iteration:07d}", iteration=iteration)
    return saver
