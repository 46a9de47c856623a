"""Read info files of mmdetection3d: lists of scenes (0.x) and dicts with `metainfo` and `data_list` (1.1 and later)."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pointcloud.datasets.safe_files import load_pickle
from xmodal.registry import did_you_mean


def read_infos(path: Path, classes: Sequence[str], clockwise: bool | None = None) -> list[dict[str, Any]]:
    """Read an info file without running code that may be pickled in it.

    Args:
        path: such as `scannet_infos_train.pkl`.
        classes: names by index, to which the names of a newer file are mapped.
        clockwise: which way the yaw in the file turns, seen from above; None for the file's generation: clockwise in
            lists, counter-clockwise in dicts (mmdetection3d changed it with 1.0).

    Returns:
        A dict a scene: `name`, `points` (path as the file has it), `columns`, `align` (4, 4) or None, `boxes` (K, 7)
        float32 with clockwise yaw, `label` (K,).

    Raises:
        ValueError: other contents, or names of which none is a class here.
    """
    content = load_pickle(path)
    if isinstance(content, dict) and isinstance(content.get("data_list"), list):
        names = categories(content.get("metainfo") or {}, path)
        table = index_of(names, classes, path)
        scenes = [newer(scene, table, path) for scene in content["data_list"]]
        turn = -1 if not clockwise else 1
    elif isinstance(content, list) and all(
        isinstance(s, dict) and {"annos", "point_cloud"} <= s.keys() for s in content
    ):
        scenes = [older(scene, number) for number, scene in enumerate(content)]
        turn = 1 if clockwise in (None, True) else -1
    else:
        raise ValueError(
            f"{path} is no info file of mmdetection3d: expected a list of scenes with point_cloud and annos, or a dict "
            "with metainfo and data_list"
        )
    for scene in scenes:
        scene["boxes"][:, 6] *= turn
    return scenes


def older(info: dict[str, Any], number: int) -> dict[str, Any]:
    """Return one scene of a list."""
    place, annos = info["point_cloud"], info["annos"]
    count = int(annos["gt_num"])
    return {
        "name": str(place.get("lidar_idx", number)),
        "points": info["pts_path"],
        "columns": int(place.get("num_features", 6)),
        "align": annos.get("axis_align_matrix"),
        "boxes": boxes_of(annos["gt_boxes_upright_depth"] if count else []),
        "label": np.asarray(annos["class"], np.int64) if count else np.zeros(0, np.int64),
    }


def newer(info: dict[str, Any], table: dict[int, int], path: Path) -> dict[str, Any]:
    """Return one scene of a dict's `data_list`; boxes of classes that are not known here are left out."""
    try:
        place, rows = info["lidar_points"], info.get("instances", [])
        rows = [row for row in rows if int(row["bbox_label_3d"]) in table]
        return {
            "name": Path(place["lidar_path"]).stem,
            "points": place["lidar_path"],
            "columns": int(place.get("num_pts_feats", 6)),
            "align": info.get("axis_align_matrix"),
            "boxes": boxes_of([row["bbox_3d"] for row in rows]),
            "label": np.array([table[int(row["bbox_label_3d"])] for row in rows], np.int64),
        }
    except (KeyError, TypeError) as error:
        raise ValueError(f"{path}: a scene of data_list has no {error}") from error


def boxes_of(rows: Any) -> np.ndarray:
    """Boxes (K, 7) of rows with or without yaw."""
    boxes = np.zeros((len(rows), 7), np.float32)
    if len(rows):
        given = np.asarray(rows, np.float32)[:, :7]
        boxes[:, : given.shape[1]] = given
    return boxes


def categories(meta: dict[str, Any], path: Path) -> dict[str, int]:
    """Return the index of each class name of a newer file.

    Raises:
        ValueError: the file does not say.
    """
    known = meta.get("categories") or meta.get("classes") or meta.get("CLASSES")
    if not known:
        raise ValueError(f"{path}: metainfo has no categories, so its labels have no names")
    return dict(known) if isinstance(known, dict) else {name: index for index, name in enumerate(known)}


def index_of(names: dict[str, int], classes: Sequence[str], path: Path) -> dict[int, int]:
    """Map the labels of a newer file to positions in `classes`, by name.

    Raises:
        ValueError: no name is known here.
    """
    table = {int(index): list(classes).index(name) for name, index in names.items() if name in classes}
    if not table:
        first = next(iter(names))
        raise ValueError(f"{path}: none of its classes is known here, e.g. {first!r}; {did_you_mean(first, classes)}")
    return table
