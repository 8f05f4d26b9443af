"""A few streets images, registered as domains of their own."""

from __future__ import annotations

import atexit
import shutil
from functools import cache
from pathlib import Path
from tempfile import mkdtemp

from mic_det.data.catalog import register_domain
from mic_det.data.streets import SplitSpec, ensure_streets

CLEAR, FOGGY = "tiny_streets_clear", "tiny_streets_foggy"


@cache
def register_tiny_streets() -> Path:
    """Draw 4 clear and 6 foggy images once for all tests; returns their folder."""
    root = Path(mkdtemp(prefix="mic_det_tests_")) / "streets"
    atexit.register(shutil.rmtree, root.parent, ignore_errors=True)
    splits = {("clear", "train"): SplitSpec(4, 10), ("foggy", "train"): SplitSpec(6, 50)}
    ensure_streets(root, splits=splits, workers=1)
    for name, domain in ((CLEAR, "clear"), (FOGGY, "foggy")):
        folder = root / domain / "train"
        register_domain(name, folder / "images", folder / "boxes.json")
    return root
