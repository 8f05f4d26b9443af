"""Intersection over union on target validation data, by Detectron2's evaluator."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.evaluation import SemSegEvaluator, inference_on_dataset
from detectron2.utils import comm
from torch import nn

from mic_det.data.files import write_atomically
from mic_det.data.loader import evaluation_loader
from mic_det.data.segmentation import SegmentationMapper, label_loader, labelled_seg_dicts

from .drawing import write_labels

PREDICTED, TRUTH = "labels", "truth"
TEST_SET = "test_set.json"
# Metrics that are kept: overall, and by class.
OVERALL = ("mIoU", "fwIoU", "mACC", "pACC")
PER_CLASS = "IoU"


class LabelMapEvaluator(SemSegEvaluator):
    """`SemSegEvaluator` that leaves the predicted label maps as PNG files, not as one big json.

    Args:
        name: of a labelled domain.
        folder: of the files, named as the images; None: none are written.
    """

    def __init__(self, name: str, folder: Path | None = None) -> None:
        super().__init__(name, sem_seg_loading_fn=self._load_truth)
        self.folder = folder
        self._load = label_loader(name)
        dicts = labelled_seg_dicts(name)
        self._ids = {each["file_name"]: each["image_id"] for each in dicts}
        self._truth_ids = {each["sem_seg_file_name"]: each["image_id"] for each in dicts}
        # Boundaries cost more time than all else, and nobody here reads them.
        self._compute_boundary_iou = False

    def encode_json_sem_seg(self, sem_seg: np.ndarray, input_file_name: str) -> list[Any]:
        """Write the map (H, W) of an image instead of encoding it."""
        if self.folder is not None:
            write_labels(self.folder / map_file(PREDICTED, self._ids[input_file_name]), sem_seg)
        return []

    def _load_truth(self, path: str, dtype: Any = np.uint8) -> np.ndarray:
        """Read a label file, and leave what it says, as ids of the model's classes."""
        labels = self._load(path, dtype)
        if self.folder is not None:
            write_labels(self.folder / map_file(TRUTH, self._truth_ids[path]), labels)
        return labels


def map_file(kind: str, image_id: str) -> Path:
    """Where the label map of an image is, `PREDICTED` or `TRUTH`, in the folder of a test set."""
    return Path(kind, image_id).with_suffix(".png")


def evaluate_model(
    cfg: CfgNode, model: nn.Module, output_dir: str | Path | None = None
) -> dict[str, dict[str, float]]:
    """Evaluate a segmentor on each of ``DATASETS.TEST``.

    With ``output_dir`` each test set gets a folder of its name with the predicted and the
    true ones, and a ``test_set.json``: ``name``, ``classes``, ``colours`` and ``images``, each with
    ``file_name``, and ``truth`` and ``predicted``, label maps below the folder.

    Returns ``{dataset: {"mIoU", "fwIoU", "mACC", "pACC", "IoU-<class>", …}}`` in percent; NaN for a
    class that the data set does not show. On processes other than the first the values are empty.
    """
    results = {}
    for name in cfg.DATASETS.TEST:
        folder = None if output_dir is None else Path(output_dir) / name
        mapper = SegmentationMapper(cfg, is_train=False)
        loader = evaluation_loader(cfg, labelled_seg_dicts(name), mapper)
        found = inference_on_dataset(model, loader, LabelMapEvaluator(name, folder)) or {}
        results[name] = {
            key: float(value)
            for key, value in found.get("sem_seg", {}).items()
            if key in OVERALL or key.startswith(f"{PER_CLASS}-")
        }
        if folder is not None and comm.is_main_process():
            _write_test_set(name, folder)
    return results


def _write_test_set(name: str, folder: Path) -> None:
    metadata = MetadataCatalog.get(name)
    described = {
        "name": name,
        "classes": list(metadata.stuff_classes),
        "colours": [list(map(int, each)) for each in metadata.stuff_colors],
        "images": [
            {
                "file_name": str(Path(each["file_name"]).absolute()),
                "truth": str(map_file(TRUTH, each["image_id"])),
                "predicted": str(map_file(PREDICTED, each["image_id"])),
            }
            for each in labelled_seg_dicts(name)
        ],
    }
    text = json.dumps(described, indent=1) + "\n"
    write_atomically(folder / TEST_SET, lambda file: file.write(text.encode()))
