"""Resized images kept on disk, so that large ones are decoded once and not in every pass."""

from __future__ import annotations

import hashlib
import logging
import math
import os
import tempfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import PIL
from detectron2.data import transforms as T

logger = logging.getLogger(__name__)

# Bytes of the checksum (CRC-32) that follows the pixels in a file.
_CHECKSUM = 4


class ResizedImages:
    """What ``INPUT.RESIZED_CACHE`` holds: images after the first augmentation, the resizing.

    Training is exactly the same with it and without: pixels are kept as they are, and the size is
    drawn as it would be. A file is found by the image's path, inode, times (that of the last change
    too, which no program can set back) and size, the new size, how it was resized, and the version
    of Pillow; one that was changed is resized anew. Files are written in one go and have a
    checksum, and a damaged or edited one is replaced. A full disk is no reason to stop: images are
    then resized as without a cache.

    Args:
        folder: of the files; made when needed. An image takes height x width x 3 bytes.
        image_format: "RGB" or "BGR", the order that images are read in.
    """

    def __init__(self, folder: str | Path, image_format: str) -> None:
        self.folder = Path(folder).expanduser()
        self.image_format = image_format
        self._writes = True

    def augment(
        self,
        path: Path,
        size: tuple[int, int],
        augmentations: T.AugmentationList,
        read: Callable[[], np.ndarray],
    ) -> tuple[np.ndarray, T.TransformList]:
        """As ``augmentations`` on ``read()``: the image (H, W, 3) uint8, and what was done to it.

        Args:
            path: of the image.
            size: its height and width, as it is shown.
            augmentations: of which the first is Detectron2's `ResizeShortestEdge`.
            read: reads the image, if need be.
        """
        first, *rest = augmentations.augs
        # The augmentation looks at nothing but the shape, and draws what it would have drawn.
        resize = first.get_transform(np.broadcast_to(np.uint8(0), (*size, 3)))
        if isinstance(resize, T.ResizeTransform):
            image = self._resized(path, resize, read)
        else:
            image = resize.apply_image(read())
        picture = T.AugInput(image)
        others = T.AugmentationList(rest)(picture)
        return picture.image, T.TransformList([resize]) + others

    def file_of(self, path: Path, resize: T.ResizeTransform) -> Path:
        """Where the resized image is kept."""
        status = path.stat()
        key = (
            *(str(path.absolute()), status.st_ino, status.st_ctime_ns, status.st_mtime_ns),
            *(status.st_size, self.image_format),
            *(resize.h, resize.w, resize.new_h, resize.new_w, int(resize.interp)),
            PIL.__version__,
        )
        name = hashlib.sha256(repr(key).encode()).hexdigest()
        return self.folder / name[:2] / f"{name}.pixels"

    def _resized(
        self, path: Path, resize: T.ResizeTransform, read: Callable[[], np.ndarray]
    ) -> np.ndarray:
        if not path.exists():
            return read()  # which says what is wrong
        file = self.file_of(path, resize)
        kept = _load(file, (resize.new_h, resize.new_w, 3))
        if kept is not None:
            return kept
        image = resize.apply_image(read())
        if self._writes:
            self._save(file, image)
        return image

    def _save(self, file: Path, image: np.ndarray) -> None:
        temporary, pixels = None, image.tobytes()
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            handle, temporary = tempfile.mkstemp(dir=file.parent, suffix=".tmp")
            with os.fdopen(handle, "wb") as out:
                out.write(pixels)
                out.write(zlib.crc32(pixels).to_bytes(_CHECKSUM, "big"))
            Path(temporary).replace(file)
        except OSError as error:
            self._writes = False
            logger.warning(
                "INPUT.RESIZED_CACHE: %s cannot be written (%s); images are resized without it.",
                self.folder,
                error.strerror or error,
            )
            if temporary is not None:
                Path(temporary).unlink(missing_ok=True)


def _load(file: Path, shape: tuple[int, int, int]) -> np.ndarray | None:
    """The kept image, uint8, or None if there is none or it is damaged."""
    try:
        content = np.fromfile(file, np.uint8)
    except OSError:
        return None
    pixels, checksum = content[:-_CHECKSUM], content[-_CHECKSUM:].tobytes()
    if pixels.size != math.prod(shape) or zlib.crc32(pixels) != int.from_bytes(checksum, "big"):
        return None
    return pixels.reshape(shape)
