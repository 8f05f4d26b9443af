"""Peak memory of a training step, each in a process of its own.

``python -m mic_det.benchmark.memory CASE WORK``, the case as json; prints bytes.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import torch

from .cases import Case
from .workload import PlainDetector, adaptation, step_of

STEPS = 2  # the second has the optimizer's memory there


def memory_ratio(case: Case) -> tuple[float, dict[str, int]]:
    """Peak memory of a step, over that of a supervised one on source + 2 target and a teacher.

    Both are beyond what the process held before there was a model. On a GPU it is what torch's
    allocator handed out, on a CPU the largest resident size.

    Returns the ratio, and the bytes of both and of the weights.
    """
    step, weights = in_child(case, "step")
    plain, _ = in_child(case, "supervised")
    bytes_of = {"step": step, "supervised": plain, "weights": weights}
    return step / (plain + weights), bytes_of


def in_child(case: Case, work: str) -> tuple[int, int]:
    """`measure_here`, in a process of its own."""
    command = [sys.executable, "-W", "ignore", "-m", __spec__.name, json.dumps(asdict(case)), work]
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(command, capture_output=True, text=True, cwd=root, check=False)
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


def measure_here(case: Case, work: str) -> tuple[int, int]:
    """Bytes at the peak of ``work`` ("step" or "supervised") and of the weights."""
    before = _peak()
    if work == "step":
        trainer = adaptation(case)
        run, model = step_of(trainer), trainer.student
    else:
        plain = PlainDetector(case)
        run, model = plain.supervised(case.source + 2 * case.target, batched=True), plain.model
    for _ in range(STEPS):
        run()
    peak = _peak() - before
    if case.device == "cuda":
        torch.cuda.synchronize()
        peak = torch.cuda.max_memory_allocated()
    tensors = [*model.parameters(), *model.buffers()]
    return peak, sum(each.numel() * each.element_size() for each in tensors)


if __name__ == "__main__":
    parts = json.loads(sys.argv[1])
    print(*measure_here(Case(**parts | {"heads": tuple(parts["heads"])}), sys.argv[2]))
