"""Every raw point is voted for; pages and predictions of single files; the tools end to end on tiny sets."""

import json
import pickle
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pointcloud import scenes
from pointcloud.classification import EPCLClassifier
from pointcloud.page import color_of, write_page
from pointcloud.predict import fit_features
from pointcloud.toys import scenes as synthetic

ROOT = Path(__file__).parents[2]


def test_parts_and_crops_cover_everything():
    coord = np.random.default_rng(0).random((3000, 3)).astype(np.float32) * 4
    parts = list(scenes.parts_of(coord, 0.5))
    assert sorted(np.unique(np.concatenate(parts))) == list(range(3000))
    assert len({len(p) for p in parts}) == 1
    crops = list(scenes.crops_of(coord, 700))
    assert all(len(c) == 700 for c in crops)
    assert len(np.unique(np.concatenate(crops))) == 3000
    assert len(crops) < 25


def test_votes_are_summed_at_the_raw_points():
    coord = torch.rand(500, 3, generator=torch.Generator().manual_seed(0)) * 2
    feat = torch.arange(500.0)[:, None]
    seen, calls = [], []

    def network(points, features, sizes):
        assert points.amin(0).abs().max() < 1e-6
        assert sizes == [len(points)]
        seen.append(features[:, 0].long())
        return torch.stack([features[:, 0], torch.ones(len(points))], dim=1)

    total = scenes.vote(network, coord, feat, 2, 0.4, 60, progress=lambda done, all_: calls.append((done, all_)))
    times = torch.bincount(torch.cat(seen), minlength=500).float()
    assert times.min() >= 1
    assert torch.allclose(total[:, 1], times)
    assert torch.allclose(total[:, 0], times * feat[:, 0])
    assert calls[-1] == (len(seen), len(seen))


def test_few_parts_vote_for_their_voxels():
    coord = torch.tensor([[0.0, 0, 0], [0.1, 0, 0], [0.2, 0, 0], [0.9, 0, 0]])
    feat = torch.tensor([[1.0], [2.0], [7.0], [4.0]])
    total = scenes.vote(lambda points, features, sizes: features, coord, feat, 1, 0.5, 10, max_parts=2)
    assert total.flatten().tolist() == [1.0, 2.0, 1.5, 8.0]  # the third point was in no part, the last one in both


def test_page_holds_points_and_boxes(tmp_path):
    pytest.importorskip("plotly")
    cloud = synthetic.room(np.random.default_rng(0), 500)
    found = {"boxes": cloud["boxes"], "box_label": cloud["box_label"], "scores": np.ones(len(cloud["boxes"]))}
    names = synthetic.ROOM_CLASSES
    page = write_page(tmp_path / "a.html", cloud["coord"], names, cloud["segment"], found=found, title="a room")
    text = page.read_text()
    assert 'src="http' not in text  # opens without a network
    assert all(f'"name":"{names[i]}"' in text for i in np.unique(cloud["segment"]))
    assert text.count('"mode":"lines"') == len(cloud["boxes"])


BROWSER = next((b for b in map(shutil.which, ("chromium", "chromium-browser", "google-chrome")) if b), None)


