"""Bad input: each kind ends in one message that names the file, the record and the remedy.

Every case starts from a sound domain (`small_domain`) and breaks one thing. What is wrong has to be
told to whoever uses the domain as training would, and to whoever asks ``check_domain`` first.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from detectron2.data import transforms as T
from PIL import Image
from small_domain import make_domain, write_coco_file

from mic_det.data.catalog import (
    fit_classes,
    labelled_dicts,
    register_domain,
    require_domain,
    unlabelled_dicts,
)
from mic_det.data.check import check_domain
from mic_det.data.errors import DataError
from mic_det.data.mapper import DomainMapper
from mic_det.data.register import register_yaml

pytestmark = pytest.mark.usefixtures("clean_catalogs")


@dataclass(frozen=True)
class Case:
    """A kind of bad input.

    Attributes:
        kind: what is wrong.
        break_it: breaks the domain in a folder; may return arguments to register it with.
        says: what the message has to hold; ``{}`` stands for the folder.
    """

    kind: str
    break_it: Callable[[Path], dict | None]
    says: tuple[str, ...]


def json_case(kind: str, change: Callable[[dict], object], *says: str) -> Case:
    """Something is wrong in boxes.json."""
    return Case(kind, lambda root: write_coco_file(root, change) and None, ("{}/boxes.json", *says))


def text_case(kind: str, text: bytes, *says: str) -> Case:
    """boxes.json holds ``text``."""

    def write(root: Path) -> None:
        (root / "boxes.json").write_bytes(text)

    return Case(kind, write, ("{}/boxes.json", *says))


def box_case(kind: str, box: object, *says: str) -> Case:
    """The box of the second annotation is ``box``."""
    record = ("annotations[1], id 2",)
    return json_case(kind, lambda data: data["annotations"][1].update(bbox=box), *record, *says)


def image_case(kind: str, break_image: Callable[[Path], object], *says: str) -> Case:
    """Something is wrong with the image a.png."""
    return Case(
        kind, lambda root: break_image(root / "images/a.png") and None, ("{}/images/a.png", *says)
    )


def label_case(kind: str, path: str, text: str, *says: str, **more) -> Case:
    """A file of Pascal-VOC (xml/…) or YOLO labels (txt/…) holds ``text``."""

    def write(root: Path) -> dict:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)
        return {"annotations": root / path.split("/")[0], **more}

    return Case(kind, write, ("{}/" + path, *says))


def told_case(kind: str, told: Callable[[Path], dict], *says: str) -> Case:
    """The files are sound, but the domain is registered wrongly."""
    return Case(kind, told, says)


def yaml_case(kind: str, text: str, *says: str) -> Case:
    """A YAML file of domains holds ``text``."""

    def write(root: Path) -> dict:
        (root / "domains.yaml").write_text(text)
        return {"yaml": root / "domains.yaml"}

    return Case(kind, write, ("{}/domains.yaml", *says))


def xml(body: str) -> str:
    return f"<annotation><filename>a.png</filename>{body}</annotation>"


def xml_object(corners: str, name: str = "<name>car</name>") -> str:
    return xml(f"<object>{name}<bndbox>{corners}</bndbox></object>")


def xml_corners(*corners: object) -> str:
    keys = ("xmin", "ymin", "xmax", "ymax")
    return "".join(f"<{k}>{v}</{k}>" for k, v in zip(keys, corners, strict=True))


def only_corners(data: dict) -> None:
    for each in data["annotations"]:
        x, y, w, h = each["bbox"]
        each["bbox"] = [x, y, x + w, y + h]


def only_fractions(data: dict) -> None:
    for each in data["annotations"]:
        x, y, w, h = each["bbox"]
        each["bbox"] = [x / 64, y / 48, w / 64, h / 48]


def cut_off(path: Path) -> None:
    Image.effect_noise((64, 48), 90).save(path)
    path.write_bytes(path.read_bytes()[:900])


def tagged_as_turned(path: Path) -> None:
    exif = Image.Exif()
    exif[274] = 6
    Image.new("RGB", (64, 48)).save(path, exif=exif)


def dangling(path: Path) -> None:
    path.unlink()
    path.symlink_to("gone.png")


def linked_to_itself(path: Path) -> None:
    path.unlink()
    path.symlink_to(path.name)


def empty_folder(root: Path) -> dict:
    (root / "empty").mkdir()
    return {"images": root / "empty"}


def folder_of_json(root: Path) -> dict:
    folder = empty_folder(root)["images"]
    (root / "boxes.json").rename(folder / "b.json")
    return {"annotations": folder}


def not_utf8(root: Path) -> None:
    shutil.copy(root / "images/a.png", os.fsencode(root / "images") + b"/caf\xe9.png")


def moved_without_folder(data: dict) -> None:
    data["images"][1]["file_name"] = "b.jpg"


def both_formats(root: Path) -> dict:
    shutil.copytree(root / "xml", root / "txt", dirs_exist_ok=True)
    return {"annotations": root / "txt"}


def two_suffixes(root: Path) -> dict:
    shutil.copy(root / "images/a.png", root / "images/a.jpg")
    return {"annotations": root / "txt"}


def no_names(root: Path) -> dict:
    (root / "txt/classes.txt").unlink()
    return {"annotations": root / "txt"}


def extra_label(root: Path) -> dict:
    (root / "txt/z.txt").write_text("0 0.5 0.5 0.1 0.1\n")
    return {"annotations": root / "txt"}


ID = {"image_id": "images", "category_id": "categories"}

CASES = [
    # boxes.json as a file
    text_case("json: cut off", b'{"images": [', "is not JSON", "line 1 column", "make it anew"),
    text_case("json: empty file", b"", "is not JSON", "it is empty"),
    text_case("json: a binary file", b"\xff\xfe\x00\x01", "is not JSON", "make it anew"),
    text_case("json: Git LFS pointer", b"version https://git-lfs.github.com/spec/v1\n", "lfs pull"),
    text_case("json: a web page", b"<!DOCTYPE html><html>", "it is a web page"),
    text_case("json: nested without end", b"[" * 100_000, "is not JSON"),
    text_case("json: a list", b"[]", "holds a list", "Name a file with the fields images"),
    text_case("json: results", b'[{"image_id": 1, "score": 0.5}]', "COCO results", "not labels"),
    text_case("json: a number", b"3", "holds a int"),
    # its fields
    json_case("field missing", lambda d: d.pop("images") and None, "'images'", "missing", "has a"),
    json_case("field of wrong type", lambda d: d.update(annotations={}), "'annotations'", "dict"),
    json_case("entries of wrong type", lambda d: d.update(images=[1]), "'images'", "objects"),
    json_case("no categories", lambda d: d.update(categories=[], annotations=[]), "List the cla"),
    json_case("no images", lambda d: d.update(images=[], annotations=[]), "lists no image"),
    json_case("no boxes at all", lambda d: d.update(annotations=[]), "no box of 'car', 'person'"),
    # ids and names
    json_case(
        "image id twice", lambda d: d["images"][1].update(id=1), "images[1]", "twice", "its own id"
    ),
    json_case(
        "image id is text",
        lambda d: d["images"][0].update(id="1"),
        *("images[0]", "not an integer", "Number the images"),
    ),
    json_case("image id missing", lambda d: d["images"][2].pop("id") and None, "images[2]", "None"),
    json_case(
        "category id is text", lambda d: d["categories"][1].update(id="two"), "categories[1]"
    ),
    json_case("category id twice", lambda d: d["categories"][1].update(id=1), "categories[1]"),
    json_case(
        "annotation id twice",
        lambda d: d["annotations"][2].update(id=1),
        *("annotations[].id occurs twice", "annotations[2]", "its own id"),
    ),
    json_case(
        "image of no name", lambda d: d["images"][0].pop("file_name") and None, "images[0]", "Write"
    ),
    json_case(
        "file name twice",
        lambda d: d["images"][2].update(file_name="a.png"),
        *("images[2]", "'a.png'", "path relative to the folder"),
    ),
    json_case(
        "class listed twice in the file",
        lambda d: d["categories"][1].update(name="car"),
        *("categories[1]", "'car'", "Merge"),
    ),
    json_case("category of no name", lambda d: d["categories"][0].update(name=7), "is not a name"),
    json_case(
        "size missing",
        lambda d: d["images"][0].pop("width") and None,
        *("images[0]", "width", "in pixels"),
    ),
    json_case("size negative", lambda d: d["images"][0].update(height=-1), "images[0]", "-1"),
    json_case("size is text", lambda d: d["images"][0].update(height="48"), "images[0]", "'48'"),
    json_case(
        "annotation of an unknown image",
        lambda d: d["annotations"][0].update(image_id=9),
        *("annotations[0], id 1", "9", "Add the image, or remove"),
    ),
    json_case(
        "annotation of an unknown category",
        lambda d: d["annotations"][0].update(category_id=9),
        *("annotations[0], id 1", "9", "Add the category, or remove"),
    ),
    json_case(
        "iscrowd is something else",
        lambda d: d["annotations"][0].update(iscrowd="no"),
        *("annotations[0], id 1", "'no'", "Write 0 or 1"),
    ),
    # boxes
    box_case("box missing", None, "Write four finite numbers"),
    box_case("box of three numbers", [1, 2, 3], "Write four finite numbers"),
    box_case("box of text", ["1", "2", "3", "4"], "Write four finite numbers"),
    box_case("box with NaN", [1, 2, float("nan"), 4], "nan", "Write four finite numbers"),
    box_case("box with infinity", [1, 2, float("inf"), 4], "inf"),
    box_case("box of negative size", [20, 20, -5, 8], "negative size", "or remove the annotation"),
    box_case("box outside its image", [70, 2, 9, 9], "outside its image", "64x48", "correct"),
    json_case(
        "corners given as sizes, everywhere",
        only_corners,
        *("as it seems: 2 of 3 boxes leave their image", "write [x0, y0, x1 - x0, y1 - y0]"),
    ),
    json_case("fractions given as pixels", only_fractions, "fractions", "multiply x and width"),
    # images
    image_case("image missing", Path.unlink, "1 of 3 are no file", "Correct the folder"),
    image_case("image empty", lambda p: p.write_bytes(b""), "it is empty", "Restore the file"),
    image_case("no image inside", lambda p: p.write_text("hello"), "no image format", "Restore"),
    image_case("image cut off", cut_off, "cannot be read", "Restore the file or remove it"),
    image_case(
        "image is a Git LFS pointer", lambda p: p.write_text("version https://git-lfs"), "LFS"
    ),
    image_case(
        "image of another size",
        lambda p: Image.new("RGB", (32, 24)).save(p),
        *("is 32x24", "say 64x48", "image id 1", "Restore"),
    ),
    image_case(
        "boxes refer to the image before its EXIF turn",
        tagged_as_turned,
        *("is 48x64", "say 64x48", "EXIF"),
    ),
    image_case(
        "image of floating-point values",
        lambda p: Image.new("F", (64, 48)).save(p, format="TIFF"),
        *("floating-point", "Convert it to 8 or 16 bits"),
    ),
    image_case("link to nothing", dangling, "is a link to gone.png", "remove the link"),
    image_case("link to itself", linked_to_itself, "a.png", "remove the link"),
    json_case(
        "file name without its sub-folder",
        moved_without_folder,
        *("There is {}/images/sub/b.jpg", "Correct the folder of images"),
    ),
    json_case(
        "file name with another suffix",
        lambda d: d["images"][0].update(file_name="a.jpg"),
        "There is {}/images/a.png",
    ),
    Case("name that is not UTF-8", not_utf8, (r"caf\xe9.png", "Rename the file")),
    # folders
    told_case(
        "folder of images missing", lambda r: {"images": r / "gone"}, "{}/gone: not there", "Check"
    ),
    told_case("folder of images empty", empty_folder, "{}/empty: holds no image", "Put the images"),
    told_case(
        "folder of images is a file",
        lambda r: {"images": r / "boxes.json"},
        *("{}/boxes.json: is a file, not a folder", "Check the paths"),
    ),
    told_case(
        "pattern that fits nothing", lambda r: {"pattern": "*.gif"}, "no image named like '*.gif'"
    ),
    told_case(
        "annotations missing", lambda r: {"annotations": r / "x.json"}, "{}/x.json: not there"
    ),
    told_case(
        "annotations of an unknown kind",
        lambda r: {"annotations": r / "images/a.png"},
        *("{}/images/a.png: annotations: is no json", "Name a COCO json file"),
    ),
    told_case(
        "folder of labels without labels",
        lambda r: {"annotations": r / "images"},
        *("{}/images: annotations: the folder holds no .xml", "Name the folder of labels"),
    ),
    told_case(
        "folder that has a json file",
        folder_of_json,
        *("{}/empty", "There is {}/empty/b.json: name the file itself"),
    ),
    told_case("both XML and text labels", both_formats, "3 .xml and 3 .txt files", "move the oth"),
    # classes
    told_case(
        "class listed twice", lambda r: {"classes": ["car", "car"]}, "'car' twice", "Name it once"
    ),
    told_case(
        "classes are text", lambda r: {"classes": "car"}, "is text, not a list. Write ['car']"
    ),
    told_case("classes are empty", lambda r: {"classes": []}, "classes: is empty", "or leave it"),
    told_case("class is no text", lambda r: {"classes": [False]}, "[False]", "in quotes"),
    told_case(
        "class that is not in the file",
        lambda r: {"classes": ["car", "Persons"]},
        *("{}/boxes.json", "'Persons' (did you mean 'person'?)", "Name classes of this file"),
    ),
    told_case("aliases are a list", lambda r: {"aliases": ["car"]}, "aliases: ['car']", "mapping"),
    told_case(
        "class of the test set that the model lacks",
        lambda r: {"trained": ["car"]},
        *("{}/boxes.json: categories: 'person' (1 boxes)", "aliases: {{person: car}}", "[car]"),
    ),
    told_case(
        "alias to a class that the model lacks",
        lambda r: {"trained": ["car", "human"], "aliases": {"person": "humans"}},
        "'humans' (1 boxes) (did you mean 'human'?)",
    ),
    told_case(
        "one_based for COCO", lambda r: {"one_based": True}, "one_based is for Pascal-VOC", "Leave"
    ),
    # Pascal VOC
    label_case("XML cut off", "xml/a.xml", "<annotation><object>", "not well-formed XML", "Repair"),
    label_case("XML empty", "xml/a.xml", "", "not well-formed XML"),
    label_case(
        "XML object without name", "xml/a.xml", xml_object("", ""), "object 1: has no <name>"
    ),
    label_case(
        "XML object without corner",
        "xml/a.xml",
        xml_object("<xmin>1</xmin>"),
        *("object 1 (car): has no bndbox/ymin", "Add it"),
    ),
    label_case(
        "XML corner is no number",
        "xml/a.xml",
        xml_object(xml_corners("x", 1, 2, 3)),
        *("bndbox/xmin: 'x' is not a number", "Correct it"),
    ),
    label_case(
        "XML box upside down",
        "xml/a.xml",
        xml_object(xml_corners(20, 30, 10, 40)),
        *("car (20, 30, 10, 40): width or height is negative", "Correct these boxes"),
    ),
    label_case(
        "XML box outside",
        "xml/a.xml",
        xml_object(xml_corners(70, 2, 90, 9)),
        *("car (70, 2, 90, 9): outside 64x48", "Correct these boxes"),
    ),
    label_case(
        "XML of another size",
        "xml/a.xml",
        xml("<size><width>640</width><height>480</height></size>"),
        *("size: says 640x480", "is 64x48", "Scale the boxes"),
    ),
    label_case(
        "XML of no image",
        "xml/z.xml",
        "<annotation><filename>z.png</filename></annotation>",
        *("no image with the stem 'z'", "Add the image or remove the XML"),
    ),
    # YOLO
    told_case("YOLO without class names", no_names, "{}/txt: class names", "classes.txt beside"),
    label_case("YOLO names twice", "txt/classes.txt", "car\ncar\n", "'car' is listed twice"),
    label_case("YOLO names malformed", "txt/data.yaml", "names: 3", "names: is no list", "Write"),
    label_case("YOLO names with a gap", "txt/data.yaml", "names: {0: a, 2: b}", "without gaps"),
    label_case("YOLO class without name", "txt/a.txt", "2 .5 .5 .1 .1", "line 1: class: 2 has no"),
    label_case("YOLO class is no number", "txt/a.txt", "car .5 .5 .1 .1", "line 1: class: 'car'"),
    label_case("YOLO line too short", "txt/a.txt", "0 .5 .5 .1", "line 1: has 4 numbers, not five"),
    label_case("YOLO detections", "txt/a.txt", "\n0 .5 .5 .1 .1 .9", "line 2: has six numbers"),
    label_case("YOLO coordinate is text", "txt/a.txt", "0 .5 x .1 .1", "line 1: '.5 x .1 .1'"),
    label_case("YOLO in pixels", "txt/a.txt", "0 14 18 20 24", "line 1: 14 18 20 24", "divide x"),
    label_case("YOLO negative size", "txt/a.txt", "0 .5 .5 -.1 .1", "line 1: car", "negative"),
    told_case("YOLO labels of no image", extra_label, "{}/txt/z.txt: no image with the stem 'z'"),
    told_case(
        "YOLO labels of two images", two_suffixes, "share one label file", "Keep one of them"
    ),
    # YAML files of domains
    yaml_case("YAML malformed", "a: [", "cannot be read as YAML", "Repair it"),
    yaml_case("YAML empty", "", "is no mapping of domains", "Write NAME: {{images"),
    yaml_case("YAML a list", "[a, b]", "is no mapping of domains"),
    yaml_case(
        "YAML domain is text", "a: images", "a: is no mapping", "Write a: {{images: FOLDER}}"
    ),
    yaml_case("YAML domain twice", "a: {images: x}\na: {images: y}", "'a' occurs twice"),
    yaml_case("YAML name is a number", "1: {images: x}", "1: the name is no text"),
    yaml_case(
        "YAML unknown key",
        "a: {images: x, anotations: y}",
        *("a: unknown key 'anotations' (did you mean 'annotations'?)", "has the keys images"),
    ),
    yaml_case("YAML without images", "a: {annotations: y}", "a: has no key 'images'", "Name"),
    yaml_case("YAML path is a list", "a: {images: [x]}", "a: images: ['x'] is no path"),
    yaml_case("YAML class is no text", "a: {images: x, classes: [no]}", "[False]", "in quotes"),
    yaml_case("YAML name taken", "coco_2017_val: {images: x}", "taken already", "another name"),
]


def use() -> None:
    """Register the domain and read all of it, labels and images, as training does."""
    mapper = DomainMapper(is_train=True, augmentations=[T.NoOpTransform()], image_format="BGR")
    require_domain("t")
    for record in (*labelled_dicts("t"), *unlabelled_dicts("t")):
        mapper(record)


def register(root: Path, told: dict) -> None:
    told = dict(told)
    if "yaml" in told:
        register_yaml(told["yaml"])
        return
    trained = told.pop("trained", None)
    paths = {"images": root / "images", "annotations": root / "boxes.json"}
    register_domain("t", **(paths | told))
    if trained:
        register_domain("source", root / "images", root / "boxes.json", trained)
        fit_classes(["source"], ["t"])


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.kind)
def test_one_message_with_file_record_and_remedy(case: Case, tmp_path: Path):
    root = make_domain(tmp_path / "my data")
    told = case.break_it(root) or {}
    says = [text.format(root) for text in case.says]
    with pytest.raises(DataError) as info:
        register(root, told)
        use()
    message = str(info.value)
    for text in says:
        assert text in message
    assert "Traceback" not in message and len(message) < 1500
    try:
        register(root, told)
    except DataError:
        return  # what cannot be registered cannot be checked
    errors = check_domain("t").errors
    assert errors, "check finds nothing"
    assert all(any(text in error for error in errors) for text in says)


def test_there_are_forty_kinds_and_each_once():
    assert len({case.kind for case in CASES}) == len(CASES) >= 40


def test_the_domain_is_sound_before_it_is_broken(tmp_path: Path):
    root = make_domain(tmp_path / "my data")
    for number, labels in enumerate(("boxes.json", "xml", "txt")):
        register_domain(f"t{number}", root / "images", root / labels)
        report = check_domain(f"t{number}")
        assert not report.errors
        assert report.boxes == {"car": 2, "person": 1}
        assert (report.images, report.labelled_images) == (3, 3)


# ---- rights, which root has whatever a file says ---------------------------------------------


@pytest.fixture
def as_nobody() -> Iterator[Path]:
    """A domain in a folder that everybody may enter, seen by a user without special rights."""
    folder = Path(tempfile.mkdtemp(prefix="mic_det_rights_"))
    folder.chmod(0o755)
    make_domain(folder)
    root = os.geteuid() == 0
    yield folder
    if root:
        os.seteuid(0)
    for path in folder.rglob("*"):
        path.chmod(0o755)
    shutil.rmtree(folder)


def drop_rights() -> None:
    if os.geteuid() == 0:
        os.seteuid(65534)


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("boxes.json", ("cannot be read (Permission denied)", "chmod u+r")),
        ("images/a.png", ("cannot be read as an image", "Permission denied", "chmod u+r")),
        ("images/sub", ("cannot be listed (Permission denied)", "chmod u+rx")),
    ],
)
def test_what_may_not_be_read_is_named(as_nobody: Path, path: str, says, monkeypatch):
    (as_nobody / path).chmod(0)
    monkeypatch.setenv("MIC_DET_CACHE", str(as_nobody / "cache"))
    drop_rights()
    register(as_nobody, {})
    with pytest.raises(DataError) as info:
        use()
    for text in (str(as_nobody / path), *says):
        assert text in str(info.value)


# ---- what is put right without guessing, and said --------------------------------------------


@pytest.mark.parametrize(
    ("box", "becomes", "says"),
    [
        ([4, 6, 0, 9], None, "has no area: 1 time, first [4, 6, 0, 9] (annotations[0], id 1)"),
        ([-6, 6, 20, 9], [0, 6, 14, 9], "cut at its border"),
        ([50, 40, 20, 9], [50, 40, 14, 8], "reaches beyond its image: 1 time, first [50, 40, 20,"),
        ([50, 40, 14.7, 8], [50, 40, 14.7, 8], None),
    ],
)
def test_boxes_without_area_or_beyond_the_border(tmp_path, caplog, box, becomes, says):
    root = make_domain(tmp_path)
    write_coco_file(root, lambda d: d["annotations"][0].update(bbox=box))
    register(root, {})
    for _ in range(2):  # said once
        first = next(d for d in labelled_dicts("t") if d["image_id"] == 1)
    boxes = [each["bbox"] for each in first["annotations"]]
    assert boxes == ([becomes] if becomes else []) + [[40, 10, 8, 30]]
    warnings = [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]
    assert len(warnings) == (says is not None)
    if says:
        assert says in warnings[0] and f"{root}/boxes.json" in warnings[0]
        assert any(says in text for text in check_domain("t").warnings)


def test_a_link_back_up_is_followed_once(tmp_path, caplog):
    root = make_domain(tmp_path)
    (root / "images/sub/back").symlink_to(root / "images")
    register(root, {})
    assert len(unlabelled_dicts("t")) == 3
    assert f"{root}/images/sub/back: is a link to a folder that it lies in" in caplog.text


def test_images_of_one_name_in_two_folders_stay_apart(tmp_path):
    root = make_domain(tmp_path)
    shutil.copy(root / "images/a.png", root / "images/sub/a.png")
    register(root, {})
    assert [d["image_id"] for d in unlabelled_dicts("t")] == [
        *("a.png", "c d.png", "sub/a.png", "sub/b.jpg")
    ]
    (root / "xml/sub/a.xml").write_text(xml(""))
    register_domain("voc", root / "images", root / "xml")
    counts = {Path(d["file_name"]): len(d["annotations"]) for d in labelled_dicts("voc")}
    assert counts[root / "images/a.png"] == 2 and counts[root / "images/sub/a.png"] == 0


def test_hidden_files_and_folders_hold_no_images(tmp_path):
    root = make_domain(tmp_path)
    shutil.copytree(root / "images/sub", root / "images/.thumbnails")
    shutil.copy(root / "images/a.png", root / "images/._a.png")
    register(root, {})
    assert len(unlabelled_dicts("t")) == 3


def test_corners_are_not_suspected_where_boxes_are_sound(tmp_path):
    """Boxes that would also make sense as corners, in images that they do not leave."""
    root = make_domain(tmp_path)
    small = [[1, 2, 30, 40], [2, 1, 20, 30], [0, 0, 64, 48]]

    def change(data: dict) -> None:
        for each, box in zip(data["annotations"], small, strict=True):
            each["bbox"] = box

    write_coco_file(root, change)
    register(root, {})
    assert sum(len(d["annotations"]) for d in labelled_dicts("t")) == 3


def test_the_published_annotations_of_carla_are_refused_in_one_message(tmp_path):
    """The same faults as in the file published with the CARLA data: see its first records."""
    root = make_domain(tmp_path)
    image = {"file_name": "_semantic", "height": 380, "width": 640, "id": "_semantic"}
    images = [image, image, {**image, "file_name": "001500.png", "id": "001500"}]
    box = {"id": 1, "category_id": 1, "bbox": [1, 1, 9, 9], "image_id": "001500"}
    categories = [{"id": 1, "name": "vehicle"}]
    content = {"images": images, "annotations": [box], "categories": categories}
    (root / "boxes.json").write_text(json.dumps(content))
    register(root, {})
    with pytest.raises(DataError) as info:
        labelled_dicts("t")
    for text in (
        f"{root}/boxes.json: is not a sound COCO detection file",
        "images[].id is not an integer: 3 times, first '_semantic' (images[0])",
        "images[].id occurs twice: 1 time, first '_semantic' (images[1])",
        "images[].file_name occurs twice: 1 time, first '_semantic' (images[1])",
    ):
        assert text in str(info.value)
