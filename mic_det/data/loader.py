"""Endless, reproducible batches of source and target images.

Sample k of a stream, its place in the shuffled data set and its random augmentation depend on
(seed, k) and nothing else: not on the number of workers, nor on what was drawn before. A run that
is resumed at iteration t continues with exactly the samples it would have seen.
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import build_detection_test_loader
from detectron2.data import transforms as T
from detectron2.data.detection_utils import build_augmentation
from detectron2.utils import comm
from torch.utils.data import DataLoader, Dataset, Sampler

from mic_det.errors import UserError

from .augmentation import colour_jitter
from .catalog import labelled_dicts, unlabelled_dicts
from .errors import DataError
from .mapper import DomainMapper
from .resized import ResizedImages
from .unreadable import UnreadableImages, why_unreadable

# Streams of one run are told apart by these, so that source and target draw independently.
SOURCE_STREAM, TARGET_STREAM = 0, 1
# Other images tried in place of one that cannot be read.
REPLACEMENTS = 10
# How PyTorch's errors about workers begin; those that a worker raised itself begin with "Caught".
WORKER_FAILURES = ("DataLoader ", "Too many open files")


class WorkerError(UserError, RuntimeError):
    """A worker process that loads images gave nothing for too long, or has ended."""


def worker_failure(error: BaseException) -> WorkerError | None:
    """The message for a person if an error of PyTorch's says that a worker failed, else None."""
    reason = str(error).splitlines()[0].strip() if str(error) else ""
    if not isinstance(error, RuntimeError) or not reason.startswith(WORKER_FAILURES):
        return None
    room = ""
    with contextlib.suppress(OSError):
        shared = shutil.disk_usage("/dev/shm")
        room = f" ({shared.free / 2**20:.0f} of {shared.total / 2**20:.0f} MB are free now)"
    return WorkerError(
        f"The worker processes that load images give nothing any more: {reason}\n"
        "Likely causes, the likeliest first:\n"
        f"  1. /dev/shm, through which workers hand over images, is full{room}. Docker gives it 64 "
        "MB: start the container with --shm-size 8g or --ipc host.\n"
        "  2. The memory is full and the system has ended a worker (SIGKILL): lower "
        "DATALOADER.NUM_WORKERS or DATALOADER.PREFETCH_FACTOR.\n"
        "  3. The disk or network that the images are on hangs or is slow: raise "
        "DATALOADER.TIMEOUT.\n"
        "DATALOADER.NUM_WORKERS 0 loads without workers. Checkpoints are kept: --resume goes on "
        "from the last one."
    )


@contextlib.contextmanager
def worker_failures_explained() -> Iterator[None]:
    """Raise `WorkerError` for PyTorch's errors about workers, which come at any point of a loop."""
    try:
        yield
    except RuntimeError as error:
        explained = worker_failure(error)
        if explained is None:
            raise
        raise explained from error


def _seed_of(*key: int) -> int:
    return int(np.random.SeedSequence(key).generate_state(1)[0])


@contextlib.contextmanager
def _seeded(*key: int) -> Iterator[None]:
    """Seed python's and numpy's generators, which Detectron2's transforms use, for a while."""
    seed = _seed_of(*key)
    python_state, numpy_state = random.getstate(), np.random.get_state()
    random.seed(seed)
    np.random.seed(seed)
    try:
        yield
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)