def browse(page, profile, *options):
    """What a real browser makes of a page without a network."""
    words = [BROWSER, "--headless=new", "--no-sandbox", "--enable-unsafe-swiftshader", "--virtual-time-budget=10000"]
    words += [f"--user-data-dir={profile}", "--window-size=1000,800", *options, page.as_uri()]
    return subprocess.run(words, capture_output=True, text=True, timeout=200, check=False).stdout


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="no browser here: apt-get install chromium")
def test_page_opens_in_a_browser(tmp_path):
    pytest.importorskip("plotly")
    cloud = synthetic.room(np.random.default_rng(0), 400)
    names = synthetic.ROOM_CLASSES
    found = {"boxes": cloud["boxes"], "box_label": cloud["box_label"] + 2, "scores": np.ones(len(cloud["boxes"]))}
    page = write_page(
        tmp_path / "a.html", cloud["coord"], names, cloud["segment"], found=found, title="a furnished room"
    )
    text = browse(page, tmp_path / "profile", "--dump-dom")
    drawn = re.sub(r"<script.*?</script>", "", text, flags=re.DOTALL)  # what the page's own script made
    assert "a furnished room" in drawn
    assert all(names[i] in drawn for i in np.unique(cloud["segment"]))
    assert "<canvas" in drawn
    browse(page, tmp_path / "profile", f"--screenshot={tmp_path / 'a.png'}")
    pixels = np.asarray(Image.open(tmp_path / "a.png").convert("RGB")).astype(int)[60:, :800]  # below title, off legend
    for label in np.unique(cloud["segment"]):
        color = [int(color_of(label)[i : i + 2], 16) for i in (1, 3, 5)]
        assert (np.abs(pixels - color).max(-1) < 12).sum() > 20, f"no points of {names[label]} on the screen"


def test_missing_colors_are_explained():
    cloud = {"coord": np.zeros((3, 3))}
    with pytest.raises(ValueError, match="trained with 3 features"):
        fit_features(cloud, 3)
    assert fit_features({**cloud, "feat": np.ones((3, 4))}, 3)["feat"].shape == (3, 3)


