"""One HTML page about one or several training runs; see tools/report.py."""

from .page import write_report
from .runs import RunRecord, find_runs

__all__ = ["RunRecord", "find_runs", "write_report"]
