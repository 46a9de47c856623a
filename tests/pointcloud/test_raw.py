"""From a published release to a page: `make test-raw` prepares, trains a step, tests and predicts a file.

The files are made here, in the names and layouts of the releases. The published configs are used with an encoder of
random weights and reduced width, and with fewer points.
"""

import json

import numpy as np
import pytest

from tools import predict, test, train
from tools.data import prepare_s3dis, prepare_scannet, prepare_sunrgbd

pytestmark = pytest.mark.slow
CONFIGS = "configs/pointcloud"
SMALL = [
    "model.encoder.weights=random",
    "model.encoder.arch={'embed_dim': 32, 'vision_cfg': {'layers': 2, 'width': 64, 'head_width': 32}}",
    "train_dataloader.num_workers=0",
    "val_dataloader.num_workers=0",
    "train_dataloader.batch_size=2",
    "val_dataloader.batch_size=1",
    "param_scheduler.warmup_epochs=0",
    "test_dataloader.num_workers=0",
    "train_cfg.max_epochs=1",
    "train_cfg.val_interval=1",
]
SEGMENTER = [
    "model.network.planes=(16,16,16,16,16)",
    "model.network.blocks=(1,1,1,1,1)",
    "model.network.num_neighbors=(4,4,4,4,4)",
    "model.network.share=4",
    "model.network.eval_parts=1",
]
DETECTOR = [
    "model.network.backbone.num_groups=64",
    "model.network.decoder.num_queries=16",
    "model.network.min_score=0.0",
]


def run_all(config, file, work, options, capsys):
    """Train a step, test, predict; returns the test's figures and the prediction's row."""
    path, options = f"{CONFIGS}/{config}.py", [*SMALL, *options]
    assert train.main([path, "--work-dir", str(work), "--cfg-options", *options]) == 0
    assert test.main([path, str(work / "last.pth"), "--cfg-options", *options]) == 0
    figures = json.loads((work / "test.json").read_text())["test"]
    capsys.readouterr()
    words = [path, str(work / "last.pth"), str(file), "--out", str(work / "found"), "--json", "--cfg-options", *options]
    assert predict.main(words) == 0
    row = json.loads(capsys.readouterr().out)[0]
    assert "error" not in row
    assert (work / "found").joinpath(row["page"]).exists() or row["page"].endswith(".html")
    return figures, row


def room(rng, count=6000):
    """A room of 4 x 3 x 2.5 m with colors: floor, walls, a chair; returns points (P, 6) and what each is."""
    kind = rng.integers(0, 3, count)
    xyz = rng.uniform(0, 1, (count, 3)) * [4, 3, 2.5]
    xyz[kind == 0, 2] = 0
    xyz[kind == 1, 0] = 0
    xyz[kind == 2] = xyz[kind == 2] * [0.15, 0.2, 0.35] + [2, 1.5, 0]
    return np.c_[xyz, rng.integers(0, 256, (count, 3))], kind


def scannet_release(root):
    """Two scenes below `scans`, the labels and the published list of validation scenes."""
    from plyfile import PlyData, PlyElement

    rng = np.random.default_rng(0)
    names = ("floor", "wall", "office chair")
    for scene in ("scene0000_00", "scene0011_00"):
        folder = root / "scans" / scene
        folder.mkdir(parents=True)
        points, kind = room(rng)
        columns = [(k, "f4") for k in "xyz"] + [(k, "u1") for k in ("red", "green", "blue", "alpha")]
        vertex = np.zeros(len(points), columns)
        for i, name in enumerate(("x", "y", "z", "red", "green", "blue")):
            vertex[name] = points[:, i]
        face = np.array([([0, 1, 2],)], dtype=[("vertex_indices", "i4", (3,))])
        elements = [PlyElement.describe(vertex, "vertex"), PlyElement.describe(face, "face")]
        PlyData(elements).write(str(folder / f"{scene}_vh_clean_2.ply"))
        segments = {"sceneId": scene, "segIndices": (kind * 7).tolist()}
        (folder / f"{scene}_vh_clean_2.0.010000.segs.json").write_text(json.dumps(segments))
        groups = [{"id": i, "objectId": i, "segments": [7 * i], "label": name} for i, name in enumerate(names)]
        (folder / f"{scene}.aggregation.json").write_text(json.dumps({"sceneId": scene, "segGroups": groups}))
        identity = " ".join(f"{v:.6f}" for v in np.eye(4).ravel())
        (folder / f"{scene}.txt").write_text(f"axisAlignment = {identity}\nnumDepthFrames = 1\n")
    rows = ["id\traw_category\tcategory\tcount\tnyu40id", "1\twall\twall\t1\t1", "2\tfloor\tfloor\t1\t2"]
    (root / "scannetv2-labels.combined.tsv").write_text("\n".join([*rows, "3\toffice chair\tchair\t1\t5"]) + "\n")
    (root / "scannetv2_val.txt").write_text("scene0011_00\n")


