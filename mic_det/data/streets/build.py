"""Write the data set to a folder: whole or not at all, by several processes."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

from mic_det.data.errors import DataError
from mic_det.data.files import cache_errors, cache_folder

from . import spec
from .spec import STREETS_CLASSES, STREETS_SPLITS, SplitSpec
from .worker import write_images

logger = logging.getLogger(__name__)

_DONE = "streets.json"
_PACKAGE_ROOT = Path(__file__).resolve().parents[3]
_CHUNK = 75
_STALE_SECONDS = 3600.0

Splits = Mapping[tuple[str, str], SplitSpec]


def settings(splits: Splits = STREETS_SPLITS) -> dict:
    """Everything that decides the data set's content, as plain JSON values."""
    constants = {
        name: getattr(spec, name)
        for name in dir(spec)
        if name.isupper() and isinstance(getattr(spec, name), int | float | tuple)
    }
    table = {f"{domain}/{split}": list(size) for (domain, split), size in splits.items()}
    return json.loads(json.dumps({"constants": constants, "splits": table}, sort_keys=True))


def default_root(splits: Splits = STREETS_SPLITS) -> Path:
    """The cache's folder ``streets-<hash of the settings>``."""
    digest = hashlib.sha256(json.dumps(settings(splits), sort_keys=True).encode()).hexdigest()
    return cache_folder() / f"streets-{digest[:10]}"


def is_complete(root: Path, splits: Splits = STREETS_SPLITS) -> bool:
    """Whether root holds this very data set; its mark is written last, before the rename."""
    try:
        return json.loads((root / _DONE).read_text()) == settings(splits)
    except (OSError, ValueError):
        return False


@cache_errors()
def ensure_streets(
    root: Path | str | None = None,
    *,
    splits: Splits = STREETS_SPLITS,
    workers: int | None = None,
) -> Path:
    """Return the folder of the data set, making it first if it is not there.

    The data set is built in a folder beside and then renamed, so a killed build leaves nothing at
    ``root``, and of several processes that build at once the first to finish wins.

    Args:
        root: the data set's own folder; None takes ``default_root()``.
        splits: sizes and first seeds per (domain, split).
        workers: number of processes; None takes the number of cores, at most 8.

    Returns:
        Path with ``<domain>/<split>/{images,labels,crops}`` and ``boxes.json`` inside.

    Raises:
        DataError: if root holds something other than this data set, or cannot be written.
        RuntimeError: if a worker process fails.
    """
    root = default_root(splits) if root is None else Path(root)
    if is_complete(root, splits):
        return root
    _refuse_other_content(root)
    count = sum(size.count for size in splits.values())
    logger.info("making the data set streets (%d images) in %s", count, root)
    root.parent.mkdir(parents=True, exist_ok=True)
    _remove_stale(root)
    work = Path(tempfile.mkdtemp(prefix=f".{root.name}.tmp-", dir=root.parent))
    try:
        _build(work, splits, workers or min(8, os.cpu_count() or 1))
        (work / _DONE).write_text(json.dumps(settings(splits), indent=1, sort_keys=True))
        # mkdtemp makes a folder for one user only; a cache may be shared.
        work.chmod(0o755)
        try:
            work.rename(root)
        except OSError:
            # Another process was faster, or the folder is not ours to replace.
            if not is_complete(root, splits):
                _refuse_other_content(root)
                raise
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return root


def _refuse_other_content(root: Path) -> None:
    if root.exists() and (not root.is_dir() or any(root.iterdir())):
        raise DataError(
            f"{root}: exists and is not this version of the data set. Remove it, or set "
            "MIC_DET_CACHE to another folder."
        )


def _remove_stale(root: Path) -> None:
    """Remove what killed builds left beside root, if it is too old to belong to a live one."""
    for folder in root.parent.glob(f".{root.name}.tmp-*"):
        try:
            if time.time() - folder.stat().st_mtime > _STALE_SECONDS:
                shutil.rmtree(folder, ignore_errors=True)
        except FileNotFoundError:
            continue


def _build(work: Path, splits: Splits, workers: int) -> None:
    chunks = []
    for (domain, split), size in splits.items():
        folder = work / domain / split
        for name in ("images", "labels", *(f"crops/{c}" for c in STREETS_CLASSES)):
            (folder / name).mkdir(parents=True)
        for start in range(0, size.count, _CHUNK):
            stop = min(start + _CHUNK, size.count)
            chunks.append((str(folder), domain, size.first_seed, start, stop))
    shares = [chunks[i::workers] for i in range(workers)]
    _run([share for share in shares if share])
    for (domain, split), size in splits.items():
        folder = work / domain / split
        parts = [folder / f"part-{s:06d}.json" for s in range(0, size.count, _CHUNK)]
        _join(folder / "boxes.json", parts)


def _run(shares: list[list[tuple]]) -> None:
    """Draw the shares, each in a process of its own.

    Plain subprocesses need neither a main guard in the caller's script (as spawn does) nor a
    process free of threads (as fork does).
    """
    if len(shares) == 1:
        for chunk in shares[0]:
            write_images(*chunk)
        return
    paths = [str(_PACKAGE_ROOT), os.environ.get("PYTHONPATH", "")]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in paths if p)}
    command = [sys.executable, "-c", "from mic_det.data.streets.worker import main; main()"]
    running = []
    try:
        for share in shares:
            running.append(subprocess.Popen(command, stdin=subprocess.PIPE, text=True, env=env))
            running[-1].stdin.write(json.dumps(share))
            running[-1].stdin.close()
        codes = [process.wait() for process in running]
    finally:
        for process in running:
            if process.poll() is None:
                process.kill()
                process.wait()
    if any(codes):
        raise RuntimeError(f"drawing the data set failed, worker exit codes {codes}")


def _join(target: Path, parts: list[Path]) -> None:
    images, annotations = [], []
    for part in parts:
        content = json.loads(part.read_text())
        images += content["images"]
        annotations += content["annotations"]
        part.unlink()
    for number, annotation in enumerate(annotations, start=1):
        annotation["id"] = number
    categories = [{"id": i, "name": name} for i, name in enumerate(STREETS_CLASSES, start=1)]
    target.write_text(
        json.dumps({"images": images, "annotations": annotations, "categories": categories})
    )
