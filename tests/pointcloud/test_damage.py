"""Every reader names and counts a damaged file, skips it in testing and replaces it in training."""

import pickle

import numpy as np
import pytest
import torch

from pointcloud.datasets.objects import FewShotClouds, ModelNet40, ModelNet40H5, ScanObjectNN
from pointcloud.datasets.s3dis import S3DIS
from pointcloud.datasets.scannet import MMDet3DIndoor, ScanNetDetection, ScanNetSegmentation
from pointcloud.datasets.semantickitti import SemanticKITTI
from pointcloud.datasets.sunrgbd import SUNRGBD

NUMBERS = range(6)
POINTS = 40


def rng():
    return np.random.default_rng(0)


def modelnet(root):
    (root / "modelnet40_shape_names.txt").write_text("chair\n")
    (root / "modelnet40_train.txt").write_text("".join(f"chair_000{i}\n" for i in NUMBERS))
    (root / "chair").mkdir()
    for i in NUMBERS:
        np.savetxt(root / "chair" / f"chair_000{i}.txt", rng().normal(size=(POINTS, 6)), delimiter=",")
    return lambda **o: ModelNet40(str(root), "train", **o), root / "chair" / "chair_0002.txt"


def s3dis(root):
    (root / "trainval_fullarea").mkdir()
    for i in NUMBERS:
        np.save(root / "trainval_fullarea" / f"Area_1_room_{i}.npy", rng().random((POINTS, 7)).round())
    return lambda **o: S3DIS(str(root), names=None, **o), root / "trainval_fullarea" / "Area_1_room_2.npy"


def s3dis_folders(root):
    for i in NUMBERS:
        room = root / "Area_1" / f"room_{i}"
        room.mkdir(parents=True)
        for name, width in (("coord", 3), ("color", 3), ("segment", 1)):
            np.save(room / f"{name}.npy", rng().random((POINTS, width)).round())
    return lambda **o: S3DIS(str(root), folder="", names=None, **o), root / "Area_1" / "room_2" / "segment.npy"


def scannet_segmentation(root):
    (root / "train").mkdir()
    for i in NUMBERS:
        content = (rng().random((POINTS, 3)), rng().random((POINTS, 3)), np.zeros(POINTS))
        torch.save(content, root / "train" / f"scene000{i}_00_inst_nostuff.pth")
    return lambda **o: ScanNetSegmentation(str(root), "train", **o), root / "train" / "scene0002_00_inst_nostuff.pth"


def scannet_detection(root):
    (root / "list.txt").write_text("".join(f"scene000{i}_00\n" for i in NUMBERS))
    for i in NUMBERS:
        np.save(root / f"scene000{i}_00_vert.npy", rng().random((POINTS, 6)))
        np.save(root / f"scene000{i}_00_bbox.npy", np.array([[0, 0, 0, 1, 1, 1, 5.0]]))
    return lambda **o: ScanNetDetection(str(root), str(root / "list.txt"), **o), root / "scene0002_00_bbox.npy"


def mmdet3d(root):
    (root / "points").mkdir()
    infos = []
    for i in NUMBERS:
        rng().random((POINTS, 6)).astype(np.float32).tofile(root / "points" / f"scene000{i}_00.bin")
        place = {"num_features": 6, "lidar_idx": f"scene000{i}_00"}
        annos = {"gt_num": 0, "axis_align_matrix": np.eye(4)}
        infos.append({"point_cloud": place, "pts_path": f"points/scene000{i}_00.bin", "annos": annos})
    (root / "infos.pkl").write_bytes(pickle.dumps(infos))
    return lambda **o: MMDet3DIndoor(str(root), "infos.pkl", **o), root / "points" / "scene0002_00.bin"


def sunrgbd(root):
    (root / "sun_train").mkdir()
    for i in NUMBERS:
        np.savez(root / "sun_train" / f"00000{i}_pc.npz", pc=rng().random((POINTS, 6)))
        np.save(root / "sun_train" / f"00000{i}_bbox.npy", np.array([[0, 0, 0, 1, 1, 1, 0.3, 2]]))
    return lambda **o: SUNRGBD(str(root / "sun"), "train", **o), root / "sun_train" / "000002_pc.npz"


def kitti(root):
    for part in ("velodyne", "labels"):
        (root / "sequences" / "00" / part).mkdir(parents=True)
    for i in NUMBERS:
        rng().random((POINTS, 4)).astype(np.float32).tofile(root / "sequences/00/velodyne" / f"00000{i}.bin")
        np.full(POINTS, 40, np.uint32).tofile(root / "sequences/00/labels" / f"00000{i}.label")
    return lambda **o: SemanticKITTI(str(root), "train", **o), root / "sequences/00/labels/000002.label"


LAYOUTS = (
    modelnet, s3dis, s3dis_folders, scannet_segmentation, scannet_detection, mmdet3d, sunrgbd, kitti
)  # fmt: skip


def tear(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3 + 1])


DAMAGES = {
    "torn": tear,
    "empty": lambda path: path.write_bytes(b""),
    "noise": lambda path: path.write_bytes(rng().bytes(331)),
    "missing": lambda path: path.unlink(),
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda f: f.__name__)
def test_a_damaged_file_is_named_skipped_and_replaced(layout, damage, tmp_path):
    make, path = layout(tmp_path)
    data = make(test_mode=True)
    assert all("skipped" not in data[i] for i in range(len(data)))
    DAMAGES[damage](path)
    items = [data[i] for i in range(len(data))]
    assert [i for i, item in enumerate(items) if "skipped" in item] == [2]
    assert len(items[2]["reason"]) > 8
    assert len(data.broken) == 1
    train = make(test_mode=False)
    assert train[(0, 2)]["sample_id"] != items[2]["skipped"]


def h5(path, points, label):
    h5py = pytest.importorskip("h5py")
    with h5py.File(path, "w") as file:
        file["data"], file["label"] = points.astype(np.float32), label


def test_single_clouds_of_arrays(tmp_path):
    points = rng().normal(size=(3, POINTS, 3))
    points[1, 0, 0] = np.nan
    (tmp_path / "shape_names.txt").write_text("a\nb\n")
    (tmp_path / "test_files.txt").write_text("x.h5\n")
    h5(tmp_path / "x.h5", points, np.array([0, 1, 2]))
    data = ModelNet40H5(str(tmp_path), "test", test_mode=True)
    assert "not finite" in data[1]["reason"]
    assert "label 2..2 is outside 0..1" in data[2]["reason"]
    assert data.broken == ["x/1", "x/2"]
    (tmp_path / "main_split").mkdir()
    torn = tmp_path / "main_split" / "test_objectdataset.h5"
    h5(torn, points, np.array([0, 1, 2]))
    tear(torn)
    with pytest.raises(ValueError, match=r"test_objectdataset.h5"):
        ScanObjectNN(str(tmp_path), "test", "obj_bg")


def test_single_clouds_of_an_episode(tmp_path):
    (tmp_path / "5way_10shot").mkdir()
    rows = [(rng().normal(size=(POINTS, 6)), i % 5, "") for i in range(50)]
    rows[7] = (np.zeros((0, 6)), 2, "")
    path = tmp_path / "5way_10shot" / "0.pkl"
    path.write_bytes(pickle.dumps({"train": rows, "test": rows}))
    data = FewShotClouds(str(tmp_path), 5, 10, 0, "test", test_mode=True)
    assert data[7]["reason"] == "no points"
    tear(path)
    with pytest.raises(ValueError, match=r"0\.pkl"):
        FewShotClouds(str(tmp_path), 5, 10, 0, "test")
