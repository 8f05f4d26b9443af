"""Make COCO detection json from Cityscapes and Foggy Cityscapes. See datasets/README.md."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterable
from pathlib import Path

from tqdm import tqdm

from mic_det.data.cityscapes import GROUPS, convert_cityscapes
from mic_det.data.coco import DataError


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    default_root = Path(os.environ.get("DETECTRON2_DATASETS") or "datasets") / "cityscapes"
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--root",
        type=Path,
        default=default_root,
        help="folder with leftImg8bit, gtFine and leftImg8bit_foggy (default: %(default)s)",
    )
    parser.add_argument("--splits", nargs="+", default=["train", "val"], help="default: train val")
    parser.add_argument(
        "--workers",
        type=int,
        default=min(8, os.cpu_count() or 1),
        help="processes that read instance files (default: %(default)s)",
    )
    parser.add_argument(
        "--groups",
        choices=GROUPS,
        default=GROUPS[0],
        help="regions whose instances could not be told apart: left out, as the UDA detection "
        "benchmark does (default), or annotations with iscrowd 1",
    )
    return parser.parse_args(argv)


def progress_bar(results: Iterable, total: int, title: str) -> Iterable:
    return tqdm(results, total=total, desc=title, unit="scene")


def main(argv: list[str] | None = None) -> int:
    args = parse_args(argv)
    try:
        report = convert_cityscapes(
            args.root.expanduser(),
            args.splits,
            groups=args.groups,
            workers=args.workers,
            progress=progress_bar,
        )
    except (DataError, OSError) as error:
        print(f"convert_cityscapes: {error}", file=sys.stderr)
        return 2
    for path, images, boxes in report.written:
        print(f"{path}: {images} images, {boxes} boxes")
    for note in report.notes:
        print(f"note: {note}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
