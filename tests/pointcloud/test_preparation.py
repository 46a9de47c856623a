"""Preparation scripts on tiny copies of the raw releases, read back by the readers."""

import json

import numpy as np
import pytest

from pointcloud.datasets.s3dis import S3DIS
from pointcloud.datasets.scannet import ScanNetDetection, ScanNetSegmentation
from pointcloud.datasets.sunrgbd import SUNRGBD
from tools.data import prepare_s3dis, prepare_scannet, prepare_sunrgbd


def test_s3dis(tmp_path, capsys):
    notes = tmp_path / "raw" / "Area_5" / "office_1" / "Annotations"
    notes.mkdir(parents=True)
    (notes / "chair_1.txt").write_text("1 2 3 255 0 0\n2 2 3\x10 255 0 0\n")
    (notes / "stairs_1.txt").write_text("0 0 0 1 2 3\n")
    (tmp_path / "raw" / "Area_5" / "torn_1" / "Annotations").mkdir(parents=True)
    assert prepare_s3dis.main([str(tmp_path / "raw"), str(tmp_path / "out"), "--workers", "1"]) == 1
    assert "torn_1: no Annotations" in capsys.readouterr().out
    data = S3DIS(str(tmp_path / "out"), areas=(5,))
    assert data.sample_ids == ["Area_5_office_1"]
    assert data[0]["segment"].tolist() == [8, 8, 12]
    assert data[0]["coord"].min() == 0
    prepare_s3dis.main([str(tmp_path / "raw"), str(tmp_path / "out"), "--workers", "1"])
    assert "0 rooms written, 1 were there" in capsys.readouterr().out


def test_scannet(tmp_path):
    plyfile = pytest.importorskip("plyfile")
    folder = tmp_path / "scans" / "scene0000_00"
    folder.mkdir(parents=True)
    kinds = [(k, "f4") for k in "xyz"] + [(k, "u1") for k in ("red", "green", "blue")]
    rows = np.array([(0, 0, 0, 255, 0, 0), (1, 2, 4, 0, 0, 0), (9, 9, 9, 0, 0, 0)], dtype=kinds)
    element = plyfile.PlyElement.describe(rows, "vertex")
    plyfile.PlyData([element]).write(str(folder / "scene0000_00_vh_clean_2.ply"))
    segments = {"segIndices": [7, 7, 8]}
    (folder / "scene0000_00_vh_clean_2.0.010000.segs.json").write_text(json.dumps(segments))
    groups = {"segGroups": [{"label": "office chair", "segments": [7]}]}
    (folder / "scene0000_00.aggregation.json").write_text(json.dumps(groups))
    (folder / "scene0000_00.txt").write_text("axisAlignment = 0 -1 0 0 1 0 0 0 0 0 1 0 0 0 0 1\n")
    (tmp_path / "labels.tsv").write_text("raw_category\tnyu40id\noffice chair\t5\n")
    assert prepare_scannet.main([str(tmp_path / "scans"), str(tmp_path / "labels.tsv"), str(tmp_path / "out")]) == 0
    (tmp_path / "list.txt").write_text("scene0000_00\n")
    item = ScanNetDetection(str(tmp_path / "out" / "scannet_train_detection_data"), str(tmp_path / "list.txt"))[0]
    assert item["box_label"].tolist() == [2]
    assert item["boxes"][0].tolist() == pytest.approx([-1, 0.5, 2, 2, 1, 4, 0])
    item = ScanNetSegmentation(str(tmp_path / "out" / "scannet_segmentation"), "train")[0]
    assert item["segment"].tolist() == [4, 4, -1]
    assert item["feat"][0].tolist() == pytest.approx([1, 0, 0])


def test_sunrgbd(tmp_path):
    from scipy.io import savemat

    for part in ("depth", "label"):
        (tmp_path / part).mkdir()
    savemat(tmp_path / "depth" / "000001.mat", {"instance": np.random.default_rng(0).random((30, 6))})
    numbers = "0 0 1 1 0.5 1.5 2.5 0.3 0.4 0.6 0 1"
    (tmp_path / "label" / "000001.txt").write_text(f"chair {numbers}\nlamp {numbers}\n")
    (tmp_path / "train_data_idx.txt").write_text("")
    (tmp_path / "val_data_idx.txt").write_text("1\n2\n")
    out = tmp_path / "out"
    assert prepare_sunrgbd.main([str(tmp_path), str(out), "--points", "20", "--workers", "1"]) == 1  # view 2 is missing
    item = SUNRGBD(str(out / "sunrgbd_pc_bbox_votes_50k_v1"), "val")[0]
    assert item["box_label"].tolist() == [3]
    assert item["boxes"][0].tolist() == pytest.approx([0.5, 1.5, 2.5, 0.8, 0.6, 1.2, -np.pi / 2])
    assert item["coord"].shape == (20, 3)
