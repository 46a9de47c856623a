"""Memory of one CoOp step with and without chunks over classes: python tools/benches/coop_memory.py --classes 1000.

The text tower has the size of ViT-B/16's (width 512, 12 blocks), weights are random. Every variant runs in a process of
its own; the figure is the peak resident memory above that before the step.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
VARIANTS = {
    "all at once, 77 tokens": (None, False),
    "all at once, cut to the longest prompt": (None, True),
    "chunks, 77 tokens": (50, False),
    "chunks, cut to the longest prompt": (50, True),
}


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--classes", type=int, default=1000)
    p.add_argument("--chunk", type=int, default=50, help="prompts per pass of the chunked variants")
    p.add_argument("--limit-gb", type=float, default=8.0, help="skip a variant that is expected to need more")
    p.add_argument("--variant", choices=sorted(VARIANTS), help="measure this one here and print JSON")
    p.add_argument("--only", nargs="+", choices=sorted(VARIANTS), default=list(VARIANTS))
    return p


def expected_gb(classes: int, chunk: int | None, truncate: bool) -> float:
    """Rough need of one pass: 19 tensors (tokens, 512) a block are kept for the backward pass."""
    tokens = (24 if truncate else 77) * min(classes, chunk or classes)
    return tokens * 512 * 4 * 19 * 12 / 2**30


def measure(name: str, classes: int, chunk: int) -> dict[str, float]:
    """One step of a variant in this process."""
    import resource
    import time

    import torch
    from torch import nn

    from xmodal.encoders.clip import CLIP
    from xmodal.encoders.text import TextTransformer
    from xmodal.heads.coop import CoOpHead
    from xmodal.heads.text_side import PromptIds

    torch.set_num_threads(1)
    visual = nn.Identity()
    visual.out_dim, visual.name = 512, "none"
    clip = CLIP(visual, TextTransformer())
    ids = torch.zeros(classes, 77, dtype=torch.long)
    ids[:, 0], ids[:, 1:17], ids[:, 17:22], ids[:, 22] = 49406, 343, 1000, 49407  # names of 4 tokens and a full stop
    use, truncate = VARIANTS[name]
    names = [str(i) for i in range(classes)]
    more = dict(chunk=chunk if use else None, truncate=truncate, prompt_ids=PromptIds(ids, 16, [4] * classes))
    head = CoOpHead(512, names, clip, **more)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.process_time()
    head.loss(torch.randn(32, 512), torch.arange(32) % classes)["loss"].backward()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    seconds = time.process_time() - start
    return {"gb": (peak - before) / 2**20, "seconds": seconds, "gradient": float(head.ctx.grad.norm())}


def main(argv: list[str] | None = None) -> int:
    """Measure all variants, print a table."""
    args = parser().parse_args(argv)
    if args.variant:
        print(json.dumps(measure(args.variant, args.classes, args.chunk)))
        return 0
    print(f"| CoOp, {args.classes} classes, batch 32 | peak memory above the weights, GB | CPU s |\n|---|---|---|")
    for name in args.only:
        use, truncate = VARIANTS[name]
        need = expected_gb(args.classes, args.chunk if use else None, truncate)
        if need > args.limit_gb:
            print(f"| {name} | not run (about {need:.0f} expected) | |", flush=True)
            continue
        command = [
            sys.executable,
            __file__,
            "--variant",
            name,
            "--classes",
            str(args.classes),
            "--chunk",
            str(args.chunk),
        ]
        out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        found = json.loads(out.strip().splitlines()[-1])
        print(f"| {name} | {found['gb']:.2f} | {found['seconds']:.0f} |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
