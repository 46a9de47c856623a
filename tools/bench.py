"""Measure our steps against the released formulations and the floors, as ratios in one run.

Examples:
  python tools/bench.py st-adapter evl
  python tools/bench.py temporal-conv --size b16 --repeats 9 --json bench.json
  python tools/bench.py st-adapter --peak                # also the peak memory of a step
  python tools/bench.py decode decode-gop250 cache-evl   # reading videos; cached against uncached steps
  python tools/bench.py loader                           # the data path: parts of a sample, workers, memory, advice
  python tools/bench.py loader configs/video/NAME.py     # of a config's training set, against its training step
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

AREAS = {
    "st-adapter": ("video", "st_adapter"),
    "evl": ("video", "evl"),
    "temporal-conv": ("video", "temporal_conv"),
    "forward": ("video", "forward"),
    "loader": ("loader", "loader"),
    "clips": ("clips", "clips"),
    "decoders": ("clips", "decoders"),
    "decode": ("data", "decode"),
    "decode-gop250": ("data", "decode_gop250"),
    "decode-memory": ("data", "decode_memory"),
    "workers": ("data", "workers"),
    "predict": ("predict", "predict"),
    "serve": ("serve", "serve"),
    "cache-evl": ("cached", "evl"),
    "cache-probe": ("cached", "probe"),
    "cache-top-block": ("cached", "top_block"),
    "scale-batch": ("scaling", "batch"),
    "scale-frames": ("scaling", "frames"),
    "scale-classes": ("scaling", "classes"),
    "precision": ("scaling", "precision"),
    "ddp": ("scaling", "ddp"),
    "vqt": ("vqt", "vqt"),
    "lora": ("lora", "lora"),
    "farthest-points": ("points", "farthest_points"),
    "knn": ("points", "knn"),
    "ball-query": ("points", "ball_query"),
    "sparse-conv": ("sparse", "sparse_conv"),
    "sparse-unet": ("sparse", "sparse_unet"),
    "ptv3": ("sparse", "ptv3"),
    "coop": ("coop_memory", "coop"),
    "tip-search": ("tip_search", "tip_search"),
    "probes": ("probes", "probes"),
}


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("areas", nargs="+", metavar="AREA", help=f"what to measure: {', '.join(sorted(AREAS))}; behind "
                        "`loader` a config may follow")  # fmt: skip
    parser.add_argument("--size", default="b16", help="b16, l14, s16 or tiny (default b16; 224 px but tiny)")
    parser.add_argument("--frames", type=int, default=8)
    parser.add_argument("--batch", type=int, default=1, help="clips")
    parser.add_argument("--repeats", type=int, default=5, help="rounds; medians are shown")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--peak", action="store_true", help="follow the allocations of a step too")
    parser.add_argument("--profile", action="store_true", help="say by kind of operation where a step's time goes")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    args = parser.parse_args(argv)
    configs = [area for area in args.areas if area not in AREAS]
    args.areas = [area for area in args.areas if area in AREAS]
    args.config = configs[0] if configs else None
    if configs and (args.areas != ["loader"] or len(configs) > 1):
        parser.error(f"unknown area {configs[0]!r}; areas are {', '.join(sorted(AREAS))}")
    return args


def show(area: str, title: str, built: list, wanted: Sequence, args: argparse.Namespace, out: dict) -> None:
    """Measure an area's variants, or take what was measured already, and print it."""
    from tools.benches import measure

    if isinstance(built[0], dict):  # measured already
        out["areas"][area] = built
        print(measure.plain_table(title, built), flush=True)
        return
    measured = measure.rows(measure.run_alternating(built, args.repeats, peak=args.peak))
    claims = measure.verdicts(measured, wanted)
    out["areas"][area] = measured
    out["claims"] += [{"area": area, **claim} for claim in claims]
    print(measure.table(title, measured))
    print(measure.claims_text(claims) or "", flush=True)
    if args.profile:
        found = {v.name: measure.shares(lambda v=v: v.run(v.state)) for v in built}
        out["profiles"][area] = found
        print("\n".join(measure.profile_line(name, share) for name, share in found.items()), flush=True)


def main(argv: list[str] | None = None) -> None:
    """Measure and print."""
    args = parse(argv)
    import importlib

    import torch

    from tools.benches import measure

    torch.set_num_threads(args.threads)
    out: dict = {
        "where": measure.where(),
        "args": {k: str(v) for k, v in vars(args).items()},
        "areas": {},
        "claims": [],
        "profiles": {},
    }
    for area in args.areas:
        module, name = AREAS[area]
        source = importlib.import_module(f"tools.benches.{module}")
        title = f"{area} ({args.size}, {args.batch} clip(s) of {args.frames} frames)" if module != "points" else area
        built = getattr(source, name)(args)
        wanted = getattr(source, "WANTED", {}).get(name, ()) if args.size == "b16" else ()  # claims are about B/16
        if isinstance(built, dict):  # several tables
            for part, rows in built.items():
                show(f"{area}: {part}", f"{area}: {part}", rows, wanted, args, out)
        else:
            show(area, title, built, wanted, args, out)
    out["where"]["load at the end"] = measure.where()["load"]
    print(f"{out['where']}")
    if args.json:
        args.json.write_text(json.dumps(out, indent=2))


if __name__ == "__main__":
    import checkout  # noqa: F401 - puts the root of the checkout on the path

    main()
