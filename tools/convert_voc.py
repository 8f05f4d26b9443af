"""Make COCO detection json from Pascal-VOC XML files. See datasets/README.md."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from mic_det.data.coco import DataError, write_coco
from mic_det.data.voc import voc_to_coco


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=Path, required=True, help="folder of images")
    parser.add_argument("--labels", type=Path, required=True, help="folder of XML files")
    parser.add_argument("--output", type=Path, required=True, help="the COCO json to write")
    parser.add_argument(
        "--classes", nargs="+", help="classes to keep, in this order (default: all found, sorted)"
    )
    parser.add_argument(
        "--one-based",
        action="store_true",
        help="boxes count pixels from 1 and include the last one, as in PASCAL's own data "
        "(default: corner coordinates from 0)",
    )
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    args = parse_args(argv)
    try:
        data, report = voc_to_coco(
            args.images, args.labels, classes=args.classes, one_based=args.one_based
        )
        write_coco(args.output, data)
    except (DataError, OSError) as error:
        print(f"convert_voc: {error}", file=sys.stderr)
        return 2
    print(report.text())
    print(f"written to {args.output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
