#!/usr/bin/env python
"""Look at data before training on them, and convert other formats.

    python tools/datasets.py check my_domains.yaml        # all that is wrong with them
    python tools/datasets.py stats my_domains.yaml day    # figures of one of them
    python tools/datasets.py preview my_domains.yaml      # pictures with boxes or labels
    python tools/datasets.py convert voc --images … --labels … --output boxes.json

DATA is a YAML file of domains, a training config (all that it uses, and whether the classes fit),
or the name of a domain. Names after a YAML file choose among its domains. docs/datasets.md
"""

from __future__ import annotations

import argparse
import itertools
import json
import re
import sys
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import yaml
from tqdm import tqdm

from mic_det.cli import run_tool
from mic_det.config import ConfigError, load_config
from mic_det.data import check_text as text_of_boxes
from mic_det.data.builtin import register_builtin
from mic_det.data.catalog import get_domain, has_label_images, load_labels, unlabelled_dicts
from mic_det.data.check import DomainReport, check_domain
from mic_det.data.errors import DataError
from mic_det.data.formats.converters import CONVERTERS, run_parsed
from mic_det.data.register import register_from_config, register_yaml
from mic_det.data.segmentation import check_text as text_of_labels
from mic_det.data.segmentation.check import SegmentationReport, check_segmentation_domain
from mic_det.data.shared_images import shared_images

Report = DomainReport | SegmentationReport


def domains_of(data: list[str]) -> tuple[dict[str, bool], list[Any]]:
    """Register what ``data`` name.

    Returns:
        The domains, and whether their labels are wanted (those of a config's target are not); and
        the configs among ``data``.
    """
    register_builtin()
    named: dict[str, bool] = {}
    from_files: dict[str, bool] = {}
    configs = []
    for each in data:
        if Path(each).suffix.lower() not in (".yaml", ".yml"):
            named[each] = True
        elif _is_config(Path(each)):
            cfg = load_config(each)
            register_from_config(cfg)
            configs.append(cfg)
            for name in (*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST):
                from_files[name] = True
            for name in cfg.DATASETS.TARGET:
                from_files.setdefault(name, False)
        else:
            from_files |= dict.fromkeys(register_yaml(each), True)
    return (named or from_files), configs


def _is_config(path: Path) -> bool:
    try:
        content = yaml.safe_load(path.read_bytes())
    except (OSError, ValueError, yaml.YAMLError):
        return False  # reading it as domains says what is wrong
    return isinstance(content, dict) and bool({"_BASE_", "DATASETS", "MODEL"} & content.keys())


def _bar(results: Iterable, total: int, title: str) -> Iterable:
    """A bar that is gone when it is done, and only where somebody looks."""
    return tqdm(results, total=total, desc=title, unit="image", leave=False, disable=None)


def _reports(arguments: argparse.Namespace) -> tuple[list[Report], list[Any]]:
    domains, configs = domains_of(arguments.data)
    common = {"decode": not arguments.quick, "progress": _bar}
    reports = [
        check_segmentation_domain(name, **common)
        if labels and has_label_images(name)
        else check_domain(name, labels=labels, **common)
        for name, labels in domains.items()
    ]
    return reports, configs


def _texts(report: Report) -> ModuleType:
    """The functions check_text, stats_text and statistics for this kind of report."""
    return text_of_labels if isinstance(report, SegmentationReport) else text_of_boxes


def check(arguments: argparse.Namespace) -> None:
    """Print a report of each domain; exit with 1 if there is an error in any."""
    reports, configs = _reports(arguments)
    errors = sum(len(report.errors) for report in reports)
    for report in reports:
        print(_texts(report).check_text(report), end="\n\n")
    for cfg in configs if not errors else ():
        from mic_det.tasks import task_of

        try:
            print(f"classes fit: {', '.join(task_of(cfg).check(cfg))}")
        except (DataError, ConfigError) as error:
            print(f"error: {error}")
            errors += 1
    errors += _print_shared({report.name: report.files for report in reports}, configs)
    if errors:
        print(f"{errors} error{'s' * (errors > 1)}: mend them before training.")
        sys.exit(1)


