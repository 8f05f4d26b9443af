"""A domain: a folder of images, with or without annotations."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from mic_det.data.errors import DataError
from mic_det.data.image_list import listed_images
from mic_det.data.images import fits, list_images

if TYPE_CHECKING:
    from mic_det.data.segmentation.label_folder import LabelFolder

DEFAULT_REMEDY = "Check the paths that it was registered with (register_domain)."


@dataclass(frozen=True)
class Domain:
    """What `register_domain` or `register_segmentation` was told.

    Paths are absolute, or relative to the folder that ``prepare`` returns.
    """

    name: str
    images: Path
    annotations: Path | None = None
    classes: tuple[str, ...] | None = None
    aliases: tuple[tuple[str, str], ...] = ()
    pattern: str = "*"
    one_based: bool = False
    prepare: Callable[[], Path] | None = None
    remedy: str = field(default=DEFAULT_REMEDY, compare=False)
    image_list: Path | None = None
    labels: LabelFolder | None = None

    #: Whether lines of ``image_list`` may end with the number of a class.
    numbered: ClassVar[bool] = False

    @property
    def is_whole_folder(self) -> bool:
        """Whether all images of the folder belong to the domain."""
        return self.pattern == "*" and self.image_list is None

    def folder(self) -> Path:
        """The folder of images; makes the data first if the domain was registered with a maker."""
        return self.prepare() / self.images if self.prepare else self.images

    def annotation_path(self) -> Path:
        """Path of the COCO file, or of the folder of Pascal-VOC or YOLO labels.

        Raises:
            DataError: if the domain was registered without annotations.
        """
        if self.annotations is None and self.labels is not None:
            raise DataError(
                f"Domain {self.name!r}: has label images, not boxes. Train on it with "
                "MODEL.TASK segmentation, or register its images under another name with "
                "annotations."
            )
        if self.annotations is None:
            raise DataError(
                f"Domain {self.name!r}: has no annotations, so it serves as an unlabelled target "
                "only. To train on its labels or to evaluate on it, register it with annotations."
            )
        return self.prepare() / self.annotations if self.prepare else self.annotations

    def label_folder(self) -> LabelFolder:
        """The folder of label images, and what their values mean.

        Raises:
            DataError: if the domain was registered without label images.
        """
        if self.labels is None:
            raise DataError(
                f"Domain {self.name!r}: has no label images, so it serves as an unlabelled target "
                "only. To train on its labels or to evaluate on it, register it with labels."
            )
        if self.prepare:
            return replace(self.labels, path=self.prepare() / self.labels.path)
        return self.labels

    def image_files(self) -> list[Path]:
        """All images, or those listed, sorted by path; the annotations are not asked.

        Raises:
            DataError: if there are none, or one of those listed is not there.
        """
        if self.image_list is None:
            return list_images(self.folder(), self.pattern)
        return listed_images(self.folder(), self.image_list, self.pattern, numbered=self.numbered)

    def chooser(self) -> Callable[[str], bool]:
        """A function that says of a path relative to `folder` whether it is one of the domain's.

        Raises:
            DataError: if the list of images is missing or broken, or an image on it is not there.
        """
        if self.image_list is None:
            return lambda name: fits(name, self.pattern)
        folder, listed = self.folder(), set(self.image_files())
        return lambda name: folder / name in listed

    def missing(self, labelled: bool) -> list[Path]:
        """Paths that are not there; for unlabelled use the annotations are not asked for."""
        wanted = [] if self.image_list is None else [self.image_list]
        if not self.prepare:
            wanted.insert(0, self.images)
            if labelled:
                labels = self.annotation_path() if self.labels is None else self.labels.path
                wanted.insert(1, labels)
        return [path for path in wanted if not _is_there(path)]


def _is_there(path: Path) -> bool:
    try:
        return path.exists()
    except OSError as error:
        raise DataError(
            f"{path}: cannot be looked at ({error.strerror}). Give yourself the right to enter the "
            "folders above it (chmod u+x)."
        ) from error


def check_told(name: object, classes: object, aliases: object) -> None:
    """Check what a domain is registered with.

    Raises:
        DataError: if the name is no text or a path, ``classes`` no list of names, each once, or
            ``aliases`` no mapping of names to names.
    """
    if not isinstance(name, str) or not name:
        raise DataError(f"Domain {name!r}: the name is no text. Write it in quotes.")
    if name in (".", "..") or set(name) & set("/\\\0"):
        raise DataError(
            f"Domain {name!r}: results are kept in a folder of this name, so it cannot be a path. "
            "Write a name without slashes."
        )
    if isinstance(classes, str):
        raise DataError(f"Domain {name!r}: classes: is text, not a list. Write [{classes!r}].")
    if classes is not None:
        if not isinstance(classes, (list, tuple)) or not all(isinstance(c, str) for c in classes):
            raise DataError(
                f"Domain {name!r}: classes: {classes!r} is no list of names. Write each in quotes "
                "(YAML takes no and 1 for something else)."
            )
        if not classes:
            raise DataError(f"Domain {name!r}: classes: is empty. Name classes, or leave it out.")
        twice = [each for each in classes if list(classes).count(each) > 1]
        if twice:
            raise DataError(
                f"Domain {name!r}: classes: {list(classes)} names {twice[0]!r} twice. Name it once."
            )
    if aliases is not None and (
        not isinstance(aliases, Mapping)
        or not all(isinstance(each, str) for pair in aliases.items() for each in pair)
    ):
        raise DataError(
            f"Domain {name!r}: aliases: {aliases!r} is no mapping of names to names. "
            "Write {name in the annotations: name of the class}."
        )
