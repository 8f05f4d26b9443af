"""Short runs of each task on domains whose classes can be put into another order."""

from __future__ import annotations

from pathlib import Path

import class_trees
import seg_domains
import segmentor
import small_domain
import small_runs
import yaml

from mic_det.config import load_config
from mic_det.data.catalog import unregister_domain

CONFIGS = Path(__file__).parents[1] / "configs"
TASKS = ("detection", "segmentation", "classification")
CLASSES = {
    "detection": ["car", "person"],
    "segmentation": ["dark", "red", "green", "blue"],
    "classification": list(class_trees.CLASSES),
}
FILES = {
    "detection": "base/streets.yaml",
    "segmentation": "seg/streets_source.yaml",
    "classification": "cls/digits_source.yaml",
}
COUNT_KEYS = {
    "detection": "MODEL.ROI_HEADS.NUM_CLASSES",
    "segmentation": "MODEL.SEM_SEG_HEAD.NUM_CLASSES",
    "classification": "MODEL.CLASSIFIER.NUM_CLASSES",
}


def _entry(task: str, root: Path) -> dict:
    """The labelled domain, drawn below ``root`` when it is first asked for."""
    first = not root.exists()
    if task == "detection":
        if first:
            small_domain.make_domain(root)
        return {"images": f"{root}/images", "annotations": f"{root}/boxes.json"}
    if task == "segmentation":
        if first:
            root.mkdir(parents=True)
            seg_domains.write_domains(root)
        label_map = {0: "dark", 1: "red", 2: "green", 3: "blue", 9: "ignore"}
        places = {"images": f"{root}/source/images", "labels": f"{root}/source/labels"}
        return places | {"label_map": label_map}
    if first:
        class_trees.make_tree(root)
    return {"images": str(root), "class_folders": True}


def images_of(task: str, root: Path) -> Path:
    """The folder of images of that domain."""
    return Path(_entry(task, root)["images"])


def config(task: str, root: Path, output: Path, *overrides: object, classes=None):
    """Train and test on a domain of ``root/data`` with these classes, three iterations."""
    for name in ("src", "tgt"):
        unregister_domain(name)
    entry = _entry(task, root / "data") | {"classes": list(classes or CLASSES[task])}
    domains = {"src": entry, "tgt": {"images": entry["images"]}}
    if task == "classification":
        domains["tgt"]["class_folders"] = True
    (root / "domains.yaml").write_text(yaml.safe_dump(domains))
    tiny = {
        "detection": [*small_runs.SMALL, "MODEL.MIC.SCORE_THRESH", "0.12"],
        "segmentation": [str(part) for item in segmentor.TINY.items() for part in item],
        "classification": class_trees.TINY,
    }[task]
    settings = [
        *("DATASETS.REGISTER", f"('{root}/domains.yaml',)", "DATASETS.TRAIN", "('src',)"),
        *("DATASETS.TARGET", "('tgt',)", "DATASETS.TEST", "('src',)", "SOLVER.MAX_ITER", "3"),
        *("SOLVER.CHECKPOINT_PERIOD", "2", "VIS_PERIOD", "0", "TEST.LABEL_FREE_IMAGES", "0"),
        *("TEST.EVAL_PERIOD", "0", "MODEL.WEIGHTS", "", "MODEL.DEVICE", "cpu", "SEED", "1"),
        *(COUNT_KEYS[task], str(len(entry["classes"])), "OUTPUT_DIR", str(output)),
    ]
    if task == "segmentation":
        settings += ["INPUT.MIN_SIZE_TRAIN", "(64,)", "INPUT.MIN_SIZE_TEST", "64"]
    return load_config(CONFIGS / FILES[task], [*tiny, *settings, *map(str, overrides)])
