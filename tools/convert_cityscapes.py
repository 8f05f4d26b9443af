#!/usr/bin/env python
"""Make COCO json from Cityscapes: the same as ``tools/datasets.py convert cityscapes``."""

import sys

from mic_det.cli import run_tool
from mic_det.data.formats.converters import run_converter

if __name__ == "__main__":
    run_tool(lambda: run_converter("cityscapes", sys.argv[1:]))
