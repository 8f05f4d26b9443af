"""The drawn data set: determinism, annotations, domains, files and safe building."""

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pytest
from pycocotools.coco import COCO

from mic_det.data.errors import DataError
from mic_det.data.fog import add_fog
from mic_det.data.streets import (
    STREETS_CLASSES,
    STREETS_DOMAINS,
    STREETS_SPLITS,
    SplitSpec,
    build,
    ensure_streets,
    render_scene,
    spec,
    weather,
    worker,
)
from mic_det.data.streets.camera import Camera, Pose
from mic_det.data.streets.canvas import Canvas
from mic_det.data.streets.layout import make_camera, make_street, make_things
from mic_det.data.streets.scene import domain_rng, render_radiance
from mic_det.data.streets.solids import Solid, Sun, box_profile, draw_solid

SMALL = {("clear", "train"): SplitSpec(3, 11), ("foggy", "val"): SplitSpec(2, 77)}
RIDER, MOTORCYCLE, BICYCLE = (STREETS_CLASSES.index(c) for c in ("rider", "motorcycle", "bicycle"))


@pytest.fixture(scope="module")
def scenes():
    return [render_scene(seed) for seed in range(40)]


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    return ensure_streets(tmp_path_factory.mktemp("data") / "small", splits=SMALL, workers=1)


def _files(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}


def test_shapes_and_types(scenes):
    for scene in scenes:
        assert scene.image.shape == (128, 256, 3) and scene.image.dtype == np.uint8
        assert scene.depth.shape == (128, 256) and scene.depth.dtype == np.float32
        assert scene.semantic.shape == (128, 256) and scene.semantic.dtype == np.uint8
        assert scene.boxes.shape == (len(scene.classes), 4) and scene.boxes.dtype == np.float32
        assert scene.classes.dtype == np.int64
        assert 1 <= len(scene.boxes) <= 6
        assert set(np.unique(scene.semantic)) <= {*range(19), 255}
        assert (scene.depth > 0).all() and np.isfinite(scene.depth).all()


@pytest.mark.parametrize("domain", STREETS_DOMAINS)
def test_rendering_twice_gives_the_same(domain):
    first, second = render_scene(5, domain), render_scene(5, domain)
    for name in ("image", "depth", "semantic", "boxes", "classes", "instances"):
        assert np.array_equal(getattr(first, name), getattr(second, name))


def test_domains_share_geometry_and_differ_in_image(scenes):
    for domain in ("foggy", "night"):
        other = render_scene(3, domain)
        for name in ("depth", "semantic", "boxes", "classes", "instances"):
            assert np.array_equal(getattr(scenes[3], name), getattr(other, name))
        assert np.abs(scenes[3].image.astype(int) - other.image).mean() > 10


def test_seeds_give_different_scenes(scenes):
    assert not np.array_equal(scenes[0].semantic, scenes[1].semantic)


def test_bad_arguments():
    with pytest.raises(ValueError, match="domain"):
        render_scene(0, "rain")
    with pytest.raises(ValueError, match="seed"):
        render_scene(-1)


def test_boxes_are_tight_around_visible_pixels_of_their_class(scenes):
    for scene in scenes:
        for i, (box, class_id) in enumerate(zip(scene.boxes, scene.classes, strict=True)):
            mask = scene.instances == i + 1
            rows, columns = np.nonzero(mask)
            assert len(rows) >= spec.MIN_VISIBLE_PIXELS
            tight = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
            assert box.tolist() == list(tight)
            assert (scene.semantic[mask] == 11 + class_id).all()
            assert min(box[2] - box[0], box[3] - box[1]) >= spec.MIN_BOX_SIDE


