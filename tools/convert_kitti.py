"""Make COCO detection json from KITTI's object labels. See datasets/README.md."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterable
from pathlib import Path

from tqdm import tqdm

from mic_det.data.formats.coco import DataError
from mic_det.data.formats.kitti import DONT_CARE, convert_kitti


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    default_root = Path(os.environ.get("DETECTRON2_DATASETS") or "datasets") / "kitti"
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--root",
        type=Path,
        default=default_root,
        help="folder with training (default: %(default)s)",
    )
    parser.add_argument(
        "--dont-care",
        choices=DONT_CARE,
        default=DONT_CARE[0],
        help="DontCare regions: left out, as the UDA benchmarks do (default), or annotations of "
        "each class with iscrowd 1",
    )
    return parser.parse_args(argv)


def progress_bar(files: Iterable, total: int) -> Iterable:
    return tqdm(files, total=total, desc="training", unit="image")


def main(argv: list[str] | None = None) -> int:
    args = parse_args(argv)
    try:
        path, report = convert_kitti(
            args.root.expanduser(), dont_care=args.dont_care, progress=progress_bar
        )
    except (DataError, OSError) as error:
        print(f"convert_kitti: {error}", file=sys.stderr)
        return 2
    print(f"{path}: {report.text()}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
