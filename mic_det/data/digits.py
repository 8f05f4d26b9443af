"""A small real adaptation: digits drawn from fonts (labelled) to digits that people wrote.

The handwritten ones are scikit-learn's copy of the test set of UCI's Optical Recognition of
Handwritten Digits (Alpaydin and Kaynak, 1998): 1,797 images of 8 x 8 pixels by 13 people. The
printed ones are drawn from the fonts of this machine, those of matplotlib among them, which are
always there.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from mic_det.data.errors import DataError
from mic_det.data.files import cache_folder

DIGIT_CLASSES = tuple("0123456789")
SIZE = 32
PER_CLASS = 300
TEST_SHARE = 3  # every third handwritten image is for testing
VERSION = 1
DONE = "digits.json"
GLYPHS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]


def ensure_digits(
    folder: Path | None = None, per_class: int = PER_CLASS, fonts: Sequence[Path] | None = None
) -> Path:
    """The folder with ``fonts``, ``handwritten_train`` and ``handwritten_test``, made if need be.

    ``digits.json`` in it says which fonts were used: with other fonts the numbers are others.

    Args:
        folder: ``<cache>/digits`` if None.
        per_class: printed images of each digit.
        fonts: font files; `find_fonts` if None.
    """
    folder = cache_folder() / f"digits_v{VERSION}" if folder is None else Path(folder)
    if (folder / DONE).is_file():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".digits_", dir=folder.parent) as temporary:
        work = Path(temporary) / "digits"
        chosen = list(find_fonts() if fonts is None else fonts)
        _draw_fonts(work / "fonts", chosen, per_class)
        _write_handwritten(work)
        told = {"fonts": [path.name for path in chosen], "per_class": per_class}
        (work / DONE).write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
        work.chmod(0o755)
        try:
            work.rename(folder)
        except OSError:
            if (folder / DONE).is_file():  # another process was faster
                return folder
            shutil.rmtree(folder, ignore_errors=True)  # half of it, of a process that was killed
            work.rename(folder)
    return folder


def find_fonts() -> list[Path]:
    """Font files of matplotlib and of the system that have all ten digits, by name, each once.

    Raises:
        DataError: if there is none, so that matplotlib's own are missing too.
    """
    from matplotlib import font_manager, get_data_path

    bundled = (Path(get_data_path()) / "fonts" / "ttf").glob("*.ttf")
    installed = map(Path, font_manager.findSystemFonts())
    by_name: dict[str, Path] = {}
    for path in (*sorted(bundled), *sorted(installed)):
        by_name.setdefault(path.name, path)
    found = [path for _, path in sorted(by_name.items()) if _has_digits(path)]
    if not found:
        raise DataError(
            "No font with digits is on this machine, not even matplotlib's. Reinstall matplotlib."
        )
    return found


def _has_digits(path: Path) -> bool:
    """Whether the font itself calls its digits so: fonts of symbols have other things there."""
    from matplotlib.ft2font import FT2Font

    try:
        font = FT2Font(str(path))
        names = [font.get_glyph_name(font.get_char_index(ord(digit))) for digit in DIGIT_CLASSES]
        ImageFont.truetype(str(path), 24)
    except (OSError, RuntimeError, ValueError):
        return False
    return names == GLYPHS


def _draw_fonts(folder: Path, fonts: Sequence[Path], per_class: int) -> None:
    """White digits on black, each with a font, size, place and slant of its own."""
    random = np.random.default_rng(0)
    for digit in DIGIT_CLASSES:
        (folder / digit).mkdir(parents=True)
        for number in range(per_class):
            font = fonts[number % len(fonts)]
            image = _draw(str(font), digit, random)
            image.save(folder / digit / f"{number:04d}.png")


def _draw(font: str, digit: str, random: np.random.Generator) -> Image.Image:
    size = int(random.integers(24, 38))
    image = Image.new("L", (SIZE, SIZE))
    x, y = SIZE / 2 + random.uniform(-3, 3, 2)
    draw = ImageDraw.Draw(image)
    draw.text((x, y), digit, fill=255, font=ImageFont.truetype(font, size), anchor="mm")
    turn, slant = random.uniform(-12, 12), random.uniform(-0.15, 0.15)
    image = image.rotate(turn, Image.Resampling.BILINEAR)
    skew = (1.0, slant, -slant * SIZE / 2, 0.0, 1.0, 0.0)
    return image.transform(image.size, Image.Transform.AFFINE, skew, Image.Resampling.BILINEAR)


def _write_handwritten(folder: Path) -> None:
    """scikit-learn's images, brought to `SIZE` and to 0..255."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    for number, (pixels, digit) in enumerate(zip(digits.images, digits.target, strict=True)):
        split = "test" if number % TEST_SHARE == 0 else "train"
        place = folder / f"handwritten_{split}" / str(digit)
        place.mkdir(parents=True, exist_ok=True)
        image = Image.fromarray((pixels * (255 / 16)).round().astype(np.uint8))
        image = image.resize((SIZE, SIZE), Image.Resampling.BICUBIC)
        image.save(place / f"{number:04d}.png")
