"""Pascal-VOC XML to COCO detection json."""

from __future__ import annotations

import math
import xml.etree.ElementTree as ElementTree
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath

from mic_det.data.errors import DataError, gather
from mic_det.data.formats.report import ConversionReport, LabelledImage, box_in_image, build_coco
from mic_det.data.image_list import read_image_list
from mic_det.data.images import IMAGE_SUFFIXES, image_size, list_images, turned_hint, walk

__all__ = ["DIFFICULT", "ConversionReport", "voc_to_coco"]

DIFFICULT = ("keep", "crowd")
# Elements that are looked for by these very names.
_READ = frozenset(
    ("annotation", "filename", "size", "width", "height", "object", "name", "bndbox")
    + ("xmin", "ymin", "xmax", "ymax", "difficult")
)


@dataclass(frozen=True)
class _Object:
    name: str
    corners: tuple[float, float, float, float]  # xmin, ymin, xmax, ymax as in the XML
    difficult: bool


@dataclass(frozen=True)
class _Annotation:
    source: Path
    image: Path
    width: int
    height: int
    objects: list[_Object]


def voc_to_coco(
    images: Path,
    labels: Path,
    *,
    classes: Sequence[str] | None = None,
    one_based: bool = False,
    image_sets: Sequence[Path] = (),
    difficult: str = "keep",
    keeps: Callable[[str], bool] = lambda file_name: True,
) -> tuple[dict, ConversionReport]:
    """Convert a folder of Pascal-VOC XML files.

    The image of an XML file is the one with the stem that its ``filename`` has (whatever the
    suffix), or else the stem of the XML file itself. The flag ``truncated`` is not used. XML files
    without objects give images without boxes.

    Args:
        images: folder of images, sub-folders included.
        labels: folder of XML files, sub-folders included.
        classes: class names, in the order of the category ids 1, 2, ...; None takes all, sorted.
        one_based: boxes count pixels from 1 and include the last one, as in PASCAL's own data. By
            default they are corner coordinates from 0.
        image_sets: files with the stem of an XML file on each line, as PASCAL's
            ``ImageSets/Main/trainval.txt``; those XML files alone are converted. Empty: all.
        difficult: what objects with this flag become: "keep", boxes like others, or "crowd",
            annotations with iscrowd 1, which training leaves out and evaluation ignores, as
            PASCAL's own evaluation does.
        keeps: whether an image is converted, by its path relative to ``images``.

    Returns:
        The COCO content, its file names relative to ``images``, and the report.

    Raises:
        DataError: if an XML file is malformed or lacks something, if its image is missing or has
            another size, or if none of ``classes`` occurs; for an image set that is broken or names
            something else.
    """
    if difficult not in DIFFICULT:
        raise DataError(f"difficult: {difficult!r} is none of {', '.join(DIFFICULT)}.")
    annotations = _read_annotations(images, labels, image_sets, keeps)
    found = sorted({obj.name for annotation in annotations for obj in annotation.objects})
    names = list(found if classes is None else classes)
    _check_classes(names, found, labels)

    report = ConversionReport(images=len(annotations), boxes=dict.fromkeys(names, 0))
    if not image_sets:
        wanted = [p for p in list_images(images) if keeps(p.relative_to(images).as_posix())]
        report.images_without_xml = len(wanted) - len(annotations)
    converted = []
    for annotation in annotations:
        found_boxes = _boxes(annotation, names, one_based, report)
        report.images_without_boxes += not found_boxes
        for name, _, _ in found_boxes:
            report.boxes[name] += 1
        crowd = [i for i, (_, _, hard) in enumerate(found_boxes) if hard and difficult == "crowd"]
        converted.append(
            LabelledImage(
                annotation.image.relative_to(images).as_posix(),
                annotation.width,
                annotation.height,
                [(name, box) for name, box, _ in found_boxes],
                crowd,
            )
        )
    return build_coco(converted, names, f"Pascal-VOC XML of {labels}"), report


