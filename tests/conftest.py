"""Every test starts from the same seeds and leaves the machine to others."""

import random
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

torch.set_num_threads(min(2, torch.get_num_threads()))


@pytest.fixture(autouse=True)
def seeded():
    """Seed Python, NumPy and torch before each test."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


@pytest.fixture
def storage():
    """Detectron2's event storage, which its training code writes to."""
    from detectron2.utils.events import EventStorage

    with EventStorage(0) as events:
        yield events


@pytest.fixture
def clean_catalogs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A cache of its own, no domain known, and afterwards the catalogs as they were."""
    from detectron2.data import DatasetCatalog, MetadataCatalog

    from mic_det.data import builtin, catalog

    monkeypatch.setenv("MIC_DET_CACHE", str(tmp_path / "cache"))
    tables = (
        catalog._DOMAINS,
        catalog._TRAINED,
        builtin._registered,
        DatasetCatalog.data,
        MetadataCatalog.data,
    )
    before = [dict(table) for table in tables]
    catalog._SAID.clear()
    for name in before[0]:
        catalog.unregister_domain(name)
    builtin._registered.clear()
    yield
    for table, contents in zip(tables, before, strict=True):
        table.clear()
        table.update(contents)


_opened: list[str] | None = None


def _note_opened(event: str, arguments: tuple) -> None:
    if event in ("open", "os.scandir", "os.listdir") and _opened is not None:
        _opened.append(str(arguments[0]))


@pytest.fixture
def opened() -> Iterator[list[str]]:
    """Files that this process opened and folders that it listed since the test began."""
    global _opened
    if not hasattr(sys, "_mic_det_test_hook"):  # an audit hook stays for good: one is enough
        sys.addaudithook(_note_opened)
        sys._mic_det_test_hook = True
    _opened = []
    yield _opened
    _opened = None