def tool(*words, cwd=ROOT):
    done = subprocess.run([sys.executable, *map(str, words)], cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.mark.slow
@pytest.mark.parametrize(
    ("config", "metric", "options", "file"),
    [
        ("epcl_tiny-clip_512_objects", "top1", "objects", "objects/mug/mug_0004.txt"),
        ("epcl_tiny-clip_2k_rooms-seg", "miou", "rooms", "rooms/trainval_fullarea/Area_5_room_0.npy"),
        ("epcl_tiny-clip_2k_rooms-det", "map25", "boxes", "boxes_test/000000_pc.npz"),
    ],
)
def test_train_test_predict(tmp_path, config, metric, options, file):
    data = tmp_path / "clouds"
    tool("tools/data/make_clouds.py", data, "--scale", "0.03", "--points", "1500", "--workers", "1")
    path, work = f"configs/pointcloud/{config}.py", tmp_path / "run"
    given = [f"{s}_dataloader.dataset.root={data / options}" for s in ("train", "val", "test")]
    if options == "boxes":
        given += [f"{s}_dataloader.dataset.classes={data / 'boxes_classes.txt'}" for s in ("train", "val", "test")]
    if options == "objects":
        given += [f"{s}_dataloader.dataset.cache=none" for s in ("train", "val", "test")]
    length = "max_steps" if options == "rooms" else "max_epochs"
    given += [f"train_cfg.{length}=2", "train_cfg.val_interval=2", "param_scheduler.warmup_steps=0"]
    tool("tools/train.py", path, "--work-dir", work, "--cfg-options", *given)
    tool("tools/test.py", path, work / "last.pth", "--cfg-options", *given)
    assert 0 <= json.loads((work / "test.json").read_text())["test"][metric] <= 100
    tool(
        "tools/predict.py",
        path,
        work / "last.pth",
        data / file,
        "--out",
        tmp_path / "found",
        "--cfg-options",
        *given,
    )
    assert len(list((tmp_path / "found").glob("*.html"))) == 1


@pytest.mark.slow
def test_fewshot_folds(tmp_path):
    names = ["chair", "bed", "lamp", "mug", "car"]
    for fold in (0, 1):
        rng = np.random.default_rng(fold)
        cloud = lambda i: np.concatenate(list(synthetic.object_cloud(names[i % 5], rng, 256).values()), 1)  # noqa: B023, E731
        episode = {
            "train": [(cloud(i), i % 5, "") for i in range(50)],
            "test": [(cloud(i), i % 5, "") for i in range(25)],
        }
        path = tmp_path / "episodes" / "5way_10shot" / f"{fold}.pkl"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(pickle.dumps(episode))
    options = [f"{s}_dataloader.dataset.root={tmp_path / 'episodes'}" for s in ("train", "val", "test")]
    options += [f"{s}_dataloader.num_workers=0" for s in ("train", "val", "test")]
    options += ["model.encoder.pretrained=random", "model.encoder.name=ViT-S-32", "train_cfg.max_epochs=2"]
    options += ["model.network.num_groups=16", "model.network.group_size=8", "param_scheduler.warmup_epochs=0"]
    config = "configs/pointcloud/epcl_vit-b32-clip_1024_modelnet-5way10shot.py"
    tool("tools/fewshot_clouds.py", config, "--work-dir", tmp_path / "w", "--folds", 0, 1, "--cfg-options", *options)
    summary = json.loads((tmp_path / "w" / "folds.json").read_text())
    assert set(summary["folds"]) == {"0", "1"}
    assert summary["mean"] == pytest.approx(sum(summary["folds"].values()) / 2)


def test_parts_take_the_points_of_a_voxel_in_turn():
    """Voxels from the lowest point on: three points, then two: part i takes point i mod count of each."""
    x = np.array([0.625, 0.125, 0.375, 0.25, 1.0], np.float32)  # voxels of 0.125 to 0.625, and on
    coord = np.stack([x, 0 * x, 0 * x], axis=1)
    parts = [p.tolist() for p in scenes.parts_of(coord, 0.5)]
    assert parts == [[1, 0], [2, 4], [3, 0]]
    assert [p.tolist() for p in scenes.parts_of(coord, 0.5, most=1)] == parts[:1]
    assert [p.tolist() for p in scenes.parts_of(coord, 100.0)] == [[i] for i in range(5)]


def test_crops_are_the_nearest_points_of_a_point_not_yet_covered():
    coord = np.random.default_rng(0).random((300, 3)).astype(np.float32)
    gaps = ((coord[:, None].astype(np.float64) - coord[None]) ** 2).sum(-1)
    spheres = {frozenset(row.argsort()[:40]): i for i, row in enumerate(gaps)}
    covered = set()
    for crop in scenes.crops_of(coord, 40):
        center = spheres[frozenset(crop)]
        assert center not in covered
        covered |= set(crop)
    assert covered == set(range(300))
    assert [c.tolist() for c in scenes.crops_of(coord[:5], 5)] == [[0, 1, 2, 3, 4]]


def test_features_are_the_first_ones_the_network_wants():
    cloud = {"coord": np.zeros((2, 3)), "feat": np.arange(10.0).reshape(2, 5)}
    assert fit_features(cloud, 3)["feat"].tolist() == [[0, 1, 2], [5, 6, 7]]
    assert "feat" not in fit_features(cloud, 0)


def test_single_files_go_through_the_test_transforms_and_name_their_class(tmp_path, monkeypatch):
    from mmengine.config import Config

    from pointcloud import predict

    monkeypatch.setattr(predict, "write_page", lambda path, *a, **k: path)
    np.save(tmp_path / "a.npy", np.array([[1.0, 0, 0], [5, 0, 0]], np.float32))
    seen = []

    class Network(EPCLClassifier):
        def __init__(self):
            torch.nn.Module.__init__(self)
            self.weight = torch.nn.Parameter(torch.zeros(1))

        def predict(self, coord):
            seen.append(coord)
            return [{"scores": torch.tensor([0.1, 0.2, 0.7])}]

    class Model:
        network = Network()

    cfg = Config({"test_dataloader": {"dataset": {"transforms": [{"type": "unit_ball"}]}}})
    row = predict.predict_file(Model(), ["x", "y"], cfg, str(tmp_path / "a.npy"), tmp_path / "out")
    assert seen[0].tolist() == [[[-1, 0, 0], [1, 0, 0]]]
    assert (row["label"], row["name"], round(row["score"], 4)) == (2, "2", 0.7)
    assert json.loads((tmp_path / "out" / "a.json").read_text())["label"] == 2
    row = predict.predict_file(Model(), ["x", "y", "z"], cfg, str(tmp_path / "a.npy"), tmp_path / "out")
    assert row["name"] == "z"
