"""Folders of images, and images of every kind as 8-bit arrays.

An image is what a viewer shows: EXIF orientation is applied, and boxes and sizes refer to the
picture as it is shown. (Upstream Detectron2 does so too; some copies of it do not.)
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from mic_det.data.errors import DataError, link_hint

logger = logging.getLogger(__name__)

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp"})

_ORIENTATION = ExifTags.Base.Orientation
_TURNED = (5, 6, 7, 8)  # EXIF orientations that swap width and height


def list_images(folder: Path, pattern: str = "*") -> list[Path]:
    """Image files in ``folder`` and its sub-folders whose name fits ``pattern``, sorted by path.

    A pattern with a slash is for the path relative to ``folder``: ``*/train/*``.

    Links are followed; one that leads back into a folder on its own way is skipped, with a warning.
    Hidden files and folders (``._a.jpg``, ``.thumbnails``) hold no images.

    Raises:
        DataError: if there is no such folder or no such image, if a folder cannot be listed, a
            link leads nowhere, or a name is not UTF-8.
    """
    if not folder.is_dir():
        what = "is a file, not a folder" if folder.exists() else "no such folder"
        raise DataError(f"{folder}: {what} of images. Check the path.")
    found = [
        path
        for path in walk(folder)
        if is_image(path) and fits(path.relative_to(folder).as_posix(), pattern)
    ]
    if not found:
        fitting = "" if pattern == "*" else f" named like {pattern!r}"
        kinds = " ".join(sorted(suffix[1:] for suffix in IMAGE_SUFFIXES))
        raise DataError(
            f"{folder}: holds no image{fitting} (looked in sub-folders too, for {kinds}). "
            "Put the images there, or name the folder that has them."
        )
    for path in found:
        _check_name(path)
        if path.is_symlink() and not path.exists():
            raise DataError(
                f"{path}: is a link to {path.readlink()}, which is not there. "
                "Restore what it points to, or remove the link."
            )
    return sorted(found, key=lambda path: path.relative_to(folder).as_posix())


def is_image(path: Path) -> bool:
    """Whether the file is an image by its suffix."""
    return path.suffix.lower() in IMAGE_SUFFIXES


def fits(name: str, pattern: str) -> bool:
    """Whether an image, by its path relative to the folder of images, fits a shell pattern."""
    path = PurePosixPath(name)
    return fnmatchcase(path.as_posix() if "/" in pattern else path.name, pattern)


def _check_name(path: Path) -> None:
    try:
        str(path).encode()
    except UnicodeEncodeError:
        raise DataError(
            f"{os.fsencode(path)!r}: the name is not UTF-8, so no annotation file can hold it. "
            "Rename the file (convmv renames whole folders)."
        ) from None


def is_file(path: Path) -> bool:
    """Whether a file is there and may be looked at."""
    try:
        return path.is_file()
    except OSError:
        return False


def walk(folder: Path, _above: frozenset[tuple[int, int]] = frozenset()) -> Iterator[Path]:
    """Files in ``folder`` and its sub-folders but the hidden ones; links are followed.

    Raises:
        DataError: if a folder cannot be listed.
    """
    try:
        status = folder.stat()
        with os.scandir(folder) as listing:
            entries = [entry for entry in listing if not entry.name.startswith(".")]
    except OSError as error:
        raise DataError(
            f"{folder}: cannot be listed ({error.strerror}). "
            f"Give yourself the right to read it: chmod u+rx '{folder}'."
        ) from error
    identity = (status.st_dev, status.st_ino)
    if identity in _above:
        logger.warning(
            "%s: is a link to a folder that it lies in; skipped. Remove the link.", folder
        )
        return
    for entry in entries:
        if _is_folder(entry):
            yield from walk(Path(entry.path), _above | {identity})
        else:
            yield Path(entry.path)


def _is_folder(entry: os.DirEntry) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def image_size(path: Path) -> tuple[int, int]:
    """Width and height in pixels of the picture as it is shown, from the header alone.

    Raises:
        DataError: if the file is not there or no image.
    """
    with _opened(path) as image:
        width, height = _stored_size(image)
        return (height, width) if _orientation(image) in _TURNED else (width, height)


def turned_hint(stated: Sequence[float], shown: Sequence[float]) -> str:
    """A sentence for a stated size that is the shown one turned by 90 degrees; else empty."""
    if tuple(stated) == tuple(shown) or tuple(stated) != tuple(reversed(shown)):
        return ""
    return (
        "Width and height are swapped: perhaps an EXIF orientation turns the image, and the boxes "
        "refer to it as it is stored. Then turn the boxes, or take the EXIF tag out of the file. "
    )


def read_image(path: Path, form: str = "RGB") -> np.ndarray:
    """The picture as it is shown, (H, W, 3) uint8, or (H, W, 1) for ``form`` "L".

    Grey, palette, CMYK and images with transparency become colour (transparency is dropped). 16-bit
    greys keep their upper 8 bits, so 0..65535 becomes 0..255.

    Args:
        path: the file.
        form: "RGB", "BGR" or "L".

    Raises:
        DataError: if the file is not there, no image, cut off, or of a kind without a known range
            (floating point).
    """
    picture = _eight_bits(path, load_image(path))
    if form == "L":
        return np.asarray(picture.convert("L"))[:, :, None]
    array = np.asarray(picture.convert("RGB"))
    return np.ascontiguousarray(array[:, :, ::-1]) if form == "BGR" else array


def load_image(path: Path) -> Image.Image:
    """The decoded picture as it is shown, in the mode that the file has ("P", "I;16", "RGB", ...).

    Raises:
        DataError: if the file is not there, no image or cut off.
    """
    with _opened(path) as image:
        upright = _orientation(image) == 1
        try:
            image.load()
        except (OSError, SyntaxError, ValueError, IndexError) as error:
            raise _unreadable(path, error) from error
        return image if upright else ImageOps.exif_transpose(image)


def _opened(path: Path) -> Image.Image:
    """An open image; it raises a DataError if the header is no image's."""
    try:
        return Image.open(path)
    except FileNotFoundError:
        raise DataError(f"{path}: no such image. Check the path.") from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> DataError:
    if isinstance(error, UnidentifiedImageError):
        reason = "no image format is recognised"  # Pillow's own words repeat the path
    elif isinstance(error, PermissionError):
        reason = f"{error.strerror}; chmod u+r gives yourself the right"
    else:
        reason = str(error)
    return DataError(
        f"{path}: cannot be read as an image ({reason}{link_hint(path)}). "
        "Restore the file or remove it."
    )


def _orientation(image: Image.Image) -> int:
    """EXIF orientation 1..8 as the header has it, without decoding the image."""
    if image.format == "PNG" and "exif" not in image.info:
        return 1  # Pillow would decode the whole file in search of it
    try:
        return int(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # broken EXIF raises anything; the picture is then shown as it is stored
        return 1


def _stored_size(image: Image.Image) -> tuple[int, int]:
    """Width and height before orientation is applied."""
    if image.format == "TIFF":  # of which newer releases of Pillow give the size as shown
        return int(image.tag_v2[256]), int(image.tag_v2[257])
    return image.size


def _eight_bits(path: Path, image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):
        values = np.asarray(image)
        if values.min() < 0 or values.max() > 65535:
            raise DataError(
                f"{path}: holds {values.min()}..{values.max()}, more than 16 bits. "
                "Convert it to 8 or 16 bits."
            )
        return Image.fromarray((values >> 8).astype(np.uint8))
    if image.mode == "F":
        raise DataError(
            f"{path}: holds floating-point values, of which nobody knows what is white. "
            "Convert it to 8 or 16 bits."
        )
    return image
