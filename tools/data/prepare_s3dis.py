"""S3DIS from its text release: python tools/data/prepare_s3dis.py Stanford3dDataset_v1.2_Aligned_Version data/s3dis.

Writes `trainval_fullarea/Area_N_<room>.npy` (P, 7) = xyz, rgb, label and `list/s3dis_names.txt`. Rooms that are there
already are left alone, so an interrupted run goes on; rooms that cannot be read are listed at the end.
"""

import argparse
import sys
from pathlib import Path


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("source", type=Path, help="folder with Area_1 to Area_6")
    p.add_argument("out", type=Path)
    p.add_argument("--workers", type=int, default=4)
    return p


def read_objects(room: Path) -> list:
    """Points (P, 7) of every annotated object of a room; stairs and other unknown names are clutter."""
    import numpy as np

    from pointcloud.datasets.s3dis import S3DIS_CLASSES

    parts = []
    for path in sorted((room / "Annotations").glob("*.txt")):
        name = path.stem.split("_")[0]
        label = S3DIS_CLASSES.index(name if name in S3DIS_CLASSES else "clutter")
        rows = []
        for line in path.read_text(errors="replace").splitlines():
            words = line.replace("\x10", "").split()  # the release holds a stray control character
            if len(words) == 6:
                rows.append([float(w) for w in words])
        if rows:
            table = np.asarray(rows, np.float32)
            parts.append(np.concatenate([table, np.full((len(table), 1), label, np.float32)], axis=1))
    return parts


def convert(job: tuple[Path, Path]) -> str | None:
    """Write one room; returns what went wrong."""
    import numpy as np

    from pointcloud.datasets.safe_files import write_atomically

    room, target = job
    try:
        parts = read_objects(room)
        if not parts:
            return f"{room}: no Annotations/*.txt with six columns"
        table = np.concatenate(parts)
        table[:, :3] -= table[:, :3].min(0)
        write_atomically(target, lambda file: np.save(file, table))
    except (OSError, ValueError) as error:
        return f"{room}: {error}"
    return None


def main(argv: list[str] | None = None) -> int:
    """Convert all rooms; returns 1 when some could not be read."""
    args = parser().parse_args(argv)
    from pointcloud.datasets.s3dis import S3DIS_CLASSES
    from pointcloud.datasets.safe_files import convert_all

    rooms = sorted(p for p in args.source.glob("Area_*/*") if (p / "Annotations").is_dir())
    if not rooms:
        print(f"error: no Area_*/<room>/Annotations below {args.source}", file=sys.stderr)
        return 2
    (args.out / "list").mkdir(parents=True, exist_ok=True)
    (args.out / "list" / "s3dis_names.txt").write_text("\n".join(S3DIS_CLASSES) + "\n")
    jobs = [(r, args.out / "trainval_fullarea" / f"{r.parent.name}_{r.name}.npy") for r in rooms]
    jobs = [job for job in jobs if not job[1].exists()]
    return convert_all(convert, jobs, args.workers, "rooms", len(rooms) - len(jobs))


if __name__ == "__main__":
    sys.exit(main())
