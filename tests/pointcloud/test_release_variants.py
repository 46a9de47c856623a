"""Releases as other tools have rewritten them: colors of another range, no boxes, other ids; one truth for each."""

import pickle

import numpy as np
import pytest
import torch

from pointcloud.datasets.base import CloudError
from pointcloud.datasets.pointcept import PointceptScanNet
from pointcloud.datasets.s3dis import S3DIS
from pointcloud.datasets.scannet import MMDet3DIndoor, ScanNetDetection, ScanNetSegmentation

XYZ = np.random.default_rng(0).random((30, 3)).astype(np.float32)
BYTES = np.random.default_rng(1).integers(0, 256, (30, 3))
BYTES[0] = 255
RANGES = {"bytes": BYTES.astype(np.uint8), "up to 255": BYTES.astype(float), "up to 1": BYTES / 255}


@pytest.mark.parametrize("colors", RANGES)
class TestColors:
    """Whatever range a file has, features are in 0..1 with the same values."""

    def check(self, data):
        assert np.allclose(data.read(0)["feat"], BYTES / 255, atol=1e-6)

    def test_s3dis_tables_and_folders(self, tmp_path, colors):
        np.save(tmp_path / "Area_5_hall.npy", np.c_[XYZ, RANGES[colors], np.zeros(30)])
        self.check(S3DIS(str(tmp_path), areas=5, folder="", names=None))
        (tmp_path / "b" / "Area_1" / "hall").mkdir(parents=True)
        for name, values in (("coord", XYZ), ("color", RANGES[colors]), ("segment", np.zeros(30, np.int16))):
            np.save(tmp_path / "b" / "Area_1" / "hall" / f"{name}.npy", values)
        self.check(S3DIS(str(tmp_path / "b"), areas=(1,), folder="", names=None))

    def test_pointcept(self, tmp_path, colors):
        (tmp_path / "train" / "scene0000_00").mkdir(parents=True)
        np.save(tmp_path / "train" / "scene0000_00" / "coord.npy", XYZ)
        np.save(tmp_path / "train" / "scene0000_00" / "color.npy", RANGES[colors])
        self.check(PointceptScanNet(str(tmp_path), "train"))

    def test_scannet_detection_and_mmdetection3d(self, tmp_path, colors):
        np.save(tmp_path / "scene0_vert.npy", np.c_[XYZ, RANGES[colors]])
        np.save(tmp_path / "scene0_bbox.npy", np.zeros(0))  # none, as np.array([]) is saved
        (tmp_path / "train.txt").write_text("scene0\n")
        data = ScanNetDetection(str(tmp_path), str(tmp_path / "train.txt"), color=True)
        self.check(data)
        assert data.read(0)["boxes"].shape == (0, 7)
        np.c_[XYZ, RANGES[colors]].astype("<f4").tofile(tmp_path / "a.bin")
        scenes = [{"lidar_points": {"lidar_path": "a.bin", "num_pts_feats": 6}, "instances": []}]
        infos = {"metainfo": {"categories": {"chair": 0}}, "data_list": scenes}
        (tmp_path / "infos.pkl").write_bytes(pickle.dumps(infos))
        self.check(MMDet3DIndoor(str(tmp_path), "infos.pkl"))


def scannet(folder, *content):
    (folder / "train").mkdir()
    torch.save(content[0] if isinstance(content[0], dict) else content, folder / "train" / "scene0000_00.pth")
    return ScanNetSegmentation(str(folder), "train")


@pytest.mark.parametrize("color", [BYTES / 127.5 - 1, BYTES.astype(float), BYTES.astype(np.uint8)])
def test_scannet_colors_signed_or_in_bytes(tmp_path, color):
    found = scannet(tmp_path, XYZ, color, np.full(30, -100.0)).read(0)
    assert np.allclose(found["feat"], BYTES / 255, atol=1e-6)
    assert (found["segment"] == -1).all()


def test_scannet_with_ids_of_nyu40_names_the_option(tmp_path):
    with pytest.raises(CloudError, match=r"labels up to 39 are NYU40's: nyu_labels=True maps them"):
        scannet(tmp_path, XYZ, BYTES / 127.5 - 1, np.full(30, 39.0)).read(0)


def test_scannet_as_dicts_says_what_was_expected(tmp_path):
    with pytest.raises(CloudError, match=r"scene0000_00.pth holds a dict of coord, color, expected a tuple of arrays"):
        scannet(tmp_path, {"coord": XYZ, "color": BYTES}).read(0)


def test_colors_that_are_none_are_refused(tmp_path):
    np.save(tmp_path / "Area_1_a.npy", np.c_[XYZ, BYTES - 290, np.zeros(30)])
    with pytest.raises(CloudError, match=r"colors of shape \(30, 3\) from -2\d\d to .*expected 0 to 255"):
        S3DIS(str(tmp_path), folder="", names=None).read(0)
