"""Pack the files of a folder into uncompressed tars with indexes, which training reads at random.

Examples:
  python tools/pack.py data/k400/train data/k400-shards           # shard-00000.tar, shard-00000.tar.index, ...
  python tools/pack.py --check data/k400-shards/*.tar             # compare every byte with the indexes
  python tools/pack.py --index downloaded/*.tar                   # indexes for tars that others made

A data set then takes `root="data/k400-shards/shard-*.tar"`, and after `aws s3 cp --recursive data/k400-shards s3://...`
`root="s3://.../shard-*.tar"`. Run it again to go on, after Ctrl-C too: complete tars are kept.
"""

import argparse
import os
import sys
from pathlib import Path


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("paths", nargs="+", metavar="PATH", help="FOLDER OUT; with --check or --index: tars")
    p.add_argument("--shard-size", default="1GB", metavar="SIZE", help="bytes of files in a tar (default 1GB)")
    p.add_argument("--workers", type=int, default=os.cpu_count(), help="processes")
    p.add_argument("--check", action="store_true", help="compare tars with their indexes, every byte")
    p.add_argument("--index", action="store_true", help="write indexes for tars that are there")
    return p


def in_processes(function, jobs: list, workers: int, unit: str) -> list:
    """Call a function on each job in several processes; returns the results in order."""
    from tqdm import tqdm

    from xmodal.data.pools import process_pool

    with process_pool(max(workers, 1)) as pool:
        return list(tqdm(pool.map(function, jobs), total=len(jobs), unit=unit, disable=None))


def pack_folder(source: Path, out: Path, size: int, workers: int) -> int:
    """Pack the files of a folder."""
    from xmodal.data.packing import pack, plan

    if not source.is_dir():
        raise ValueError(f"{source} is not a folder")
    jobs = plan(source, out, size)
    try:
        written = in_processes(pack, jobs, workers, "tar")
    except KeyboardInterrupt:
        print("stopped; the same command goes on from here")
        return 130
    files = sum(len(files) for _, files in jobs)
    print(f'{files} files in {len(jobs)} tars ({written.count(False)} were there): root="{out / "shard-*.tar"}"')
    return 0


def check_all(tars: list[str], workers: int) -> int:
    """Compare tars with their indexes; 1 when one does not fit."""
    from xmodal.data.packing import check

    wrong = [problem for problem in in_processes(check, tars, workers, "tar") if problem]
    print("\n".join([*wrong, f"{len(tars) - len(wrong)} of {len(tars)} tars are as their indexes say"]))
    return int(bool(wrong))


def main(argv: list[str] | None = None) -> int:
    """Pack; returns the exit status."""
    args = parser().parse_args(argv)
    from xmodal.data.packing import make_index
    from xmodal.engine.dry_run import parse_size
    from xmodal.engine.launch import run

    def job() -> int:
        if args.check:
            return check_all(args.paths, args.workers)
        if args.index:
            counts = in_processes(make_index, args.paths, args.workers, "tar")
            print(f"{sum(counts)} members in {len(counts)} tars")
            return 0
        if len(args.paths) != 2:
            raise ValueError(f"expected FOLDER and OUT, got {len(args.paths)} paths (tars need --check or --index)")
        return pack_folder(
            Path(args.paths[0]), Path(args.paths[1]), int(parse_size(args.shard_size, "--shard-size")), args.workers
        )

    return run(job)


if __name__ == "__main__":
    sys.exit(main())