def _check_classes(names: list[str], found: list[str], labels: Path) -> None:
    if len(set(names)) != len(names):
        raise DataError(f"classes: {', '.join(names)}: one is named twice. Name each once.")
    if not found:
        raise DataError(
            f"{labels}: no XML file of the images asked for holds an <object>. Check the folder of "
            "labels (and pattern and image_list)."
        )
    if not set(names) & set(found):
        raise DataError(
            f"{labels}: <object><name>: none of the classes {', '.join(names)} occurs; "
            f"found {', '.join(found)}. Name classes of these."
        )


def _find_sources(labels: Path, image_sets: Sequence[Path]) -> list[Path]:
    """The XML files to read, sorted."""
    if not labels.is_dir():
        raise DataError(f"{labels}: no such folder of XML labels. Check the path.")
    if not image_sets:
        sources = sorted(path for path in walk(labels) if path.suffix.lower() == ".xml")
        if not sources:
            raise DataError(f"{labels}: holds no .xml file. Name the folder of Pascal-VOC labels.")
        return sources
    sources = {
        labels / f"{name}.xml": path for path in image_sets for name in read_image_list(path)
    }
    absent = [source for source in sources if not source.is_file()]
    if absent:
        raise DataError(
            f"{sources[absent[0]]}: names {absent[0].stem}, but there is no {absent[0]} (nor "
            f"{len(absent) - 1} others). Restore them or correct the list."
        )
    return sorted(sources)


def _read_annotations(
    images: Path, labels: Path, image_sets: Sequence[Path], keeps: Callable[[str], bool]
) -> list[_Annotation]:
    """The XML files of the images asked for, sorted by the path of their image."""
    sources = _find_sources(labels, image_sets)
    by_stem: dict[str, list[Path]] = defaultdict(list)
    for path in list_images(images):
        by_stem[path.stem].append(path)
    read = gather(lambda s: _read_annotation(s, labels, images, by_stem, keeps), sources)
    annotations = [annotation for annotation in read if annotation is not None]
    owner: dict[Path, Path] = {}
    for annotation in annotations:
        other = owner.setdefault(annotation.image, annotation.source)
        if other != annotation.source:
            raise DataError(
                f"{annotation.source}: filename: names the image {annotation.image}, and so does "
                f"{other}. Correct one of the two."
            )
    return sorted(annotations, key=lambda a: a.image.relative_to(images).as_posix())


def _read_annotation(
    source: Path,
    labels: Path,
    images: Path,
    by_stem: dict[str, list[Path]],
    keeps: Callable[[str], bool],
) -> _Annotation | None:
    """The content of an XML file; None if its image is not asked for."""
    try:
        root = ElementTree.parse(source).getroot()
    except (ElementTree.ParseError, ValueError, LookupError) as error:  # the latter: encodings
        raise DataError(
            f"{source}: is not well-formed XML ({error}). Repair or remove it."
        ) from error
    except OSError as error:
        raise DataError(f"{source}: cannot be read ({error.strerror}). Repair it.") from error
    _check_layout(source, root)
    image = _find_image(source, root, images / source.relative_to(labels).parent, by_stem)
    if not keeps(image.relative_to(images).as_posix()):
        return None
    width, height = image_size(image)
    stated = tuple(_optional_number(source, root, f"size/{key}") for key in ("width", "height"))
    # Some tools leave the size out or write 0 for it.
    if all(stated) and stated != (width, height):
        raise DataError(
            f"{source}: size: says {stated[0]:g}x{stated[1]:g}, but {image} is {width}x{height}. "
            f"{turned_hint(stated, (width, height))}"
            "Scale the boxes or restore the image that was labelled."
        )
    return _Annotation(source, image, width, height, _read_objects(source, root))


