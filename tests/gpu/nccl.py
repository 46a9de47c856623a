"""Average gradients over two cards by nccl, and compare with the whole batch on one; started by torchrun."""

import os

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from tests.xmodal.test_model import refill, st_model


def gradients(model, clips, label):
    """The gradient of a loss as one vector."""
    model(mode="loss", clips=clips, label=label)["loss"].backward()
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


def main() -> None:
    """Compare."""
    rank = int(os.environ["LOCAL_RANK"])
    torch.cuda.set_device(rank)
    dist.init_process_group("nccl")
    torch.manual_seed(0)
    model, whole = (refill(st_model()).cuda().eval() for _ in range(2))
    clips = torch.randn(4, 1, 3, 3, 16, 16, generator=torch.Generator().manual_seed(1)).cuda()
    label = torch.tensor([0, 1, 1, 0]).cuda()
    half = slice(2 * rank, 2 * rank + 2)
    split = gradients(DistributedDataParallel(model, device_ids=[rank]), clips[half], label[half])
    torch.testing.assert_close(split, gradients(whole, clips, label), atol=1e-4, rtol=1e-3)
    print("equal", flush=True)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
