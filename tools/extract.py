"""Fill the frozen-prefix cache of a config ahead of training, with as many processes and machines as there are.

Examples:
  python tools/extract.py CONFIG --estimate
  python tools/extract.py CONFIG                     # on any machine that sees the folder, any number of times
  torchrun --nproc_per_node=8 tools/extract.py CONFIG --cfg-options cache.views=4

Each process takes shards that nobody has, until none is left. One that dies loses the shard in its hands, which the
others or a new one compute; no shard is computed twice. On a file system without locks give --rank and --world-size.
"""

import argparse
import os
import sys


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("config", help="a config file; its `cache` dict says where, how many views, which precision")
    p.add_argument("--split", nargs="+", choices=("train", "val"), default=["train", "val"])
    p.add_argument("--estimate", action="store_true", help="say how much disk it takes, and stop")
    p.add_argument("--rank", type=int, default=int(os.environ.get("RANK", 0)), help="where to begin (torchrun sets it)")
    p.add_argument(
        "--world-size", type=int, default=int(os.environ.get("WORLD_SIZE", 1)), help="processes that begin together"
    )
    p.add_argument("--workers", type=int, help="processes that read samples; default: the config's num_workers")
    p.add_argument("--cfg-options", nargs="+", default=[], metavar="KEY=VALUE", help="such as cache.views=4")
    return p


def main(argv: list[str] | None = None) -> int:
    """Fill; returns the exit status."""
    args = parser().parse_args(argv)
    from mmengine.device import get_device

    from xmodal.engine.config import load_config
    from xmodal.engine.frozen_cache import cache_of
    from xmodal.engine.launch import run
    from xmodal.engine.sizes import dataset_for
    from xmodal.registry import MODELS, build

    def job() -> None:
        cfg = load_config(args.config, args.cfg_options)
        options = dict(cfg.get("cache") or {})
        model = build(cfg.model, MODELS).to(get_device())
        seed = cfg.randomness.seed
        for split in args.split:
            loader = cfg.get(f"{split}_dataloader")
            if loader is None:
                continue
            workers = loader.get("num_workers", 0) if args.workers is None else args.workers
            own = {**options, "workers": workers}
            cache = cache_of(model, dataset_for(model, loader.dataset, seed), loader.dataset, split, own, seed)
            if args.estimate:
                print(f"{split}: {len(cache.missing())} of {len(cache.shards())} shards missing, "
                      f"about {cache.megabytes() if cache.missing() else 0:.0f} MB -> {cache.folder}")  # fmt: skip
                continue
            cache.fill(args.rank, args.world_size)
            print(f"{split}: {cache.folder}, {len(cache.missing())} of {len(cache.shards())} shards missing")

    return run(job)


if __name__ == "__main__":
    sys.exit(main())
