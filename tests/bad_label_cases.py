"""Kinds of bad label data: how to break a sound domain, and what the one message has to say."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from small_scenes import (
    draw_images,
    ids_of,
    in_colours,
    save_deep_channels,
    save_palette,
    write_labels,
)

#: What `register` of the test is told: arguments that differ from the sound domain's.
Told = dict


@dataclass(frozen=True)
class Case:
    """``break_it(root)`` breaks the domain in ``root`` and returns what it is registered with.

    ``says`` are parts of the message; ``{}`` in them is the domain's folder.
    """

    kind: str
    says: tuple[str, ...]
    break_it: Callable[[Path], Told | None]


def label(root: Path) -> Path:
    return root / "labels/a.png"


def rewrite(change: Callable[[np.ndarray], object], told: Told | None = None):
    """``a.png``'s label image becomes ``change(its ids)``, saved as PNG."""

    def break_it(root: Path) -> Told | None:
        Image.fromarray(np.asarray(change(ids_of("a.png")))).save(label(root))
        return told

    return break_it


def with_value(value: int, dtype: type = np.uint8) -> Callable[[np.ndarray], np.ndarray]:
    def change(ids: np.ndarray) -> np.ndarray:
        ids = ids.astype(dtype)
        ids[10, 40:43] = value
        return ids

    return change


