"""Put fog on a folder of images by the optical model of Foggy Cityscapes. See docs/fog.md."""

from __future__ import annotations

import argparse
import math
import os
import sys
from collections.abc import Iterable
from pathlib import Path

from tqdm import tqdm

from mic_det.data.fog.folder import PUBLISHED_BETAS, FogSettings, fog_folder
from mic_det.data.fog.light import PICKS
from mic_det.data.fog.sources import CityscapesDisparity, DepthMaps, DistanceSource, FlatRoad
from mic_det.data.formats.coco import DataError


def number(low: float, high: float, *, including_low: bool = False):
    """An argparse type: a number above ``low`` (or equal to it), up to ``high``."""

    def parse(text: str) -> float:
        value = float(text)
        if not (low < value <= high or (including_low and value == low)):
            raise argparse.ArgumentTypeError(f"{text} is not between {low:g} and {high:g}")
        return value

    parse.__name__ = "number"
    return parse


POSITIVE = number(0, math.inf)
SHARE = number(0, 1)
DEGREES = number(0, 179)


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=Path, required=True, help="folder of clear images")
    parser.add_argument("--output", type=Path, required=True, help="folder for the foggy ones")
    parser.add_argument(
        "--beta",
        type=POSITIVE,
        nargs="+",
        default=[0.02],
        help="attenuation coefficients in 1/m (default: 0.02); Foggy Cityscapes has "
        + ", ".join(map(str, PUBLISHED_BETAS)),
    )
    kinds = parser.add_argument_group("where distances come from (one of the three)")
    kind = kinds.add_mutually_exclusive_group(required=True)
    kind.add_argument(
        "--disparity", type=Path, help="folder of Cityscapes disparity images; needs --camera"
    )
    kind.add_argument("--depth", type=Path, help="folder of depth maps, .npy or 16-bit .png")
    kind.add_argument(
        "--flat-road",
        action="store_true",
        help="an APPROXIMATION that measures nothing: a flat road between two rows of houses",
    )
    kinds.add_argument("--camera", type=Path, help="folder of Cityscapes camera files")
    kinds.add_argument(
        "--depth-scale", type=POSITIVE, help="metres for each unit of a .png (default: 1)"
    )
    kinds.add_argument(
        "--fov",
        type=DEGREES,
        help="horizontal field of view in degrees. With --depth: maps tell depth along the optical "
        "axis (without it: distance along the line of sight). With --flat-road: default 60",
    )
    kinds.add_argument("--horizon", type=SHARE, help="row as a share of the height (default: 0.45)")
    kinds.add_argument("--camera-height", type=POSITIVE, help="metres (default: 1.5)")
    kinds.add_argument(
        "--half-width",
        type=POSITIVE,
        help="metres from the middle of the road to the houses; inf for open country (default: 10)",
    )
    kinds.add_argument("--far", type=POSITIVE, help="metres, for the sky (default: 150)")
    parser.add_argument(
        "--light",
        choices=PICKS,
        default=PICKS[0],
        help="atmospheric light: which pixel of highest dark channel (default: %(default)s)",
    )
    parser.add_argument(
        "--light-rgb",
        type=number(0, 255, including_low=True),
        nargs=3,
        metavar=("R", "G", "B"),
        help="atmospheric light, 0 to 255, instead of an estimate",
    )
    parser.add_argument(
        "--smooth",
        type=int,
        help="radius in pixels of the guided filter on the transmission (default: 20, but 0, that "
        "is none, with --depth)",
    )
    parser.add_argument("--workers", type=int, default=min(8, os.cpu_count() or 1))
    parser.add_argument("--overwrite", action="store_true", help="make all anew")
    args = parser.parse_args(argv)
    _refuse_contradictions(parser, args)
    return args


def _refuse_contradictions(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    if bool(args.disparity) != bool(args.camera):
        parser.error("--disparity and --camera go together")
    if len(set(args.beta)) != len(args.beta):
        parser.error("--beta: one is given twice")
    if args.smooth is not None and args.smooth < 0:
        parser.error("--smooth: must be 0 or more")
    for option, value, fits in (
        ("--depth-scale", args.depth_scale, args.depth),
        ("--fov", args.fov, args.depth or args.flat_road),
        ("--horizon", args.horizon, args.flat_road),
        ("--camera-height", args.camera_height, args.flat_road),
        ("--half-width", args.half_width, args.flat_road),
        ("--far", args.far, args.flat_road),
    ):
        if value is not None and not fits:
            parser.error(f"{option}: has no meaning for this kind of distance")


def distance_source(args: argparse.Namespace) -> DistanceSource:
    if args.disparity:
        return CityscapesDisparity(_absolute(args.disparity), _absolute(args.camera))
    if args.depth:
        return DepthMaps(_absolute(args.depth), args.depth_scale or 1.0, args.fov)
    given = {
        key: getattr(args, key)
        for key in ("horizon", "camera_height", "fov", "half_width", "far")
        if getattr(args, key) is not None
    }
    return FlatRoad(**given)


def _absolute(path: Path) -> Path:
    """The settings kept in the output folder must not depend on where the command was given."""
    return path.expanduser().absolute()


def progress_bar(results: Iterable, total: int) -> Iterable:
    return tqdm(results, total=total, desc="fog", unit="image")


def main(argv: list[str] | None = None) -> int:
    args = parse_args(argv)
    smooth = args.smooth if args.smooth is not None else 0 if args.depth else 20
    settings = FogSettings(
        distance_source(args),
        tuple(args.beta),
        tuple(args.light_rgb) if args.light_rgb else args.light,
        smooth,
    )
    if args.flat_road:
        print(
            "Note: nothing is measured. Distances are those of a flat, straight road between two "
            "rows of houses, which this may not be."
        )
    try:
        report = fog_folder(
            args.images.expanduser(),
            args.output.expanduser(),
            settings,
            workers=args.workers,
            overwrite=args.overwrite,
            progress=progress_bar,
        )
    except DataError as error:
        print(f"make_foggy: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nStopped; the same command goes on from here.", file=sys.stderr)
        return 130
    print(f"{args.output}: {report.written} foggy images written, {report.found} were there")
    return 0


if __name__ == "__main__":
    sys.exit(main())
