"""The converters to COCO json by name, as ``tools/datasets.py convert`` offers them."""

from __future__ import annotations

import os
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from mic_det.data.errors import DataError
from mic_det.data.formats.bdd100k import CLASSES as BDD100K_CLASSES
from mic_det.data.formats.bdd100k import bdd100k_to_coco
from mic_det.data.formats.cityscapes import GROUPS, convert_cityscapes
from mic_det.data.formats.coco import write_coco
from mic_det.data.formats.kitti import kitti_to_coco
from mic_det.data.formats.report import ConversionReport
from mic_det.data.formats.voc import voc_to_coco
from mic_det.data.formats.yolo import yolo_to_coco


@dataclass(frozen=True)
class Converter:
    """A converter's command line.

    Attributes:
        title: what it converts.
        add_arguments: adds its arguments to a parser.
        run: converts, and prints what was written; raises DataError.
    """

    title: str
    add_arguments: Callable[[ArgumentParser], None]
    run: Callable[[Namespace], None]


def folder_converter(
    title: str, convert: Callable[..., tuple[dict, ConversionReport]], labels: str
) -> Converter:
    """A converter of a folder of images and one of labels.

    Args:
        title: what it converts.
        convert: called with (images, labels, classes=...); returns COCO content and a report.
        labels: what the labels are, for the help.
    """

    def add_arguments(parser: ArgumentParser) -> None:
        _add_folders(parser, labels)

    def run(arguments: Namespace) -> None:
        folders = (arguments.images.expanduser(), arguments.labels.expanduser())
        _finish(arguments, *convert(*folders, classes=arguments.classes))

    return Converter(title, add_arguments, run)


def _add_folders(parser: ArgumentParser, labels: str) -> None:
    parser.add_argument("--images", type=Path, required=True, help="folder of images")
    parser.add_argument("--labels", type=Path, required=True, help=f"folder of {labels}")
    parser.add_argument("--output", type=Path, required=True, help="the COCO json to write")
    parser.add_argument(
        "--classes", nargs="+", help="classes to keep, in this order (default: all)"
    )


def _finish(arguments: Namespace, data: dict, report: ConversionReport) -> None:
    write_coco(arguments.output, data)
    print(report.text())
    print(f"written to {arguments.output}")


def _add_voc(parser: ArgumentParser) -> None:
    _add_folders(parser, "XML files")
    parser.add_argument(
        "--one-based",
        action="store_true",
        help="boxes count pixels from 1 and include the last one, as in PASCAL's own data "
        "(default: corner coordinates from 0)",
    )


def _run_voc(arguments: Namespace) -> None:
    data, report = voc_to_coco(
        arguments.images.expanduser(),
        arguments.labels.expanduser(),
        classes=arguments.classes,
        one_based=arguments.one_based,
    )
    _finish(arguments, data, report)


def _bdd100k(
    images: Path, labels: Path, classes: Sequence[str] | None = None
) -> tuple[dict, ConversionReport]:
    return bdd100k_to_coco(images, labels, classes=classes or BDD100K_CLASSES)


def _add_cityscapes(parser: ArgumentParser) -> None:
    root = Path(os.environ.get("DETECTRON2_DATASETS") or "datasets") / "cityscapes"
    parser.add_argument(
        "--root",
        type=Path,
        default=root,
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


def _run_cityscapes(arguments: Namespace) -> None:
    report = convert_cityscapes(
        arguments.root.expanduser(),
        arguments.splits,
        groups=arguments.groups,
        workers=arguments.workers,
        progress=progress_bar,
    )
    for path, images, boxes in report.written:
        print(f"{path}: {images} images, {boxes} boxes")
    for note in report.notes:
        print(f"note: {note}")


def _add_labels(parser: ArgumentParser) -> None:
    parser.add_argument("domain", metavar="DOMAIN", help="name of a domain with label images")
    parser.add_argument(
        "--register", type=Path, help="YAML file of domains that has it, if mic_det itself has not"
    )
    parser.add_argument("--output", type=Path, required=True, help="folder of the label PNGs")


def _run_labels(arguments: Namespace) -> None:
    # Not at the top: registration knows the converters' benchmarks.
    from mic_det.data.builtin import register_builtin
    from mic_det.data.register import register_yaml
    from mic_det.data.segmentation.convert import convert_labels
    from mic_det.data.segmentation.records import model_classes

    register_builtin()
    if arguments.register is not None:
        register_yaml(arguments.register)
    output = arguments.output.expanduser().absolute()
    written = convert_labels(arguments.domain, output, progress_bar)
    classes = ", ".join(model_classes(arguments.domain))
    print(f"{output}: {len(written)} label images")
    print(f"register them with: labels: {output}, classes: [{classes}]")


def progress_bar(results: Iterable, total: int, title: str) -> Iterable:
    """A bar on standard error."""
    return tqdm(results, total=total, desc=title, unit="image")


def run_converter(name: str, argv: Sequence[str]) -> None:
    """Parse the arguments of one of `CONVERTERS` and run it.

    Raises:
        DataError: if the data are missing or broken, or a file cannot be written.
    """
    converter = CONVERTERS[name]
    parser = ArgumentParser(description=f"Make COCO detection json: {converter.title}.")
    converter.add_arguments(parser)
    run_parsed(name, parser.parse_args(argv))


def run_parsed(name: str, arguments: Namespace) -> None:
    """Run one of `CONVERTERS` with its arguments; raises as `run_converter` does."""
    try:
        CONVERTERS[name].run(arguments)
    except OSError as error:
        raise DataError(f"{error}. Check the path, the rights and the room on the disk.") from error


#: By the name on the command line.
CONVERTERS = {
    "voc": Converter("Pascal-VOC XML", _add_voc, _run_voc),
    "yolo": folder_converter("YOLO text labels", yolo_to_coco, "text files"),
    "kitti": folder_converter("KITTI's label_2", kitti_to_coco, "text files"),
    "bdd100k": folder_converter("a BDD100K label file", _bdd100k, "labels, or the json itself"),
    "labels": Converter("label images to 8-bit class ids", _add_labels, _run_labels),
    "cityscapes": Converter("Cityscapes and Foggy Cityscapes", _add_cityscapes, _run_cityscapes),
}
