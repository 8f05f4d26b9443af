"""Peak memory of a training step, each in a process of its own.

``python -m mic_det.benchmark.memory KIND CASE WORK``, the case as json; prints bytes.
"""

from __future__ import annotations

import gc
import json
import os
import resource
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import torch
from torch import nn

from .cases import Case
from .segmentation_cases import SegmentationCase
from .segmentation_workload import segmentation_memory_work
from .workload import Work, memory_work

STEPS = 2  # the second has the optimizer's memory there
# glibc gives large blocks back as soon as they are free. By itself it keeps holes between them,
# and what they take is chance: resident sizes of two runs differ by a tenth.
ALLOCATOR = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
AnyCase = Case | SegmentationCase
# Cases by their kind, and what makes their workloads.
KINDS: dict[str, tuple[type[AnyCase], Callable[..., tuple[Work, nn.Module]]]] = {
    each.__name__: (each, works)
    for each, works in ((Case, memory_work), (SegmentationCase, segmentation_memory_work))
}


def memory_ratio(case: AnyCase) -> tuple[float, dict[str, int]]:
    """Peak memory of a step, over that of a supervised one on source + 2 target and a teacher.

    Both are beyond what the process held before there was a model. On a GPU it is what torch's
    allocator handed out, on a CPU the largest resident size.

    Returns the ratio, and the bytes of both and of the weights.
    """
    step, weights = in_child(case, "step")
    plain, _ = in_child(case, "supervised")
    bytes_of = {"step": step, "supervised": plain, "weights": weights}
    return step / (plain + weights), bytes_of


def in_child(case: AnyCase, work: str) -> tuple[int, int]:
    """`measure_here`, in a process of its own."""
    told = [type(case).__name__, json.dumps(asdict(case)), work]
    command = [sys.executable, "-W", "ignore", "-m", "mic_det.benchmark.memory", *told]
    root = Path(__file__).resolve().parents[2]
    settings = {"capture_output": True, "text": True, "cwd": root, "env": os.environ | ALLOCATOR}
    done = subprocess.run(command, check=False, **settings)
    if done.returncode:
        raise RuntimeError(f"measuring memory of {case.name} failed:\n{done.stderr}")
    peak, weights = map(int, done.stdout.split()[-2:])
    return peak, weights


def _peak() -> int:
    """Largest resident size of this process so far, in bytes."""
    status = Path("/proc/self/status")
    if not status.exists():
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    # getrusage's figure begins with that of the process that started this one.
    line = next(each for each in status.read_text().splitlines() if each.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


def measure_here(case: AnyCase, work: str) -> tuple[int, int]:
    """Bytes at the peak of ``work``, one that the case's kind knows, and of the weights."""
    _import_libraries(case)
    before = _peak()
    run, model = KINDS[type(case).__name__][1](case, work)
    for _ in range(STEPS):
        gc.collect()  # of the last step; by itself it comes at any time
        run()
    peak = _peak() - before
    if case.device == "cuda":
        torch.cuda.synchronize()
        peak = torch.cuda.max_memory_allocated()
    tensors = [*model.parameters(), *model.buffers()]
    return peak, sum(each.numel() * each.element_size() for each in tensors)


def _import_libraries(case: AnyCase) -> None:
    """What is imported only when a network is built is no memory of a step."""
    if isinstance(case, SegmentationCase) and case.cfg().MODEL.SEG.ENCODER == "mit":
        from transformers import SegformerModel  # noqa: F401


def case_of(kind: str, text: str) -> AnyCase:
    """The case that was written as json; its tuples come as lists."""
    fields = json.loads(text).items()
    return KINDS[kind][0](**{k: tuple(v) if isinstance(v, list) else v for k, v in fields})


if __name__ == "__main__":
    print(*measure_here(case_of(*sys.argv[1:3]), sys.argv[3]))
