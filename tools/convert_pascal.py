"""Make COCO detection json from PASCAL VOC, Clipart1k, Watercolor2k, Comic2k, Sim10k.

See datasets/README.md. For other Pascal-VOC XML files there is tools/convert_voc.py.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from mic_det.data.formats.coco import DataError
from mic_det.data.formats.pascal import PASCAL_SETS, convert_pascal


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    default_root = Path(os.environ.get("DETECTRON2_DATASETS") or "datasets")
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    folders = ", ".join(f"{name} in {entry.folder}" for name, entry in PASCAL_SETS.items())
    parser.add_argument("names", nargs="+", choices=PASCAL_SETS, metavar="NAME", help=folders)
    parser.add_argument(
        "--root", type=Path, default=default_root, help="folder of data sets (default: %(default)s)"
    )
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    args = parse_args(argv)
    try:
        for name in args.names:
            for path, report in convert_pascal(args.root.expanduser(), name):
                print(f"{path}: {report.text()}", flush=True)
    except (DataError, OSError) as error:
        print(f"convert_pascal: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
