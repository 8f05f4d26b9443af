"""How step time, memory and loading grow with batch, image size and workers."""

from __future__ import annotations

import contextlib
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from detectron2.data import transforms as T
from PIL import Image

from mic_det.data.loader import SampleStream, stream_loader
from mic_det.data.mapper import DomainMapper
from mic_det.data.resized import ResizedImages

from .cases import Case
from .measure import Clock, interleave
from .memory import in_child
from .workload import adaptation, step_of

Report = Callable[[str], None]


def step_growth(
    cases: Sequence[Case], repeats: int, clock: Clock, report: Report
) -> Iterator[dict[str, float]]:
    """Median, fastest and slowest seconds of a step, and its peak memory, case after case."""
    for case in cases:
        report(case.name)
        work = step_of(adaptation(case))
        (times,) = interleave({"step": work}, repeats, 1, case.device, clock=clock).values()
        yield {
            "images": case.source,
            "height": case.height,
            "width": case.width,
            "seconds": statistics.median(times),
            "fastest": min(times),
            "slowest": max(times),
            "peak_bytes": in_child(case, "step")[0],
        }


def by_batch(case: Case, sizes: Sequence[int]) -> list[Case]:
    """The same with n source and n target images."""
    return [replace(case, name=f"{n}+{n}", source=n, target=n) for n in sizes]


def by_side(case: Case, sides: Sequence[int]) -> list[Case]:
    """The same with one image of each domain whose short side is given and the other twice it."""
    return [
        replace(case, name=f"{n}x{2 * n}", height=n, width=2 * n, source=1, target=1) for n in sides
    ]


def loading(
    workers: Sequence[int], images: int, report: Report, size: tuple[int, int] = (1024, 2048)
) -> list[dict[str, float]]:
    """Images a second that a loader makes of PNG files, resized to a short side of 800.

    Wall-clock seconds: for each number of workers without a cache, and with one that has all
    images already. Each loader is run once through before it is timed.
    """
    rows = []
    with tempfile.TemporaryDirectory() as folder, _one_thread():
        records = _pictures(Path(folder), 6, size)
        cache = ResizedImages(Path(folder) / "cache", "BGR")
        for number in workers:
            for kept in (None, cache):
                report(f"{number} workers, cache {'on' if kept else 'off'}")
                rate = _rate(records, kept, number, images)
                rows.append({"workers": number, "cache": kept is not None, "per_second": rate})
    return rows


def _pictures(folder: Path, count: int, size: tuple[int, int]) -> list[dict]:
    """PNG files about as large as photographs of streets: smooth, with some grain."""
    generator = np.random.default_rng(0)
    height, width = size
    records = []
    for i in range(count):
        coarse = generator.integers(0, 256, (height // 64, width // 64, 3), dtype=np.uint8)
        smooth = np.asarray(Image.fromarray(coarse).resize((width, height), Image.BICUBIC))
        grain = generator.integers(-3, 4, smooth.shape, dtype=np.int16)
        path = folder / f"{i}.png"
        Image.fromarray((smooth.astype(np.int16) + grain).clip(0, 255).astype(np.uint8)).save(path)
        records.append({"file_name": str(path), "height": height, "width": width})
    return records


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """Inside, this process computes with one thread, as a worker of a loader does."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _rate(records: list[dict], cache: ResizedImages | None, workers: int, images: int) -> float:
    mapper = DomainMapper(
        is_train=True,
        augmentations=[T.ResizeShortestEdge((800,), 1600, "choice"), T.RandomFlip()],
        image_format="BGR",
        recompute_boxes=False,
        resized=cache,
    )
    batches = iter(stream_loader(SampleStream(records, mapper, 0, 0), 1, 0, workers))
    # Fills the cache, and empties what workers have made ahead when the clock starts.
    for _ in range(len(records) + 2 * workers):
        next(batches)
    begin = time.perf_counter()
    for _ in range(images):
        next(batches)
    return images / (time.perf_counter() - begin)
