"""A trained detector on a user's own images: boxes drawn, and a COCO results json."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import transforms as T
from detectron2.structures import Instances
from torch import nn

from mic_det.data.class_names import numbered
from mic_det.data.errors import DataError
from mic_det.data.files import write_atomically, write_text_atomically
from mic_det.data.inputs import IMAGES, Frame, Input
from mic_det.drawing import image_scale
from mic_det.tasks import Predictions, PredictOptions

from .visualise import draw_boxes

# Smaller images are enlarged for drawing, so that the letters fit.
LEAST_WIDTH = 640


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

    @classmethod
    def from_config(cls, cfg: CfgNode, model: nn.Module, threshold: float = 0.5) -> Predictor:
        """With the sizes of ``INPUT``."""
        return cls(model, cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST, threshold)

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


class Drawings:
    """Writes each input's frames with boxes: an image beside its like, a video as one video."""

    def __init__(self, folder: Path, names: list[str], channels: str, every: int) -> None:
        self.folder = folder
        self.names = names
        self.rgb = channels == "RGB"
        self.every = every
        self.video: cv2.VideoWriter | None = None

    def add(self, source: Input, frame: Frame, found: Instances) -> None:
        image = frame.pixels if self.rgb else frame.pixels[:, :, ::-1]
        scale = max(1.0, image_scale(image, LEAST_WIDTH))
        boxes, scores = found.pred_boxes.tensor.numpy(), found.scores.tolist()
        image = np.ascontiguousarray(image)
        drawn = draw_boxes(image, boxes, found.pred_classes, self.names, scores, scale)
        bgr = np.ascontiguousarray(drawn[:, :, ::-1])
        path = self.path(source)
        if frame.index is not None:
            self._add_frame(source, path, bgr)
            return
        _, encoded = cv2.imencode(path.suffix, bgr)
        write_atomically(path, lambda file: file.write(encoded.tobytes()))

    def path(self, source: Input) -> Path:
        """The file that the drawings of an input go to."""
        ending, kept = (".mp4", (".mp4",)) if source.is_video else (".png", IMAGES)
        return self.folder / source.output_name(ending, kept)

    def _add_frame(self, source: Input, path: Path, image: np.ndarray) -> None:
        if self.video is None:
            path.parent.mkdir(parents=True, exist_ok=True)
            rate = source.frame_rate() / self.every
            size = (image.shape[1], image.shape[0])
            self.video = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"mp4v"), rate, size)
            if not self.video.isOpened():
                raise DataError(f"{path}: this OpenCV cannot write videos; use --no-pictures")
        self.video.write(image)

    def close(self) -> None:
        """End the current video, if there is one."""
        if self.video is not None:
            self.video.release()
            self.video = None


class DetectionPredictions(Predictions):
    """``coco_instances_results.json``, ``images.json`` that explains its ids, and pictures."""

    def __init__(self, cfg: CfgNode, model: nn.Module, options: PredictOptions) -> None:
        self.predictor = Predictor.from_config(cfg, model, options.threshold)
        self.names = list(options.classes) or numbered(cfg.MODEL.ROI_HEADS.NUM_CLASSES)
        self.folder = options.folder
        self.drawings: Drawings | None = None
        if options.pictures:
            pictures = options.folder / "pictures"
            self.drawings = Drawings(pictures, self.names, cfg.INPUT.FORMAT, options.every)
        self.images: list[dict[str, Any]] = []
        self.detections: list[dict[str, Any]] = []

    def files(self, source: Input) -> list[Path]:
        return [] if self.drawings is None else [self.drawings.path(source)]

    def add(self, source: Input, frame: Frame) -> None:
        found = self.predictor(frame.pixels)
        height, width = frame.pixels.shape[:2]
        image: dict[str, Any] = {"id": len(self.images) + 1, "file_name": source.name.as_posix()}
        image |= {"height": height, "width": width, "path": str(source.path)}
        if frame.index is not None:
            image["frame"] = frame.index
            image["file_name"] += f"#{frame.index:06d}"  # COCO tells images apart by this
        self.images.append(image)
        self.detections += coco_records(found, image["id"])
        if self.drawings is not None:
            self.drawings.add(source, frame, found)

    def end_input(self) -> None:
        if self.drawings is not None:
            self.drawings.close()

    def write(self) -> str:
        categories = coco_categories(self.names)
        described = {"images": self.images, "categories": categories, "annotations": []}
        write_text_atomically(self.folder / "images.json", json.dumps(described, indent=1))
        results = self.folder / "coco_instances_results.json"
        write_text_atomically(results, json.dumps(self.detections))
        return f"{len(self.detections)} detections on {len(self.images)} images: {self.folder}"


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
