"""Lists of images in text files, such as PASCAL's ``ImageSets/Main/train.txt``."""

from __future__ import annotations

import re
from pathlib import Path

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
        lines = path.read_text(encoding="utf-8").splitlines()
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


def listed_images(folder: Path, list_file: Path, pattern: str = "*") -> list[Path]:
    """The images of ``folder`` that a text file names, sorted by path.

    Args:
        folder: folder of images.
        list_file: see `read_image_list`; paths relative to ``folder``, with or without suffix.
        pattern: see `list_images`.

    Raises:
        DataError: if a name is no image of the folder, or might be two.
    """
    by_name: dict[str, list[Path]] = {}
    for path in list_images(folder, pattern):
        relative = path.relative_to(folder)
        for name in (relative.as_posix(), relative.with_suffix("").as_posix()):
            by_name.setdefault(name, []).append(path)
    names = read_image_list(list_file)
    absent = [name for name in names if name not in by_name]
    if absent:
        raise DataError(
            f"{list_file}: {absent[0]!r} is no image in {folder} ({len(absent)} of {len(names)} "
            f"are not; suffixes: {' '.join(sorted(IMAGE_SUFFIXES))}). Add them or correct the list."
        )
    double = next((name for name in names if len(by_name[name]) > 1), None)
    if double is not None:
        raise DataError(
            f"{list_file}: {double!r} may be {' or '.join(map(str, by_name[double]))}. Write it "
            "with its suffix."
        )
    return sorted(
        {by_name[name][0] for name in names}, key=lambda path: path.relative_to(folder).as_posix()
    )
