#!/usr/bin/env python
"""A trained model on images and videos.

    python tools/predict.py --config configs/cs2foggy_mic.yaml \\
        --weights output/cs2foggy_mic/model_best.pth IMAGES --output output/predictions

IMAGES are files, folders with all below them, patterns in quotes, and video files. What is written
to the output folder depends on the config's MODEL.TASK:

    detection       pictures/ with boxes, under the names of the inputs;
                    coco_instances_results.json; images.json explains the ids in it
    classification  predictions.csv: file, class, confidence and the next best classes
    segmentation    labels/ with class ids and colours/ with colour maps, PNG; classes.json
                    explains the ids

Inputs that would be overwritten are refused.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

from tqdm import tqdm

from mic_det.cli import run_tool
from mic_det.config import TEST_MODELS, ConfigError, load_config
from mic_det.data.inputs import Frame, Input, UnreadableError, find_inputs, refuse_overwriting
from mic_det.engine.prediction import load_model
from mic_det.tasks import Predictions, PredictOptions, task_of


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
        help="detection: least score, drawn and written (default: %(default)s; 0.05 keeps "
        "what an AP is computed from)",
    )
    parser.add_argument(
        "--every", type=int, default=1, metavar="N", help="of videos, every N-th frame"
    )
    parser.add_argument("--no-pictures", action="store_true", help="draw nothing")
    parser.add_argument(
        "--opts", nargs="+", default=[], metavar="KEY VALUE", help="overrides of the config"
    )
    arguments = parser.parse_args()
    if not 0 <= arguments.threshold <= 1:
        parser.error("--threshold is in [0, 1]")
    if arguments.every < 1:
        parser.error("--every is at least 1")
    return arguments


def frames(
    inputs: list[Input], channels: str, every: int, unreadable: list[str], predictions: Predictions
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
                predictions.end_input()


def main() -> None:
    arguments = parse_arguments()
    cfg = load_config(arguments.config, arguments.opts)
    task = task_of(cfg)
    task.register(cfg)
    inputs = find_inputs(arguments.inputs)
    if not Path(arguments.weights).is_file() and "://" not in arguments.weights:
        raise ConfigError(f"--weights: {arguments.weights}: no such file")
    model, classes = load_model(cfg, arguments.weights, arguments.model)
    options = PredictOptions(
        arguments.output,
        arguments.threshold,
        pictures=not arguments.no_pictures,
        every=arguments.every,
        classes=classes,
    )
    predictions = task.predictions(cfg, model, options)
    refuse_overwriting(inputs, predictions.files)
    unreadable: list[str] = []
    for source, frame in frames(inputs, cfg.INPUT.FORMAT, arguments.every, unreadable, predictions):
        predictions.add(source, frame)
    print(predictions.write())
    if unreadable:
        print(f"error: {len(unreadable)} of {len(inputs)} inputs unreadable:", file=sys.stderr)
        print("\n".join(f"  {each}" for each in unreadable), file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    run_tool(main)
