"""Make COCO detection json from BDD100K's daytime images. See datasets/README.md."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterable
from pathlib import Path

from tqdm import tqdm

from mic_det.data.formats.bdd100k import SPLITS, convert_bdd100k
from mic_det.data.formats.coco import DataError


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    default_root = Path(os.environ.get("DETECTRON2_DATASETS") or "datasets") / "bdd100k"
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--root",
        type=Path,
        default=default_root,
        help="folder with images/100k and labels (default: %(default)s)",
    )
    parser.add_argument(
        "--splits", nargs="+", choices=SPLITS, default=SPLITS, help="default: train val"
    )
    return parser.parse_args(argv)


def progress_bar(frames: Iterable, total: int, title: str) -> Iterable:
    return tqdm(frames, total=total, desc=title, unit="image")


def main(argv: list[str] | None = None) -> int:
    args = parse_args(argv)
    try:
        written = convert_bdd100k(args.root.expanduser(), args.splits, progress=progress_bar)
    except (DataError, OSError) as error:
        print(f"convert_bdd100k: {error}", file=sys.stderr)
        return 2
    for path, report in written:
        print(f"{path}: {report.text()}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
