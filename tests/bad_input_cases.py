"""The kinds of bad input that `test_bad_input` goes through, and what is to be said of each."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from PIL import Image
from small_domain import write_coco_file


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
        *("images[0]", "not an integer", "Number the images (in 64 bits)"),
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
    box_case("box with a number beyond all bounds", [10**400, 2, 3, 4], "four finite", "00… ("),
    # area and other fields
    *(
        json_case(
            f"area is {value!r}",
            lambda d, value=value: d["annotations"][1].update(area=value),
            *("annotations[1], id 2", f"first {value!r}", says, "leave the area out"),
        )
        for value, says in (
            ("large", "not a number from 0 on"),
            (None, "not a number from 0 on"),
            (True, "not a number from 0 on"),
            (-4, "not a number from 0 on"),
            (float("nan"), "not a number from 0 on"),
            (float("inf"), "not a number from 0 on"),
            (1e12, "larger than the image"),
        )
    ),
    json_case(
        "width beyond all bounds",
        lambda d: d["images"][0].update(width=10**400),
        *("images[].width is not", "images[0]"),
    ),
    json_case(
        "id of more than 64 bits",
        lambda d: d["annotations"][0].update(id=2**64),
        *("annotations[].id is not an integer", "in 64 bits", "annotations[0]"),
    ),
    text_case(
        "json: a field twice",
        b'{"images": [], "annotations": [], "categories": [], "annotations": [1]}',
        *("the key 'annotations' occurs twice", "Merge"),
    ),
    text_case(
        "json: a field of an entry twice",
        b'{"images": [{"id": 7, "height": 4, "height": 5}]}',
        *("the key 'height' occurs twice in one object with id 7", "Merge"),
    ),
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
    told_case("pattern that fits nothing", lambda r: {"pattern": "*.gif"}, "s no image"),
    yaml_case("name that is a path", "../../x: {images: images}", "'../../x'", "without slashes"),
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
    label_case(
        "YOLO names given twice",
        *("txt/data.yaml", "names: [a, b]\nnames: [b, a]\n", "'names' occurs twice", "Repair it"),
    ),
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
