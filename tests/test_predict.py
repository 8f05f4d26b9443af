"""tools/predict.py on real files: images, folders, patterns, videos, and what cannot be read."""

from __future__ import annotations

import importlib.util
import json
import shutil
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from small_runs import SMALL
from tiny_streets import CLEAR, FOGGY, register_tiny_streets

from mic_det.cli import run_tool
from mic_det.config import load_config
from mic_det.data.builtin import register_builtin
from mic_det.data.catalog import register_domain, unregister_domain
from mic_det.data.class_names import class_names
from mic_det.data.formats.coco import DataError, read_coco
from mic_det.data.inputs import UnreadableError, find_inputs
from mic_det.data.mapper import DomainMapper
from mic_det.detection.prediction import Predictor
from mic_det.engine.build import build_student_and_teacher
from mic_det.engine.checkpoint import AdaptationCheckpointer
from mic_det.engine.prediction import load_model

REPOSITORY = Path(__file__).parents[1]
CONFIG = REPOSITORY / "configs/base/streets.yaml"
# A model from random weights is sure of nothing.
LOW = [*SMALL, "MODEL.ROI_HEADS.SCORE_THRESH_TEST", "0.1", "TEST.DETECTIONS_PER_IMAGE", "5"]


def load_tool():
    spec = importlib.util.spec_from_file_location("predict", REPOSITORY / "tools/predict.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    """A checkpoint whose teacher is another model than its student."""
    folder = tmp_path_factory.mktemp("weights")
    torch.manual_seed(1)
    student, teacher = build_student_and_teacher(load_config(CONFIG, LOW))
    with torch.no_grad():
        for parameter in teacher.model.roi_heads.box_predictor.parameters():
            parameter.normal_(0.0, 0.2)
    AdaptationCheckpointer(student, teacher, str(folder)).save("model")
    return folder / "model.pth"


@pytest.fixture
def images(tmp_path) -> Path:
    """Two folders with images of the same names."""
    sources = sorted((register_tiny_streets() / "foggy/train/images").iterdir())
    for k, name in enumerate(("day/x.png", "night/x.png", "night/deep/y.JPG")):
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(tmp_path / "in" / name), cv2.imread(str(sources[k])))
    return tmp_path / "in"


def call(monkeypatch, capsys, *arguments) -> tuple[int, str, str]:
    """Exit status, stdout and stderr of the tool."""
    monkeypatch.setattr(sys, "argv", ["predict.py", "--config", str(CONFIG), *map(str, arguments)])
    capsys.readouterr()
    status = 0
    try:
        run_tool(load_tool().main)
    except SystemExit as end:
        status = end.code
    out, err = capsys.readouterr()
    return status, out, err


@pytest.fixture
def predict(monkeypatch, capsys, weights, tmp_path):
    def run(*arguments, threshold=0.1, to=tmp_path / "out", opts=()):
        fixed = ("--weights", weights, "--output", to, "--threshold", threshold)
        return call(monkeypatch, capsys, *fixed, *arguments, "--opts", *LOW, *opts)

    return run


def written(folder: Path) -> list[str]:
    return sorted(
        path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()
    )


def test_folder_with_equal_names(predict, images, tmp_path):
    status, out, err = predict(images)
    assert status == 0, err
    assert "on 3 images" in out
    names = ["day/x.png", "night/deep/y.JPG", "night/x.png"]
    assert written(tmp_path / "out/pictures") == names
    drawn = {name: cv2.imread(str(tmp_path / "out/pictures" / name)) for name in names}
    assert drawn["day/x.png"].shape == (256, 512, 3)  # small images are enlarged
    assert not np.array_equal(drawn["day/x.png"], drawn["night/x.png"])


def test_inputs_are_not_overwritten(predict, images, tmp_path):
    (tmp_path / "out").mkdir()
    pictures = Path(shutil.move(images, tmp_path / "out/pictures"))
    before = {name: (pictures / name).read_bytes() for name in written(pictures)}
    status, _, err = predict(pictures)
    assert status == 2
    assert "is an input and would be overwritten" in err and "Traceback" not in err
    status, _, err = predict(pictures, "--no-pictures")
    assert status == 0, err
    assert {name: (pictures / name).read_bytes() for name in written(pictures)} == before


def test_an_input_behind_a_link_in_the_output_is_not_overwritten(predict, images, tmp_path):
    link = tmp_path / "out/pictures/x.png"
    link.parent.mkdir(parents=True)
    link.symlink_to(images / "day/x.png")
    status, _, err = predict(images / "day")
    assert status == 2 and "would be overwritten" in err


def test_each_input_has_an_output_of_its_own(predict, images, tmp_path):
    """The same picture in all places: other endings, one name with another ending after it."""
    shutil.rmtree(images / "night/deep")
    picture = images / "day/x.png"
    for name in ("x.gif", "x.gif.png", "x.gif.png.png", "x.jpg"):
        shutil.copy(picture, images / "day" / name)
    status, _, err = predict(images, images / "day/x.gif")  # of no known ending: by name alone
    assert status == 0, err
    names = ["x.gif.png", "x.gif.png.png", "x.gif.png.png.png", "x.jpg", "x.png"]
    assert written(tmp_path / "out/pictures") == [*(f"day/{name}" for name in names), "night/x.png"]


def test_coco_results_can_be_evaluated(predict, images, tmp_path, capsys):
    from pycocotools.coco import COCO

    predict(images)
    coco = COCO(str(tmp_path / "out/images.json"))
    results = coco.loadRes(str(tmp_path / "out/coco_instances_results.json"))
    assert len(results.anns) > 0
    assert [each["name"] for each in coco.loadCats(coco.getCatIds())][:2] == ["person", "rider"]
    for found in results.anns.values():
        x, y, w, h = found["bbox"]
        image = coco.imgs[found["image_id"]]
        assert x >= 0 and y >= 0 and w > 0 and h > 0
        assert x + w <= image["width"] + 0.1 and y + h <= image["height"] + 0.1
        assert found["score"] >= 0.1


def test_boxes_are_those_of_evaluation(weights, images):
    """The same resizing there and back, on an image that is larger than the network's input."""
    cfg = load_config(CONFIG, LOW)
    predictor = Predictor.from_config(cfg, load_model(cfg, str(weights))[0], threshold=0.1)
    path = images / "large.png"
    cv2.imwrite(str(path), cv2.resize(cv2.imread(str(images / "day/x.png")), (600, 300)))
    record = {"file_name": str(path), "height": 300, "width": 600}
    with torch.no_grad():
        expected = predictor.model([DomainMapper(cfg, is_train=False)(record)])[0]["instances"]
    found = predictor(cv2.imread(str(path)))
    assert len(found) > 0
    assert found.pred_boxes.tensor[:, 2].max() > 256
    assert torch.equal(found.pred_boxes.tensor, expected.pred_boxes.tensor[: len(found)])


def test_threshold_and_model_make_a_difference(predict, images, tmp_path):
    scores = {}
    for which in ("student", "teacher"):
        predict(images, "--model", which, to=tmp_path / which)
        found = json.loads((tmp_path / which / "coco_instances_results.json").read_text())
        scores[which] = sorted(each["score"] for each in found)
    assert scores["student"] != scores["teacher"]
    cut = scores["student"][len(scores["student"]) // 2]
    predict(images, threshold=cut, to=tmp_path / "fewer")
    found = json.loads((tmp_path / "fewer/coco_instances_results.json").read_text())
    assert all(each["score"] >= cut - 1e-5 for each in found)
    assert 0 < len(found) < len(scores["student"])


def test_patterns_and_repeated_files(images):
    found = find_inputs([f"{images}/**/*.png", str(images / "day"), str(images / "day/x.png")])
    assert [each.name.as_posix() for each in found] == ["day/x.png", "night/x.png"]
    (alone,) = find_inputs([str(images / "day/../day/x.png")])
    assert alone.name == Path("x.png")


def write_video(path: Path, count: int) -> None:
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 5.0, (256, 128))
    assert writer.isOpened()
    for k in range(count):
        writer.write(np.full((128, 256, 3), 20 * k, np.uint8))
    writer.release()


def test_video(predict, tmp_path):
    write_video(tmp_path / "clip.avi", 7)
    status, _, err = predict(tmp_path / "clip.avi", "--every", 3)
    assert status == 0, err
    described = json.loads((tmp_path / "out/images.json").read_text())
    assert [each["frame"] for each in described["images"]] == [0, 3, 6]
    assert [each["file_name"] for each in described["images"]] == [
        *("clip.avi#000000", "clip.avi#000003", "clip.avi#000006")
    ]
    read_coco(tmp_path / "out/images.json")  # no image of it occurs twice
    drawn = cv2.VideoCapture(str(tmp_path / "out/pictures/clip.avi.mp4"))
    assert drawn.get(cv2.CAP_PROP_FRAME_COUNT) == 3
    brightness = []
    while (frame := drawn.read())[0]:
        brightness.append(np.median(frame[1]))
    assert brightness == pytest.approx([0, 60, 120], abs=8)


@pytest.mark.parametrize("kind", ["empty", "text", "cut", "video"])
def test_an_unreadable_file_among_many_is_named_and_the_rest_done(kind, predict, images, tmp_path):
    bad = images / ("bad.avi" if kind == "video" else "bad.png")
    whole = (images / "day/x.png").read_bytes()
    bad.write_bytes({"empty": b"", "cut": whole[: len(whole) // 2]}.get(kind, b"no picture"))
    status, out, err = predict(images)
    assert status == 1
    assert "1 of 4 inputs unreadable" in err and str(bad) in err and "Traceback" not in err
    assert "on 3 images" in out
    assert len(json.loads((tmp_path / "out/images.json").read_text())["images"]) == 3


def test_video_that_ends_early(tmp_path, monkeypatch):
    write_video(tmp_path / "clip.avi", 4)
    (clip,) = find_inputs([str(tmp_path / "clip.avi")])
    monkeypatch.setattr(type(clip), "count", lambda self: 9)
    with pytest.raises(UnreadableError, match="ends after frame 4 of 9"):
        list(clip.frames("BGR"))


def test_channels_of_an_image(tmp_path):
    red = np.zeros((8, 8, 3), np.uint8)
    red[:, :, 2] = 255  # OpenCV writes BGR
    cv2.imwrite(str(tmp_path / "red.png"), red)
    (source,) = find_inputs([str(tmp_path)])
    (bgr,), (rgb,) = source.frames("BGR"), source.frames("RGB")
    assert bgr.pixels[0, 0].tolist() == [0, 0, 255] and rgb.pixels[0, 0].tolist() == [255, 0, 0]


@pytest.mark.parametrize("given", ["nowhere/x.png", "nowhere/*.png", "."])
def test_nothing_to_predict_on(given, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError) as error:
        find_inputs([given])
    assert given in str(error.value)


def other_weights(kind: str, weights: Path, folder: Path) -> Path:
    path = folder / f"{kind}.pth"
    if kind == "classes":
        cfg = load_config(CONFIG, [*LOW, "MODEL.ROI_HEADS.NUM_CLASSES", "3"])
        student, _ = build_student_and_teacher(cfg)
        torch.save({"model": student.state_dict()}, path)
    elif kind == "other model":
        torch.save({"model": {"stem.weight": torch.zeros(3)}}, path)
    elif kind == "text":
        path.write_text("no weights")
    elif kind == "no teacher":
        torch.save({"model": torch.load(weights)["model"]}, path)
    return path


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("classes", "was trained for 3 classes, but the config's MODEL.ROI_HEADS.NUM_CLASSES is 8"),
        ("other model", "does not fit the config's model"),
        ("text", "cannot be read, it is truncated or damaged"),
        ("missing", "no such file"),
        ("no teacher", "holds no teacher"),
    ],
)
def test_weights_that_do_not_fit(kind, message, weights, images, tmp_path, monkeypatch, capsys):
    path = other_weights(kind, weights, tmp_path)
    arguments = ("--weights", path, "--output", tmp_path / "out", images, "--model", "teacher")
    status, _, err = call(monkeypatch, capsys, *arguments, "--opts", *LOW)
    assert status == 2
    assert message in err and path.name in err and "Traceback" not in err
    assert not (tmp_path / "out").exists()


def test_class_names_are_the_first_data_sets_even_if_they_have_to_be_read():
    root = register_tiny_streets()
    other = [f"other {k}" for k in range(8)]
    register_domain("named", root / "foggy/train/images", root / "boxes.json", other)
    try:
        assert class_names([CLEAR, "named"], 8)[2] == "car"
    finally:
        unregister_domain("named")


def test_class_names_without_data():
    assert class_names(["nobody_registered_this"], 2) == []
    register_builtin(Path("/nowhere"))
    assert class_names(["cityscapes_det_train"], 8)[0] == "person"
    assert class_names(["cityscapes_det_train"], 2) == []
    register_tiny_streets()  # its classes stand in its annotations alone
    assert class_names([CLEAR, FOGGY], 8)[2] == "car"


def test_hidden_files_are_left_out(images):
    shutil.copy(images / "day/x.png", images / "._x.png")
    assert len(find_inputs([str(images)])) == 3