def test_an_unhidden_body_is_drawn_where_the_pinhole_camera_sees_it():
    camera = Camera(focal=240.0, height=2.0, horizon=50.0, yaw=0.0)
    canvas = Canvas(camera)
    canvas.register(spec.SKY)
    pose = Pose(0.0, 12.0, 0.0)
    solid = Solid(pose, box_profile(4.0, 0.0, 1.5), np.full(4, 1.0))
    with canvas.element(13, pose.footprint(4.0, 2.0), 2) as identity:
        draw_solid(canvas, solid, (200, 0, 0), Sun(0.0, 1.0, 0.0, 0.7))
    rows, columns = np.nonzero(canvas.pixels[::2, ::2, 3] == identity)
    # The rear face stands at 10 m: 24 px a metre. The roof shows above it up to 14 m.
    assert abs(columns.min() - (128 - 24)) <= 1 and abs(columns.max() + 1 - (128 + 24)) <= 1
    assert abs(rows.max() + 1 - (50 + 48)) <= 1
    assert abs(rows.min() - (50 + 240 / 14 * 0.5)) <= 1
    assert canvas.depth[2 * 90, 256] == pytest.approx(10.0, abs=1e-3)
    assert canvas.elements[identity].in_frame == pytest.approx(1.0)


def test_the_nearer_thing_hides_the_farther_one_in_either_order():
    for order in ((8.0, 14.0), (14.0, 8.0)):
        canvas = Canvas(Camera(focal=240.0, height=2.0, horizon=50.0, yaw=0.0))
        canvas.register(spec.SKY)
        for z in order:
            pose = Pose(0.0, z, 0.0)
            with canvas.element(13, pose.footprint(0.5, 0.5), 2):
                canvas.disc((0.0, 1.0, z), 0.4, (z * 10, 0, 0))
        row = round((50 + 240 / 8.0) * 2)
        assert canvas.depth[row, 256] == pytest.approx(8.0, abs=0.3)


def test_many_polygons_at_once_look_like_one_by_one():
    z = np.arange(0.0, 40.0, 1.3)[:, None]  # the first ones reach behind the camera
    quads = np.zeros((len(z), 4, 3))
    quads[..., 0] = (-1.0, 1.0, 1.0, -1.0)
    quads[..., 2] = z + (0.0, 0.0, 0.4, 0.4)
    together, single = (Canvas(Camera(240.0, 2.0, 50.0, 0.05)) for _ in range(2))
    together.polygons(quads, (200, 100, 50))
    for quad in quads:
        single.polygon(quad, (200, 100, 50))
    for canvas in (together, single):
        canvas.flush()
    assert together.pixels.any() and np.array_equal(together.pixels, single.pixels)


def test_a_crop_repeats_the_border_outside_the_image():
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (128, 256, 3), np.uint8)
    # A square of 20 px with 3 px of margin on each side, in the top right corner.
    crop = worker.crop_square(image, np.array([236, 0, 256, 20]))
    rows, columns = np.clip(np.arange(-3, 23), 0, 127), np.clip(np.arange(233, 259), 0, 255)
    expected = cv2.resize(image[rows[:, None], columns], (spec.CROP_SIZE, spec.CROP_SIZE))
    assert np.array_equal(crop, expected)


def test_depth_grows_up_the_road(scenes):
    for scene in scenes:
        for x in (100, 128, 156):
            road = np.flatnonzero(scene.semantic[:, x] == spec.ROAD)
            assert len(road) > 5
            assert (np.diff(scene.depth[road, x]) < 0).all()


def test_the_ground_has_no_holes(scenes):
    for scene in scenes:
        # The horizon lies at row 58 at most; sky below it would be a place nobody painted.
        assert not (scene.semantic[60:] == spec.SKY).any()
        assert not (scene.image[60:].max(axis=2) == 0).mean() > 0.01


def test_depth_of_things_lies_before_the_ground_behind_them(scenes):
    for scene in scenes:
        for i in range(len(scene.boxes)):
            assert 4 < np.median(scene.depth[scene.instances == i + 1]) < 60


def test_a_rider_sits_on_a_cycle(scenes):
    found = 0
    for scene in scenes:
        cycles = scene.boxes[np.isin(scene.classes, (MOTORCYCLE, BICYCLE))]
        for box in scene.boxes[scene.classes == RIDER]:
            found += 1
            width = np.minimum(box[2], cycles[:, 2]) - np.maximum(box[0], cycles[:, 0])
            height = np.minimum(box[3], cycles[:, 3]) - np.maximum(box[1], cycles[:, 1])
            under = cycles[:, 3] >= box[3] - 2
            assert ((width > 0) & (height > 0) & under).any()
    assert found > 10


