"""Lists of images in text files, such as PASCAL's ``ImageSets/Main/train.txt``."""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath

from mic_det.data.errors import DataError
from mic_det.data.images import IMAGE_SUFFIXES, list_images


def read_image_list(path: Path, *, numbered: bool = False) -> list[str]:
    """The names in a text file with a name on each line; empty lines do not count.

    Args:
        numbered: a line may end with the number of the image's class, which is left out.

    Raises:
        DataError: if the file is missing, unreadable or empty, or names one twice.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except FileNotFoundError:
        raise DataError(f"{path}: no such list of images. Check the path.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read as text ({error}). Restore it.") from error
    names = [line.strip() for line in lines if line.strip()]
    if numbered:
        names = [re.sub(r"\s+\d+$", "", name) for name in names]
    if not names:
        raise DataError(f"{path}: names no image. Write one name on each line.")
    seen: set[str] = set()
    for number, name in enumerate(names, 1):
        if not numbered and name.rpartition(" ")[2] in ("1", "0", "-1"):
            raise DataError(
                f"{path}: {name!r}: is a list for one class, with a flag after each name. Name "
                "the list of all images, such as train.txt."
            )
        if name in seen:
            raise DataError(f"{path}: entry {number}: {name!r} occurs twice. Remove one.")
        seen.add(name)
    return names


def listed_images(
    folder: Path, list_file: Path, pattern: str = "*", *, numbered: bool = False
) -> list[Path]:
    """The images of ``folder`` that a text file names, sorted by path.

    Args:
        folder: folder of images.
        list_file: paths relative to ``folder`` or to the folder above it, with or without suffix.
        pattern: see `list_images`.
        numbered: see `read_image_list`.

    Raises:
        DataError: if a name is no image of the folder, or might be two.
    """
    by_name: dict[str, list[Path]] = {}
    for path in list_images(folder, pattern):
        relative = path.relative_to(folder)
        for name in (relative.as_posix(), relative.with_suffix("").as_posix()):
            by_name.setdefault(name, []).append(path)
    names = read_image_list(list_file, numbered=numbered)
    plain = [PurePosixPath(name).as_posix() for name in names]  # without ./
    found = [by_name.get(n) or by_name.get(n.removeprefix(f"{folder.name}/"), []) for n in plain]
    absent = [name for name, paths in zip(names, found, strict=True) if not paths]
    if absent:
        fitting = "" if pattern == "*" else f" named like {pattern!r}"
        raise DataError(
            f"{list_file}: {absent[0]!r} is no image in {folder}{fitting} ({len(absent)} of "
            f"{len(names)} are not; suffixes: {' '.join(sorted(IMAGE_SUFFIXES))}). Restore them or "
            "correct the list."
        )
    for name, paths in zip(names, found, strict=True):
        if len(paths) > 1:
            raise DataError(
                f"{list_file}: {name!r} may be {' or '.join(map(str, paths))}. Write it with its "
                "suffix."
            )
    return sorted(
        {paths[0] for paths in found}, key=lambda path: path.relative_to(folder).as_posix()
    )
