"""A folder of label images, and which of them belongs to which image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mic_det.data.errors import DataError
from mic_det.data.images import is_image, walk
from mic_det.data.segmentation.coding import LabelCoding

#: Ends of an image's stem and of its label's that are tried where a domain names none.
SUFFIX_RULES = (
    ("", ""),
    ("_leftImg8bit", "_gtFine_labelTrainIds"),
    ("_leftImg8bit", "_gtFine_labelIds"),
    ("_rgb_anon", "_gt_labelTrainIds"),
    ("_rgb_anon", "_gt_labelIds"),
    ("", "_L"),
)


@dataclass(frozen=True)
class LabelFolder:
    """Label images of a domain.

    Attributes:
        path: the folder; it has the sub-folders of the folder of images.
        coding: what the values or colours mean.
        suffixes: end of an image's stem, and what stands in its place in the label's stem, as
            ``("_leftImg8bit", "_gtFine_labelIds")``; None: what `SUFFIX_RULES` find.
        channel: of a label image with several, the one that has the values.
    """

    path: Path
    coding: LabelCoding
    suffixes: tuple[str, str] | None = None
    channel: int | None = None


@dataclass(frozen=True)
class Pairs:
    """Images and label images that belong together.

    Attributes:
        label_of: path of the label image by path of the image, in the order of the images.
        without_label: images that have none.
        unused: label files that belong to no image, in a folder where each should.
    """

    label_of: dict[Path, Path]
    without_label: list[Path] = field(default_factory=list)
    unused: list[Path] = field(default_factory=list)

    def notes(self) -> list[str]:
        """What a user should know of images without label and labels without image."""
        found = []
        if self.without_label:
            total = len(self.without_label) + len(self.label_of)
            found.append(
                f"{len(self.without_label)} of {total} images have no label image (the first: "
                f"{self.without_label[0]}). They are left out where the domain is a source or "
                "evaluated; as a target it has all."
            )
        if self.unused:
            found.append(
                f"{len(self.unused)} label images belong to no image (the first: "
                f"{self.unused[0]}). Are images missing?"
            )
        return found


def pair_labels(folder: Path, images: Sequence[Path], labels: LabelFolder) -> Pairs:
    """Find the label image of each image: the same path below its folder, but for the suffix.

    Args:
        folder: folder of images.
        images: images in it, at least one.
        labels: the folder of label images.

    Raises:
        DataError: if there is no label for any image, two might be meant, a file is an image and
            a label, or the folder cannot be listed.
    """
    by_name = _label_files(labels.path)
    rules = SUFFIX_RULES if labels.suffixes is None else (labels.suffixes,)
    label_of: dict[Path, Path] = {}
    without_label = []
    for image in images:
        stem = image.relative_to(folder).with_suffix("").as_posix()
        found = {
            path
            for end, label_end in rules
            if stem.endswith(end)
            for path in by_name.get(stem.removesuffix(end) + label_end, ())
            if path != image
        }
        if len(found) > 1:
            first, second = sorted(found)[:2]
            raise DataError(
                f"{image}: its label may be {first} or {second}. Say which with label_suffixes: "
                "[END OF THE IMAGE'S STEM, END OF THE LABEL'S], such as "
                "[_leftImg8bit, _gtFine_labelIds], or remove one."
            )
        if found:
            label_of[image] = found.pop()
        else:
            without_label.append(image)
    if not label_of:
        raise _no_pairs(folder, images[0], labels, rules, by_name)
    both = set(label_of.values()) & set(images)
    if both:
        raise DataError(
            f"{min(both)}: is an image of the domain and the label of one. Put labels in a folder "
            "of their own, or give the images a pattern that labels do not fit."
        )
    used = set(label_of.values())
    unused = [path for paths in by_name.values() for path in paths if path not in used]
    # Beside labels that suffixes tell apart lie other renderings of them.
    told_apart = any(path.stem != image.stem for image, path in label_of.items())
    return Pairs(label_of, without_label, [] if told_apart else sorted(unused))


def _label_files(folder: Path) -> dict[str, list[Path]]:
    """Label files by path relative to the folder, without the suffix of the kind of file."""
    if not folder.is_dir():
        what = "is a file, not a folder" if folder.exists() else "no such folder"
        raise DataError(f"{folder}: {what} of label images. Check the path.")
    by_name: dict[str, list[Path]] = {}
    for path in filter(is_image, walk(folder)):
        by_name.setdefault(path.relative_to(folder).with_suffix("").as_posix(), []).append(path)
    if not by_name:
        raise DataError(
            f"{folder}: holds no label image (looked in sub-folders too). Put them there, or name "
            "the folder that has them."
        )
    return by_name


def _no_pairs(
    folder: Path,
    image: Path,
    labels: LabelFolder,
    rules: Sequence[tuple[str, str]],
    by_name: dict[str, list[Path]],
) -> DataError:
    stem = image.relative_to(folder).with_suffix("").as_posix()
    fitting = [(end, label_end) for end, label_end in rules if stem.endswith(end)]
    if not fitting:
        return DataError(
            f"{labels.path}: label_suffixes: no image's stem ends in {rules[0][0]!r}, the first is "
            f"{image.name}. Correct label_suffixes."
        )
    looked = [f"{stem.removesuffix(end)}{label_end}.png" for end, label_end in fitting]
    first = min(path for paths in by_name.values() for path in paths)
    there = first.relative_to(labels.path).as_posix()
    return DataError(
        f"{labels.path}: holds the label of no image. For {image} there should be "
        f"{' or '.join(looked)}; a label that is there is {there}. Name the folder that mirrors "
        "the one of images, or say how the names differ with label_suffixes: [END OF THE IMAGE'S "
        "STEM, END OF THE LABEL'S]."
    )
