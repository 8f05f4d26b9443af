"""Images of every kind as 8-bit colour, as a viewer shows them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from mic_det.data.errors import DataError
from mic_det.data.images import image_size, list_images, read_image, turned_hint

# What each EXIF orientation does to an array to show it, by the standard's table: the stored row 0
# and column 0 are the shown (top, left), (top, right), (bottom, right), (bottom, left), (left,
# top), (right, top), (right, bottom), (left, bottom).
TURNS = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: a.swapaxes(0, 1)[:, ::-1],
    7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
    8: lambda a: a.swapaxes(0, 1)[::-1],
}


@pytest.fixture
def colours() -> np.ndarray:
    """Smooth, without symmetry, (32, 48, 3) uint8."""
    y, x = np.mgrid[0:32, 0:48]
    return np.stack([5 * x, 7 * y, 2 * x + 4 * y], axis=-1).astype(np.uint8)


def save(path: Path, image: Image.Image, **more) -> Path:
    image.save(path, **more)
    return path


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.tif", "a.webp", "a.bmp"])
def test_colour(tmp_path, colours, name):
    more = {"lossless": True} if name.endswith("webp") else {"quality": 98, "subsampling": 0}
    more = more if name.endswith(("jpg", "webp")) else {}
    path = save(tmp_path / name, Image.fromarray(colours), **more)
    assert image_size(path) == (48, 32)
    found = read_image(path)
    assert found.dtype == np.uint8 and found.shape == (32, 48, 3)
    assert np.abs(found.astype(int) - colours).max() <= (6 if name.endswith("jpg") else 0)
    assert np.array_equal(read_image(path, "BGR"), found[:, :, ::-1])
    assert read_image(path, "L").shape == (32, 48, 1)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.tif", "a.webp"])
def test_exif_orientation_is_applied(tmp_path, colours, name, orientation):
    exif = Image.Exif()
    exif[274] = orientation
    plain = {"jpg": {"quality": 98, "subsampling": 0}, "webp": {"lossless": True}}
    more = plain.get(name[2:], {})
    path = save(tmp_path / name, Image.fromarray(colours), exif=exif, **more)
    expected = TURNS[orientation](colours)
    found = read_image(path)
    assert found.shape == expected.shape
    assert np.abs(found.astype(int) - expected).max() <= (6 if name.endswith("jpg") else 0)
    assert image_size(path) == expected.shape[1::-1]
    with Image.open(path) as image:  # Pillow's own turn agrees with the table
        assert ImageOps.exif_transpose(image).size == image_size(path)


def test_grey_and_black_and_white(tmp_path, colours):
    grey = colours[:, :, 2]
    found = read_image(save(tmp_path / "a.png", Image.fromarray(grey)))
    assert np.array_equal(found, np.repeat(grey[:, :, None], 3, axis=2))
    found = read_image(save(tmp_path / "b.png", Image.fromarray(grey > 90)))
    assert set(np.unique(found)) == {0, 255} and np.array_equal(found[:, :, 0] == 255, grey > 90)


@pytest.mark.parametrize("name", ["a.png", "a.tif"])
def test_16_bit_grey_keeps_its_upper_bits(tmp_path, name):
    values = np.linspace(0, 65535, 32 * 48).reshape(32, 48).astype(np.uint16)
    found = read_image(save(tmp_path / name, Image.fromarray(values)))
    assert found.dtype == np.uint8
    assert np.array_equal(found[:, :, 0], values >> 8)
    assert found.min() == 0 and found.max() == 255


def test_more_than_16_bits_or_floating_point_is_refused(tmp_path):
    wide = Image.fromarray(np.full((4, 5), 70000, np.int32))
    with pytest.raises(DataError, match=r"a\.tif: holds 70000\.\.70000, more than 16 bits\. Conv"):
        read_image(save(tmp_path / "a.tif", wide))
    with pytest.raises(DataError, match=r"b\.tif: holds floating-point values"):
        read_image(save(tmp_path / "b.tif", Image.new("F", (5, 4))))


def test_transparency_is_dropped_and_palettes_are_looked_up(tmp_path, colours):
    alpha = np.full((32, 48, 1), 7, np.uint8)
    with_alpha = Image.fromarray(np.concatenate([colours, alpha], axis=2))
    assert np.array_equal(read_image(save(tmp_path / "a.png", with_alpha)), colours)
    few = colours // 128 * 128
    palette = Image.fromarray(few).quantize(8)
    assert np.array_equal(read_image(save(tmp_path / "b.png", palette)), palette.convert("RGB"))


def test_cmyk(tmp_path, colours):
    path = save(tmp_path / "a.jpg", Image.fromarray(colours).convert("CMYK"), quality=98)
    with Image.open(path) as image:
        assert image.mode == "CMYK"
    found = read_image(path)
    assert np.abs(found.astype(int) - colours).max() <= 12  # not inverted


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.bmp", "a.tif", "a.webp"])
def test_files_cut_off_anywhere_are_data_errors_or_whole(tmp_path, name):
    """Never another exception, wherever the file ends."""
    path = save(tmp_path / name, Image.effect_noise((40, 30), 60).convert("RGB"))
    content = path.read_bytes()
    refused = 0
    for length in range(0, len(content), max(1, len(content) // 25)):
        path.write_bytes(content[:length])
        try:
            assert read_image(path).shape == (30, 40, 3)
        except DataError as error:
            assert str(path) in str(error)
            refused += 1
    assert refused >= 20


def test_broken_exif_does_not_hide_the_picture(tmp_path, colours):
    exif = b"Exif\x00\x00MM\x00*\x00\x00\x00\x08\xff\xff" + b"\x01" * 20
    path = save(tmp_path / "a.jpg", Image.fromarray(colours), exif=exif)
    assert read_image(path).shape == (32, 48, 3) and image_size(path) == (48, 32)


def test_the_hint_at_a_turn():
    assert "EXIF" in turned_hint((640, 480), (480, 640))
    assert not turned_hint((640, 480), (640, 480)) and not turned_hint((640, 480), (320, 240))
    assert not turned_hint((64, 64), (64, 64))


def test_list_images_of_a_file_or_nothing(tmp_path):
    (tmp_path / "a.png").touch()
    with pytest.raises(DataError, match=r"a\.png: is a file, not a folder of images"):
        list_images(tmp_path / "a.png")
    with pytest.raises(DataError, match="gone: no such folder of images"):
        list_images(tmp_path / "gone")
