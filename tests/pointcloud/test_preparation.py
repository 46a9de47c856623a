"""Preparation scripts on tiny copies of the raw releases, read back by the readers."""

import json
import re

import numpy as np
import pytest

from pointcloud.boxes import corners
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
    listed = tmp_path / "out" / "meta_data" / "scannetv2_train.txt"
    assert listed.read_text() == "scene0000_00\n"
    item = ScanNetDetection(str(tmp_path / "out" / "scannet_train_detection_data"), str(listed))[0]
    assert item["box_label"].tolist() == [2]
    assert item["boxes"][0].tolist() == pytest.approx([-1, 0.5, 2, 2, 1, 4, 0])
    item = ScanNetSegmentation(str(tmp_path / "out" / "scannet_segmentation"), "train")[0]
    assert item["segment"].tolist() == [4, 4, -1]
    assert item["feat"][0].tolist() == pytest.approx([1, 0, 0])


@pytest.fixture
def votenet_export(tmp_path):
    """Three views: a chair, another size of it in V2, one view without objects, one that is missing."""
    from scipy.io import savemat

    for part in ("depth", "label", "label_v1"):
        (tmp_path / part).mkdir()
    for number in (1, 3):
        savemat(tmp_path / "depth" / f"00000{number}.mat", {"instance": np.random.default_rng(0).random((30, 6))})
    where = "0 0 1 1 0.5 1.5 2.5"
    # half width 0.3, half length 0.4, half height 0.6; the box's x points along the room's y
    (tmp_path / "label_v1" / "000001.txt").write_text(f"chair {where} 0.3 0.4 0.6 0 1\nlamp {where} 1 1 1 0 1\n")
    (tmp_path / "label" / "000001.txt").write_text(f"chair {where} 0.1 0.2 0.3 1 1\n")
    for part in ("label", "label_v1"):
        (tmp_path / part / "000003.txt").write_text(f"lamp {where} 1 1 1 0 1\n")
    (tmp_path / "train_data_idx.txt").write_text("")
    (tmp_path / "val_data_idx.txt").write_text("1\n2\n3\n")
    return tmp_path


def prepare_views(source, out, *words):
    return prepare_sunrgbd.main([str(source), str(out), "--points", "20", "--workers", "1", *words])


def test_sunrgbd_takes_the_labels_of_the_published_figures(votenet_export, capsys):
    out = votenet_export / "out"
    assert prepare_views(votenet_export, out) == 1  # view 2 is missing
    said = capsys.readouterr().out
    assert "1 views written, 0 were there, 1 failed" in said
    assert "1 views left out: no object" in said
    data = SUNRGBD(str(out / "sunrgbd_pc_bbox_votes_50k_v1"), "val")
    assert data.sample_ids == ["000001"]
    item = data[0]
    assert item["box_label"].tolist() == [3]
    assert item["boxes"][0].tolist() == pytest.approx([0.5, 1.5, 2.5, 0.8, 0.6, 1.2, -np.pi / 2])
    assert item["coord"].shape == (20, 3)
    # by hand: 0.4 each way along the room's y, 0.3 along its x, 0.6 along z
    corner = corners(item["boxes"])[0]
    assert corner.amin(0).tolist() == pytest.approx([0.2, 1.1, 1.9], abs=1e-6)
    assert corner.amax(0).tolist() == pytest.approx([0.8, 1.9, 3.1], abs=1e-6)


def test_sunrgbd_v2_is_another_set(votenet_export):
    out = votenet_export / "out"
    prepare_views(votenet_export, out, "--labels", "v2", "--keep-empty")
    data = SUNRGBD(str(out / "sunrgbd_pc_bbox_votes_50k_v2"), "val")
    assert data.sample_ids == ["000001", "000003"]
    box = data[0]["boxes"]
    assert box[0].tolist() == pytest.approx([0.5, 1.5, 2.5, 0.4, 0.2, 0.6, -np.pi / 4])
    assert not len(data[1]["boxes"])
    # by hand: x and y of the box point to (1, 1) and (-1, 1), so a corner is at 0.2 (1, 1)/sqrt 2 - 0.1 (-1, 1)/sqrt 2
    far = np.array([0.5, 1.5]) + (0.2 * np.array([1, 1]) - 0.1 * np.array([-1, 1])) / np.sqrt(2)
    gap = np.linalg.norm(corners(box)[0, :4, :2].numpy() - far, axis=1)
    assert gap.min() < 1e-6


def test_sunrgbd_says_which_labels_are_missing(votenet_export, capsys):
    import shutil

    shutil.rmtree(votenet_export / "label_v1")
    assert prepare_views(votenet_export, votenet_export / "out") == 2
    assert "label_v1" in capsys.readouterr().err


def test_s3dis_names_what_it_mends_and_leaves_out(tmp_path, capfd):
    notes = tmp_path / "raw" / "Area_3" / "hallway_2" / "Annotations"
    notes.mkdir(parents=True)
    (notes / "wall_1.txt").write_text("1 2 3 1 2 3\n-9.1\x160 0 0 1 2 3\n4 x 0 1 2\x10 3\n")
    (notes / "chair_1.txt").write_text("1 2 3 1 2 3 9\n")
    assert prepare_s3dis.main([str(tmp_path / "raw"), str(tmp_path / "out"), "--workers", "1"]) == 1
    said = capfd.readouterr().out
    assert "hallway_2/Annotations/wall_1.txt, line 2" in said
    assert "wall_1.txt, line 3" in said
    assert "chair_1.txt, line 1: 7 columns, expected 6" in said
    table = np.load(tmp_path / "out" / "trainval_fullarea" / "Area_3_hallway_2.npy")
    assert np.ptp(table[:, 0]) == pytest.approx(10.1, abs=1e-5)  # from -9.10 to 1
    assert table[:, 6].tolist() == [2, 2]


def test_the_paths_of_scannet_agree(tmp_path):
    """What the preparation writes, with data/scannet as its README line says, is where every config looks."""
    from xmodal.engine.config import load_config

    text = prepare_scannet.__doc__
    out = re.search(r"tsv (data/\S+?)\.", text)[1]
    cfg = load_config("configs/pointcloud/epcl_vit-b32-clip_40k_scannet-seg.py")
    assert cfg.train_dataloader.dataset.root == f"{out}/scannet_segmentation"
    cfg = load_config("configs/pointcloud/epcl_vit-b32-clip_40k_scannet-det.py")
    assert cfg.train_dataloader.dataset.root == f"{out}/scannet_train_detection_data"
    for split, loader in (("train", cfg.train_dataloader), ("val", cfg.val_dataloader)):
        assert loader.dataset.split_file == f"{out}/meta_data/scannetv2_{split}.txt"
