"""How often a training step may make the host wait for the device, by family of configs.

One wait is the check that loss and gradients are finite, which also agrees on stopping; training inside `fit`
(few-shot, ELEVATER) has none. The Hungarian matcher adds one for all layers. Sparse networks read the sizes of what
they find: voxels of each level, pairs of each kernel map. No step waits for a copy to the device.
"""

from pathlib import Path

LIMITS = {
    "few-shot": 0,
    "image or video": 1,
    "pretraining": 1,
    "things": 3,
    "points": 1,
    "points with matcher": 2,
    "sparse voxels": 22,
    "sparse pyramid": 38,
    "point transformer": 31,
}


def family_of(path: Path) -> str:
    """Return a config's family."""
    folder, stem = path.parent.name, path.stem
    if folder in ("fewshot", "elevater"):
        return "few-shot"
    if folder == "pretrain":
        return "things" if stem.endswith("_things") else "pretraining"
    if folder != "pointcloud":
        return "image or video"
    if stem.startswith("vdetr_100k"):
        return "sparse pyramid"
    if stem.startswith("epcl-sparse"):
        return "sparse voxels"
    if stem.startswith(("probe_ptv3", "probe_sonata", "ptv3")):
        return "point transformer"
    inside = stem == "epcl_tiny-clip_2k_rooms-det"  # its criterion matches without the Hungarian algorithm
    return "points with matcher" if stem.endswith("-det") and not inside else "points"