class SampleStream(Dataset):
    """Sample k of an endless shuffled pass over ``dicts``, mapped by ``mapper``.

    Beside what the mapper returns, a sample has ``sample_seed``, for draws on it that shall not
    depend on the process that makes them, and ``unreadable``: (file, reason) of images that could
    not be read and in whose place another one stands, which follows from (seed, stream, k) too. It
    has no ``image`` when none of `REPLACEMENTS` others could be read either.

    Args:
        dicts: Detectron2 dataset dicts, at least one.
        mapper: from a dataset dict to the model's input dict; may draw from python's or numpy's
            random generators.
        seed: of shuffling and augmentation.
        stream: tells streams with the same seed apart.
        why_unreadable: of a dict that the mapper failed on, why its files cannot be read; None if
            they can, and then the mapper's error is raised.
    """

    def __init__(
        self,
        dicts: Sequence[dict[str, Any]],
        mapper: Callable[[dict[str, Any]], dict[str, Any]],
        seed: int,
        stream: int,
        why_unreadable: Callable[[dict[str, Any]], str | None] = why_unreadable,
    ) -> None:
        if not dicts:
            raise ValueError("a stream needs at least one image")
        self.dicts = dicts
        self.mapper = mapper
        self.key = (seed, stream)
        self.why_unreadable = why_unreadable
        self._epoch = -1
        self._order = np.empty(0, dtype=np.int64)

    def index_of(self, k: int) -> int:
        """Place in ``dicts`` of sample k: each pass visits every image once, in its own order."""
        epoch, position = divmod(k, len(self.dicts))
        if epoch != self._epoch:
            generator = np.random.default_rng((*self.key, epoch))
            self._order = generator.permutation(len(self.dicts))
            self._epoch = epoch
        return int(self._order[position])

    def __getitem__(self, k: int) -> dict[str, Any]:
        unreadable: list[tuple[str, str]] = []
        extra = {"sample_seed": _seed_of(*self.key, k), "unreadable": unreadable}
        for attempt in range(1 + REPLACEMENTS):
            record = self._record(k, attempt)
            try:
                with _seeded(*self.key, k):
                    return self.mapper(record) | extra
            except Exception:
                reason = self.why_unreadable(record)
                if reason is None:
                    raise
                unreadable.append((record["file_name"], reason))
        return extra

    def _record(self, k: int, attempt: int) -> dict[str, Any]:
        """The dict of sample k, or of the image that takes its place after ``attempt`` others."""
        return self.dicts[self._place(k, attempt)]

    def _place(self, k: int, attempt: int) -> int:
        if attempt == 0:
            return self.index_of(k)
        return int(np.random.default_rng((*self.key, k, attempt)).integers(len(self.dicts)))


class _BatchPositions(Sampler[list[int]]):
    """Sample numbers of this process's batches, from iteration ``start`` on, without end."""

    def __init__(self, total_batch: int, start: int) -> None:
        self.total_batch = total_batch
        self.start = start

    def __iter__(self) -> Iterator[list[int]]:
        share = self.total_batch // comm.get_world_size()
        first = comm.get_rank() * share
        iteration = self.start
        while True:
            base = iteration * self.total_batch + first
            yield list(range(base, base + share))
            iteration += 1


def stream_loader(
    stream: SampleStream,
    total_batch: int,
    start: int,
    num_workers: int,
    prefetch: int = 2,
    timeout: float = 0,
) -> DataLoader:
    """Batches (lists of mapped dicts) of ``stream``, beginning with those of iteration ``start``.

    ``total_batch`` is over all processes and must be a multiple of their number (ValueError). Each
    worker makes ``prefetch`` batches ahead; a batch may take ``timeout`` seconds, 0 for no limit.
    """
    world = comm.get_world_size()
    if total_batch < world or total_batch % world:
        raise ValueError(f"a batch of {total_batch} cannot be shared out among {world} processes")
    return _Loader(
        stream,
        batch_sampler=_BatchPositions(total_batch, start),
        num_workers=num_workers,
        collate_fn=list,
        pin_memory=False,
        persistent_workers=num_workers > 0,
        prefetch_factor=prefetch if num_workers > 0 else None,
        # Without one of its own a loader takes a draw from torch's generator when it starts, which
        # would make the first step after a resume another one.
        generator=torch.Generator(),
        worker_init_fn=_prepare_worker,
        timeout=timeout if num_workers > 0 else 0,
    )


def evaluation_loader(
    cfg: CfgNode,
    dicts: list[dict[str, Any]],
    mapper: Callable[[dict[str, Any]], dict[str, Any]],
    batch_size: int = 1,
) -> DataLoader:
    """Detectron2's loader of test images, each once; workers are the configuration's."""
    workers = cfg.DATALOADER.NUM_WORKERS
    built = build_detection_test_loader(
        dataset=dicts, mapper=mapper, num_workers=workers, batch_size=batch_size
    )
    return _Loader(
        built.dataset,
        batch_size=batch_size,
        sampler=built.sampler,
        num_workers=workers,
        collate_fn=built.collate_fn,
        worker_init_fn=_prepare_worker,
        timeout=cfg.DATALOADER.TIMEOUT if workers > 0 else 0,
    )


class _Loader(DataLoader):
    """A loader whose workers are started with SIGTERM blocked.

    They inherit that, in all threads that they will ever have: in one thread that does not block
    it, torch's handler would end the worker. `_prepare_worker` waits for the signal.
    """

    def __iter__(self) -> Iterator[Any]:
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        try:
            return super().__iter__()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _prepare_worker(_: int) -> None:
    """One thread; and SIGTERM that all processes of a job get is the main process's affair.

    It makes its last iterations, which need batches, and a checkpoint.
    """
    torch.set_num_threads(1)
    threading.Thread(target=_end_at_parents_sigterm, args=(os.getppid(),), daemon=True).start()


