"""The classes of every data set, through its reader, against the published tables."""

import pickle

import numpy as np
import pytest
import torch

from pointcloud.datasets.objects import ModelNet40, ScanObjectNN
from pointcloud.datasets.s3dis import S3DIS
from pointcloud.datasets.scannet import MMDet3DIndoor, ScanNetDetection, ScanNetSegmentation
from pointcloud.datasets.semantickitti import SemanticKITTI
from pointcloud.datasets.sunrgbd import SUNRGBD

# The 40 categories of NYU v2, in whose numbers ScanNet's labels come: ids 1 to 40 in order.
NYU40 = """wall, floor, cabinet, bed, chair, sofa, table, door, window, bookshelf, picture, counter, blinds, desk,
shelves, curtain, dresser, pillow, mirror, floor mat, clothes, ceiling, books, refrigerator, television, paper, towel,
shower curtain, box, whiteboard, person, night stand, toilet, sink, lamp, bathtub, bag, otherstructure, otherfurniture,
otherprop""".replace("\n", " ").split(", ")

# The benchmark's 20 classes in the order of its evaluation.
SCANNET = """wall, floor, cabinet, bed, chair, sofa, table, door, window, bookshelf, picture, counter, desk, curtain,
refrigerator, shower curtain, toilet, sink, bathtub, otherfurniture""".replace("\n", " ").split(", ")

# `labels` of semantic-kitti.yaml: what the raw numbers in the files mean.
KITTI_RAW = {
    0: "unlabeled", 1: "outlier", 10: "car", 11: "bicycle", 13: "bus", 15: "motorcycle", 16: "on-rails", 18: "truck",
    20: "other-vehicle", 30: "person", 31: "bicyclist", 32: "motorcyclist", 40: "road", 44: "parking", 48: "sidewalk",
    49: "other-ground", 50: "building", 51: "fence", 52: "other-structure", 60: "lane-marking", 70: "vegetation",
    71: "trunk", 72: "terrain", 80: "pole", 81: "traffic-sign", 99: "other-object", 252: "moving-car",
    253: "moving-bicyclist", 254: "moving-person", 255: "moving-motorcyclist", 256: "moving-on-rails",
    257: "moving-bus", 258: "moving-truck", 259: "moving-other-vehicle",
}  # fmt: skip
# `labels` of the 20 classes that are left, by number.
KITTI = """unlabeled, car, bicycle, motorcycle, truck, other-vehicle, person, bicyclist, motorcyclist, road, parking,
sidewalk, other-ground, building, fence, vegetation, trunk, terrain, pole, traffic-sign""".replace("\n", " ").split(
    ", "
)
# What its learning map merges besides moving things with their kind.
KITTI_MERGED = {
    "outlier": "unlabeled", "other-structure": "unlabeled", "other-object": "unlabeled", "bus": "other-vehicle",
    "on-rails": "other-vehicle", "lane-marking": "road",
}  # fmt: skip


def rng():
    return np.random.default_rng(0)


def listed(words):
    return words.split()


def test_scannet_segmentation(tmp_path):
    (tmp_path / "val").mkdir()
    ids = np.arange(41)
    content = (rng().random((41, 3)), rng().random((41, 3)), ids)
    torch.save(content, tmp_path / "val" / "scene0011_00_inst_nostuff.pth")
    data = ScanNetSegmentation(str(tmp_path), "val", nyu_labels=True)
    assert data.classes == SCANNET
    found = [data.classes[i] if i >= 0 else None for i in data[0]["segment"].tolist()]
    assert found == [None] + [name if name in SCANNET else None for name in NYU40]


def test_scannet_detection(tmp_path):
    """VoteNet's 18 kinds of objects; what NYU calls other furniture counts as its bin, as in VoteNet's table."""
    (tmp_path / "list.txt").write_text("scene0000_00\n")
    np.save(tmp_path / "scene0000_00_vert.npy", rng().random((40, 6)))
    boxes = np.concatenate([rng().random((41, 6)) + 0.1, np.arange(41.0)[:, None]], axis=1)
    np.save(tmp_path / "scene0000_00_bbox.npy", boxes)
    data = ScanNetDetection(str(tmp_path), str(tmp_path / "list.txt"))
    names = [*SCANNET[2:15], "showercurtrain", "toilet", "sink", "bathtub", "garbagebin"]
    assert data.classes == names
    wanted = [{"shower curtain": "showercurtrain", "otherfurniture": "garbagebin"}.get(n, n) for n in NYU40]
    item = data[0]
    assert [names[i] for i in item["box_label"].tolist()] == [n for n in wanted if n in names]
    kept = [i for i, n in enumerate(wanted, start=1) if n in names]
    assert np.allclose(item["boxes"][:, :6], boxes[kept, :6], atol=1e-6)
    (tmp_path / "points").mkdir()
    rng().random((10, 6)).astype(np.float32).tofile(tmp_path / "points" / "a.bin")
    info = {"point_cloud": {}, "pts_path": "points/a.bin", "annos": {"gt_num": 0}}
    (tmp_path / "infos.pkl").write_bytes(pickle.dumps([info]))
    assert MMDet3DIndoor(str(tmp_path), "infos.pkl").classes == names


