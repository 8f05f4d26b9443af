"""The annotations of a domain, whatever their format, as COCO content.

A json file is COCO, a folder of ``.xml`` files Pascal VOC, a folder of ``.txt`` files YOLO. Folders
are converted whenever they are needed: a thousand files take a fraction of a second.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from mic_det.data.classes import ClassChoice
from mic_det.data.domain import Domain
from mic_det.data.errors import DataError, listed
from mic_det.data.formats.coco import read_json, validate_coco
from mic_det.data.formats.report import ConversionReport
from mic_det.data.formats.voc import voc_to_coco
from mic_det.data.formats.yolo import NOT_LABELS, class_names, yolo_to_coco
from mic_det.data.images import walk

COCO, VOC, YOLO = "COCO", "Pascal VOC", "YOLO"


@dataclass(frozen=True)
class Annotations:
    """COCO content of a domain, sound, before classes are chosen.

    Attributes:
        data: COCO content.
        source: the file or folder it is from.
        kind: COCO, VOC or YOLO.
        choice: the classes to keep, as far as the domain says.
        notes: what was put right or left out, a sentence each.
    """

    data: dict
    source: Path
    kind: str
    choice: ClassChoice
    notes: list[str] = field(default_factory=list)


def annotation_kind(path: Path) -> str:
    """COCO, VOC or YOLO, by what is at ``path``.

    Raises:
        DataError: if it is none of them, or a folder holds several.
    """
    if not path.is_dir():
        if path.suffix.lower() != ".json" and path.exists():
            raise DataError(
                f"{path}: annotations: is no json file. Name a COCO json file, or a folder of "
                "Pascal-VOC .xml or YOLO .txt files."
            )
        return COCO
    files = list(walk(path))
    suffixes = Counter(p.suffix.lower() for p in files if p.name.lower() not in NOT_LABELS)
    if suffixes[".xml"] and suffixes[".txt"]:
        raise DataError(
            f"{path}: annotations: holds {suffixes['.xml']} .xml and {suffixes['.txt']} .txt "
            "files. Leave either Pascal-VOC or YOLO labels there, and move the others elsewhere."
        )
    if suffixes[".xml"]:
        return VOC
    if suffixes[".txt"]:
        return YOLO
    found = sorted(p for p in files if p.suffix.lower() == ".json")
    hint = f" There is {found[0]}: name the file itself." if found else ""
    raise DataError(
        f"{path}: annotations: the folder holds no .xml (Pascal VOC) and no .txt (YOLO).{hint} "
        "Name the folder of labels, or a COCO json file."
    )


def read_annotations(domain: Domain, keeps: Callable[[str], bool]) -> Annotations:
    """Read and check the annotations of a domain.

    Boxes without area are left out, and boxes cut at their image's border, with a note each.

    Args:
        domain: the domain.
        keeps: its `Domain.chooser`. A COCO file is given whole, labels in folders of these images
            alone.

    Raises:
        DataError: if they are missing or broken: also if labels hold boxes that are upside down or
            outside their image.
    """
    source = domain.annotation_path()
    kind = annotation_kind(source)
    if domain.one_based and kind != VOC:
        raise DataError(
            f"{source}: one_based is for Pascal-VOC labels, but these are {kind}. Leave it out."
        )
    choice = ClassChoice(domain.classes, dict(domain.aliases), complete=kind != VOC)
    if kind == COCO:
        data = read_json(source)
        notes = [f"{source}: {problem}" for problem in validate_coco(data, source)]
        return Annotations(data, source, kind, choice, notes)
    data, report = convert_labels(domain, source, kind, keeps)
    if kind == YOLO and class_names(source, domain.classes)[1] is None:
        choice = ClassChoice(None, dict(domain.aliases))  # the classes named the numbers
    return Annotations(data, source, kind, choice, _notes(report, source))


def convert_labels(
    domain: Domain, source: Path, kind: str, keeps: Callable[[str], bool]
) -> tuple[dict, ConversionReport]:
    """COCO content of a folder of labels, all classes.

    Args:
        domain: whose labels they are.
        source: the folder.
        kind: VOC or YOLO.
        keeps: whether an image is converted, by its path relative to the domain's folder.

    Raises:
        DataError: if it is broken, or boxes are upside down or outside their image.
    """
    if kind == VOC:
        data, report = voc_to_coco(domain.folder(), source, one_based=domain.one_based, keeps=keeps)
    else:
        names, origin = class_names(source, domain.classes)
        data, report = yolo_to_coco(
            domain.folder(), source, classes=None if origin is not None else names, keeps=keeps
        )
    if report.dropped:
        raise DataError(
            f"{listed(report.dropped)}\nCorrect these boxes, or leave them out: "
            "tools/datasets.py convert does so and lists them."
        )
    return data, report


def _notes(report: ConversionReport, source: Path) -> list[str]:
    notes = [f"{source}: {note}" for note in report.notes]
    if report.images_without_xml:
        notes.append(f"{source}: {report.images_without_xml} images have no XML and are left out.")
    for what, cases in (
        ("left out as they have no area", report.empty),
        ("cut at their image's border", report.clipped),
    ):
        if cases:
            notes.append(f"{len(cases)} boxes {what}, first {cases[0]}")
    return notes
