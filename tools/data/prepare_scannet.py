"""ScanNet v2 from its release: python tools/data/prepare_scannet.py SCANS scannetv2-labels.combined.tsv data/scannet.

Writes all that the configs read: axis-aligned points and boxes in VoteNet's layout
(`scannet_train_detection_data/<scene>_vert.npy` and so on), `scannet_segmentation/{train,val}/<scene>_inst_nostuff.pth`
and the lists `meta_data/scannetv2_{train,val}.txt`. Scenes that are there already are left alone; scenes that cannot be
read are listed at the end.
"""

import argparse
import json
import sys
from pathlib import Path


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("scans", type=Path, help="folder with scene0000_00, ...")
    p.add_argument("labels", type=Path, help="scannetv2-labels.combined.tsv")
    p.add_argument("out", type=Path)
    p.add_argument(
        "--val",
        type=Path,
        help="list of validation scenes, others are training scenes; default: a scannetv2_val.txt beside the labels",
    )
    p.add_argument("--workers", type=int, default=4)
    return p


def alignment(path: Path):
    """The 4 x 4 matrix of `axisAlignment`, the identity where there is none."""
    import numpy as np

    if path.exists():
        for line in path.read_text().splitlines():
            if line.startswith("axisAlignment"):
                return np.array([float(v) for v in line.split("=")[1].split()]).reshape(4, 4)
    return np.eye(4)


def labels_of(folder: Path, scene: str, count: int, ids: dict[str, int]):
    """NYU40 id and instance number (from 1; 0 = none) of every vertex."""
    import numpy as np

    segments = np.array(json.loads((folder / f"{scene}_vh_clean_2.0.010000.segs.json").read_text())["segIndices"])
    if len(segments) != count:
        raise ValueError(f"{len(segments)} segment indices for {count} vertices")
    semantic, instance = np.zeros(count, np.int64), np.zeros(count, np.int64)
    path = folder / f"{scene}.aggregation.json"
    path = path if path.exists() else folder / f"{scene}_vh_clean.aggregation.json"
    for number, group in enumerate(json.loads(path.read_text())["segGroups"], start=1):
        rows = np.isin(segments, group["segments"])
        semantic[rows], instance[rows] = ids.get(group["label"], 0), number
    return semantic, instance


def boxes_of(coord, semantic, instance):
    """Axis-aligned boxes (K, 7): center, size, NYU40 id."""
    import numpy as np

    from pointcloud.datasets.scannet import DETECTION_NYU

    rows = []
    for number in np.unique(instance[instance > 0]):
        mine = instance == number
        label = int(np.bincount(semantic[mine]).argmax())
        if label in DETECTION_NYU:
            low, high = coord[mine].min(0), coord[mine].max(0)
            rows.append([*(low + high) / 2, *(high - low), label])
    return np.array(rows, np.float32).reshape(-1, 7)


def convert(job: tuple) -> str | None:
    """Write one scene; returns what went wrong."""
    import numpy as np
    import torch
    from plyfile import PlyData

    from pointcloud.datasets.scannet import SCANNET_NYU, axis_align, map_ids
    from xmodal.atomic import replacing

    folder, boxes_out, segment_out, ids = job
    scene = folder.name
    try:
        data = PlyData.read(str(folder / f"{scene}_vh_clean_2.ply"))["vertex"].data
        coord = np.stack([data["x"], data["y"], data["z"]], axis=1).astype(np.float32)
        color = np.stack([data["red"], data["green"], data["blue"]], axis=1).astype(np.float32)
        semantic, instance = labels_of(folder, scene, len(coord), ids)
        aligned = axis_align(coord, alignment(folder / f"{scene}.txt"))
        arrays = {
            "ins_label": instance.astype(np.uint32),
            "sem_label": semantic.astype(np.uint32),
            "bbox": boxes_of(aligned, semantic, instance),
        }
        label = np.where((known := map_ids(semantic, SCANNET_NYU)) < 0, -100, known)
        content = (aligned, color / 127.5 - 1, label, instance)
        with replacing(segment_out) as file:
            torch.save(content, file)
        for name, array in arrays.items():
            with replacing(boxes_out / f"{scene}_{name}.npy") as file:
                np.save(file, array)
        table = np.concatenate([aligned, color], axis=1)
        with replacing(boxes_out / f"{scene}_vert.npy") as file:  # last: marks it done
            np.save(file, table)
    except (OSError, ValueError, KeyError) as error:
        return f"{scene}: {type(error).__name__}: {error}"
    return None


def validation_scenes(given: Path | None, labels: Path) -> set[str]:
    """Return the scenes of the list given, or of the published list beside the labels; says so when there is none."""
    places = [given] if given else [d / "scannetv2_val.txt" for d in (labels.parent, labels.parent / "meta_data")]
    path = next((p for p in places if p.is_file()), None)
    if path is None and given:
        raise SystemExit(f"error: no list at {given}")
    if path is None:
        print("no scannetv2_val.txt beside the labels and no --val: all scenes are training scenes", file=sys.stderr)
        return set()
    return set(path.read_text().split())


def write_lists(folder: Path, scenes: list[str], val: set[str]) -> None:
    """Write the scenes of each split, as the detection configs read them."""
    folder.mkdir(parents=True, exist_ok=True)
    for split, mine in (("train", [s for s in scenes if s not in val]), ("val", [s for s in scenes if s in val])):
        if mine:
            (folder / f"scannetv2_{split}.txt").write_text("\n".join(mine) + "\n")


def main(argv: list[str] | None = None) -> int:
    """Convert all scenes; returns 1 when some could not be read."""
    args = parser().parse_args(argv)
    from pointcloud.datasets.safe_files import convert_all
    from xmodal.data.lists import read_csv

    scenes = sorted(p for p in args.scans.glob("scene*") if p.is_dir())
    if not scenes or not args.labels.is_file():
        print(f"error: no scene* folders below {args.scans}, or no {args.labels}", file=sys.stderr)
        return 2
    ids = {row["raw_category"]: int(row["nyu40id"]) for row in read_csv(args.labels, "\t")}
    val = validation_scenes(args.val, args.labels)
    write_lists(args.out / "meta_data", [p.name for p in scenes], val)
    boxes_out = args.out / "scannet_train_detection_data"
    jobs = []
    for folder in scenes:
        split = "val" if folder.name in val else "train"
        target = args.out / "scannet_segmentation" / split / f"{folder.name}_inst_nostuff.pth"
        if not (boxes_out / f"{folder.name}_vert.npy").exists():
            jobs.append((folder, boxes_out, target, ids))
    return convert_all(convert, jobs, args.workers, "scenes", len(scenes) - len(jobs))


if __name__ == "__main__":
    sys.exit(main())