def _end_at_parents_sigterm(parent: int) -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent:
        pass
    os._exit(0)


def training_augmentations(cfg: CfgNode) -> list[T.Augmentation]:
    """Resize, crop and flip as in Detectron2's training, then ``INPUT.COLOR_JITTER``."""
    augmentations = build_augmentation(cfg, is_train=True)
    if cfg.INPUT.CROP.ENABLED:
        augmentations.insert(0, T.RandomCrop(cfg.INPUT.CROP.TYPE, cfg.INPUT.CROP.SIZE))
    return augmentations + colour_jitter(cfg.INPUT.COLOR_JITTER)


def _stream(cfg: CfgNode, dicts: list[dict[str, Any]], seed: int, stream: int) -> SampleStream:
    # Boxes are all that is trained on; a mapper that decoded masks would do it for nothing.
    mapper = DomainMapper(
        is_train=True,
        augmentations=training_augmentations(cfg),
        image_format=cfg.INPUT.FORMAT,
        recompute_boxes=False,
        resized=_resized_cache(cfg),
    )
    return SampleStream(dicts, mapper, seed, stream)


def _resized_cache(cfg: CfgNode) -> ResizedImages | None:
    folder = cfg.INPUT.RESIZED_CACHE
    return ResizedImages(folder, cfg.INPUT.FORMAT) if folder else None


def source_stream(cfg: CfgNode, seed: int) -> SampleStream:
    """Labelled images of ``DATASETS.TRAIN``, without those that have no boxes if so configured."""
    dicts = [record for name in cfg.DATASETS.TRAIN for record in labelled_dicts(name)]
    if cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS:
        dicts = [
            record
            for record in dicts
            if any(not each.get("iscrowd", 0) for each in record["annotations"])
        ]
        if not dicts:
            raise DataError(
                f"DATASETS.TRAIN {tuple(cfg.DATASETS.TRAIN)}: iscrowd is 1 in every box, so no "
                "image is left to train on. A box around a single object has iscrowd 0."
            )
    return _stream(cfg, dicts, seed, SOURCE_STREAM)


def target_stream(cfg: CfgNode, seed: int) -> SampleStream:
    """Images of ``DATASETS.TARGET``; annotations of these domains, if any, stay unread."""
    dicts = [record for name in cfg.DATASETS.TARGET for record in unlabelled_dicts(name)]
    return _stream(cfg, dicts, seed, TARGET_STREAM)


def domain_batches(
    cfg: CfgNode, seed: int, start: int = 0
) -> Iterator[tuple[list[dict[str, Any]], list[dict[str, Any]] | None]]:
    """Endless (source batch, target batch) from iteration ``start`` on.

    The target batch is None, and target images are not read, when no part of the method uses them.
    """
    adapts = cfg.MODEL.SADA.ENABLED or cfg.MODEL.MIC.ENABLED
    target = target_stream(cfg, seed) if adapts else None
    return paired_batches(cfg, source_stream(cfg, seed), target, start)


def paired_batches(
    cfg: CfgNode, source: SampleStream, target: SampleStream | None, start: int = 0
) -> Iterator[tuple[list[dict[str, Any]], list[dict[str, Any]] | None]]:
    """Endless (source batch, target batch or None) of two streams, from iteration ``start`` on.

    Batch sizes, workers and how many images may be unreadable are the configuration's.
    """
    size = cfg.SOLVER.IMS_PER_BATCH
    batches = _checked_batches(cfg, "DATASETS.TRAIN", source, size, start)
    if target is None:
        return ((batch, None) for batch in batches)
    size = cfg.SOLVER.TARGET_IMS_PER_BATCH or size
    return zip(batches, _checked_batches(cfg, "DATASETS.TARGET", target, size, start), strict=False)


def _checked_batches(
    cfg: CfgNode, key: str, stream: SampleStream, total_batch: int, start: int
) -> Iterator[list[dict[str, Any]]]:
    unreadable = UnreadableImages(key, len(stream.dicts), cfg.DATALOADER.MAX_UNREADABLE)
    data = cfg.DATALOADER
    loader = stream_loader(
        stream, total_batch, start, data.NUM_WORKERS, data.PREFETCH_FACTOR, data.TIMEOUT
    )
    for batch in loader:
        unreadable.check(batch)
        yield batch
