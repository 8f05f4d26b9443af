"""Label images of every kind as class ids."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import DTypeLike
from PIL import Image

from mic_det.data.errors import DataError
from mic_det.data.images import load_image
from mic_det.data.segmentation.coding import IGNORE, LabelCoding
from mic_det.data.segmentation.label_folder import LabelFolder

# In the tables: a value or colour that has no meaning.
_UNKNOWN = 254
_PNG = b"\x89PNG\r\n\x1a\n"


class LabelReader:
    """Reads the label images of a domain as ids of classes.

    8-bit and 16-bit greys, black and white, palettes (by index or, for a map of colours, by
    colour), colour images (by colour), and one channel of images with several of 8 or 16 bits.

    Args:
        labels: what the files' values or colours mean.
        classes: of the model, in the order of the ids; None: those of the labels. It must have all
            classes that the labels keep.
    """

    def __init__(self, labels: LabelFolder, classes: Sequence[str] | None = None) -> None:
        self.coding: LabelCoding = labels.coding
        self.channel = labels.channel
        self.classes = tuple(labels.coding.classes if classes is None else classes)

    def __call__(self, path: str | Path, dtype: DTypeLike = np.uint8) -> np.ndarray:
        """The ids of a label image, (H, W) of ``dtype``; `IGNORE` where there is no class.

        Raises:
            DataError: if the file is missing or broken, of another kind than it should be, or has a
                value or colour without a meaning.
        """
        path = Path(path)
        codes = self._codes(path)
        ids = np.take(self._table, codes)
        if not self.coding.other_ignored and (unknown := ids == _UNKNOWN).any():
            raise self._unknown(path, codes, unknown)
        return ids.astype(dtype, copy=False)

    def _codes(self, path: Path) -> np.ndarray:
        """(H, W) values; colours as 65536 R + 256 G + B."""
        if self.channel is not None:
            return _channel(path, self.channel)
        image = load_image(path)
        _refuse_lossy(path, image)
        if self.coding.coloured:
            return _colour_codes(path, image)
        if image.mode == "P" or image.mode.startswith("I"):
            return _in_range(path, np.asarray(image))
        if image.mode in ("1", "L"):
            return np.asarray(image, dtype=np.uint8)
        if image.mode in ("LA", "PA"):
            return np.asarray(image)[:, :, 0]
        if image.mode == "F":
            raise DataError(f"{path}: holds floating-point values. Convert it to 8 or 16 bits.")
        raise DataError(
            f"{path}: is a colour image ({image.mode}), but its domain's classes are told by "
            "values. Give their colours (label_map: {'128, 64, 128': road, …}), or the channel "
            "that has the values (label_channel: 0)."
        )

    @cached_property
    def _table(self) -> np.ndarray:
        """Id of each code; of 2**24 for colours."""
        blank = IGNORE if self.coding.other_ignored else _UNKNOWN
        table = np.full(1 << 24 if self.coding.coloured else 1 << 16, blank, np.uint8)
        ids = {name: self.classes.index(name) for name in self.coding.classes}
        for key, name in self.coding.meanings:
            code = key if isinstance(key, int) else _code(key)
            table[code] = ids.get(name, IGNORE)
        return table

    def __repr__(self) -> str:
        return f"LabelReader({self.coding!r}, channel={self.channel}, classes={self.classes!r})"

    def __getstate__(self) -> dict:
        """Without the table, which each process makes for itself."""
        return {key: value for key, value in self.__dict__.items() if key != "_table"}

    def _unknown(self, path: Path, codes: np.ndarray, unknown: np.ndarray) -> DataError:
        row, column = np.argwhere(unknown)[0].tolist()
        code = int(codes[row, column])
        coloured = self.coding.coloured
        kind = "colour" if coloured else "value"
        what = f"'{code >> 16}, {code >> 8 & 255}, {code & 255}'" if coloured else str(code)
        others = len(np.unique(codes[unknown])) - 1
        more = f" and {others} other{'s' * (others > 1)}" if others else ""
        if self.coding.by_default:
            meaning = f"is no class (0..{len(self.coding.classes) - 1}) and not {IGNORE}"
            remedy = f"Name it in classes, or write a label_map with {what}: ignore"
        else:
            meaning = "label_map does not have"
            remedy = f"Add {what}: NAME or {what}: ignore to it, or other: ignore for all such"
        return DataError(
            f"{path}: {int(unknown.sum())} pixels, the first at column {column}, row {row}, hold "
            f"the {kind} {what}{more}, which {meaning}. {remedy}; or correct the label image."
        )


def _code(colour: Sequence[int]) -> int:
    red, green, blue = colour
    return red << 16 | green << 8 | blue


def _refuse_lossy(path: Path, image: Image.Image) -> None:
    if image.format in ("JPEG", "MPO"):
        raise DataError(
            f"{path}: is a JPEG, whose compression changes labels. Get the original label images, "
            "as PNG."
        )


def _colour_codes(path: Path, image: Image.Image) -> np.ndarray:
    if image.mode not in ("RGB", "RGBA", "P", "PA"):
        raise DataError(
            f"{path}: is no colour image (its mode is {image.mode}), but label_map gives colours. "
            "Write values there (label_map: {0: road, …}), or use the colour files."
        )
    colours = np.asarray(image.convert("RGB")).astype(np.uint32)
    return colours[:, :, 0] << 16 | colours[:, :, 1] << 8 | colours[:, :, 2]


def _in_range(path: Path, values: np.ndarray) -> np.ndarray:
    if values.dtype != np.uint8 and (values.min() < 0 or values.max() > 65535):
        raise DataError(
            f"{path}: holds {values.min()}..{values.max()}; values of label images are 0..65535. "
            "Convert it to 8 or 16 bits."
        )
    return values


def _channel(path: Path, channel: int) -> np.ndarray:
    """One channel of a label image, (H, W)."""
    planes = _deep_planes(path)
    if planes is None:
        image = load_image(path)
        _refuse_lossy(path, image)
        planes = np.asarray(image)
    planes = planes.reshape(*planes.shape[:2], -1)
    count = planes.shape[2]
    if channel >= count:
        raise DataError(
            f"{path}: label_channel: {channel}: the image has {count} channel"
            f"{'s' * (count > 1)}, counted from 0. Correct label_channel."
        )
    return _in_range(path, planes[:, :, channel])


def _deep_planes(path: Path) -> np.ndarray | None:
    """A PNG with 16 bits a channel, which Pillow cuts to 8: (H, W, channels) uint16.

    None for every other file, and for one that cannot be read.
    """
    try:
        data = path.read_bytes()
    except OSError:
        return None
    if not data.startswith(_PNG) or data[24:25] != b"\x10":
        return None
    planes = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if planes is None:
        load_image(path)  # which says what is wrong with it
        raise DataError(f"{path}: cannot be read as an image of 16 bits. Restore the file.")
    if planes.ndim == 2:
        return planes
    return planes[:, :, [2, 1, 0, 3][: planes.shape[2]]]  # from OpenCV's order to the file's
