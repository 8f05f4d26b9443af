"""Images that are trained on and tested on."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mic_det.data.catalog import say_once


def shared_images(
    files: Mapping[str, Sequence[str]], pairs: Iterable[tuple[str, str]]
) -> list[str]:
    """A message for each pair of domains that have images in common.

    Args:
        files: paths of the labelled images of each domain. Two paths to one file, by links, are
            one image; copies of a file are not.
        pairs: names of two domains each, perhaps the same.
    """
    found = {name: {_identity(path): path for path in paths} for name, paths in files.items()}
    messages = []
    for first, second in dict.fromkeys(pairs):
        both = found.get(first, {}).keys() & found.get(second, {}).keys()
        if both:
            example = min(found[first][identity] for identity in both)
            what = (
                f"{first} is trained on and tested on"
                if first == second
                else f"{first} and {second} share {len(both)} of the {len(found[second])} labelled "
                f"images of {second}, the first is {example}"
            )
            messages.append(
                f"{what}. A test on what was trained on says nothing: take the images out of one "
                "of the two (image_list, pattern), or do not test on what is trained on."
            )
    return messages


def warn_of_shared_images(
    records: Mapping[str, Sequence[Mapping[str, Any]]], sources: Sequence[str], tests: Sequence[str]
) -> None:
    """Log a warning for each of ``DATASETS.TRAIN`` and of ``DATASETS.TEST`` that share images.

    Args:
        records: labelled dicts of Detectron2 by domain.
        sources, tests: the names in ``DATASETS``.
    """
    files = {name: [record["file_name"] for record in found] for name, found in records.items()}
    for message in shared_images(files, itertools.product(sources, tests)):
        say_once(logging.WARNING, f"DATASETS.TRAIN, DATASETS.TEST: {message}")


def _identity(path: str) -> object:
    try:
        status = Path(path).stat()
    except OSError:  # reading it says why
        return path
    return status.st_dev, status.st_ino
