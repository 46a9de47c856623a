"""Shard the frozen blocks of a tower over the processes (FSDP2), where one device cannot hold them."""

import inspect
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed import fsdp
from torch.distributed.device_mesh import init_device_mesh
from torch.nn.parallel import DistributedDataParallel

from xmodal.engine.checkpoint import bare, own_keys


def shard_frozen(model: Any, device: str) -> None:
    """Shard the frozen weights of a model's blocks, block by block; what a checkpoint holds stays whole everywhere.

    A block's weights are gathered when it is called, and freed behind it; in the backward pass they are gathered again.

    Args:
        model: with an `encoder` that has blocks, on the CPU: only shares of the blocks ever come onto the device.
        device: `cuda` or `cpu`.

    Raises:
        ValueError: no process group, a tower without blocks or with an int8 trunk, a reader that calls parts of
            blocks, or an old torch.
    """
    if not dist.is_initialized():
        raise ValueError("shard_trunk shares the frozen blocks among processes: start it with torchrun and --launcher")
    blocks = getattr(getattr(model, "encoder", None), "blocks", None)
    if blocks is None or not len(blocks):
        raise ValueError(f"shard_trunk: {type(model).__name__} has no tower of blocks")
    if getattr(model, "trunk_dtype", None) == "int8":
        raise ValueError("shard_trunk: an int8 trunk cannot be sharded, and needs a quarter of the memory anyway")
    if getattr(getattr(model, "reader", None), "inside_blocks", False):
        raise ValueError(f"shard_trunk: {type(model.reader).__name__} calls parts of blocks, which are gathered whole")
    fully_shard = getattr(fsdp, "fully_shard", None)
    if fully_shard is None or "ignored_params" not in inspect.signature(fully_shard).parameters:
        raise ValueError(f"shard_trunk needs a newer torch than {torch.__version__}")
    mesh = init_device_mesh(device, (dist.get_world_size(),))
    saved = own_keys(model)  # what trains, and adapters that need not
    kept = {parameter for name, parameter in model.named_parameters() if name in saved}
    for block in blocks:
        fully_shard(block, mesh=mesh, reshard_after_forward=True, ignored_params=kept & set(block.parameters()))
    # DDP sums the gradients of what trains, and leaves the shares alone
    shares = [name for name, parameter in model.named_parameters() if hasattr(parameter, "full_tensor")]
    DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(model, shares)
    model.trunk_is_sharded = True


def is_sharded(model: nn.Module) -> bool:
    """Return whether each process holds a share of the frozen blocks, so that all must call them equally often."""
    return getattr(bare(model), "trunk_is_sharded", False)


def rounds_behind(rounds: int, runner: Any) -> int:
    """Return how many batches fewer this process has than the one that has most; all processes ask before the first."""
    most = torch.tensor(rounds, device=runner.device)
    dist.all_reduce(most, dist.ReduceOp.MAX)
    return int(most) - rounds
