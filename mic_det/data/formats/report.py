"""What the converters share: COCO content from boxes by image, and the report for people."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field

_SHOWN = 20


@dataclass
class ConversionReport:
    """What a conversion kept and what it did not.

    Attributes:
        images: images written.
        images_without_boxes: those of them that have no box.
        images_without_xml: images in the folder that no XML is for; they are not written, since
            nobody said that nothing is on them.
        boxes: boxes written, by class.
        left_out: objects of classes that were not asked for, by class.
        empty: a line for each box without area; left out.
        dropped: a line for each box that is upside down or outside its image; left out.
        clipped: a line for each box that was cut at the image's border.
        notes: what else the user should know.
    """

    images: int = 0
    images_without_boxes: int = 0
    images_without_xml: int = 0
    boxes: dict[str, int] = field(default_factory=dict)
    left_out: Counter[str] = field(default_factory=Counter)
    empty: list[str] = field(default_factory=list)
    dropped: list[str] = field(default_factory=list)
    clipped: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def text(self) -> str:
        """The report for people."""
        lines = [f"{self.images} images, {self.images_without_boxes} of them without a box"]
        lines += [f"  {name}: {count} boxes" for name, count in self.boxes.items()]
        lines += [f"  {n}: {c} objects left out (class)" for n, c in sorted(self.left_out.items())]
        if self.images_without_xml:
            lines.append(f"{self.images_without_xml} images have no XML and are left out")
        for title, cases in (
            ("left out, without area", self.empty),
            ("left out", self.dropped),
            ("clipped", self.clipped),
        ):
            if cases:
                lines.append(f"{len(cases)} boxes {title}:")
                lines += [f"  {case}" for case in cases[:_SHOWN]]
                if len(cases) > _SHOWN:
                    lines.append(f"  and {len(cases) - _SHOWN} more")
        lines += self.notes
        return "\n".join(lines)


@dataclass(frozen=True)
class LabelledImage:
    """An image as a converter found it.

    Attributes:
        file_name: relative to the folder of images, with forward slashes.
        width, height: in pixels, as shown.
        boxes: class name and ``[x, y, width, height]`` in pixels of each object.
        crowd: positions in ``boxes`` of those that count neither in training nor in evaluation.
    """

    file_name: str
    width: int
    height: int
    boxes: Sequence[tuple[str, list[float]]]
    crowd: Collection[int] = ()


def build_coco(images: Iterable[LabelledImage], classes: Sequence[str], description: str) -> dict:
    """COCO content; category ids 1, 2, ... follow ``classes``."""
    category_ids = {name: number for number, name in enumerate(classes, 1)}
    coco_images, annotations = [], []
    for image_id, image in enumerate(images, 1):
        size = {"height": image.height, "width": image.width}
        coco_images.append({"id": image_id, "file_name": image.file_name, **size})
        annotations += [
            {
                "id": number,
                "image_id": image_id,
                "category_id": category_ids[name],
                "bbox": box,
                "area": box[2] * box[3],
                "iscrowd": int(place in image.crowd),
            }
            for number, (place, (name, box)) in enumerate(
                enumerate(image.boxes), len(annotations) + 1
            )
        ]
    return {
        "info": {"description": description},
        "images": coco_images,
        "annotations": annotations,
        "categories": [{"id": number, "name": name} for name, number in category_ids.items()],
    }


def box_in_image(
    corners: Sequence[float], width: int, height: int, case: str, report: ConversionReport
) -> list[float] | None:
    """``[x, y, width, height]`` of a box inside its image, None if nothing is left of it.

    Args:
        corners: x0, y0, x1, y1 in pixels from 0.
        width, height: of the image, in pixels.
        case: file, record and box, for the report.
        report: told what was cut or left out.
    """
    x0, y0, x1, y1 = corners
    left, right, top, bottom = max(x0, 0), min(x1, width), max(y0, 0), min(y1, height)
    if x1 < x0 or y1 < y0:
        report.dropped.append(f"{case}: width or height is negative")
    elif x1 == x0 or y1 == y0:
        report.empty.append(f"{case}: width or height is zero")
    elif right <= left or bottom <= top:
        report.dropped.append(f"{case}: outside {width}x{height}")
    else:
        if (left, top, right, bottom) != (x0, y0, x1, y1):
            report.clipped.append(f"{case}: beyond {width}x{height}")
        return [int(v) if v == int(v) else v for v in (left, top, right - left, bottom - top)]
    return None
