#!/usr/bin/env python
"""Make COCO detection json from Pascal-VOC XML: the same as ``tools/datasets.py convert voc``."""

import sys

from mic_det.cli import run_tool
from mic_det.data.formats.converters import run_converter

if __name__ == "__main__":
    run_tool(lambda: run_converter("voc", sys.argv[1:]))
