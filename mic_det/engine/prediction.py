"""A trained detector on a user's own images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import transforms as T
from detectron2.structures import Instances
from torch import nn

from mic_det.config import ConfigError

from .build import build_student_and_teacher
from .checkpoint import AdaptationCheckpointer

CLASSIFIER = "roi_heads.box_predictor.cls_score.weight"


class Predictor:
    """Detections on single images, as in evaluation: resized to test size and back.

    Args:
        model: a detector of Detectron2; put into eval mode.
        min_size, max_size: of the shorter and longer side in pixels, as ``INPUT.MIN_SIZE_TEST``;
            min_size 0 leaves images as they are.
        threshold: score from which on a detection counts, in [0, 1].
    """

    def __init__(self, model: nn.Module, min_size: int, max_size: int, threshold: float) -> None:
        self.model = model.eval()
        self.resize = T.ResizeShortestEdge([min_size, min_size], max_size)
        self.threshold = threshold

    @torch.no_grad()
    def __call__(self, image: np.ndarray) -> Instances:
        """Detections on an image (H, W, 3) uint8, in its pixels, best first, on the CPU.

        They have ``pred_boxes`` (N, 4) XYXY, ``scores`` (N,) and ``pred_classes`` (N,).
        """
        height, width = image.shape[:2]
        resized = self.resize.get_transform(image).apply_image(image)
        pixels = torch.from_numpy(np.ascontiguousarray(resized.transpose(2, 0, 1)))
        record = {"image": pixels, "height": height, "width": width}
        found = self.model([record])[0]["instances"].to("cpu")
        return found[found.scores >= self.threshold]


def build_predictor(
    cfg: CfgNode, weights: str, which: str | None = None, threshold: float = 0.5
) -> Predictor:
    """The ``which`` ("student" or "teacher", default ``TEST.SERVE``) of a weights file.

    A file without a teacher serves for ``TEST.SERVE`` "teacher" as well; asked for by ``which``, a
    teacher must be there. Raises ConfigError if the file is missing, is none, or does not fit.
    """
    student, teacher = build_student_and_teacher(cfg)
    checkpointer = _StrictCheckpointer(student, teacher, cfg)
    try:
        checkpointer.start_from(weights, which or cfg.TEST.SERVE)
    except ConfigError as error:
        raise ConfigError(str(error).replace("MODEL.WEIGHTS: ", "")) from error
    if which == "teacher" and not checkpointer.found_teacher:
        raise ConfigError(f"{weights}: holds no teacher; use --model student")
    return Predictor(student, cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST, threshold)


class _StrictCheckpointer(AdaptationCheckpointer):
    """Refuses a file that does not fill the whole detector, where training only warns."""

    def __init__(self, student: nn.Module, teacher: Any, cfg: CfgNode) -> None:
        super().__init__(student, teacher)
        self.classes = cfg.MODEL.ROI_HEADS.NUM_CLASSES
        self.path = ""
        self.found_teacher = False

    def _load_file(self, filename: str) -> dict[str, Any]:
        self.path = filename
        try:
            loaded = super()._load_file(filename)
            self.found_teacher = "teacher" in loaded
        except Exception as error:  # pickle, zip and torch each have errors of their own
            raise ConfigError(f"{filename}: cannot be read as weights: {error}") from error
        return loaded

    def _load_model(self, checkpoint: Any) -> Any:
        result = super()._load_model(checkpoint)
        wrong = {name: (theirs, ours) for name, theirs, ours in result.incorrect_shapes}
        if CLASSIFIER in wrong:
            theirs = wrong[CLASSIFIER][0][0] - 1
            raise ConfigError(
                f"{self.path}: was trained for {theirs} classes, but the config's "
                f"MODEL.ROI_HEADS.NUM_CLASSES is {self.classes}. Use the config that it was "
                "trained with."
            )
        missing = [name for name in result.missing_keys if not name.startswith("domain_heads.")]
        if wrong or missing:
            examples = ", ".join([*wrong, *missing][:3])
            raise ConfigError(
                f"{self.path}: does not fit the config's model: {len(wrong)} tensors of another "
                f"shape and {len(missing)} missing, such as {examples}. Use the config it was "
                "trained with."
            )
        return result


def coco_records(found: Instances, image_id: int) -> list[dict[str, Any]]:
    """Detections as records of a COCO results file; ``category_id`` is the class + 1."""
    boxes = found.pred_boxes.tensor.clone()
    boxes[:, 2:] -= boxes[:, :2]
    return [
        {
            "image_id": image_id,
            "category_id": int(k) + 1,
            "bbox": [round(v, 2) for v in box],
            "score": round(score, 5),
        }
        for box, score, k in zip(
            boxes.tolist(), found.scores.tolist(), found.pred_classes, strict=True
        )
    ]


def coco_categories(names: Sequence[str]) -> list[dict[str, Any]]:
    """The categories that `coco_records` refers to."""
    return [{"id": k + 1, "name": name} for k, name in enumerate(names)]
