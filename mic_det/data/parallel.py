"""Files worked on by several processes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from multiprocessing import get_context


@contextmanager
def parallel_map(workers: int, *, ordered: bool = True, chunk: int = 1) -> Iterator[Callable]:
    """A ``map`` over ``workers`` processes; python's own if that is one or less.

    Args:
        ordered: results come in the order of the items, not as they are done.
        chunk: items that a process takes at a time.
    """
    if workers <= 1:
        yield map
        return
    with get_context("spawn").Pool(workers) as pool:
        yield partial(pool.imap if ordered else pool.imap_unordered, chunksize=chunk)