def _check_layout(source: Path, root: ElementTree.Element) -> None:
    """Raise DataError for a file in which objects would be overlooked."""
    fault = _layout_fault(root)
    if fault:
        raise DataError(
            f"{source}: {fault}, so it is no Pascal-VOC file, which is <annotation> with <object>s "
            "in it, in small letters and without a namespace. Correct or replace it."
        )


def _layout_fault(root: ElementTree.Element) -> str | None:
    """The first element that has another name than it is looked for by, or another place."""
    if root.tag != "annotation":
        return f"the outermost element is <{root.tag}>"
    inside = {id(part) for element in root.findall("object") for part in element.iter()}
    for element in root.iter():
        name = element.tag.rpartition("}")[2].lower()
        if name in _READ and element.tag != name:
            return f"has an element <{element.tag}> (for <{name}>)"
        if name in ("object", "bndbox") and id(element) not in inside:
            return f"has a <{name}> that is in no <object> directly below <annotation>"
    return None


def _find_image(
    source: Path, root: ElementTree.Element, folder: Path, by_stem: dict[str, list[Path]]
) -> Path:
    """The image there is for an XML file; ``folder`` is where it is if stems are not unique."""
    name = PureWindowsPath((root.findtext("filename") or "").strip()).name  # takes / and \
    known_suffix = PureWindowsPath(name).suffix.lower() in IMAGE_SUFFIXES
    stem = PureWindowsPath(name).stem if known_suffix else name
    candidates = by_stem.get(stem) or by_stem.get(source.stem) or []
    candidates = [path for path in candidates if path.parent == folder] or candidates
    candidates = [path for path in candidates if path.name == name] or candidates
    if len(candidates) > 1:
        raise DataError(
            f"{source}: filename: {name!r} may be {' or '.join(map(str, candidates))}. "
            "Keep one of them."
        )
    if not candidates:
        raise DataError(
            f"{source}: filename: no image with the stem {stem!r} or {source.stem!r} in the folder "
            "of images. Add the image or remove the XML file."
        )
    return candidates[0]


def _optional_number(source: Path, element: ElementTree.Element, tag: str) -> float:
    """The number in ``tag``, 0 if there is no such tag."""
    text = element.findtext(tag)
    if text is None:
        return 0.0
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise DataError(f"{source}: {tag}: {text!r} is not a number. Correct it.")
    return number


def _read_objects(source: Path, root: ElementTree.Element) -> list[_Object]:
    objects = []
    for number, element in enumerate(root.findall("object"), 1):
        name = (element.findtext("name") or "").strip()
        if not name:
            raise DataError(f"{source}: object {number}: has no <name>. Add it.")
        corners = []
        for key in ("xmin", "ymin", "xmax", "ymax"):
            if element.find(f"bndbox/{key}") is None:
                raise DataError(f"{source}: object {number} ({name}): has no bndbox/{key}. Add it.")
            corners.append(_optional_number(source, element, f"bndbox/{key}"))
        difficult = _optional_number(source, element, "difficult") != 0
        objects.append(_Object(name, tuple(corners), difficult))
    return objects


def _boxes(
    annotation: _Annotation, names: Sequence[str], one_based: bool, report: ConversionReport
) -> list[tuple[str, list[float], bool]]:
    """Name, COCO box and ``difficult`` of what is kept; what is not kept goes to the report."""
    boxes = []
    for obj in annotation.objects:
        if obj.name not in names:
            report.left_out[obj.name] += 1
            continue
        xmin, ymin, xmax, ymax = obj.corners
        if one_based:
            xmin, ymin = xmin - 1, ymin - 1
        corners = ", ".join(f"{corner:g}" for corner in obj.corners)
        case = f"{annotation.source}: {obj.name} ({corners})"
        size = (annotation.width, annotation.height)
        box = box_in_image((xmin, ymin, xmax, ymax), *size, case, report)
        if box is not None:
            boxes.append((obj.name, box, obj.difficult))
    return boxes
