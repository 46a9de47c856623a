"""The process group is left whole: what stays of it can abort a process that ends."""

from pathlib import Path

import pytest
import torch
from torch import distributed as dist

from xmodal.engine.launch import leave_group


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="counts the threads of Linux")
def test_leaving_the_group_ends_its_threads(tmp_path):
    """A thread of gloo that lets go of a tensor while Python ends aborts the process (seen once in ten runs)."""
    store = f"file://{tmp_path}/store"
    dist.init_process_group("gloo", init_method=store, rank=0, world_size=1)
    model = torch.nn.parallel.DistributedDataParallel(torch.nn.Linear(2, 2))
    model.itself = [model]  # a circle, as a runner has them
    model(torch.ones(1, 2)).sum().backward()
    del model
    assert gloo_threads()
    leave_group()
    assert not gloo_threads()
    assert not dist.is_initialized()


def gloo_threads():
    names = [path.read_text().strip() for path in Path("/proc/self/task").glob("*/comm")]
    return [name for name in names if "gloo_runloop" in name]
