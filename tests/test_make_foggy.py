"""tools/make_foggy.py on folders as users have them, whole and broken."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from cityscapes_tree import draw_cityscapes_tree
from PIL import Image

from mic_det.data.fog.folder import FogSettings, fog_folder
from mic_det.data.fog.sources import CityscapesDisparity, DepthMaps, FlatRoad, read_camera
from mic_det.data.formats.cityscapes import convert_cityscapes
from mic_det.data.formats.coco import DataError

REPOSITORY = Path(__file__).parents[1]
# As in the published files, though for images of an eighth of the size.
CAMERA = {
    "extrinsic": {
        "baseline": 0.209313, "pitch": 0.038, "roll": 0.0, "x": 1.7, "y": 0.1, "yaw": -0.019,
        "z": 1.22,
    },
    "intrinsic": {"fx": 282.8, "fy": 283.2, "u0": 137.1, "v0": 64.1},
}  # fmt: skip
PLAIN = FogSettings(FlatRoad(), (0.02,), light=(200.0, 200.0, 200.0))


def run_tool(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(REPOSITORY / "tools/make_foggy.py"), *map(str, arguments)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
    )


def save(path: Path, array: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)
    return path


@pytest.fixture
def images(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for name in ("a.png", "b c/d.jpg", "b c/e.JPEG", "f/a.webp"):
        save(tmp_path / "in" / name, rng.integers(0, 256, (24, 32, 3)).astype(np.uint8))
    return tmp_path / "in"


@pytest.fixture
def cityscapes(tmp_path: Path) -> Path:
    """Cityscapes without fog, with disparity and cameras in the published layout and encoding."""
    root = tmp_path / "cityscapes"
    draw_cityscapes_tree(root, foggy=False, size=(128, 256))
    for image in root.glob("leftImg8bit/*/*/*.png"):
        scene = image.relative_to(root / "leftImg8bit").parent / image.stem[: -len("_leftImg8bit")]
        disparity = np.full((128, 256), 256 * 10 + 1, np.uint16)  # 10 px: 5.9 m
        disparity[:, :30] = 0
        save(root / f"disparity/{scene}_disparity.png", disparity)
        camera = root / f"camera/{scene}_camera.json"
        camera.parent.mkdir(parents=True, exist_ok=True)
        camera.write_text(json.dumps(CAMERA))
    return root


def from_cityscapes(root: Path, **options) -> FogSettings:
    return FogSettings(CityscapesDisparity(root / "disparity", root / "camera"), **options)


def test_cityscapes_disparity_gives_fog_that_the_converter_takes(cityscapes: Path):
    done = run_tool(
        *("--images", cityscapes / "leftImg8bit", "--output", cityscapes / "leftImg8bit_foggy"),
        *("--disparity", cityscapes / "disparity", "--camera", cityscapes / "camera"),
        *("--beta", "0.005", "0.01", "0.02", "--light-rgb", "210", "220", "230"),
        *("--smooth", "0", "--workers", "2"),
    )
    assert done.returncode == 0, done.stderr
    assert "12 foggy images written, 0 were there" in done.stdout
    report = convert_cityscapes(cityscapes)
    assert len(report.written) == 6 and not report.notes

    scene = "train/aachen/aachen_000000_000019_leftImg8bit"
    clear = np.asarray(Image.open(cityscapes / f"leftImg8bit/{scene}.png"))
    foggy = np.asarray(Image.open(cityscapes / f"leftImg8bit_foggy/{scene}_foggy_beta_0.02.png"))
    v, u = 100, 200
    depth = 282.8 * 0.209313 / 10
    length = depth * math.hypot(1, (u - 137.1) / 282.8, (v - 64.1) / 283.2)
    t = math.exp(-0.02 * length)
    expected = clear[v, u] * t + np.array([210, 220, 230]) * (1 - t)
    assert foggy[v, u].tolist() == np.rint(expected).tolist()
    # The strip that only one camera sees: road takes its neighbour's disparity, sky is far away.
    assert abs(foggy[100, 5].astype(int) - clear[100, 5]).max() < 40
    sky = np.asarray(Image.open(cityscapes / f"leftImg8bit/{scene}.png"))[2, 20]
    assert foggy[2, 20].tolist() == [210, 220, 230] != sky.tolist()


def test_denser_fog_hides_more_and_smoothing_keeps_values_in_range(cityscapes: Path, tmp_path):
    settings = from_cityscapes(cityscapes, smooth=20)
    fog_folder(cityscapes / "leftImg8bit/val", tmp_path / "x", _at(settings, "val"))
    contrast = [
        np.asarray(Image.open(next((tmp_path / "x").glob(f"*/*000000*_{beta}.png")))).std()
        for beta in ("0.005", "0.01", "0.02")
    ]
    assert contrast[0] > contrast[1] > contrast[2] > 0


def _at(settings: FogSettings, split: str) -> FogSettings:
    source = settings.source
    moved = CityscapesDisparity(source.disparity / split, source.camera / split)
    return FogSettings(moved, settings.betas, settings.light, settings.smooth)


def test_depth_maps_npy_and_png(tmp_path: Path):
    image = np.full((4, 6, 3), 100, np.uint8)
    for name in ("one/a.png", "b.png"):
        save(tmp_path / "in" / name, image)
    depth = np.full((4, 6), 50.0 * math.log(2), np.float32)  # halves the light at 0.02
    depth[0, 0] = np.inf
    (tmp_path / "depth/one").mkdir(parents=True)
    np.save(tmp_path / "depth/one/a.npy", depth)
    save(tmp_path / "depth/b.png", np.full((4, 6), 3466, np.uint16))  # 34.66 m
    light = (200.0, 0.0, 100.0)
    settings = FogSettings(DepthMaps(tmp_path / "depth", scale=0.01), (0.02,), light)
    report = fog_folder(tmp_path / "in", tmp_path / "out", settings)
    assert (report.written, report.found) == (2, 0)
    first = np.asarray(Image.open(tmp_path / "out/one/a.png"))
    assert first[0, 0].tolist() == [200, 0, 100]
    assert first[3, 3].tolist() == [150, 50, 100]
    assert np.asarray(Image.open(tmp_path / "out/b.png"))[0, 0].tolist() == [150, 50, 100]


def test_flat_road_keeps_names_folders_and_formats(images: Path, tmp_path: Path):
    done = run_tool("--images", images, "--output", tmp_path / "out", "--flat-road")
    assert done.returncode == 0, done.stderr
    assert "nothing is measured" in done.stdout
    assert "Traceback" not in done.stderr
    found = sorted(
        p.relative_to(tmp_path / "out").as_posix() for p in (tmp_path / "out").rglob("*")
    )
    assert found == ["a.png", "b c", "b c/d.jpg", "b c/e.JPEG", "f", "f/a.webp", "fog.json"]
    for name, kind in (("a.png", "PNG"), ("b c/e.JPEG", "JPEG"), ("f/a.webp", "WEBP")):
        with Image.open(tmp_path / "out" / name) as image:
            assert image.format == kind and image.size == (32, 24)
    record = json.loads((tmp_path / "out/fog.json").read_text())
    assert record["distance"]["from"] == "FlatRoad" and record["betas"] == [0.02]


def test_several_coefficients_have_folders(images: Path, tmp_path: Path):
    fog_folder(images, tmp_path / "out", FogSettings(FlatRoad(), (0.005, 0.02)))
    thin, dense = (
        np.asarray(Image.open(tmp_path / f"out/beta_{beta}/a.png")) for beta in ("0.005", "0.02")
    )
    assert dense.std() < thin.std() < np.asarray(Image.open(images / "a.png")).std()


def test_a_second_call_makes_only_what_is_missing(images: Path, tmp_path: Path):
    output = tmp_path / "out"
    assert fog_folder(images, output, PLAIN).written == 4
    kept = (output / "a.png").stat().st_mtime_ns
    (output / "f/a.webp").unlink()
    report = fog_folder(images, output, PLAIN)
    assert (report.written, report.found) == (1, 3)
    assert (output / "a.png").stat().st_mtime_ns == kept
    assert fog_folder(images, output, PLAIN, overwrite=True).written == 4


def test_nothing_half_written_is_left(images: Path, tmp_path: Path, monkeypatch):
    def fail(self, file, **_):
        file.write(b"half an image")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", fail)
    with pytest.raises(DataError, match=r"a\.png: cannot be written \(No space left"):
        fog_folder(images, tmp_path / "out", PLAIN)
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["fog.json"]


def test_other_settings_or_foreign_files_are_not_mixed_in(images: Path, tmp_path: Path):
    fog_folder(images, tmp_path / "out", PLAIN)
    with pytest.raises(DataError, match=r"made with other settings.*--overwrite"):
        fog_folder(images, tmp_path / "out", FogSettings(FlatRoad(far=99.0), (0.02,)))
    save(tmp_path / "mine/photo.png", np.zeros((2, 2, 3), np.uint8))
    with pytest.raises(DataError, match="holds files not made by this"):
        fog_folder(images, tmp_path / "mine", PLAIN)
    for inside in (images, images / "fog"):
        with pytest.raises(DataError, match="inside the folder of images"):
            fog_folder(images, inside, PLAIN)


def test_grey_rgba_and_rotated_images(tmp_path: Path):
    save(tmp_path / "in/grey.png", np.full((4, 6), 80, np.uint8))
    save(tmp_path / "in/rgba.png", np.full((4, 6, 4), 80, np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6  # rotate by 90 degrees to see it upright
    Image.fromarray(np.full((4, 6, 3), 80, np.uint8)).save(tmp_path / "in/turned.jpg", exif=exif)
    fog_folder(tmp_path / "in", tmp_path / "out", PLAIN)
    for name, size in (("grey.png", (6, 4)), ("rgba.png", (6, 4)), ("turned.jpg", (4, 6))):
        with Image.open(tmp_path / "out" / name) as image:
            assert (image.mode, image.size) == ("RGB", size)
            assert 0x0112 not in image.getexif()


SCENE = "val/frankfurt/frankfurt_000000_000019"


def _write(path: str, content: bytes | str | np.ndarray | None):
    def damage(root: Path) -> None:
        target = root / path
        target.unlink()
        if isinstance(content, np.ndarray):
            save(target, content)
        elif content is not None:
            target.write_bytes(content if isinstance(content, bytes) else content.encode())

    return damage


def _camera(**changes) -> str:
    intrinsic = {**CAMERA["intrinsic"], **changes}
    return json.dumps({**CAMERA, "intrinsic": intrinsic})


@pytest.mark.parametrize(
    ("path", "content", "words"),
    [
        (f"disparity/{SCENE}_disparity.png", None, "no such file. Unpack disparity_trainvaltest"),
        (f"disparity/{SCENE}_disparity.png", b"x", "cannot be read as an image"),
        (
            f"disparity/{SCENE}_disparity.png",
            np.zeros((128, 256), np.uint8),
            "is no 16-bit, one-channel image",
        ),
        (
            f"disparity/{SCENE}_disparity.png",
            np.ones((64, 256), np.uint16),
            "size 256x64, but its image is 256x128",
        ),
        (
            f"disparity/{SCENE}_disparity.png",
            np.zeros((128, 256), np.uint16),
            "no pixel has a value",
        ),
        (f"camera/{SCENE}_camera.json", None, "no such camera file. Unpack camera_trainvaltest"),
        (f"camera/{SCENE}_camera.json", "{", "cannot be read as JSON"),
        (f"camera/{SCENE}_camera.json", "[]", "extrinsic.baseline: None is no positive number"),
        (f"camera/{SCENE}_camera.json", _camera(fx=0), "intrinsic.fx: 0 is no positive number"),
        (f"camera/{SCENE}_camera.json", _camera(v0="x"), "intrinsic.v0: 'x' is no number"),
        (f"leftImg8bit/{SCENE}_leftImg8bit.png", b"\x89PNG", "cannot be read as an image"),
    ],
)
def test_broken_cityscapes_files(cityscapes: Path, tmp_path: Path, path, content, words):
    _write(path, content)(cityscapes)
    with pytest.raises(DataError) as info:
        fog_folder(cityscapes / "leftImg8bit", tmp_path / "out", from_cityscapes(cityscapes))
    assert str(info.value).startswith(f"{cityscapes / path}: ")
    assert words in str(info.value)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("b.npy", np.ones((4, 6)), "a.npy: no such depth map, nor a.png"),
        ("a.npy", np.ones((4, 5)), "size 5x4, but its image is 6x4"),
        ("a.npy", np.ones((4, 6, 1)), "is no array of numbers"),
        ("a.npy", np.full((4, 6), "x"), "is no array of numbers"),
        ("a.npy", -np.ones((4, 6)), "depth must be >= 0"),
        ("a.npy", np.zeros((4, 6)), "no pixel has a value"),
        ("a.npy", b"no array", "cannot be read as NPY"),
        ("a.npy", b"", "cannot be read as NPY"),
    ],
)
def test_broken_depth_maps(tmp_path: Path, name, content, words):
    save(tmp_path / "in/a.png", np.zeros((4, 6, 3), np.uint8))
    path = tmp_path / "depth" / name
    path.parent.mkdir()
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        np.save(path, content)
    with pytest.raises(DataError) as info:
        fog_folder(tmp_path / "in", tmp_path / "out", FogSettings(DepthMaps(path.parent)))
    assert words in str(info.value) and str(tmp_path / "depth/a.npy") in str(info.value)


def test_sixteen_bit_images_are_refused(tmp_path: Path):
    path = save(tmp_path / "in/a.png", np.zeros((4, 6), np.uint16))
    with pytest.raises(DataError) as info:
        fog_folder(tmp_path / "in", tmp_path / "out", PLAIN)
    assert str(info.value) == f"{path}: has more than 8 bits a channel. Convert it to 8 bits."


def test_errors_of_workers_and_bad_options_end_in_one_message(images: Path, tmp_path: Path):
    (images / "a.png").write_bytes(b"")
    done = run_tool(
        "--images", images, "--output", tmp_path / "out", "--flat-road", "--workers", "2"
    )
    assert done.returncode == 2
    assert f"make_foggy: {images / 'a.png'}: cannot be read as an image" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--disparity", "x"], "--disparity and --camera go together"),
        (["--flat-road", "--camera", "x"], "--disparity and --camera go together"),
        (["--flat-road", "--depth", "x"], "not allowed with"),
        ([], "one of the arguments --disparity --depth --flat-road is required"),
        (["--flat-road", "--beta", "0"], "0 is not between"),
        (["--flat-road", "--beta", "0.1", "0.1"], "given twice"),
        (["--flat-road", "--depth-scale", "2"], "--depth-scale: has no meaning"),
        (["--depth", "x", "--far", "2"], "--far: has no meaning"),
        (["--flat-road", "--light-rgb", "1", "2", "256"], "256 is not between"),
        (["--flat-road", "--smooth", "-1"], "--smooth"),
    ],
)
def test_options_that_contradict(options, words, capsys):
    sys.path.insert(0, str(REPOSITORY / "tools"))
    try:
        from make_foggy import parse_args
    finally:
        sys.path.pop(0)
    with pytest.raises(SystemExit):
        parse_args(["--images", "i", "--output", "o", *options])
    assert words in capsys.readouterr().err


def test_camera_numbers(tmp_path: Path):
    (tmp_path / "camera.json").write_text(json.dumps(CAMERA))
    assert read_camera(tmp_path / "camera.json") == {
        "baseline": 0.209313, "fx": 282.8, "fy": 283.2, "u0": 137.1, "v0": 64.1
    }  # fmt: skip
