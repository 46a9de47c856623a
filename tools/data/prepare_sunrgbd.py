"""SUN RGB-D from VoteNet's MATLAB export: python tools/data/prepare_sunrgbd.py sunrgbd_trainval data/sunrgbd.

Reads `depth/NNNNNN.mat` (points), the boxes of V1 in `label_v1/NNNNNN.txt` (those of VoteNet's and 3DETR's published
figures; --labels v2: `label/NNNNNN.txt`) and `train_data_idx.txt`, `val_data_idx.txt`; writes
`sunrgbd_pc_bbox_votes_50k_{v1,v2}_{train,val}/NNNNNN_{pc.npz,bbox.npy}`. Views without an object of the ten classes are
skipped and counted. Views that are there already are left alone; views that cannot be read are listed at the end.
"""

import argparse
import sys
from pathlib import Path

LABELS = {"v1": "label_v1", "v2": "label"}  # folders of VoteNet's export
EMPTY = "no object of the ten classes"


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("source", type=Path, help="folder with depth, label and the lists of views")
    p.add_argument("out", type=Path)
    p.add_argument("--labels", choices=tuple(LABELS), default="v1", help="the release of the boxes (v1)")
    p.add_argument("--keep-empty", action="store_true", help="write views without objects too")
    p.add_argument("--points", type=int, default=50_000, help="points kept of a view")
    p.add_argument("--workers", type=int, default=4)
    return p


def read_boxes(path: Path):
    """Boxes (K, 8): center, HALF sizes along the box's own x, y, z, heading, class.

    A line is: name, 2D box (4), centroid (3), width, length, height (half sizes), orientation (2), which is where the
    box's x points. The length runs along it. The heading turns clockwise seen from above.
    """
    import numpy as np

    from pointcloud.datasets.sunrgbd import SUNRGBD_CLASSES

    rows = []
    for line in path.read_text().splitlines():
        words = line.split()
        if not words or words[0] not in SUNRGBD_CLASSES:
            continue
        v = [float(w) for w in words[1:]]
        if len(v) < 12:
            raise ValueError(f"{path.name}: a line with {len(v)} numbers, expected 12")
        heading = -np.arctan2(v[11], v[10])
        rows.append(
            [*v[4:7], v[8], v[7], v[9], heading, SUNRGBD_CLASSES.index(words[0])]
        )  # length runs along the box's x
    return np.array(rows).reshape(-1, 8)


def convert(job: tuple) -> str | None:
    """Write one view; returns what went wrong."""
    import numpy as np
    from scipy.io import loadmat

    from xmodal.atomic import replacing

    source, target, number, keep, labels, keep_empty = job
    name = f"{number:06d}"
    try:
        boxes = read_boxes(source / LABELS[labels] / f"{name}.txt")
        if not len(boxes) and not keep_empty:
            return f"{name}: {EMPTY}"
        points = loadmat(source / "depth" / f"{name}.mat")["instance"].astype(np.float32)
        if points.ndim != 2 or points.shape[1] < 6:
            return f"{name}: points have shape {points.shape}, expected (P, 6)"
        rng = np.random.default_rng(number)
        points = points[rng.choice(len(points), keep, replace=len(points) < keep)]
        with replacing(target / f"{name}_bbox.npy") as file:
            np.save(file, boxes)
        with replacing(target / f"{name}_pc.npz") as file:
            np.savez_compressed(file, pc=points)
    except (OSError, ValueError, KeyError) as error:
        return f"{name}: {type(error).__name__}: {error}"
    return None


def main(argv: list[str] | None = None) -> int:
    """Convert all views; returns 1 when some could not be read."""
    args = parser().parse_args(argv)
    from pointcloud.datasets.safe_files import convert_all

    folder = args.source / LABELS[args.labels]
    if not folder.is_dir():
        print(f"error: no {folder}: boxes of {args.labels} are in {LABELS[args.labels]}/", file=sys.stderr)
        return 2
    jobs, there = [], 0
    for split in ("train", "val"):
        listing = args.source / f"{split}_data_idx.txt"
        if not listing.is_file():
            print(f"error: no {listing}", file=sys.stderr)
            return 2
        target = args.out / f"sunrgbd_pc_bbox_votes_50k_{args.labels}_{split}"
        for number in (int(w) for w in listing.read_text().split()):
            if (target / f"{number:06d}_pc.npz").exists():
                there += 1
            else:
                jobs.append((args.source, target, number, args.points, args.labels, args.keep_empty))
    return convert_all(convert, jobs, args.workers, "views", there, skipped=EMPTY)


if __name__ == "__main__":
    sys.exit(main())