def replaced(data: bytes | None, name: str = "labels/a.png"):
    """A file with other content; None: cut in half."""

    def break_it(root: Path) -> None:
        path = root / name
        whole = path.read_bytes()
        path.write_bytes(whole[: len(whole) // 2] if data is None else data)

    return break_it


def told(**arguments: object) -> Callable[[Path], Told]:
    return lambda root: arguments


def as_jpeg(root: Path) -> None:
    label(root).unlink()
    Image.fromarray(ids_of("a.png")).save(root / "labels/a.jpg")


def as_jpeg_named_png(root: Path) -> None:
    Image.fromarray(ids_of("a.png")).save(label(root), format="JPEG")


def in_float(root: Path) -> None:
    Image.fromarray(ids_of("a.png").astype(np.float32)).save(label(root), format="TIFF")


def in_32_bits(root: Path) -> None:
    ids = ids_of("a.png").astype(np.int32)
    ids[5, 5] = 70000
    Image.fromarray(ids).save(label(root), format="TIFF")


def negative(root: Path) -> None:
    ids = ids_of("a.png").astype(np.int32)
    ids[5, 5] = -1
    Image.fromarray(ids).save(label(root), format="TIFF")


def anti_aliased(root: Path) -> Told:
    """Colours as an editor leaves them: mixed at the borders."""
    write_labels(root / "labels", lambda path, ids: Image.fromarray(in_colours(ids)).save(path))
    rgb = in_colours(ids_of("a.png"))
    rgb[10, 10] = (64, 32, 135)
    Image.fromarray(rgb).save(label(root))
    return {"label_map": colours()}


def colours(**more: object) -> dict:
    named = {"128, 64, 128": "road", "0, 0, 142": "car", "220, 20, 60": "person"}
    return {**named, "0, 0, 0": "ignore", **more}


def no_labels(root: Path) -> None:
    for path in (root / "labels").rglob("*.png"):
        path.unlink()


def other_names(root: Path) -> None:
    for number, path in enumerate(sorted((root / "labels").rglob("*.png"))):
        path.rename(root / f"labels/{number:04d}.png")


def two_labels(root: Path) -> None:
    Image.fromarray(ids_of("a.png")).save(root / "labels/a_L.png")


def two_kinds_of_file(root: Path) -> None:
    Image.fromarray(ids_of("a.png")).save(root / "labels/a.bmp")


def one_folder(root: Path) -> Told:
    draw_images(root / "mixed")
    write_labels(root / "mixed", suffix="_L")
    return {"images": root / "mixed", "labels": root / "mixed"}


def turned(root: Path) -> None:
    Image.fromarray(ids_of("a.png").T.copy()).save(label(root))


def all_ignored(root: Path) -> None:
    write_labels(root / "labels", lambda path, ids: Image.fromarray(ids * 0 + 255).save(path))


def to_colour_map_but_grey(root: Path) -> Told:
    return {"label_map": colours()}


def synthia_without_channel(root: Path) -> None:
    write_labels(root / "labels", save_deep_channels)


def deep_cut_off(root: Path) -> Told:
    write_labels(root / "labels", save_deep_channels)
    replaced(None)(root)
    return {"label_channel": 0}


def palette_channel(root: Path) -> Told:
    write_labels(root / "labels", save_palette)
    return {"label_channel": 2}


def domains_yaml(text: str) -> Callable[[Path], Told]:
    def break_it(root: Path) -> Told:
        path = root / "domains.yaml"
        path.write_text(text)
        return {"yaml": path}

    return break_it


MAP = {0: "road", 1: "car", 2: "person", 255: "ignore"}

FILES = [
    Case("value out of range", ("{}/labels/a.png", "3 pixels", "column 40, row 10", "value 11",
                                "is no class (0..2) and not 255", "11: ignore"),
         rewrite(with_value(11))),
    Case("value that the map lacks", ("{}/labels/a.png", "value 11", "label_map does not have",
                                      "other: ignore"),
         rewrite(with_value(11), {"label_map": MAP})),
    Case("16-bit value out of range", ("{}/labels/a.png", "value 26001", "is no class"),
         rewrite(with_value(26001, np.uint16))),
    Case("more than 16 bits", ("{}/labels/a.png", "70000", "0..65535"), in_32_bits),
    Case("negative value", ("{}/labels/a.png", "holds -1..255", "0..65535"), negative),
    Case("floating point", ("{}/labels/a.png", "floating-point", "Convert"), in_float),
    Case("colour image, values told", ("{}/labels/a.png", "is a colour image (RGB)", "label_map"),
         rewrite(in_colours)),
    Case("colour image of 16 bits, no channel told", ("{}/labels/a.png", "label_channel: 0"),
         synthia_without_channel),
    Case("grey image, colours told", ("{}/labels/a.png", "is no colour image", "label_map"),
         to_colour_map_but_grey),
    Case("colour that the map lacks", ("{}/labels/a.png", "1 pixels", "column 10, row 10",
                                       "colour '64, 32, 135'", "label_map does not have"),
         anti_aliased),
    Case("channel that is not there", ("{}/labels/a.png", "label_channel: 2", "has 1 channel"),
         palette_channel),
    Case("JPEG", ("{}/labels/a.jpg", "is a JPEG", "PNG"), as_jpeg),
    Case("JPEG called png", ("{}/labels/a.png", "is a JPEG"), as_jpeg_named_png),
    Case("other size", ("{}/labels/a.png", "is 24x16", "{}/images/a.png is 48x32", "nearest"),
         rewrite(lambda ids: ids[::2, ::2])),
    Case("turned", ("{}/labels/a.png", "is 32x48", "is 48x32"), turned),
    Case("cut off", ("{}/labels/a.png", "cannot be read as an image"), replaced(None)),
    Case("16 bits, cut off", ("{}/labels/a.png", "cannot be read as an image"), deep_cut_off),
    Case("empty file", ("{}/labels/a.png", "it is empty"), replaced(b"")),
    Case("web page", ("{}/labels/a.png", "web page"), replaced(b"<html>404</html>")),
    Case("Git LFS pointer", ("{}/labels/a.png", "git lfs pull"),
         replaced(b"version https://git-lfs.github.com/spec/v1\n")),
    Case("image cut off", ("{}/images/a.png", "cannot be read"), replaced(None, "images/a.png")),
]  # fmt: skip

FOLDERS = [
    Case("no folder of labels", ("'t'", "{}/nowhere: not there"),
         lambda root: {"labels": root / "nowhere"}),
    Case("labels are a file", ("{}/labels/a.png", "is a file, not a folder"),
         lambda root: {"labels": label(root)}),
    Case("no label at all", ("{}/labels", "holds no label image"), no_labels),
    Case("label names that fit no image", ("{}/labels", "holds the label of no image", "a.png",
                                           "0000.png", "label_suffixes"), other_names),
    Case("suffix that no image has", ("label_suffixes", "no image's stem ends in '_rgb'"),
         told(label_suffixes=("_rgb", "_mask"))),
    Case("suffix that no label has", ("{}/labels", "holds the label of no image", "a_mask.png"),
         told(label_suffixes=("", "_mask"))),
    Case("two labels of an image", ("{}/images/a.png", "may be {}/labels/a.png or "
                                    "{}/labels/a_L.png", "label_suffixes"), two_labels),
    Case("two files of a label", ("may be {}/labels/a.bmp or {}/labels/a.png",),
         two_kinds_of_file),
    Case("images and labels mixed", ("is an image of the domain and the label of one", "pattern"),
         one_folder),
]  # fmt: skip

TOLD = [
    Case("neither classes nor map", ("'t'", "neither classes nor label_map"), told(classes=None)),
    Case("map is a list", ("'t': label_map", "is no mapping"), told(label_map=["road"])),
    Case("map is empty", ("'t': label_map", "is no mapping"), told(label_map={})),
    Case("map the wrong way round", ("label_map: 'road': 0", "Write 0: road"),
         told(label_map={"road": 0})),
    Case("map with a misspelt colour", ("label_map: '128, 64'", "neither a value"),
         told(label_map={"128, 64": "road"})),
    Case("map with a colour out of range", ("'128, 64, 300'", "each part 0..255"),
         told(label_map={"128, 64, 300": "road"})),
    Case("map with a negative value", ("label_map: -1", "0..65535", "255"),
         told(label_map={-1: "ignore", **MAP})),
    Case("map with a class that is no text", ("label_map: 1: False", "in quotes"),
         told(label_map={0: "road", 1: False})),
    Case("map with values and colours", ("label_map: mixes",),
         told(label_map={**MAP, "1, 2, 3": "car"})),
    Case("map with a colour twice", ("label_map: '#000000' is given twice",),
         told(label_map=colours(**{"#000000": "ignore"}))),
    Case("map without a class", ("label_map: names no class",), told(label_map={0: "ignore"})),
    Case("map that gives others a class", ("label_map: other", "other: ignore"),
         told(label_map={**MAP, "other": "road"})),
    Case("class that the map lacks", ("classes: label_map has no class 'cra'",
                                      "did you mean 'car'"),
         told(classes=["road", "cra"], label_map=MAP)),
    Case("class called ignore", ("classes: 'ignore'",), told(classes=["road", "ignore"])),
    Case("too many classes", ("300 classes, more than 254",),
         told(classes=[f"c{k}" for k in range(300)])),
    Case("alias of no class", ("aliases: there is no class 'cars'", "did you mean 'car'"),
         told(aliases={"cars": "vehicle"})),
    Case("alias to ignore", ("aliases: car: 'ignore'",), told(aliases={"car": "ignore"})),
    Case("aliases that merge without a map", ("aliases: make two classes 'road'", "label_map"),
         told(aliases={"car": "road"})),
    Case("suffixes that are one text", ("label_suffixes: '_L'", "two texts"),
         told(label_suffixes="_L")),
    Case("suffix with the kind of file", ("label_suffixes: '_L.png'", "Write '_L'"),
         told(label_suffixes=["", "_L.png"])),
    Case("channel that is no number", ("label_channel: 'red'",), told(label_channel="red")),
    Case("channel and colours", ("label_channel", "gives colours"),
         told(label_channel=0, label_map=colours(), classes=None)),
    Case("map without labels", ("label_map", "there are no labels"),
         told(labels=None, label_map=MAP)),
    Case("yaml with a misspelt key", ("domains.yaml: t", "unknown key 'lables'", "'labels'"),
         domains_yaml("t: {images: images, lables: labels}")),
    Case("yaml with boxes and labels", ("domains.yaml: t", "annotations (boxes)", "two names"),
         domains_yaml("t: {images: images, labels: labels, annotations: a.json, classes: [a]}")),
    Case("yaml with a value twice", ("domains.yaml", "'1' occurs twice"),
         domains_yaml("t: {images: images, labels: labels, label_map: {1: a, 1: b}}")),
    Case("yaml whose labels are a list", ("domains.yaml: t: labels", "no path"),
         domains_yaml("t: {images: images, labels: [labels], classes: [a]}")),
    Case("yaml that means False", ("domains.yaml", "label_map: 1: False", "in quotes"),
         domains_yaml("t: {images: images, labels: labels, label_map: {0: road, 1: no}}")),
    Case("class that the model lacks", ("'t': 'car', 'person': no class of the model",
                                        "aliases: {{car: road}}", "classes: [road]"),
         told(trained=["road", "sky"])),
]  # fmt: skip

CASES = [*FILES, *FOLDERS, *TOLD]
#: Only to be seen by who looks at all label images: training goes on as long as any has a class.
CHECKED = [
    Case("no pixel has a class", ("no pixel of any label image has a class", "{}/labels/a.png"),
         all_ignored),
]  # fmt: skip
