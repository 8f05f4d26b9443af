"""What a step of adaptation costs, against the arithmetic that it cannot do without."""

from __future__ import annotations

from typing import Any

from .cases import CASES, Case
from .detection import measure_detection
from .measure import Measurement
from .segmentation import measure_segmentation
from .segmentation_cases import SEGMENTATION_CASES, SegmentationCase

__all__ = [
    "CASES",
    "SEGMENTATION_CASES",
    "Case",
    "Measurement",
    "SegmentationCase",
    "measure_case",
]


def measure_case(case: Case | SegmentationCase, repeats: int, **options: Any) -> Measurement:
    """Measure one case.

    Args:
        repeats: of each work, all of which take turns.
        warmup: turns before them that do not count.
        report: is told what is being done.
        clock: returns seconds; `time.process_time` counts this process's own, which is what counts
            on a CPU that others use as well.
    """
    if isinstance(case, SegmentationCase):
        return measure_segmentation(case, repeats, **options)
    return measure_detection(case, repeats, **options)
