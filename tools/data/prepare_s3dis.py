"""S3DIS from its text release: python tools/data/prepare_s3dis.py Stanford3dDataset_v1.2_Aligned_Version data/s3dis.

Writes `trainval_fullarea/Area_N_<room>.npy` (P, 7) = xyz, rgb, label and `list/s3dis_names.txt`. Rooms that are there
already are left alone, so an interrupted run goes on; lines that were mended are printed with file and line, rooms that
cannot be read are listed at the end.
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


def read_rows(path: Path) -> tuple:
    """Points (P, 6) of one object and remarks on lines that were mended or left out.

    The release holds stray control characters in numbers; they are taken out.

    Raises:
        ValueError: lines of another width than six, naming file and line.
    """
    import numpy as np

    try:
        table = np.loadtxt(path, np.float32, comments=None, ndmin=2)
        if table.shape[1] == 6:
            return table, []
    except ValueError:
        pass
    rows, remarks = [], []
    for number, line in enumerate(path.read_text(errors="replace").split("\n"), start=1):
        where = f"{path.parent.parent.name}/Annotations/{path.name}, line {number}"
        clean = "".join(c for c in line if c.isprintable() or c == "\t").replace("\ufffd", "")
        words = clean.split()
        if not words:
            continue
        if len(words) != 6 and clean == line.rstrip("\r"):
            raise ValueError(f"{where}: {len(words)} columns, expected 6 (x y z r g b)")
        try:
            numbers = [float(w) for w in words]
        except ValueError:
            numbers = []
        if len(numbers) != 6:
            remarks.append(f"{where}: {line!r} cannot be mended, left out")
            continue
        if clean != line.rstrip("\r"):
            remarks.append(f"{where}: {line!r} mended to {clean!r}")
        rows.append(numbers)
    return np.asarray(rows, np.float32).reshape(-1, 6), remarks


def read_objects(room: Path) -> tuple:
    """Points (P, 7) of every annotated object of a room, remarks, and which objects were left out.

    Stairs and other unknown names are clutter.
    """
    import numpy as np

    from pointcloud.datasets.s3dis import S3DIS_CLASSES

    parts, remarks, left_out = [], [], []
    for path in sorted((room / "Annotations").glob("*.txt")):
        name = path.stem.split("_")[0]
        label = S3DIS_CLASSES.index(name if name in S3DIS_CLASSES else "clutter")
        try:
            table, more = read_rows(path)
        except ValueError as error:
            left_out.append(f"{error}: this object is left out")
            continue
        remarks += more
        if len(table):
            parts.append(np.concatenate([table, np.full((len(table), 1), label, np.float32)], axis=1))
    return parts, remarks, left_out


def convert(job: tuple[Path, Path]) -> str | None:
    """Write one room; returns what went wrong."""
    import numpy as np

    from xmodal.atomic import replacing

    room, target = job
    try:
        parts, remarks, left_out = read_objects(room)
        if not parts:
            return "; ".join([f"{room}: no Annotations/*.txt with six columns", *left_out])
        table = np.concatenate(parts)
        table[:, :3] -= table[:, :3].min(0)
        with replacing(target) as file:
            np.save(file, table)
        for remark in remarks:
            print(remark, flush=True)
    except (OSError, ValueError) as error:
        return f"{room}: {error}"
    return "; ".join([f"{room} is written without some objects", *left_out]) if left_out else None


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
