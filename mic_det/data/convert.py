"""What converters share: COCO content that grows image by image, boxes cut at the border."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from mic_det.data.coco import DataError
from mic_det.data.voc import ConversionReport


class CocoBuilder:
    """COCO content, in the making.

    Args:
        classes: category names, in the order of the ids 1, 2, ...
        description: for the field ``info``.

    Attributes:
        data: the content so far; ids of images and annotations are 1, 2, ...
        ids: the id of each category name.
    """

    def __init__(self, classes: Sequence[str], description: str) -> None:
        self.ids = {name: number for number, name in enumerate(classes, 1)}
        self.data = {
            "info": {"description": description},
            "images": [],
            "annotations": [],
            "categories": [{"id": number, "name": name} for name, number in self.ids.items()],
        }

    def add_image(self, file_name: str, size: tuple[int, int]) -> None:
        """Add an image; ``size`` is (width, height). Boxes added from now on belong to it."""
        images = self.data["images"]
        images.append(
            {"id": len(images) + 1, "file_name": file_name, "height": size[1], "width": size[0]}
        )

    def add_box(self, name: str, box: list[float], *, crowd: bool = False) -> None:
        """Add a box [x, y, width, height] of a class to the image added last."""
        annotations = self.data["annotations"]
        annotations.append(
            {
                "id": len(annotations) + 1,
                "image_id": self.data["images"][-1]["id"],
                "category_id": self.ids[name],
                "bbox": box,
                "area": box[2] * box[3],
                "iscrowd": int(crowd),
            }
        )


def clipped_box(
    corners: tuple[float, float, float, float],
    size: tuple[int, int],
    case: str,
    report: ConversionReport,
) -> list[float] | None:
    """COCO box of the corners (left, top, right, bottom) within an image of (width, height).

    None if nothing is left of it; that, and each box that was cut, goes to the report, as ``case``.
    """
    width, height = size
    left, top = max(corners[0], 0.0), max(corners[1], 0.0)
    right, bottom = min(corners[2], width), min(corners[3], height)
    text = f"{case}: {', '.join(f'{corner:g}' for corner in corners)}"
    if right <= left or bottom <= top:
        report.dropped.append(f"{text}: no area within {width}x{height}")
        return None
    if (left, top, right, bottom) != tuple(corners):
        report.clipped.append(f"{text}: beyond {width}x{height}")
    return [round(value, 3) for value in (left, top, right - left, bottom - top)]


def image_size(path: Path) -> tuple[int, int]:
    """Width and height from the header.

    Raises:
        DataError: if the file is missing or is no image.
    """
    try:
        with Image.open(path) as image:
            return image.size
    except OSError as error:
        raise DataError(
            f"{path}: cannot be read as an image ({error}). Unpack its archive again."
        ) from error
