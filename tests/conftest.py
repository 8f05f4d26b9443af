"""Every test starts from the same seeds and leaves the machine to others."""

import random

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