def test_every_class_occurs_often_enough():
    # The layout alone decides how often a class occurs; drawing 300 scenes would take long.
    boxes = {"rider_bicycle": ("rider", "bicycle"), "rider_motorcycle": ("rider", "motorcycle")}
    count = dict.fromkeys(STREETS_CLASSES, 0)
    for seed in range(300):
        rng = np.random.default_rng([0, seed, 0])
        street, camera = make_street(rng), make_camera(rng)
        for thing in make_things(street, camera, rng):
            for name in boxes.get(thing.kind, (thing.kind,)):
                count[name] += 1
    total = sum(count.values())
    assert min(count.values()) > 0.04 * total, count


def test_every_class_is_drawn(scenes):
    classes = np.concatenate([scene.classes for scene in scenes])
    assert set(classes.tolist()) == set(range(8))


def test_trains_stand_on_rails_and_nothing_else_does():
    trains = 0
    for seed in range(200):
        rng = np.random.default_rng(seed)
        street, camera = make_street(rng), make_camera(rng)
        for thing in make_things(street, camera, rng):
            on_track = street.track is not None and abs(thing.pose.x - street.track) < 1.5
            on_cross = street.cross_track and abs(thing.pose.z - street.cross) < 1.5
            if thing.kind == "train":
                trains += 1
                assert on_track or on_cross
            elif thing.kind in ("bus", "truck"):
                assert not on_track and not on_cross
    assert trains > 20


def test_fog_is_the_optical_model_on_the_scene_depth():
    radiance = render_radiance(9)[0]
    foggy, beta, light = weather.foggy_before_noise(radiance, domain_rng(9, "foggy"))
    assert spec.FOG_BETA_RANGE[0] <= beta <= spec.FOG_BETA_RANGE[1]
    np.testing.assert_array_equal(foggy, add_fog(radiance.image, radiance.depth, beta, light))
    # The photograph is that, plus noise of at most 3 grey levels standard deviation.
    scene = render_scene(9, "foggy")
    error = scene.image.astype(np.float64) - foggy
    assert 1.0 < error.std() < 3.3 and abs(error.mean()) < 0.2


def test_night_is_darker_and_its_lamps_shine(scenes):
    for seed in range(4):
        night = render_scene(seed, "night").image
        assert night.mean() < 0.6 * scenes[seed].image.mean()


def test_splits_share_no_scene_seed():
    seeds = [range(s.first_seed, s.first_seed + s.count) for s in STREETS_SPLITS.values()]
    assert len(set().union(*seeds)) == sum(len(r) for r in seeds)
    assert {k: v.count for k, v in STREETS_SPLITS.items()} == {
        ("clear", "train"): 600,
        ("clear", "val"): 150,
        ("foggy", "train"): 600,
        ("foggy", "val"): 200,
        ("night", "train"): 600,
        ("night", "val"): 150,
    }


def test_two_builds_give_the_same_bytes(small, tmp_path):
    again = ensure_streets(tmp_path / "again", splits=SMALL, workers=2)
    first, second = _files(small), _files(again)
    assert first.keys() == second.keys()
    assert first == second


def test_layout_of_files(small):
    scene = render_scene(12)
    folder = small / "clear" / "train"
    image = cv2.imread(str(folder / "images" / "000001.png"))[..., ::-1]
    assert np.array_equal(image, scene.image)
    label = cv2.imread(str(folder / "labels" / "000001.png"), cv2.IMREAD_UNCHANGED)
    assert label.dtype == np.uint8 and np.array_equal(label, scene.semantic)
    assert sorted(p.name for p in (folder / "crops").iterdir()) == sorted(STREETS_CLASSES)
    crops = list(folder.glob("crops/*/*.png"))
    large = [
        (c, i)
        for n in range(3)
        for s in [render_scene(11 + n)]
        for i, (b, c) in enumerate(zip(s.boxes, s.classes, strict=True))
        if min(b[2] - b[0], b[3] - b[1]) >= 12
    ]
    assert len(crops) == len(large) > 0
    assert all(cv2.imread(str(crop)).shape == (32, 32, 3) for crop in crops)


