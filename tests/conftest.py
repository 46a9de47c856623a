"""Settings of every test: one thread, no hub, no GPU unless asked for."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import pytest
import torch

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _seeded():
    """Every test starts from the same random state."""
    torch.manual_seed(0)


def pytest_collection_modifyitems(config, items):
    """Skip GPU checks where there is no GPU, and say so."""
    if torch.cuda.is_available():
        return
    skip = pytest.mark.skip(reason="no CUDA device on this machine: this check waits for one")
    for item in items:
        if "gpu" in item.keywords:
            item.add_marker(skip)
