"""Source images in the target's style, without moving a pixel.

- "lab" (the default): mean and spread of lightness and of both colour axes. Overall light and tint.
- "fourier": amplitudes of the lowest frequencies. Broad light and shading as well, no texture.
- "learnt": means and spreads of learnt features. Local contrast and haze as well.

The first two need no training; the third is trained by ``tools/train_translator.py`` on images of
both domains, without labels.
"""

from .base import Translator
from .build import TRANSLATORS, build_translator, load_translator, translator_file
from .fourier import FourierAmplitude
from .lab import LabStatistics
from .learnt import LearntTranslator

__all__ = [
    "TRANSLATORS",
    "FourierAmplitude",
    "LabStatistics",
    "LearntTranslator",
    "Translator",
    "build_translator",
    "load_translator",
    "translator_file",
]