def test_boxes_load_as_coco(small):
    coco = COCO(str(small / "foggy/val/boxes.json"))
    assert [c["name"] for c in coco.loadCats(range(1, 9))] == list(STREETS_CLASSES)
    assert sorted(coco.getImgIds()) == [0, 1]
    for number in (0, 1):
        scene = render_scene(77 + number, "foggy")
        found = coco.loadAnns(coco.getAnnIds(imgIds=number))
        boxes = np.array([a["bbox"] for a in found], np.float32)
        boxes[:, 2:] += boxes[:, :2]
        assert np.array_equal(boxes, scene.boxes)
        assert [a["category_id"] - 1 for a in found] == scene.classes.tolist()
        assert [a["area"] for a in found] == [
            int((scene.instances == i + 1).sum()) for i in range(len(found))
        ]
        assert all(a["iscrowd"] == 0 for a in found)


def test_a_finished_data_set_is_not_built_again(small, monkeypatch):
    monkeypatch.setattr(build, "_build", lambda *_: pytest.fail("built again"))
    assert ensure_streets(small, splits=SMALL) == small


def test_default_root_follows_the_settings(monkeypatch, tmp_path):
    monkeypatch.setenv("MIC_DET_CACHE", str(tmp_path))
    root = build.default_root()
    assert root.parent == tmp_path and root.name.startswith("streets-")
    assert build.default_root(SMALL) != root


def test_an_interrupted_build_leaves_nothing(tmp_path, monkeypatch):
    def stop(work, splits, workers):
        (work / "half").write_text("half")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(build, "_build", stop)
        ensure_streets(tmp_path / "set", splits=SMALL)
    assert list(tmp_path.iterdir()) == []


def test_a_killed_build_does_not_count_and_is_cleared_away(tmp_path):
    code = (
        "import os\n"
        "from pathlib import Path\n"
        "from mic_det.data.streets import SplitSpec, build\n"
        "def die(work, splits, workers):\n"
        "    (work / 'half').write_text('half')\n"
        "    os._exit(9)\n"
        "build._build = die\n"
        f"build.ensure_streets(Path({str(tmp_path / 'set')!r}),"
        " splits={('clear', 'val'): SplitSpec(1, 3)})\n"
    )
    env = {**os.environ, "PYTHONPATH": str(Path(build.__file__).parents[3])}
    assert subprocess.run([sys.executable, "-c", code], env=env, check=False).returncode == 9
    (left,) = tmp_path.iterdir()
    assert left.name.startswith(".set.tmp-")
    os.utime(left, (0, 0))
    splits = {("clear", "val"): SplitSpec(1, 3)}
    root = ensure_streets(tmp_path / "set", splits=splits, workers=1)
    assert build.is_complete(root, splits)
    assert [p.name for p in tmp_path.iterdir()] == ["set"]


def test_builds_at_the_same_time_share_one_result(tmp_path):
    splits = {("clear", "val"): SplitSpec(1, 3)}

    def make(_):
        return ensure_streets(tmp_path / "set", splits=splits, workers=1)

    with ThreadPoolExecutor(3) as pool:
        roots = list(pool.map(make, range(3)))
    assert roots == [tmp_path / "set"] * 3
    assert build.is_complete(tmp_path / "set", splits)
    assert [p.name for p in tmp_path.iterdir()] == ["set"]


def test_a_folder_with_other_content_is_left_alone(tmp_path, small):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(DataError, match="exists and is not this version"):
        ensure_streets(tmp_path, splits=SMALL)
    with pytest.raises(DataError, match="exists and is not this version"):
        ensure_streets(small, splits={("clear", "train"): SplitSpec(1, 0)})
    assert json.loads((small / "streets.json").read_text()) == build.settings(SMALL)


def test_a_failing_worker_is_reported(tmp_path):
    splits = {("rain", "train"): SplitSpec(76, 0)}
    with pytest.raises(RuntimeError, match="worker"):
        ensure_streets(tmp_path / "set", splits=splits, workers=2)
    assert list(tmp_path.iterdir()) == []


def test_the_data_set_appears_only_by_the_rename(tmp_path, monkeypatch):
    def refuse(self, target):
        assert not Path(target).exists()
        raise OSError("no rename")

    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(DataError, match="no rename"):
        ensure_streets(tmp_path / "set", splits={("clear", "val"): SplitSpec(1, 3)}, workers=1)
    assert list(tmp_path.iterdir()) == []
