"""README's recipe for own data: its files and commands, as they are printed, on tiny images."""

from __future__ import annotations

import html
import re
import shlex
import subprocess
import sys
from pathlib import Path

from processes import environment
from small_domain import coco_content, draw_images, write_coco_file, write_voc

REPOSITORY = Path(__file__).parents[1]
# Appended to the trainings, which are otherwise README's.
SHORT = [
    *("SOLVER.MAX_ITER", "2", "SOLVER.STEPS", "()", "SOLVER.WARMUP_ITERS", "1"),
    *("DATALOADER.NUM_WORKERS", "0", "TEST.EVAL_PERIOD", "0", "TEST.LABEL_FREE_IMAGES", "0"),
    *("INPUT.MIN_SIZE_TRAIN", "(64,)", "INPUT.MIN_SIZE_TEST", "64", "VIS_PERIOD", "0"),
]


def blocks() -> list[str]:
    """The indented blocks of the section."""
    text = (REPOSITORY / "README.md").read_text().split("## Your own data\n")[1].split("\n## ")[0]
    found = re.findall(r"(?:^    .*\n|^\n(?=    ))+", text, re.MULTILINE)
    return [re.sub(r"^    ", "", block, flags=re.MULTILINE).strip() for block in found]


def make_data(root: Path) -> None:
    """What README's my_domains.yaml names, in one class."""

    def vehicles(data: dict) -> None:
        data["categories"] = [{"id": 1, "name": "vehicle"}]
        for box in data["annotations"]:
            box["category_id"] = 1

    for folder in ("carla/images/train", "camvid/day_train/images", "camvid/day_val/images"):
        draw_images(root / folder)
    draw_images(root / "camvid/dusk_val/images")
    write_coco_file(root / "camvid/day_val", vehicles)
    (root / "carla/labels").mkdir()
    write_voc(root / "carla").rename(root / "carla/labels/train")
    names = "|".join(category["name"] for category in coco_content()["categories"])
    for file in (root / "carla/labels").rglob("*.xml"):
        file.write_text(re.sub(f"<name>({names})</name>", "<name>vehicle</name>", file.read_text()))


def test_recipe_for_own_data_ends_in_a_fair_comparison(tmp_path):
    domains, checks, config, commands = blocks()
    make_data(tmp_path)
    config = config.replace("configs/", f"{REPOSITORY}/configs/")
    files = {"my_domains": domains, "my_mic": config}
    files["my_source"] = config.replace("_mic", "_source")
    files["my_burn_in"] = re.sub("MODEL:.*\n", "", config.replace("_mic", "_burn_in"))
    for name, text in files.items():
        (tmp_path / f"{name}.yaml").write_text(text)
    for line in f"{checks}\n{commands}".replace("\\\n", " ").splitlines():
        program, tool, *arguments = shlex.split(line, comments=True)
        assert program == "python"
        short = SHORT if tool.endswith("train_net.py") else []
        done = subprocess.run(
            [sys.executable, REPOSITORY / tool, *arguments, *short],
            cwd=tmp_path,
            env=environment(tmp_path),
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{line}\n{done.stdout[-1000:]}{done.stderr[-2000:]}"
    page = html.unescape((tmp_path / "report.html").read_text())
    assert "MIC (my_mic) against source-only (my_source), each after 4 iterations in all" in page
    assert (tmp_path / "dusk/pictures/a.png").is_file()
