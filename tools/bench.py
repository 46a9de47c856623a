"""Measure our steps against the released formulations and the floors, as ratios in one run.

Examples:
  python tools/bench.py st-adapter evl
  python tools/bench.py temporal-conv --size b16 --repeats 9 --json bench.json
"""

import argparse
import json
from pathlib import Path

AREAS = {
    "st-adapter": ("video", "st_adapter"),
    "evl": ("video", "evl"),
    "temporal-conv": ("video", "temporal_conv"),
    "vqt": ("vqt", "vqt"),
    "lora": ("lora", "lora"),
    "farthest-points": ("points", "farthest_points"),
    "knn": ("points", "knn"),
    "ball-query": ("points", "ball_query"),
    "coop": ("coop_memory", "coop"),
    "tip-search": ("tip_search", "tip_search"),
}


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("areas", nargs="+", choices=sorted(AREAS), help="what to measure")
    parser.add_argument("--size", default="b16", help="b16, l14 or tiny (default b16, 224 px)")
    parser.add_argument("--frames", type=int, default=8)
    parser.add_argument("--batch", type=int, default=1, help="clips")
    parser.add_argument("--repeats", type=int, default=5, help="rounds; medians are shown")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path, help="also write the figures here")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    """Measure and print."""
    args = parse(argv)
    import importlib
    import sys

    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    import torch

    from tools.benches import measure

    torch.set_num_threads(args.threads)
    out = {"where": measure.where(), "args": {k: str(v) for k, v in vars(args).items()}, "areas": {}}
    for area in args.areas:
        module, name = AREAS[area]
        build = getattr(importlib.import_module(f"tools.benches.{module}"), name)
        title = f"{area} ({args.size}, {args.batch} clip(s) of {args.frames} frames)" if module != "points" else area
        measured = measure.rows(measure.run_alternating(build(args), args.repeats))
        out["areas"][area] = measured
        print(measure.table(title, measured), flush=True)
    print(f"{out['where']}")
    if args.json:
        args.json.write_text(json.dumps(out, indent=2))


if __name__ == "__main__":
    main()
