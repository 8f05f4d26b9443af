"""A domain: a folder of images, with or without COCO annotations."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from mic_det.data.coco import DataError, list_images
from mic_det.data.image_list import listed_images

DEFAULT_REMEDY = "Check the paths that it was registered with (register_domain)."


@dataclass(frozen=True)
class Domain:
    """What `mic_det.data.catalog.register_domain` was told.

    Paths are absolute, or relative to the folder that ``prepare`` returns.
    """

    name: str
    images: Path
    annotations: Path | None = None
    classes: tuple[str, ...] | None = None
    pattern: str = "*"
    prepare: Callable[[], Path] | None = None
    remedy: str = field(default=DEFAULT_REMEDY, compare=False)
    image_list: Path | None = None

    def folder(self) -> Path:
        """The folder of images; makes the data first if the domain was registered with a maker."""
        return self.prepare() / self.images if self.prepare else self.images

    def annotation_file(self) -> Path:
        """Path of the COCO file.

        Raises:
            DataError: if the domain was registered without annotations.
        """
        if self.annotations is None:
            raise DataError(
                f"Domain {self.name!r}: has no annotations, so it serves as an unlabelled target "
                "only. To train on its labels or to evaluate on it, register it with annotations."
            )
        return self.prepare() / self.annotations if self.prepare else self.annotations

    def image_files(self) -> list[Path]:
        """All images, or those listed, sorted by path; the annotations are not asked.

        Raises:
            DataError: if there are none, or one of those listed is not there.
        """
        folder = self.folder()
        if self.image_list is None:
            return list_images(folder, self.pattern)
        return listed_images(folder, self.image_list, self.pattern)

    def missing(self, labelled: bool) -> list[Path]:
        """Paths that are not there; for unlabelled use the annotations are not asked for."""
        if self.prepare:
            return []
        absent = [] if self.images.is_dir() else [self.images]
        if not labelled and self.image_list is not None and not self.image_list.is_file():
            absent.append(self.image_list)
        if labelled and not self.annotation_file().is_file():
            absent.append(self.annotation_file())
        return absent