def test_semantickitti(tmp_path):
    for part in ("velodyne", "labels"):
        (tmp_path / "sequences" / "08" / part).mkdir(parents=True)
    raw = np.array(list(KITTI_RAW), np.uint32)
    rng().normal(size=(len(raw), 4)).astype(np.float32).tofile(tmp_path / "sequences/08/velodyne/000000.bin")
    (raw | (77 << 16)).astype(np.uint32).tofile(tmp_path / "sequences/08/labels/000000.label")
    data = SemanticKITTI(str(tmp_path), "val")
    assert data.classes == KITTI
    plain = [name.removeprefix("moving-") for name in KITTI_RAW.values()]
    found = [data.classes[i] for i in data[0]["segment"].tolist()]
    assert dict(zip(KITTI_RAW.values(), found, strict=True)) == {
        name: KITTI_MERGED.get(kind, kind) for name, kind in zip(KITTI_RAW.values(), plain, strict=True)
    }


def test_semantickitti_splits(tmp_path):
    for number in range(22):
        folder = tmp_path / "sequences" / f"{number:02d}"
        (folder / "velodyne").mkdir(parents=True)
        rng().normal(size=(3, 4)).astype(np.float32).tofile(folder / "velodyne" / "000000.bin")
        if number < 11:
            (folder / "labels").mkdir()
            np.zeros(3, np.uint32).tofile(folder / "labels" / "000000.label")
    split = lambda name: [int(i.split("/")[0]) for i in SemanticKITTI(str(tmp_path), name).sample_ids]  # noqa: E731
    assert split("train") == [0, 1, 2, 3, 4, 5, 6, 7, 9, 10]
    assert split("val") == [8]
    assert split("test") == list(range(11, 22))
    assert "segment" not in SemanticKITTI(str(tmp_path), "test")[0]


def test_s3dis(tmp_path):
    usual = listed("ceiling floor wall beam column window door table chair sofa bookcase board clutter")
    np.save(tmp_path / "Area_5_office_1.npy", rng().random((9, 7)))
    assert S3DIS(str(tmp_path), folder="", names=None).classes == usual
    other = listed("ceiling floor wall beam column window door chair table bookcase sofa board clutter")
    (tmp_path / "names.txt").write_text("\n".join(other))
    assert S3DIS(str(tmp_path), folder="", names="names.txt").classes == other


def test_scanobjectnn(tmp_path):
    h5py = pytest.importorskip("h5py")
    (tmp_path / "main_split").mkdir()
    with h5py.File(tmp_path / "main_split" / "test_objectdataset.h5", "w") as f:
        f["data"], f["label"] = rng().random((15, 8, 3)), np.arange(15)
    data = ScanObjectNN(str(tmp_path), "test", "obj_bg")
    names = listed("bag bin box cabinet chair desk display door shelf table bed pillow sink sofa toilet")
    assert [data.classes[data[i]["label"]] for i in range(15)] == names


def test_sunrgbd(tmp_path):
    (tmp_path / "sun_train").mkdir()
    names = listed("bed table sofa chair toilet desk dresser night_stand bookshelf bathtub")
    rows = [[0, 0, 0, 0.5, 0.5, 0.5, 0, i] for i in range(10)]
    np.savez(tmp_path / "sun_train" / "000001_pc.npz", pc=rng().random((9, 6)))
    np.save(tmp_path / "sun_train" / "000001_bbox.npy", np.array(rows))
    data = SUNRGBD(str(tmp_path / "sun"), "train")
    assert [data.classes[i] for i in data[0]["box_label"].tolist()] == names


def test_modelnet_keeps_the_order_of_its_names_file(tmp_path):
    (tmp_path / "modelnet40_shape_names.txt").write_text("vase\nnight_stand\nairplane\n")
    (tmp_path / "modelnet40_test.txt").write_text("airplane_0627\nnight_stand_0201\nvase_0476\n")
    for name in ("airplane_0627", "night_stand_0201", "vase_0476"):
        folder = tmp_path / name.rsplit("_", 1)[0]
        folder.mkdir()
        np.savetxt(folder / f"{name}.txt", rng().random((4, 6)), delimiter=",")
    data = ModelNet40(str(tmp_path), "test")
    assert [data[i]["label"] for i in range(3)] == [2, 1, 0]
