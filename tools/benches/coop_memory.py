"""Time and memory of a CoOp step against the number of classes: `tools/bench.py coop` times it, this file counts bytes.

Examples:
  python -m tools.benches.coop_memory --classes 100 300 1000       # peak of a step, counted over tensor sizes
  python -m tools.benches.coop_memory --run "shared beginning" --classes 1000     # one real step, resident memory

The text tower has the size of ViT-B/16's (width 512, 12 blocks, 8 heads, 77 tokens), weights are random. Counting runs
the step on tensors without values, so that steps that do not fit this machine are counted too; `--run` is the check.
"""

import argparse
import json
import sys
import weakref
from typing import Any

import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from tools.benches.measure import Variant, process_cost

# share, cut to the longest prompt, prompts per pass
VARIANTS: dict[str, tuple[bool, bool, int | None]] = {
    "77 tokens, every class on its own": (False, False, None),
    "cut to the longest prompt": (False, True, None),
    "77 tokens, chunks of 50": (False, False, 50),
    "cut, chunks of 50": (False, True, 50),
    "shared beginning": (True, True, None),
    "shared beginning, chunks of 50": (True, True, 50),
}

LENGTH = 23  # start, 16 vectors, 4 tokens of the name, full stop, end


def make_head(name: str, classes: int) -> Any:
    """CoOp with 16 vectors in front of names of 4 tokens."""
    from xmodal.encoders.clip import CLIP
    from xmodal.encoders.text import TextTransformer
    from xmodal.heads.coop import CoOpHead
    from xmodal.heads.text_side import PromptIds

    share, truncate, chunk = VARIANTS[name]
    visual: Any = torch.nn.Identity()
    visual.out_dim, visual.name = 512, "none"
    ids = torch.zeros(classes, 77, dtype=torch.long)
    ids[:, 0], ids[:, 1:17], ids[:, 17:22], ids[:, 22] = 49406, 343, 1000, 49407  # the name and a full stop
    prompts = PromptIds(ids, 16, [4] * classes)
    names = [str(i) for i in range(classes)]
    head = CoOpHead(512, names, CLIP(visual, TextTransformer()), chunk=chunk, truncate=truncate, prompt_ids=prompts)
    head.text.share = share
    return head


def step(head: Any) -> torch.Tensor:
    """Loss and gradient of a batch of 32."""
    loss = F.cross_entropy(head(torch.randn(32, 512)), torch.arange(32) % head.num_classes)
    loss.backward()
    return loss


def coop(args: argparse.Namespace) -> list[Variant]:
    """20 classes: time, and what the forward pass keeps."""
    return [Variant(f"20 classes, {name}", step, lambda n=name: make_head(n, 20)) for name in VARIANTS]


class AliveBytes(TorchDispatchMode):
    """Counts the bytes of all tensors that live at once, those made before it starts left out."""

    def __init__(self) -> None:
        super().__init__()
        self.alive = self.peak = 0
        self.seen: weakref.WeakSet[Any] = weakref.WeakSet()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation and note its new storages."""
        given = {id(t.untyped_storage()) for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)}
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, torch.Tensor) and id(tensor.untyped_storage()) not in given:
                self.note(tensor.untyped_storage())
        return out

    def note(self, storage: torch.UntypedStorage) -> None:
        """Count a storage until it is freed."""
        if storage in self.seen:
            return
        self.seen.add(storage)
        self.alive += storage.nbytes()
        self.peak = max(self.peak, self.alive)
        weakref.finalize(storage, self.free, storage.nbytes())

    def free(self, size: int) -> None:
        """A storage is gone."""
        self.alive -= size


def counted(name: str, classes: int) -> float:
    """Peak megabytes of a step, on tensors without values."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():
        head = make_head(name, classes)
        head.text.stop = lambda _: LENGTH if head.text.truncate else None  # tensors without values have no maximum
        with AliveBytes() as bytes_:
            step(head)
    return bytes_.peak / 2**20


def measured(name: str, classes: int) -> dict[str, float]:
    """Peak resident memory above that before the step, and CPU seconds, of one real step."""
    torch.set_num_threads(1)
    head = make_head(name, classes)
    seconds, megabytes = process_cost(lambda: step(head))
    return {"classes": classes, "mb": round(megabytes), "seconds": round(seconds, 1)}


def main(argv: list[str] | None = None) -> int:
    """Print a table of counted peaks, or one measured step."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--classes", type=int, nargs="+", default=[100, 300, 1000])
    parser.add_argument("--run", choices=sorted(VARIANTS), help="run a real step of this variant instead")
    args = parser.parse_args(argv)
    if args.run:
        for classes in args.classes:
            print(json.dumps({"variant": args.run, **measured(args.run, classes)}), flush=True)
        return 0
    print("| peak MB of a CoOp step | " + " | ".join(f"{k} classes" for k in args.classes) + " |")
    print("|---" * (1 + len(args.classes)) + "|")
    for name in VARIANTS:
        print(f"| {name} | " + " | ".join(f"{counted(name, k):,.0f}" for k in args.classes) + " |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
