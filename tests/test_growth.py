"""The figures of growth: what is varied is what is said to be, and the loader's rate is counted."""

import torch

from mic_det.benchmark import CASES
from mic_det.benchmark.growth import by_batch, by_side, loading


def test_what_grows():
    case = CASES[0]
    assert [(c.source, c.target, c.height) for c in by_batch(case, [1, 3])] == [
        (1, 1, case.height),
        (3, 3, case.height),
    ]
    assert [(c.source, c.target, c.height, c.width) for c in by_side(case, [64])] == [
        (1, 1, 64, 128)
    ]


def test_loading():
    told, threads = [], torch.get_num_threads()
    torch.set_num_threads(2)
    rows = loading([0, 1], images=6, report=told.append, size=(128, 256))
    assert [(row["workers"], row["cache"]) for row in rows] == [
        *((0, False), (0, True)),
        *((1, False), (1, True)),
    ]
    assert all(0 < row["per_second"] < 10_000 for row in rows)
    assert len(told) == 4
    # Steps are timed afterwards, with all threads.
    assert torch.get_num_threads() == 2
    torch.set_num_threads(threads)
