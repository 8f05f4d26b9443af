"""Images that cannot be read in training: replaced, counted, and too many of them an error."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from mic_det.data.errors import DataError
from mic_det.data.images import read_image
from mic_det.data.mapper import check_size

logger = logging.getLogger(__name__)

LISTED = 20


def why_unreadable(record: dict[str, Any]) -> str | None:
    """Why the image of a Detectron2 dict cannot be read; None if it can."""
    try:
        path = Path(record["file_name"])
        check_size(path, read_image(path).shape[1::-1], record)
    except DataError as error:
        return " ".join(str(error).removeprefix(f"{path}: ").split())
    return None


class UnreadableImages:
    """Counts the distinct unreadable images that were met in one data set.

    Args:
        key: config key of the data set, for messages.
        total: number of its images.
        share: of them that may be unreadable, in [0, 1].
    """

    def __init__(self, key: str, total: int, share: float) -> None:
        self.key = key
        self.total = total
        self.share = share
        self.files: dict[str, str] = {}

    def check(self, batch: Iterable[dict[str, Any]]) -> None:
        """Take note of what `SampleStream` had to replace; DataError when it is too much."""
        for sample in batch:
            for name, reason in sample.pop("unreadable", ()):
                if name not in self.files:
                    self.files[name] = reason
                    logger.warning("%s: %s cannot be read and is left out", name, reason)
            if len(self.files) > self.share * self.total or "image" not in sample:
                raise DataError(self._message())

    def _message(self) -> str:
        lines = [f"  {name}: {reason}" for name, reason in sorted(self.files.items())[:LISTED]]
        if len(self.files) > LISTED:
            lines.append(f"  … and {len(self.files) - LISTED} more")
        return "\n".join(
            [
                f"{self.key}: {len(self.files)} of its {self.total} images cannot be read, more "
                f"than DATALOADER.MAX_UNREADABLE ({self.share:.2%}) allows:",
                *lines,
                "Mend or remove them, or raise DATALOADER.MAX_UNREADABLE; --resume goes on.",
            ]
        )
