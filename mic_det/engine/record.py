"""What a run was made of, written beside its results, so that it can be made again."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import platform
import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode
from detectron2.utils import comm

from mic_det.config import ConfigError
from mic_det.data.files import write_text_atomically
from mic_det.env import describe

from .description import CONFIG

logger = logging.getLogger(__name__)

# What training leaves in OUTPUT_DIR besides its settings (CONFIG): how often it was started, its
# results and the settings that they were measured with. LAST_CONFIG is Detectron2's, of the last
# command.
RECORD, LAST_CONFIG = "run_record.json", "config.yaml"
RESULTS, RESULTS_CONFIG = "results.json", "results_config.yaml"
REPOSITORY = Path(__file__).resolve().parents[2]


def write_record(cfg: CfgNode, seed: int) -> None:
    """Write ``run_record.json`` and ``run_config.yaml`` into ``OUTPUT_DIR``.

    The record has an entry for each start of the run, resumed ones included: command line, working
    directory, git revision, versions, hardware, seed, processes and a hash of ``MODEL.WEIGHTS``.
    The config is complete, with the seed that was drawn if ``SEED`` is negative. Results that lie
    there are of what this training replaces, and are deleted.
    """
    if not comm.is_main_process():
        return
    folder = Path(cfg.OUTPUT_DIR)
    whole = cfg.clone()
    whole.defrost()
    whole.SEED = seed
    config = whole.dump()
    start = {
        "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "command": shlex.join([sys.executable, *sys.argv]),
        "directory": str(Path.cwd()),
        "git": git_revision(),
        "installation": describe(),
        "hardware": hardware(),
        "seed": seed,
        "processes": comm.get_world_size(),
        "weights": _digest(Path(cfg.MODEL.WEIGHTS)),
        "config": hashlib.sha256(config.encode()).hexdigest(),
    }
    starts = [*read_starts(folder), start] if "--resume" in sys.argv else [start]
    for name in (RESULTS, RESULTS_CONFIG):
        (folder / name).unlink(missing_ok=True)
    write_text_atomically(folder / CONFIG, config)
    write_text_atomically(folder / RECORD, json.dumps({"starts": starts}, indent=2) + "\n")


def write_results(cfg: CfgNode, results: dict[str, Any], weights: str) -> Path:
    """Write ``results.json`` into ``OUTPUT_DIR``, and the settings that they were measured with.

    In ``results_config.yaml`` ``MODEL.WEIGHTS`` is the file that was evaluated, ``weights``: its
    name where it is in the folder. Returns the path of the results.
    """
    folder, path = Path(cfg.OUTPUT_DIR), Path(weights)
    measured = cfg.clone()
    measured.defrost()
    inside = path.resolve().parent == folder.resolve()
    measured.MODEL.WEIGHTS = path.name if inside else str(path.absolute())
    write_text_atomically(folder / RESULTS_CONFIG, measured.dump())
    write_text_atomically(folder / RESULTS, json.dumps(results, indent=2) + "\n")
    return folder / RESULTS


def read_record(folder: Path | str) -> tuple[Path, dict[str, Any]]:
    """Path of the complete config of the run in ``folder``, and what its last start recorded.

    Says in the log where this installation differs from that one. Raises ConfigError if there is no
    record, or the settings were changed between its starts.
    """
    folder = Path(folder)
    starts = read_starts(folder)
    if not starts or not (folder / CONFIG).is_file():
        raise ConfigError(f"--reproduce {folder}: there is no {RECORD} and {CONFIG} in it")
    if len({start["config"] for start in starts}) > 1:
        raise ConfigError(
            f"--reproduce {folder}: its settings were changed when it was resumed, so that no "
            f"single command repeats it; {RECORD} has its starts"
        )
    last = starts[-1]
    now = {"git": git_revision(), **describe(), "threads": hardware()["threads"]}
    then = {"git": last["git"], **last["installation"], "threads": last["hardware"]["threads"]}
    for name in sorted(now.keys() | then.keys()):
        if now.get(name) != then.get(name):
            logger.warning("%s is %s here, it was %s", name, now.get(name), then.get(name))
    return folder / CONFIG, last


def git_revision() -> str:
    """Commit of the source tree, "+changes" if it has any, "unknown" if it is no checkout."""

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(REPOSITORY), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        changed = git("status", "--porcelain", "--untracked-files=no")
        return git("rev-parse", "HEAD") + ("+changes" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def hardware() -> dict[str, Any]:
    """Processor, cores, memory in GiB, and the threads in use; GPUs are in `describe`."""
    import torch

    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "memory_gib": round(memory, 1),
        "threads": torch.get_num_threads(),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if "model name" in line)
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def read_starts(folder: Path) -> list[dict[str, Any]]:
    """What was recorded of each start of a run, the first one first; none without a record."""
    try:
        starts = json.loads((folder / RECORD).read_text(encoding="utf-8"))["starts"]
    except (OSError, ValueError, KeyError, TypeError):
        return []
    known = isinstance(starts, list) and all(isinstance(start, dict) for start in starts)
    return starts if known else []


def _digest(path: Path) -> str | None:
    """SHA-256 of a file, None if it is not a local one."""
    if not path.is_file():
        return None
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(2**20):
            digest.update(chunk)
    return digest.hexdigest()
