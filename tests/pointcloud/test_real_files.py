"""Real files of packages that ship clouds and meshes: read, compared with other readers, predicted."""

import shutil
import subprocess
import sys
import tarfile

import numpy as np
import pytest

from pointcloud.datasets.base import CloudError
from pointcloud.datasets.files import ENDINGS, read_cloud
from pointcloud.formats.las import copy_labeled
from tests.pointcloud.test_predict import MeanDetector, config, model_of
from xmodal.engine.inputs import expand

pytestmark = pytest.mark.slow
SDISTS = ("laspy", "pypcd4")
DEBS = ("assimp-testmodels", "geomview")  # .deb files hold .obj, .off, .ply, .stl, .gltf
TEXT = (".txt", ".csv", ".bin", ".npy", ".npz", ".h5")  # parts and notes of other things


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Download the packages by name and unpack them."""
    root = tmp_path_factory.mktemp("real")
    for name in SDISTS:
        command = [
            sys.executable,
            "-m",
            "pip",
            "download",
            "-q",
            "--no-deps",
            "--no-binary",
            name,
            name,
            "-d",
            str(root),
        ]
        if subprocess.run(command, capture_output=True, check=False).returncode:
            pytest.skip(f"{name} cannot be downloaded")
    for path in root.glob("*.tar.gz"):
        with tarfile.open(path) as archive:
            archive.extractall(root / "sdist", filter="data")
    for name in DEBS if shutil.which("apt-get") else ():
        if subprocess.run(["apt-get", "download", name], cwd=root, capture_output=True, check=False).returncode:
            continue
        (root / "deb" / name).mkdir(parents=True)
        deb = next(root.glob(f"{name}_*.deb"))
        subprocess.run(["dpkg-deb", "-x", str(deb), str(root / "deb" / name)], check=True)
    return root


def clouds(folder):
    files = sorted(p for p in folder.rglob("*") if p.is_file() and p.suffix.lower() in ENDINGS)
    return [p for p in files if p.suffix.lower() not in TEXT]


def test_every_file_is_read_or_refused_by_name(folder):
    read, refused = [], {}
    for path in clouds(folder):
        try:
            cloud = read_cloud(path)
        except CloudError as error:
            refused[path.name] = str(error)
            continue
        assert np.isfinite(cloud["coord"]).all()
        read.append(path)
    assert all(said.startswith(name) for name, said in refused.items())
    print(f"{len(read)} read, {len(refused)} refused")
    assert len(read) >= 30


def test_las_as_laspy_reads_it(folder):
    laspy = pytest.importorskip("laspy")
    files = [p for p in clouds(folder) if p.suffix.lower() in (".las", ".laz")]
    assert len(files) >= 20
    for path in files:
        las, cloud = laspy.read(path), read_cloud(path)
        true = np.stack([las.x, las.y, las.z], axis=1)
        gap = np.abs(cloud["frame"].to_file(cloud["coord"]) - true)
        assert np.percentile(gap, 90) <= 1e-4 * max(np.ptp(true, axis=0).max(), 1), path.name
        assert np.array_equal(cloud["intensity"], np.asarray(las.intensity)), path.name
        assert np.array_equal(cloud["classification"], np.asarray(las.classification)), path.name


def test_labeled_copies_keep_all_that_laspy_finds(folder, tmp_path):
    laspy = pytest.importorskip("laspy")
    for path in (p for p in clouds(folder) if p.suffix.lower() in (".las", ".laz")):
        before, target = laspy.read(path), tmp_path / path.name
        label = np.arange(len(before.points)) % 5
        copy_labeled(path, target, label, ["a", "b"])
        after = laspy.read(target)
        assert np.array_equal(after.classification, label), path.name
        assert np.array_equal(after["prediction"], label), path.name
        for name in set(before.point_format.dimension_names) - {"classification"}:
            assert np.array_equal(before[name], after[name]), (path.name, name)
        assert np.array_equal(before.header.offsets, after.header.offsets)


def test_pcd_as_another_reader_has_it(folder):
    """The files of pypcd4 in three encodings hold the same cloud."""
    found = {}
    for path in clouds(folder):
        if path.name in ("ascii.pcd", "binary.pcd", "binary_compressed.pcd"):
            found[path.name] = read_cloud(path)["coord"]
    assert len(found) == 3
    for coord in found.values():
        assert np.allclose(coord, found["ascii.pcd"], atol=1e-4)


def test_meshes_have_the_extent_that_trimesh_finds(folder):
    trimesh = pytest.importorskip("trimesh")
    checked = 0
    for path in clouds(folder):
        if path.suffix.lower() not in (".obj", ".stl"):
            continue
        try:
            cloud = read_cloud(path)
            extent = trimesh.load(path).extents
        except (CloudError, ValueError, IndexError):
            continue
        if extent is not None and len(cloud["coord"]) > 1000:
            assert np.allclose(np.ptp(cloud["coord"], axis=0), extent, atol=0.05 * extent.max()), path.name
            checked += 1
    assert checked >= 10


def test_they_are_predicted_in_their_own_coordinates(folder, tmp_path, monkeypatch):
    from pointcloud import predict

    monkeypatch.setattr(predict, "load_model", lambda cfg, checkpoint: (model_of(MeanDetector()), ["a", "b"]))
    monkeypatch.setattr(predict, "write_page", lambda path, *a, **k: path)
    found = expand([str(folder)], ENDINGS, tmp_path)
    words = dict(out=tmp_path, names=[entry.name for entry in found])
    rows = list(predict.CloudPredictor(config("center_floor"), "-").stream([entry.path for entry in found], **words))
    good = [row for row in rows if "error" not in row]
    assert len(good) >= 30
    assert len({row["page"] for row in good}) == len(good)
    for row in good:
        cloud = read_cloud(row["file"])
        center = cloud["coord"].mean(0, dtype=np.float64) + cloud["offset"]
        extent = np.ptp(cloud["coord"], axis=0).max()
        assert np.abs(np.array(row["boxes"][0]["box"][:3]) - center).max() < 1e-3 * max(extent, 1), row["file"]


def test_the_tool_classifies_whole_folders(folder, tmp_path, capsys):
    """The tool as a user calls it, on folders, with the built-in network, untrained: pages and JSON."""
    import json

    from tools import predict
    from xmodal.engine.checkpoint import FORMAT, own_state, write
    from xmodal.engine.config import load_config
    from xmodal.registry import MODELS, build

    path = "configs/pointcloud/epcl_tiny-clip_512_objects.py"
    model = build(load_config(path).model, MODELS).eval()
    meta = {"format": FORMAT, "encoder": model.frozen_fingerprint(), "classes": [f"class {i}" for i in range(10)]}
    write(tmp_path / "last.pth", {"state_dict": own_state(model), "meta": meta})
    folders = [str(p) for p in (folder / "sdist", folder / "deb" / "geomview") if p.is_dir()]
    words = [path, str(tmp_path / "last.pth"), *folders, "--out", str(tmp_path / "found"), "--json"]
    assert predict.main(words) == 0
    rows = json.loads(capsys.readouterr().out)
    good = [row for row in rows if "error" not in row]
    assert len(good) >= (30 if len(folders) > 1 else 28)
    for row in good:
        assert row["name"].startswith("class ")
        assert (tmp_path / "found").joinpath(row["page"]).stat().st_size < 10e6