def _print_shared(files: dict[str, list[str]], configs: list[Any]) -> int:
    """Print which images domains share; returns the number of errors.

    An error is that a config trains and tests on images of two domains that are the same. One
    domain in both is meant (the oracles of Office-Home and VisDA-2017 are so by convention).
    """
    pairs = list(itertools.combinations(files, 2))
    if configs:
        data = [cfg.DATASETS for cfg in configs]
        pairs = [pair for each in data for pair in itertools.product(each.TRAIN, each.TEST)]
    errors = shared_images(files, [pair for pair in pairs if pair[0] != pair[1] and configs])
    for message in errors:
        print(f"error: DATASETS: {message}")
    for message in shared_images(
        files, [pair for pair in pairs if pair[0] == pair[1] or not configs]
    ):
        print(f"warning: {message}")
    return len(errors)


def stats(arguments: argparse.Namespace) -> None:
    """Print figures of each domain, or json."""
    reports, _ = _reports(arguments)
    if arguments.json:
        print(json.dumps([_texts(report).statistics(report) for report in reports], indent=2))
        return
    for report in reports:
        print(_texts(report).stats_text(report), end="\n\n")
    if any(report.errors for report in reports):
        sys.exit(1)


def preview(arguments: argparse.Namespace) -> None:
    """Write a contact sheet of each domain."""
    from mic_det.drawing import write_png

    domains, _ = domains_of(arguments.data)
    if not domains:
        raise DataError("preview: no domain is named. Name a YAML file of domains or a domain.")
    for name, labels in domains.items():
        path = arguments.output / f"preview_{re.sub(r'[^-.0-9A-Za-z]+', '_', name)}.png"
        write_png(path, _sheet(name, labels, arguments.count, arguments.width))
        print(f"{name}: {path}")


def _sheet(name: str, labels: bool, count: int, width: int) -> np.ndarray:
    """The contact sheet of a domain, RGB."""
    if labels and has_label_images(name):
        from mic_det.data.segmentation.sheet import label_sheet

        return label_sheet(name, count, width)
    from mic_det.detection.contact_sheet import choose, contact_sheet

    names: list[str] = []
    if labels and get_domain(name).annotations is not None:
        records, selection = load_labels(name)
        names = list(selection.classes)
    else:
        records = unlabelled_dicts(name)
    return contact_sheet(choose(records, count), names, width)


def convert(arguments: argparse.Namespace) -> None:
    """Run the converter that was named."""
    run_parsed(arguments.format, arguments)


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for run, text in (
        (check, "find what is wrong; exit status 1 if anything is"),
        (stats, "figures of images and boxes"),
        (preview, "a PNG with images and their boxes or labels"),
    ):
        command = commands.add_parser(run.__name__, help=text, description=text)
        command.set_defaults(run=run)
        command.add_argument("data", nargs="+", metavar="DATA", help="YAML file or domain")
        if run is preview:
            command.add_argument("--count", type=positive, default=16, help="images on a sheet")
            command.add_argument("--width", type=positive, default=320, help="of each, in pixels")
            command.add_argument("--output", type=Path, default=Path("output"), help="folder")
        else:
            command.add_argument("--quick", action="store_true", help="do not decode the images")
        if run is stats:
            command.add_argument("--json", action="store_true", help="print json")
    command = commands.add_parser("convert", help="other formats to COCO json or plain label PNGs")
    formats = command.add_subparsers(dest="format", required=True, metavar="FORMAT")
    for name, converter in CONVERTERS.items():
        converter.add_arguments(formats.add_parser(name, help=converter.title))
    command.set_defaults(run=convert)
    return parser.parse_args(argv)


def positive(text: str) -> int:
    """A number from 1 on."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is less than 1")
    return number


def main() -> None:
    arguments = parse_arguments()
    arguments.run(arguments)


if __name__ == "__main__":
    run_tool(main)
