"""Translators by name, and the file of a learnt one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mic_det.config import ConfigError
from mic_det.weights_checkpointer import check_weights
from mic_det.weights_file import load_tensors

from .base import Translator
from .fourier import FourierAmplitude
from .lab import LabStatistics
from .learnt import LearntTranslator

TRANSLATORS = ("lab", "fourier", "learnt")
_HINT = "Write one with tools/train_translator.py."


def build_translator(name: str, fourier_share: float = 0.01, weights: str = "") -> Translator:
    """The translator of that name; see this package's description.

    Args:
        fourier_share: of `FourierAmplitude`.
        weights: file of a `LearntTranslator`.

    Raises ConfigError if there is no such translator, or the file cannot be used.
    """
    if name == "lab":
        return LabStatistics()
    if name == "fourier":
        return FourierAmplitude(fourier_share)
    if name == "learnt":
        return load_translator(weights)
    raise ConfigError(f"no translator {name!r}: choose from {', '.join(TRANSLATORS)}")


def translator_file(translator: LearntTranslator) -> dict[str, Any]:
    """What `load_translator` reads, for `torch.save`."""
    return {"width": translator.width, "translator": translator.state_dict()}


def load_translator(path: str) -> LearntTranslator:
    """A `LearntTranslator` from its file; ConfigError if it is none."""
    if not Path(path).is_file():
        raise ConfigError(f"{path or 'no file given'}: no such translator. {_HINT}")
    try:
        content = load_tensors(path)
        translator = LearntTranslator(content["width"])
        check_weights(path, "translator", content["translator"], translator)
        translator.load_state_dict(content["translator"])
    except (RuntimeError, KeyError, TypeError, OSError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ConfigError(f"{path}: no translator that can be used: {reason}. {_HINT}") from error
    return translator.requires_grad_(False).eval()
