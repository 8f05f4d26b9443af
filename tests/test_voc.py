"""Pascal-VOC to COCO: both ways to count pixels, files as they are in the field, messages."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from PIL import Image

from mic_det.data.formats.coco import DataError, read_coco
from mic_det.data.formats.voc import ConversionReport, voc_to_coco

REPOSITORY = Path(__file__).parents[1]

Box = tuple[str, object, object, object, object]


def write_xml(
    path: Path,
    filename: str,
    objects: Sequence[Box] = (),
    size: tuple[int, int] | None = (64, 48),
) -> None:
    """An XML file like those of labelImg; ``size`` is width and height."""
    rows = [f"\t<folder>_rgb</folder>\n\t<filename>{filename}</filename>"]
    if size is not None:
        rows.append(
            f"\t<size>\n\t\t<width>{size[0]}</width>\n\t\t<height>{size[1]}</height>\n"
            "\t\t<depth>3</depth>\n\t</size>"
        )
    rows.append("\t<segmented>0</segmented>")
    for name, *corners in objects:
        box = "".join(
            f"<{key}>{value}</{key}>"
            for key, value in zip(("xmin", "ymin", "xmax", "ymax"), corners, strict=True)
        )
        rows.append(
            f"\t<object>\n\t\t<name>{name}</name>\n\t\t<pose>Unspecified</pose>\n"
            f"\t\t<difficult>0</difficult>\n\t\t<bndbox>{box}</bndbox>\n\t</object>"
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("<annotation>\n" + "\n".join(rows) + "\n</annotation>\n")


def write_image(path: Path, size: tuple[int, int] = (64, 48)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size).save(path)


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """Three images: one with three boxes, one whose XML says ``.png``, one without an object."""
    images, labels = tmp_path / "images", tmp_path / "labels"
    for name in ("b.jpg", "a.jpg", "c.JPG", "unlabelled.jpg"):
        write_image(images / name)
    write_xml(
        labels / "b.xml",
        "b.jpg",
        [("vehicle", 1, 2, 11, 22), ("bike", 0, 0, 64, 48), ("vehicle", "30.5", 4, 40, 8)],
    )
    write_xml(labels / "a.xml", "a.png", [("sign", 5, 6, 7, 9)])
    write_xml(labels / "c.xml", "c.png")
    return images, labels


def boxes(data: dict) -> list[tuple]:
    files = {i["id"]: i["file_name"] for i in data["images"]}
    names = {c["id"]: c["name"] for c in data["categories"]}
    return [
        (files[a["image_id"]], names[a["category_id"]], *a["bbox"]) for a in data["annotations"]
    ]


def run_tool(images: Path, labels: Path, output: Path, *more: str) -> subprocess.CompletedProcess:
    arguments = ["--images", images, "--labels", labels, "--output", output, *more]
    return subprocess.run(
        [sys.executable, REPOSITORY / "tools/convert_voc.py", *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
    )


def test_zero_based_corners(folders):
    data, report = voc_to_coco(*folders)
    assert [i["file_name"] for i in data["images"]] == ["a.jpg", "b.jpg", "c.JPG"]
    assert [c["name"] for c in data["categories"]] == ["bike", "sign", "vehicle"]
    assert boxes(data) == [
        ("a.jpg", "sign", 5, 6, 2, 3),
        ("b.jpg", "vehicle", 1, 2, 10, 20),
        ("b.jpg", "bike", 0, 0, 64, 48),
        ("b.jpg", "vehicle", 30.5, 4, 9.5, 4),
    ]
    assert [a["area"] for a in data["annotations"]] == [6, 200, 3072, 38]
    assert report == ConversionReport(
        images=3,
        images_without_boxes=1,
        images_without_xml=1,
        boxes={"bike": 1, "sign": 1, "vehicle": 2},
    )


def test_one_based_boxes_include_their_last_pixel(folders):
    images, labels = folders
    write_xml(labels / "b.xml", "b.jpg", [("car", 1, 1, 64, 48), ("car", 3, 4, 3, 4)])
    data, report = voc_to_coco(images, labels, classes=["car"], one_based=True)
    assert boxes(data) == [("b.jpg", "car", 0, 0, 64, 48), ("b.jpg", "car", 2, 3, 1, 1)]
    assert not report.clipped and not report.dropped
    # Read the other way, the single pixel has no width and the full image starts at 1.
    data, report = voc_to_coco(images, labels, classes=["car"])
    assert boxes(data) == [("b.jpg", "car", 1, 1, 63, 47)]
    assert len(report.empty) == 1 and not report.dropped


def test_classes_are_kept_in_the_given_order_and_others_counted(folders):
    data, report = voc_to_coco(*folders, classes=["vehicle", "bike", "tram"])
    assert [(c["id"], c["name"]) for c in data["categories"]] == [
        (1, "vehicle"),
        (2, "bike"),
        (3, "tram"),
    ]
    assert [b[1] for b in boxes(data)] == ["vehicle", "bike", "vehicle"]
    assert len(data["images"]) == 3
    assert report.boxes == {"vehicle": 2, "bike": 1, "tram": 0}
    assert report.left_out == {"sign": 1}
    assert report.images_without_boxes == 2


def test_bad_boxes_are_reported_with_the_file(folders):
    images, labels = folders
    write_xml(
        labels / "c.xml",
        "c.jpg",
        [
            ("car", 10, 10, 10, 20),  # no width
            ("car", 10, 20, 15, 12),  # upside down
            ("car", 70, 1, 90, 9),  # right of the image
            ("car", -5, 40, 20, 60),  # partly outside
            ("car", 64, 0, 70, 9),  # touches the border from outside
        ],
    )
    data, report = voc_to_coco(images, labels, classes=["car"])
    assert boxes(data) == [("c.JPG", "car", 0, 40, 20, 8)]
    source = str(labels / "c.xml")
    assert report.empty == [f"{source}: car (10, 10, 10, 20): width or height is zero"]
    assert report.dropped == [
        f"{source}: car (10, 20, 15, 12): width or height is negative",
        f"{source}: car (70, 1, 90, 9): outside 64x48",
        f"{source}: car (64, 0, 70, 9): outside 64x48",
    ]
    assert report.clipped == [f"{source}: car (-5, 40, 20, 60): beyond 64x48"]
    for line in (*report.empty, *report.dropped, *report.clipped):
        assert line in report.text()


def test_subfolders_decide_between_images_of_one_name(tmp_path: Path):
    images, labels = tmp_path / "images", tmp_path / "labels"
    for town, x in (("north", 1), ("south", 2)):
        write_image(images / town / "0001.jpg")
        write_xml(labels / town / "0001.xml", "0001.png", [("car", x, 0, 9, 9)])
    data, _ = voc_to_coco(images, labels)
    assert boxes(data) == [
        ("north/0001.jpg", "car", 1, 0, 8, 9),
        ("south/0001.jpg", "car", 2, 0, 7, 9),
    ]


@pytest.mark.parametrize("filename", ["", r"C:\data\elsewhere\b.bmp", "/home/me/b", "old.png"])
def test_filename_may_be_a_path_or_have_no_suffix_or_be_wrong(folders, filename):
    images, labels = folders
    write_xml(labels / "b.xml", filename, [("car", 0, 0, 9, 9)])
    data, _ = voc_to_coco(images, labels, classes=["car"])
    assert boxes(data) == [("b.jpg", "car", 0, 0, 9, 9)]


@pytest.mark.parametrize("size", [None, (0, 0)])
def test_size_may_be_left_out_of_the_xml(folders, size):
    images, labels = folders
    write_xml(labels / "b.xml", "b.jpg", [("car", 0, 0, 64, 48)], size)
    data, _ = voc_to_coco(images, labels)
    assert (data["images"][1]["width"], data["images"][1]["height"]) == (64, 48)


def test_other_size_than_the_image_names_both(folders):
    images, labels = folders
    write_xml(labels / "b.xml", "b.jpg", [("car", 0, 0, 9, 9)], (640, 480))
    text = f"{labels / 'b.xml'}: size: says 640x480, but {images / 'b.jpg'} is 64x48"
    with pytest.raises(DataError, match=re.escape(text)):
        voc_to_coco(images, labels)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("<annotation><object>", "is not well-formed XML"),
        ("", "is not well-formed XML"),
        (
            '<?xml version="1.0" encoding="klingon"?><annotation/>',
            "is not well-formed XML",
        ),
        ("<annotation><object/></annotation>", "object 1: has no <name>"),
        ("<html><body>404</body></html>", "the outermost element is <html>, so it is no Pascal-"),
        (
            '<annotation xmlns="http://x"><filename>b</filename></annotation>',
            "the outermost element is <{http://x}annotation>",
        ),
        ("<annotation><Object/></annotation>", "has an element <Object> (for <object>)"),
        ("<annotation><Size/></annotation>", "has an element <Size> (for <size>)"),
        (
            '<annotation xmlns:v="x"><object><v:name/></object></annotation>',
            "has an element <{x}name> (for <name>)",
        ),
        (
            "<annotation><objects><object/></objects></annotation>",
            "has a <object> that is in no <object> directly below",
        ),
        (
            "<annotation><item><bndbox/></item></annotation>",
            "has a <bndbox> that is in no <object> directly below",
        ),
        (
            "<annotation><object><name>car</name><bndbox><xmin>1</xmin></bndbox></object>"
            "</annotation>",
            "object 1 (car): has no bndbox/ymin",
        ),
        (
            "<annotation><object><name>car</name><bndbox><xmin>one</xmin></bndbox></object>"
            "</annotation>",
            "bndbox/xmin: 'one' is not a number",
        ),
        (
            "<annotation><object><name>car</name><bndbox><xmin>nan</xmin></bndbox></object>"
            "</annotation>",
            "bndbox/xmin: 'nan' is not a number",
        ),
    ],
)
def test_malformed_xml_names_the_file(folders, content, message):
    images, labels = folders
    (labels / "b.xml").write_text(content)
    with pytest.raises(DataError, match=re.escape(f"{labels / 'b.xml'}: {message}")):
        voc_to_coco(images, labels)


def test_images_missing_ambiguous_or_claimed_twice(folders):
    images, labels = folders
    write_xml(labels / "d.xml", "e.png")
    with pytest.raises(DataError, match=r"d\.xml: filename: no image with the stem 'e' or 'd'"):
        voc_to_coco(images, labels)
    write_xml(labels / "d.xml", "b.png")
    with pytest.raises(DataError, match=r"d\.xml: filename: names the image .*b\.jpg, and so does"):
        voc_to_coco(images, labels)
    (labels / "d.xml").unlink()
    write_image(images / "a.bmp")  # a.xml names a.png, which is neither a.bmp nor a.jpg
    with pytest.raises(DataError, match=r"a\.xml: filename: 'a\.png' may be .*a\.bmp or .*a\.jpg"):
        voc_to_coco(images, labels)


def test_broken_image_is_named(folders):
    images, labels = folders
    (images / "b.jpg").write_text("no image")
    with pytest.raises(DataError, match=r"b\.jpg: cannot be read as an image"):
        voc_to_coco(images, labels)


def test_folders_and_classes_that_do_not_fit(folders, tmp_path: Path):
    images, labels = folders
    with pytest.raises(DataError, match="nowhere: no such folder of XML labels"):
        voc_to_coco(images, tmp_path / "nowhere")
    with pytest.raises(DataError, match="nowhere: no such folder of images"):
        voc_to_coco(tmp_path / "nowhere", labels)
    with pytest.raises(DataError, match=r"images: holds no \.xml file"):
        voc_to_coco(images, images)
    with pytest.raises(DataError, match="none of the classes Vehicle occurs; found bike, sign, v"):
        voc_to_coco(images, labels, classes=["Vehicle"])
    with pytest.raises(DataError, match="classes: vehicle, vehicle: one is named twice"):
        voc_to_coco(images, labels, classes=["vehicle", "vehicle"])


def test_command_line(folders, tmp_path: Path):
    output = tmp_path / "new" / "boxes.json"
    done = run_tool(*folders, output, "--classes", "vehicle")
    assert done.returncode == 0, done.stderr
    assert boxes(read_coco(output)) == [
        ("b.jpg", "vehicle", 1, 2, 10, 20),
        ("b.jpg", "vehicle", 30.5, 4, 9.5, 4),
    ]
    for line in ("3 images, 2 of them without a box", "vehicle: 2 boxes", "sign: 1 objects left"):
        assert line in done.stdout
    assert [path.name for path in output.parent.iterdir()] == ["boxes.json"]

    done = run_tool(*folders, output, "--one-based")
    assert done.returncode == 0, done.stderr
    assert ["b.jpg", "vehicle", 0, 1, 11, 21] in [list(b) for b in boxes(read_coco(output))]


def test_command_line_errors_leave_the_old_output(folders, tmp_path: Path):
    images, labels = folders
    output = tmp_path / "boxes.json"
    output.write_text(json.dumps("old"))
    (labels / "a.xml").write_text("<annotation>")
    done = run_tool(images, labels, output)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert f"{labels / 'a.xml'}: is not well-formed XML" in done.stderr
    assert json.loads(output.read_text()) == "old"


def test_difficult_objects_are_kept_or_become_crowds(tmp_path: Path):
    images, labels = tmp_path / "images", tmp_path / "labels"
    write_image(images / "a.jpg")
    write_xml(labels / "a.xml", "a.jpg", [("car", 1, 1, 9, 9), ("car", 11, 11, 19, 19)])
    text = (labels / "a.xml").read_text()
    (labels / "a.xml").write_text(text.replace("difficult>0<", "difficult>1<", 1))
    for options, crowds in (({}, [0, 0]), ({"difficult": "crowd"}, [1, 0])):
        data, report = voc_to_coco(images, labels, **options)
        assert [a["iscrowd"] for a in data["annotations"]] == crowds
        assert report.boxes == {"car": 2}
    with pytest.raises(DataError, match="difficult: 'drop' is none of keep, crowd"):
        voc_to_coco(images, labels, difficult="drop")


def test_image_sets_choose_the_files(tmp_path: Path):
    images, labels = tmp_path / "images", tmp_path / "labels"
    for stem in ("a", "b", "c"):
        write_image(images / f"{stem}.jpg")
        write_xml(labels / f"{stem}.xml", f"{stem}.jpg", [("car", 1, 1, 9, 9)])
    (labels / "c.xml").write_text("broken, but not asked for")
    sets = [tmp_path / "one.txt", tmp_path / "two.txt"]
    for path, stem in zip(sets, "ba", strict=True):
        path.write_text(f"{stem}\n")
    data, report = voc_to_coco(images, labels, image_sets=sets)
    assert [image["file_name"] for image in data["images"]] == ["a.jpg", "b.jpg"]
    assert report.images_without_xml == 0


def test_long_lists_in_the_report_are_cut():
    report = ConversionReport(clipped=[f"case {i}" for i in range(25)], notes=["a note"])
    assert report.text().splitlines()[-3:] == ["  case 19", "  and 5 more", "a note"]
