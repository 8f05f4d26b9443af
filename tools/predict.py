#!/usr/bin/env python
"""Detect on images and videos: boxes drawn, and a COCO results json.

    python tools/predict.py --config configs/cs2foggy_mic.yaml \\
        --weights output/cs2foggy_mic/model_best.pth IMAGES --output output/predictions

IMAGES are files, folders with all below them, patterns in quotes, and video files. Written to the
output folder: `pictures/` with the names of the inputs, `coco_instances_results.json`, and
`images.json`, which says what the image and category ids in it stand for.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
from detectron2.structures import Instances
from tqdm import tqdm

from mic_det.cli import run_tool
from mic_det.config import TEST_MODELS, ConfigError, load_config
from mic_det.data.class_names import class_names
from mic_det.data.coco import DataError, write_text_atomically
from mic_det.data.register import register_from_config
from mic_det.detection.visualise import draw_boxes
from mic_det.drawing import image_scale
from mic_det.engine.inputs import IMAGES, Frame, Input, UnreadableError, find_inputs
from mic_det.engine.prediction import Predictor, build_predictor, coco_categories, coco_records

# Smaller images are enlarged for drawing, so that the letters fit.
LEAST_WIDTH = 640


def parse_arguments() -> argparse.Namespace:
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=form)
    parser.add_argument("inputs", nargs="+", metavar="IMAGES", help="files, folders, patterns")
    parser.add_argument("--config", required=True, help="the one the weights were trained with")
    parser.add_argument("--weights", required=True, help="a checkpoint, e.g. model_final.pth")
    parser.add_argument("--output", required=True, type=Path, metavar="DIR")
    parser.add_argument("--model", choices=TEST_MODELS, help="default: the config's TEST.SERVE")
    parser.add_argument(
        "--threshold",
        type=float,
        default=0.5,
        help="least score of a detection, drawn and written (default: %(default)s; 0.05 keeps "
        "what an AP is computed from)",
    )
    parser.add_argument(
        "--every", type=int, default=1, metavar="N", help="of videos, every N-th frame"
    )
    parser.add_argument("--no-pictures", action="store_true", help="write the json alone")
    parser.add_argument(
        "--opts", nargs="+", default=[], metavar="KEY VALUE", help="overrides of the config"
    )
    arguments = parser.parse_args()
    if not 0 <= arguments.threshold <= 1:
        parser.error("--threshold is in [0, 1]")
    if arguments.every < 1:
        parser.error("--every is at least 1")
    return arguments


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
        path = self.folder / source.name
        if frame.index is None and path.suffix.lower() not in IMAGES:
            path = path.with_name(f"{path.name}.png")
        path.parent.mkdir(parents=True, exist_ok=True)
        bgr = np.ascontiguousarray(drawn[:, :, ::-1])
        if frame.index is not None:
            self._add_frame(source, path, bgr)
        elif not cv2.imwrite(str(path), bgr):
            raise DataError(f"{path}: cannot be written")

    def _add_frame(self, source: Input, path: Path, image: np.ndarray) -> None:
        if self.video is None:
            path = path if path.suffix == ".mp4" else path.with_name(f"{path.name}.mp4")
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


def frames(
    inputs: list[Input], channels: str, every: int, unreadable: list[str], drawings: Drawings | None
) -> Iterator[tuple[Input, Frame]]:
    """All frames of all inputs under a progress bar; what cannot be read goes to ``unreadable``."""
    total = sum(-(-each.count() // every) for each in inputs)
    with tqdm(total=total, unit="image", disable=None) as bar:
        for each in inputs:
            try:
                for frame in each.frames(channels, every):
                    yield each, frame
                    bar.update()
            except UnreadableError as error:
                unreadable.append(str(error))
                bar.update(0 if each.is_video else 1)
            finally:
                if drawings is not None:
                    drawings.close()


def predict(
    predictor: Predictor, stream: Iterator[tuple[Input, Frame]], drawings: Drawings | None
) -> tuple[list[dict], list[dict]]:
    """COCO image records and detections of all frames."""
    images: list[dict] = []
    detections: list[dict] = []
    for source, frame in stream:
        found = predictor(frame.pixels)
        height, width = frame.pixels.shape[:2]
        image = {"id": len(images) + 1, "file_name": source.name.as_posix()}
        image |= {"height": height, "width": width, "path": str(source.path)}
        if frame.index is not None:
            image["frame"] = frame.index
        images.append(image)
        detections += coco_records(found, image["id"])
        if drawings is not None:
            drawings.add(source, frame, found)
    return images, detections


def main() -> None:
    arguments = parse_arguments()
    cfg = load_config(arguments.config, arguments.opts)
    register_from_config(cfg)
    inputs = find_inputs(arguments.inputs)
    if not Path(arguments.weights).is_file() and "://" not in arguments.weights:
        raise ConfigError(f"--weights: {arguments.weights}: no such file")
    predictor = build_predictor(cfg, arguments.weights, arguments.model, arguments.threshold)
    datasets = (*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST)
    names = class_names(datasets, cfg.MODEL.ROI_HEADS.NUM_CLASSES)
    channels, folder = cfg.INPUT.FORMAT, arguments.output
    drawings = None
    if not arguments.no_pictures:
        drawings = Drawings(folder / "pictures", names, channels, arguments.every)
    unreadable: list[str] = []
    stream = frames(inputs, channels, arguments.every, unreadable, drawings)
    images, detections = predict(predictor, stream, drawings)

    folder.mkdir(parents=True, exist_ok=True)
    described = {"images": images, "categories": coco_categories(names), "annotations": []}
    write_text_atomically(folder / "images.json", json.dumps(described, indent=1))
    write_text_atomically(folder / "coco_instances_results.json", json.dumps(detections))
    print(f"{len(detections)} detections on {len(images)} images: {folder}")
    if unreadable:
        print(f"error: {len(unreadable)} of {len(inputs)} inputs unreadable:", file=sys.stderr)
        print("\n".join(f"  {each}" for each in unreadable), file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    run_tool(main)