def test_scannet(tmp_path, capsys):
    scannet_release(tmp_path)
    labels, out = tmp_path / "scannetv2-labels.combined.tsv", tmp_path / "data" / "scannet"
    assert prepare_scannet.main([str(tmp_path / "scans"), str(labels), str(out), "--workers", "1"]) == 0
    scan = tmp_path / "scans" / "scene0011_00" / "scene0011_00_vh_clean_2.ply"
    loaders = ("train_dataloader", "val_dataloader", "test_dataloader")
    given = [f"{name}.dataset.root={out / 'scannet_segmentation'}" for name in loaders]
    given += ["train_dataloader.dataset.repeat=2", *SEGMENTER]
    figures, row = run_all("epcl_vit-b32-clip_40k_scannet-seg", scan, tmp_path / "seg", given, capsys)
    assert 0 <= figures["miou"] <= 100
    assert sum(row["counts"].values()) == row["points"] == 6000
    given = [f"{name}.dataset.root={out / 'scannet_train_detection_data'}" for name in loaders]
    given += [f"{n}.dataset.split_file={out}/meta_data/scannetv2_{n.split('_')[0]}.txt" for n in loaders[:2]]
    given += [f"test_dataloader.dataset.split_file={out}/meta_data/scannetv2_val.txt"]
    given += ["train_dataloader.dataset.transforms.0.min_points=1000", "train_dataloader.batch_size=1", *DETECTOR]
    given += [f"{n}.dataset.transforms.{i}.num_points=2000" for n, i in zip(loaders, (1, 0, 0), strict=True)]
    figures, row = run_all("epcl_vit-b32-clip_40k_scannet-det", scan, tmp_path / "det", given, capsys)
    assert 0 <= figures["map25"] <= 100
    centers = np.array([b["box"][:3] for b in row["boxes"]])
    assert ((centers > -1) & (centers < [5, 4, 3.5])).all()


def test_s3dis(tmp_path, capsys):
    rng = np.random.default_rng(0)
    for area in (1, 5):
        folder = tmp_path / "Stanford3dDataset_v1.2_Aligned_Version" / f"Area_{area}" / "office_1"
        (folder / "Annotations").mkdir(parents=True)
        points, kind = room(rng)
        points[:, :3] += [-15.5, 40.25, 0]
        np.savetxt(folder / "office_1.txt", points, fmt="%.3f %.3f %.3f %d %d %d")
        for i, name in enumerate(("floor_1", "wall_1", "chair_1")):
            np.savetxt(folder / "Annotations" / f"{name}.txt", points[kind == i], fmt="%.3f %.3f %.3f %d %d %d")
    raw, out = folder.parents[1], tmp_path / "s3dis"
    assert prepare_s3dis.main([str(raw), str(out), "--workers", "1"]) == 0
    given = [f"{n}_dataloader.dataset.root={out}" for n in ("train", "val", "test")]
    given += ["train_dataloader.dataset.areas=(1,)", *SEGMENTER]
    config = "epcl_vit-b32-clip_40k_s3dis-area5"
    figures, row = run_all(config, folder / "office_1.txt", tmp_path / "run", given, capsys)
    assert 0 <= figures["miou"] <= 100
    assert sum(row["counts"].values()) == 6000


