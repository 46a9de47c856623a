"""Make the built-in point sets: python tools/data/make_clouds.py demo_out/clouds.

Objects in ModelNet40's text layout, rooms in S3DIS's layout (Area_1 train, Area_2 val, Area_5 test) and the same rooms
as oriented boxes in SUN RGB-D's layout. Done before with the same settings: nothing happens.
"""

import argparse
import json
import sys
from pathlib import Path

OBJECT_SPLITS = {"train": 150, "val": 15, "test": 30}  # per class
ROOM_SPLITS = {"train": (1, 400), "val": (2, 40), "test": (5, 40)}  # area, rooms


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("out", type=Path, help="folder to write to")
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--scale", type=float, default=1.0, help="share of the clouds to make (for tests)")
    p.add_argument("--points", type=int, default=8192, help="points of a room")
    p.add_argument("--workers", type=int, default=2)
    return p


def object_job(job: tuple) -> str:
    """Write one object; returns its id."""
    import numpy as np

    from pointcloud.toys.scenes import OBJECTS, object_cloud

    folder, name, number, seed = job
    sample = f"{name}_{number:04d}"
    path = Path(folder) / name / f"{sample}.txt"
    path.parent.mkdir(parents=True, exist_ok=True)
    cloud = object_cloud(name, np.random.default_rng([seed, 1, list(OBJECTS).index(name), number]), 1024)
    np.savetxt(path, np.concatenate([cloud["coord"], cloud["feat"]], axis=1), fmt="%.5f", delimiter=",")
    return sample


def room_job(job: tuple) -> str:
    """Write one room twice; returns its name."""
    import numpy as np

    from pointcloud.toys.scenes import room

    folder, split, area, number, seed, points = job
    cloud = room(np.random.default_rng([seed, 2, area, number]), points)
    table = np.concatenate([cloud["coord"], cloud["feat"] * 255, cloud["segment"][:, None]], axis=1)
    name = f"Area_{area}_room_{number}"
    np.save(Path(folder) / "rooms" / "trainval_fullarea" / f"{name}.npy", table.astype(np.float32))
    boxes = cloud["boxes"]
    rows = np.concatenate([boxes[:, :3], boxes[:, 3:6] / 2, boxes[:, 6:], cloud["box_label"][:, None]], axis=1)
    views = Path(folder) / f"boxes_{split}"
    np.savez(views / f"{number:06d}_pc.npz", pc=np.concatenate([cloud["coord"], cloud["feat"]], axis=1))
    np.save(views / f"{number:06d}_bbox.npy", rows)
    return name


def make(out: Path, seed: int, scale: float, points: int, workers: int) -> None:
    """Write everything."""
    from concurrent.futures import ProcessPoolExecutor

    from tqdm import tqdm

    from pointcloud.toys.scenes import FURNITURE, OBJECTS, ROOM_CLASSES

    settings = json.dumps({"seed": seed, "scale": scale, "points": points, "version": 4})
    done = out / "settings.json"
    if done.exists() and done.read_text() == settings:
        print(f"{out} is there already")
        return
    for folder in ("rooms/trainval_fullarea", "rooms/list", *(f"boxes_{s}" for s in ROOM_SPLITS), "objects"):
        (out / folder).mkdir(parents=True, exist_ok=True)
    (out / "objects" / "objects_shape_names.txt").write_text("\n".join(OBJECTS) + "\n")
    (out / "rooms" / "list" / "s3dis_names.txt").write_text("\n".join(ROOM_CLASSES) + "\n")
    (out / "boxes_classes.txt").write_text("\n".join(FURNITURE) + "\n")
    jobs, start = [], 0
    for split, count in OBJECT_SPLITS.items():
        count = max(2, round(count * scale))
        numbers = range(start, start + count)
        start += count
        ids = [f"{name}_{n:04d}" for name in OBJECTS for n in numbers]
        (out / "objects" / f"objects_{split}.txt").write_text("\n".join(ids) + "\n")
        jobs += [(str(out / "objects"), name, n, seed) for name in OBJECTS for n in numbers]
    rooms = [
        (str(out), split, area, n, seed, points)
        for split, (area, count) in ROOM_SPLITS.items()
        for n in range(max(2, round(count * scale)))
    ]
    with ProcessPoolExecutor(workers) as pool:
        for _ in tqdm(pool.map(object_job, jobs, chunksize=16), total=len(jobs), desc="objects"):
            pass
        for _ in tqdm(pool.map(room_job, rooms, chunksize=4), total=len(rooms), desc="rooms"):
            pass
    done.write_text(settings)


def main(argv: list[str] | None = None) -> int:
    """Make the sets; returns the exit status."""
    args = parser().parse_args(argv)
    make(args.out, args.seed, args.scale, args.points, args.workers)
    return 0


if __name__ == "__main__":
    sys.exit(main())
