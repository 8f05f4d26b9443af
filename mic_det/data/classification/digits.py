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
from mic_det.data.files import cache_errors, cache_folder

DIGIT_CLASSES = tuple("0123456789")
SIZE = 32
PER_CLASS = 250
TEST_SHARE = 3  # every third handwritten image is for testing
VERSION = 1
DONE = "digits.json"
GLYPHS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]


@cache_errors()
def ensure_digits(
    folder: Path | None = None, per_class: int = PER_CLASS, fonts: Sequence[Path] | None = None
) -> Path:
    """The folder with ``fonts``, ``handwritten_train`` and ``handwritten_test``, made if need be.

    ``digits.json`` in it says which fonts were used: with other fonts the numbers are others.

    Args:
        folder: ``<cache>/digits`` if None.
        per_class: printed images of each digit.
        fonts: font files; `find_fonts` if None.

    Raises:
        DataError: if there is no font, or the folder cannot be written.
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
    """White digits on black, each with a font, slant, width and place of its own."""
    random = np.random.default_rng(0)
    loaded = [ImageFont.truetype(str(path), 2 * SIZE) for path in fonts]
    for digit in DIGIT_CLASSES:
        (folder / digit).mkdir(parents=True)
        for number in range(per_class):
            image = _draw(loaded[number % len(loaded)], digit, random)
            image.save(folder / digit / f"{number:04d}.png")


def _draw(font: ImageFont.FreeTypeFont, digit: str, random: np.random.Generator) -> Image.Image:
    """A digit that fills the height, as the handwritten ones were normalised to do."""
    side = 3 * SIZE
    image = Image.new("L", (side, side))
    draw = ImageDraw.Draw(image)
    draw.text((side / 2, side / 2), digit, fill=255, font=font, anchor="mm")
    image = image.rotate(random.uniform(-12, 12), Image.Resampling.BILINEAR)
    slant = random.uniform(-0.2, 0.2)
    skew = (1.0, slant, -slant * side / 2, 0.0, 1.0, 0.0)
    image = image.transform((side, side), Image.Transform.AFFINE, skew, Image.Resampling.BILINEAR)
    image = image.crop(image.getbbox())
    height = int(random.integers(SIZE - 6, SIZE + 1))
    width = round(image.width * height / image.height * random.uniform(0.85, 1.2))
    width = min(max(width, 4), SIZE - 2)
    image = image.resize((width, height), Image.Resampling.BILINEAR)
    placed = Image.new("L", (SIZE, SIZE))
    x, y = (SIZE - width) // 2, (SIZE - height) // 2
    placed.paste(image, (x + int(random.integers(-2, 3)), y + int(random.integers(-1, 2))))
    return placed


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
