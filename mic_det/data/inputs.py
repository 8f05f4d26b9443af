"""Pictures and videos that a user names on a command line."""

from __future__ import annotations

import glob
import os
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np

from mic_det.data.errors import DataError
from mic_det.data.images import read_image

IMAGES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp"})
VIDEOS = frozenset({".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg"})


class UnreadableError(Exception):
    """One input cannot be read; the message says which and why."""


@dataclass(frozen=True)
class Frame:
    """An image: ``pixels`` (H, W, 3) uint8 in the model's channel order, and its number in a video
    (None for an image file)."""

    pixels: np.ndarray
    index: int | None = None


@dataclass(frozen=True)
class Input:
    """A file, and its ``name``: its path relative to the folder that all inputs are below.

    ``names``: those of all inputs.
    """

    path: Path
    name: Path
    names: frozenset[Path] = field(default=frozenset(), repr=False, compare=False)

    @property
    def is_video(self) -> bool:
        return self.path.suffix.lower() in VIDEOS

    def output_name(self, ending: str, kept: Collection[str]) -> Path:
        """The name of what is made of this input, another one for each input.

        Its own name if its ending is one of ``kept``. Otherwise ``ending``, one of ``kept``, is
        appended to it: twice where that is the name of another input.
        """
        name = self.name
        while name.suffix.lower() not in kept or (name != self.name and name in self.names):
            name = name.with_name(f"{name.name}{ending}")
        return name

    def count(self) -> int:
        """Number of frames, as far as the file tells; 1 for an image."""
        if not self.is_video:
            return 1
        video = cv2.VideoCapture(str(self.path))
        frames = int(video.get(cv2.CAP_PROP_FRAME_COUNT))
        video.release()
        return max(frames, 0)

    def frames(self, channels: str, every: int = 1) -> Iterator[Frame]:
        """The image, or every ``every``-th frame of the video.

        Raises UnreadableError when the file is no picture, or ends before it says it does.
        """
        if self.is_video:
            yield from self._video_frames(channels, every)
            return
        try:
            pixels = read_image(self.path, channels)
        except DataError as error:
            raise UnreadableError(str(error)) from error
        yield Frame(np.ascontiguousarray(pixels))

    def _video_frames(self, channels: str, every: int) -> Iterator[Frame]:
        video = cv2.VideoCapture(str(self.path))
        try:
            promised = self.count()
            index = 0
            while True:
                found, pixels = video.read()
                if not found:
                    break
                if index % every == 0:
                    rgb = channels == "RGB"
                    yield Frame(np.ascontiguousarray(pixels[:, :, ::-1]) if rgb else pixels, index)
                index += 1
        finally:
            video.release()
        if index == 0:
            raise UnreadableError(f"{self.path}: no readable video")
        if index < promised:
            raise UnreadableError(f"{self.path}: the video ends after frame {index} of {promised}")

    def frame_rate(self) -> float:
        """Frames a second of a video; 25 if it does not say."""
        video = cv2.VideoCapture(str(self.path))
        rate = video.get(cv2.CAP_PROP_FPS)
        video.release()
        return rate if rate and rate > 0 else 25.0


def find_inputs(given: Sequence[str]) -> list[Input]:
    """The images and videos of files, folders with all below them, and patterns (``a/**/*.png``).

    In the order given, each file once. Names are unique: two files of one name in different
    folders keep these folders in their names.

    Raises DataError for what is not there, a folder without images and a pattern that fits nothing.
    """
    paths = list(dict.fromkeys(path for each in given for path in _expanded(each)))
    parents = [str(path.parent) for path in paths]
    root = Path(os.path.commonpath(parents))
    names = [path.relative_to(root) for path in paths]
    everything = frozenset(names)
    return [Input(path, name, everything) for path, name in zip(paths, names, strict=True)]


def refuse_overwriting(inputs: Sequence[Input], files: Callable[[Input], Sequence[Path]]) -> None:
    """Raise DataError if an input is one of the ``files`` of an input, or lies in one of them."""
    written = {path.resolve() for source in inputs for path in files(source)}
    for source in inputs:
        path = source.path.resolve()
        if not written.isdisjoint((path, *path.parents)):
            raise DataError(
                f"--output: {source.path} is an input and would be overwritten. Choose another "
                "folder for the output."
            )


def _expanded(given: str) -> list[Path]:
    path = Path(given).expanduser()
    if path.is_dir():
        found = sorted(each for each in path.rglob("*") if _is_picture(each))
        if not found:
            raise DataError(
                f"{given}: no image or video in this folder or below. Known endings: "
                f"{' '.join(sorted(IMAGES | VIDEOS))}"
            )
    elif path.exists():
        found = [path]
    elif glob.has_magic(given):
        # Not Path.glob, which takes no absolute patterns.
        fitting = map(Path, glob.glob(str(path), recursive=True))  # noqa: PTH207
        found = sorted(each for each in fitting if _is_picture(each))
        if not found:
            raise DataError(f"{given}: no image or video fits this pattern")
    else:
        raise DataError(f"{given}: no such image, video or folder")
    # Not Path.resolve: the name of a link counts, not that of the file behind it.
    return [Path(os.path.abspath(each)) for each in found]  # noqa: PTH100


def _is_picture(path: Path) -> bool:
    hidden = path.name.startswith(".")
    return path.suffix.lower() in IMAGES | VIDEOS and not hidden and path.is_file()
