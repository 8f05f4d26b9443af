"""Domains for classification: a folder of images for each class.

    office/art/
      Alarm_Clock/0001.jpg ...
      Backpack/...

As an unlabelled target such a domain is its images alone: `unlabelled_dicts` of
`mic_det.data.catalog` lists them, and nobody looks at the folders' names.
"""

from __future__ import annotations

import difflib
import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from mic_det.data.catalog import add_domain, get_domain, require_domain
from mic_det.data.domain import DEFAULT_REMEDY, Domain, check_told
from mic_det.data.errors import DataError, listed

logger = logging.getLogger(__name__)

_SAID: set[str] = set()


@dataclass(frozen=True)
class ClassFolders(Domain):
    """A `Domain` whose classes are the folders directly in ``images``."""

    numbered: ClassVar[bool] = True

    def missing(self, labelled: bool) -> list[Path]:
        return super().missing(labelled=False)


def register_class_folders(
    name: str,
    images: str | Path,
    classes: Sequence[str] | None = None,
    *,
    aliases: Mapping[str, str] | None = None,
    image_list: str | Path | None = None,
    prepare: Callable[[], Path] | None = None,
    remedy: str = DEFAULT_REMEDY,
) -> None:
    """Make a folder of class folders known under ``name``; no file is read.

    Args:
        name: the name for configs.
        images: the folder that the class folders are in. With ``prepare`` relative to what that
            returns.
        classes: names of the classes, which all have to be there, in the order of their ids;
            None: all folders, by name.
        aliases: what folders are called here, ``{"folder": "class"}``.
        image_list: text file with an image on each line, relative to ``images`` or to the folder
            above, and maybe a number after it, as DomainNet's; the domain is these images alone.
        prepare: makes the data when they are first needed.
        remedy: told to the user when files are missing.

    Raises:
        DataError: if the name is taken by something else, or ``classes`` or ``aliases`` are none.
    """
    check_told(name, classes, aliases)
    path = Path(images) if prepare else Path(images).expanduser().absolute()
    domain = ClassFolders(
        name,
        path,
        classes=None if classes is None else tuple(classes),
        aliases=tuple((aliases or {}).items()),
        prepare=prepare,
        remedy=remedy,
        image_list=None if image_list is None else Path(image_list).expanduser().absolute(),
    )
    metadata = {} if domain.classes is None else {"thing_classes": list(domain.classes)}
    add_domain(domain, lambda known: labelled_images(known, class_names_of(known)), metadata)


def class_names_of(name: str) -> list[str]:
    """The classes of a domain: those it was registered with, or its folders, by name.

    Raises:
        DataError: if it is unknown, none of class folders, not there, or an image is in none.
    """
    domain = _get(name)
    if domain.classes is not None:
        return list(domain.classes)
    return sorted({label for _, label in _labelled_paths(domain)})


def labelled_images(name: str, classes: Sequence[str]) -> list[dict]:
    """The images of a domain, sorted by path: ``file_name``, ``image_id`` and ``label``.

    ``label`` is the place in ``classes`` of the name of the image's folder, after the domain's
    aliases, whatever the order of the folders.

    Raises:
        DataError: if the data are missing, an image is in no class folder, a class of the domain's
            registration has no image, or a folder is none of ``classes``.
    """
    domain = _get(name)
    found = _labelled_paths(domain)
    counts = Counter(label for _, label in found)
    _check_own(domain, counts)
    _check_known(domain, counts, classes)
    for note in notes_on(counts, classes):
        if (name, note) not in _SAID:
            _SAID.add((name, note))
            logger.warning("%s: %s", name, note)
    number = {label: k for k, label in enumerate(classes)}
    folder = domain.folder()
    return [
        {
            "file_name": str(path),
            "image_id": path.relative_to(folder).as_posix(),
            "label": number[label],
        }
        for path, label in found
    ]


def image_counts(name: str) -> Counter[str]:
    """Number of images of each class."""
    domain = _get(name)
    counts = Counter(label for _, label in _labelled_paths(domain))
    _check_own(domain, counts)
    return counts


def notes_on(counts: Mapping[str, int], classes: Sequence[str]) -> list[str]:
    """What is strange about the numbers of images, but no error."""
    notes = []
    absent = [each for each in classes if not counts.get(each)]
    if absent:
        notes.append(f"has no image of {_names(absent)}: nothing is measured of these classes.")
    single = [each for each in classes if counts.get(each) == 1]
    if single:
        notes.append(f"has one image only of {_names(single)}.")
    return notes


def _names(names: Sequence[str]) -> str:
    more = f" and {len(names) - 8} more" if len(names) > 8 else ""
    return ", ".join(map(repr, names[:8])) + more


def is_class_folders(name: str) -> bool:
    """Whether a domain is one of `register_class_folders`."""
    return isinstance(get_domain(name), ClassFolders)


def _get(name: str) -> ClassFolders:
    domain = get_domain(name)
    if not isinstance(domain, ClassFolders):
        raise DataError(
            f"Domain {name!r}: is no domain of class folders, so it has no labels for "
            "classification. Register it with `class_folders: true` in its YAML file, or with "
            "mic_det.data.classification.folders.register_class_folders."
        )
    require_domain(name, labelled=False)
    return domain


def _labelled_paths(domain: ClassFolders) -> list[tuple[Path, str]]:
    """Each image and its class, by path."""
    folder = domain.folder()
    aliases = dict(domain.aliases)
    found, outside = [], []
    for path in domain.image_files():
        parts = path.relative_to(folder).parts
        if len(parts) < 2:
            outside.append(path)
        else:
            found.append((path, aliases.get(parts[0], parts[0])))
    if outside:
        raise DataError(
            f"{outside[0]}: is in no class folder ({len(outside)} such images in {folder}). Put "
            f"each image into a folder named like its class, {folder}/CLASS/{outside[0].name}; as "
            "an unlabelled target the folder needs none."
        )
    return found


def _check_own(domain: ClassFolders, counts: Mapping[str, int]) -> None:
    absent = [each for each in domain.classes or () if each not in counts]
    if not absent:
        return
    others = [each for each in counts if each not in (domain.classes or ())]
    raise DataError(
        f"{domain.folder()}: has no images of class {_names(absent)}, which {domain.name} is "
        f"registered with.{_similar(absent[0], others)} Restore the folder, or rename it to the "
        "class (or use aliases)."
    )


def _check_known(domain: ClassFolders, counts: Mapping[str, int], classes: Sequence[str]) -> None:
    faults = []
    for label in sorted(set(counts) - set(classes)):
        own = f"{domain.folder() / _folder_of(domain, label)}"
        missing = [each for each in classes if each not in counts]
        faults.append(
            f"{own}: class {label!r} ({counts[label]} images) is none of the model's "
            f"{len(classes)} classes.{_similar(label, missing or classes)} Add it to the source, "
            f"rename the folder, use aliases ({{{label!r}: CLASS}}), or move it elsewhere."
        )
    if faults:
        raise DataError(listed(faults))


def _folder_of(domain: ClassFolders, label: str) -> str:
    return next((folder for folder, name in domain.aliases if name == label), label)


def _similar(name: str, known: Sequence[str]) -> str:
    plain = {each.lower().replace("_", " ").replace("-", " "): each for each in known}
    wanted = name.lower().replace("_", " ").replace("-", " ")
    close = difflib.get_close_matches(wanted, plain, n=1)
    return f" Is it {plain[close[0]]!r}?" if close else ""