def test_sunrgbd(tmp_path, capsys):
    from scipy.io import savemat

    rng = np.random.default_rng(0)
    raw = tmp_path / "sunrgbd_trainval"
    for part in ("depth", "label", "label_v1", "calib", "image"):
        (raw / part).mkdir(parents=True)
    for number in (1, 2):
        points = room(rng)[0]
        savemat(raw / "depth" / f"{number:06d}.mat", {"instance": points / [1, 1, 1, 255, 255, 255]})
        for part in ("label", "label_v1"):
            line = "chair 10 10 50 50 2.3 1.8 0.43 0.3 0.3 0.43 0 1\n"
            (raw / part / f"{number:06d}.txt").write_text(line)
    (raw / "train_data_idx.txt").write_text("2\n")
    (raw / "val_data_idx.txt").write_text("1\n")
    out = tmp_path / "sunrgbd"
    assert prepare_sunrgbd.main([str(raw), str(out), "--workers", "1", "--points", "5000"]) == 0
    loaders = ("train_dataloader", "val_dataloader", "test_dataloader")
    given = [f"{n}.dataset.root={out / 'sunrgbd_pc_bbox_votes_50k_v1'}" for n in loaders]
    given += [f"{n}.dataset.transforms.{i}.num_points=2000" for n, i in zip(loaders, (4, 0, 0), strict=True)]
    given += ["train_dataloader.dataset.transforms.3.min_points=1000", "train_dataloader.batch_size=1", *DETECTOR]
    file = out / "sunrgbd_pc_bbox_votes_50k_v1_val" / "000001_pc.npz"
    figures, row = run_all("epcl_vit-b32-clip_20k_sunrgbd-det", file, tmp_path / "run", given, capsys)
    assert 0 <= figures["map25"] <= 100
    assert row["coordinates"]["unit"] == "m"


def test_modelnet(tmp_path, capsys):
    rng = np.random.default_rng(0)
    root = tmp_path / "modelnet40_normal_resampled"
    names = [f"class_{i}" for i in range(38)] + ["airplane", "night_stand"]
    root.mkdir()
    (root / "modelnet40_shape_names.txt").write_text("\n".join(names) + "\n")
    for split, numbers in (("train", (1, 2)), ("test", (3,))):
        ids = [f"{name}_{n:04d}" for name in names[-2:] for n in numbers]
        (root / f"modelnet40_{split}.txt").write_text("\n".join(ids) + "\n")
        for one in ids:
            normal = rng.normal(size=(1500, 3))
            normal /= np.linalg.norm(normal, axis=1, keepdims=True)
            folder = root / one.rpartition("_")[0]
            folder.mkdir(exist_ok=True)
            np.savetxt(folder / f"{one}.txt", np.c_[normal * 0.9, normal], fmt="%.6f", delimiter=",")
    given = [f"{n}_dataloader.dataset.root={root}" for n in ("train", "val", "test")]
    given += [f"{n}_dataloader.dataset.cache=none" for n in ("train", "val", "test")]
    file = root / "airplane" / "airplane_0003.txt"
    figures, row = run_all("epcl_vit-b32-clip_1024_modelnet40", file, tmp_path / "run", given, capsys)
    assert 0 <= figures["top1"] <= 100
    assert row["name"] in names


def test_scanobjectnn(tmp_path, capsys):
    h5py = pytest.importorskip("h5py")
    rng = np.random.default_rng(0)
    folder = tmp_path / "scanobjectnn" / "main_split"
    folder.mkdir(parents=True)
    for part, count in (("training", 4), ("test", 2)):
        with h5py.File(folder / f"{part}_objectdataset_augmentedrot_scale75.h5", "w") as file:
            file["data"] = rng.normal(size=(count, 2048, 3)).astype(np.float32)
            file["label"] = np.arange(count) % 15
            file["mask"] = np.zeros((count, 2048), np.int64)
    given = [f"{n}_dataloader.dataset.root={folder.parent}" for n in ("train", "val", "test")]
    file = f"{folder}/test_objectdataset_augmentedrot_scale75.h5#1"
    config = "epcl_vit-b32-clip_2048_scanobjectnn-pb-t50-rs"
    figures, row = run_all(config, file, tmp_path / "run", given, capsys)
    assert 0 <= figures["top1"] <= 100
    assert row["points"] == 2048
