"""What a step of adaptation costs, against the arithmetic that it cannot do without."""

from .cases import CASES, Case
from .measure import Measurement, measure

__all__ = ["CASES", "Case", "Measurement", "measure"]
