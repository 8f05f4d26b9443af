"""Fog over a whole folder of images: resumable, in parallel, sub-folders kept."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from mic_det.data.formats.coco import DataError, list_images, write_text_atomically
from mic_det.data.parallel import parallel_map

from .light import atmospheric_light
from .model import blend, transmission
from .smooth import guided_filter
from .sources import CityscapesDisparity, DistanceSource

#: Attenuation coefficients of Foggy Cityscapes in 1/m: visibility of 600, 300 and 150 m.
PUBLISHED_BETAS = (0.005, 0.01, 0.02)
SETTINGS_FILE = "fog.json"
_JPEG_QUALITY = 95


@dataclass(frozen=True)
class FogSettings:
    """How fog is made.

    Attributes:
        source: where distances come from.
        betas: attenuation coefficients in 1/m.
        light: "median" or "brightest" for `atmospheric_light`, or three numbers (RGB, 0..255).
        smooth: radius in pixels of the guided filter on the transmission; 0 for none.
    """

    source: DistanceSource
    betas: tuple[float, ...] = PUBLISHED_BETAS
    light: str | tuple[float, float, float] = "median"
    smooth: int = 0

    def describe(self) -> dict:
        """Settings for the record, plain enough for JSON."""
        source = {key: str(v) if isinstance(v, Path) else v for key, v in vars(self.source).items()}
        rest = {key: value for key, value in asdict(self).items() if key != "source"}
        content = {"distance": {"from": type(self.source).__name__, **source}, **rest}
        return json.loads(json.dumps(content))


@dataclass(frozen=True)
class FogReport:
    """Numbers of images that `fog_folder` wrote, and of those it found done."""

    written: int
    found: int


def fog_folder(
    images: Path,
    output: Path,
    settings: FogSettings,
    *,
    workers: int = 1,
    overwrite: bool = False,
    progress: Callable[[Iterable, int], Iterable] | None = None,
) -> FogReport:
    """Write each image of a folder in fog; what an earlier call finished is not made again.

    Files keep their sub-folder, format and name, in ``output/beta_<beta>`` if there are several
    coefficients. From Cityscapes disparity they are named as in Foggy Cityscapes,
    ``<name>_foggy_beta_<beta>.png``. Settings are kept in ``output/fog.json``.

    Args:
        images: folder of images, sub-folders included.
        output: folder for the foggy ones, not inside ``images``.
        workers: processes.
        overwrite: make all anew, whatever is in ``output``.
        progress: wraps the iterable of results, given its length (a progress bar).

    Raises:
        DataError: if a file is missing, broken, does not fit or cannot be written, or if
            ``output`` holds something else.
    """
    paths = list_images(images)
    _prepare_output(images, output, settings, overwrite)
    jobs = []
    for path in paths:
        name = path.relative_to(images)
        targets = {beta: output / _output_name(name, beta, settings) for beta in settings.betas}
        absent = {b: t for b, t in targets.items() if overwrite or not t.is_file()}
        if absent:
            jobs.append((path, name, absent))
    with parallel_map(workers, ordered=False) as mapped:
        results: Iterable = mapped(partial(_run, settings=settings), jobs)
        if progress is not None:
            results = progress(results, len(jobs))
        written = sum(results)
    return FogReport(written, len(paths) * len(settings.betas) - written)


def add_fog_to(
    image: NDArray[np.uint8], name: Path, settings: FogSettings
) -> dict[float, NDArray[np.uint8]]:
    """The image in fog, by coefficient.

    Args:
        image: (H, W, 3) uint8 RGB.
        name: its path relative to the folder of images.

    Raises:
        DataError: if what tells its distances is missing, broken or does not fit.
    """
    distance = settings.source.distance(name, image)
    light = settings.light
    colour = atmospheric_light(image, light) if isinstance(light, str) else np.array(light)
    guide = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) / 255.0 if settings.smooth else None
    foggy = {}
    for beta in settings.betas:
        t = transmission(distance, beta)
        if guide is not None:
            t = np.clip(guided_filter(t, guide, settings.smooth), 0.0, 1.0)
        foggy[beta] = blend(image, t, colour)
    return foggy


def _output_name(name: Path, beta: float, settings: FogSettings) -> Path:
    if isinstance(settings.source, CityscapesDisparity):
        return name.with_name(f"{name.stem}_foggy_beta_{beta:g}{name.suffix}")
    return name if len(settings.betas) == 1 else Path(f"beta_{beta:g}") / name


def _prepare_output(images: Path, output: Path, settings: FogSettings, overwrite: bool) -> None:
    if output.resolve().is_relative_to(images.resolve()):
        raise DataError(f"{output}: is inside the folder of images {images}. Choose another one.")
    record = output / SETTINGS_FILE
    text = json.dumps(settings.describe(), indent=2) + "\n"
    try:
        if not overwrite and output.is_dir() and any(output.iterdir()):
            found = record.read_text(encoding="utf-8") if record.is_file() else None
            if found != text:
                what = "was made with other settings" if found else "holds files not made by this"
                raise DataError(
                    f"{output}: {what} ({record}). Choose another folder, or overwrite "
                    "(--overwrite)."
                )
        write_text_atomically(record, text)
    except OSError as error:
        raise DataError(f"{output}: cannot be written to ({error.strerror}).") from error


def _run(job: tuple[Path, Path, dict[float, Path]], settings: FogSettings) -> int:
    path, name, targets = job
    image = _read_rgb(path)
    betas = tuple(targets)
    wanted = FogSettings(settings.source, betas, settings.light, settings.smooth)
    for beta, foggy in add_fog_to(image, name, wanted).items():
        _write_image(targets[beta], foggy)
    return len(targets)


def _read_rgb(path: Path) -> NDArray[np.uint8]:
    try:
        with Image.open(path) as opened:
            if opened.mode.startswith(("I", "F")):
                raise DataError(f"{path}: has more than 8 bits a channel. Convert it to 8 bits.")
            return np.asarray(ImageOps.exif_transpose(opened).convert("RGB"))
    except (OSError, SyntaxError) as error:
        raise DataError(
            f"{path}: cannot be read as an image ({error}). Restore or remove it."
        ) from error


def _write_image(path: Path, image: NDArray[np.uint8]) -> None:
    """Write in the format of the suffix, so that nobody ever sees half a file."""
    kind = Image.registered_extensions()[path.suffix.lower()]
    options = {"quality": _JPEG_QUALITY} if kind in ("JPEG", "WEBP") else {}
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        temporary = Path(name)
        with os.fdopen(handle, "wb") as file:
            Image.fromarray(image).save(file, format=kind, **options)
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)  # mkstemp's 0600 would shut out the other users
        temporary.replace(path)
    except OSError as error:
        raise DataError(f"{path}: cannot be written ({error.strerror or error}).") from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
