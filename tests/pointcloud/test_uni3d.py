"""Uni3D: released files, frozen and adapted, zero-shot and few-shot."""

import json
import pickle

import numpy as np
import pytest
import torch

from pointcloud.classification import FeatureClassifier
from pointcloud.datasets.objects import ModelNet40
from pointcloud.datasets.openshape import (
    AS_WRITTEN,
    TEMPLATES,
    ObjaverseLVIS,
    OpenShapeModelNet40,
    OpenShapeScanObjectNN,
)
from pointcloud.model import CloudModel
from pointcloud.predict import fit_features
from pointcloud.uni3d import OWN, SIZES, uni3d
from xmodal.encoders.clip import fill, zero_shot_weights
from xmodal.encoders.openclip_weights import open_clip_beside
from xmodal.evaluation.bench import Bench, Source
from xmodal.evaluation.plans import Coop11, ZeroShot
from xmodal.evaluation.runs import CacheRun, LinearProbeRun, ZeroShotRun
from xmodal.heads.classification import ClassificationHead

SMALL = dict(num_groups=8, group_size=6)
TEXT = dict(name="ViT-B-32", pretrained="random", arch=dict(text_cfg=dict(width=32, heads=2, layers=1)))


def small(size="tiny", **options):
    return uni3d(size, **{**SMALL, "arch": dict(depth=2), "token_dim": 32, "out_dim": 16, **options})


def clouds(batch=2, points=40):
    generator = torch.Generator().manual_seed(0)
    return torch.rand(batch, points, 3, generator=generator), torch.rand(batch, points, 3, generator=generator)


@pytest.mark.parametrize("size", ["tiny", "base", "giant"])  # the three layouts of blocks
def test_a_released_file_comes_in_and_goes_out_exactly(size, tmp_path):
    arch = dict(depth=2, embed_dim=48, num_heads=4)
    model = small(size, arch=arch, seed=1)
    official = model.library_state()
    torch.save({"module": {f"module.{k}": v for k, v in official.items()}, "epoch": 3}, tmp_path / "model.pt")
    found = small(size, arch=arch, weights=str(tmp_path / "model.pt"), token_dim=32)
    again = found.library_state()
    assert again.keys() == official.keys()
    assert all(torch.equal(again[k], v) for k, v in official.items())
    assert ("point_encoder.visual.head.weight" in official) == (size != "tiny")
    blocks = "point_encoder.visual.blocks.1"
    assert {"tiny": f"{blocks}.attn.q_bias", "base": f"{blocks}.mlp.fc1_g.weight", "giant": f"{blocks}.attn.v_bias"}[
        size
    ] in official
    coord, color = clouds()
    torch.testing.assert_close(found(coord, color), model(coord, color))


@pytest.mark.parametrize(
    ("size", "weights"),
    [
        ("giant", 1_014_447_464),
        ("large", 305_080_232),
        ("base", 87_117_544),
        ("small", 21_621_120),
        ("tiny", 5_502_144),
    ],
)
def test_the_transformers_have_the_published_sizes(size, weights):
    """Ours hold a bias of the keys, zero in released files, beside what is published."""
    with torch.device("meta"):
        model = uni3d(size)
    image = {k: v for k, v in model.state_dict().items() if not k.startswith(OWN) or k.startswith("image_head.")}
    assert sum(v.numel() for v in image.values()) == weights + model.depth * model.dim


def test_files_of_another_size_or_kind_are_refused_by_name(tmp_path):
    torch.save({"module": small("small").library_state()}, tmp_path / "s.pt")
    with pytest.raises(
        ValueError, match=r"s\.pt holds a Uni3D of width 384 .* 'tiny' has width 192 .* tiny, small, base"
    ):
        small("tiny", weights=str(tmp_path / "s.pt"))
    torch.save({"state_dict": {"conv1.weight": torch.zeros(1)}}, tmp_path / "other.pt")
    with pytest.raises(ValueError, match=r"other\.pt is no file of Uni3D"):
        small(weights=str(tmp_path / "other.pt"))
    torch.save({"module": {"point_encoder.cls_pos": torch.zeros(1, 1, 192)}}, tmp_path / "cut.pt")
    with pytest.raises(ValueError, match=r"cut\.pt is not whole: it lacks .*encoder2trans"):
        small(weights=str(tmp_path / "cut.pt"))
    with pytest.raises(ValueError, match=f"Uni3D has {', '.join(SIZES)}"):
        uni3d("huge")


def test_colors_matter_and_gray_stands_in_for_none():
    model = small()
    coord, color = clouds()
    assert not torch.allclose(model(coord), model(coord, color), atol=1e-4)
    assert torch.equal(model(coord), model(coord, torch.full_like(color, 0.4)))
    raw = {"coord": coord[0].numpy()}
    assert (fit_features(raw, 3, (), FeatureClassifier.gray)["feat"] == np.float32(0.4)).all()
    colored = fit_features({**raw, "feat": color[0].numpy()}, 3, (), FeatureClassifier.gray)
    assert np.allclose(colored["feat"], color[0])
    with pytest.raises(ValueError, match="no color"):
        fit_features({**raw, "feat": None}, 3, ("color",))


@pytest.mark.parametrize("adapter", ["lora", "adaptformer", "vpt", "ssf"])
def test_any_adapter_trains_inside_and_the_tower_stays(adapter):
    torch.manual_seed(0)
    network = dict(type=FeatureClassifier, head=dict(type=ClassificationHead, num_classes=3, norm="batch"))
    model = CloudModel(small(), network, [dict(type=adapter)]).train()
    before = {k: v.clone() for k, v in model.encoder.state_dict().items() if k in model._base}
    coord, color = clouds(6)
    coord = coord * (torch.eye(3)[torch.tensor([0, 1, 2, 0, 1, 2])][:, None] + 0.1)
    batch = dict(coord=coord, feat=color, label=torch.tensor([0, 1, 2, 0, 1, 2]))
    trained = {k: p for k, p in model.named_parameters() if p.requires_grad}
    assert any("encoder" in k for k in trained)
    optimizer, losses = torch.optim.Adam(trained.values(), lr=1e-2), []
    for _ in range(12):
        loss = model(mode="loss", **batch)["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]
    assert all(torch.equal(v, model.encoder.state_dict()[k]) for k, v in before.items())
    found = model.eval()(mode="predict", **batch)
    assert found[0]["scores"].shape == (3,)
    assert found[0]["label"] == 0


@pytest.fixture
def objects(tmp_path):
    """Three classes of clouds that lie on an axis each, in ModelNet40's layout."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 6), ("test", 4)):
        ids = [f"{name}_{split}{i}" for name in ("bed", "flower_pot", "sofa") for i in range(count)]
        (tmp_path / f"modelnet40_{split}.txt").write_text("\n".join(ids))
        for sample in ids:
            name = sample.rsplit("_", 1)[0]
            wide = np.roll([1, 0.1, 0.1], ("bed", "flower_pot", "sofa").index(name))
            (tmp_path / name).mkdir(exist_ok=True)
            np.savetxt(tmp_path / name / f"{sample}.txt", rng.normal(size=(30, 6)) * [*wide, 1, 1, 1], delimiter=",")
    (tmp_path / "modelnet40_shape_names.txt").write_text("bed\nflower_pot\nsofa\n")
    return str(tmp_path)


def test_zero_shot_probe_and_cache_in_the_evaluation_wing(objects):
    clip = open_clip_beside(small(out_dim=512), **TEXT)
    assert clip.logit_scale.item() == clip.visual.logit_scale.item()
    parts = dict(train=ModelNet40(objects, "train"), val=ModelNet40(objects, "test"))
    bench = Bench(clip, [Source("objects", templates=TEMPLATES[:3], **parts)])
    data = bench.sources[0].labeled()
    assert data.train == [0] * 6 + [1] * 6 + [2] * 6
    plan = ZeroShot().plan(data)
    feature = bench.features(plan.tests["objects"])
    item = parts["val"][5]
    torch.testing.assert_close(feature[5], clip.visual(item["coord"][None])[0].detach())
    weights = zero_shot_weights(clip, ["bed", "flower pot", "sofa"], TEMPLATES[:3])
    right = (feature @ weights.t()).argmax(1) == torch.tensor(data.test)
    assert ZeroShotRun()(bench, plan).scores["objects"] == pytest.approx(100 * right.float().mean().item())
    few = Coop11().plan(data, 4, 1)
    assert LinearProbeRun()(bench, few).scores["objects"] > 60
    assert CacheRun()(bench, few).scores["objects"] > 30
    with pytest.raises(ValueError, match="these are clouds"):
        bench.images(few.train[0], None, [0])


def test_towers_of_other_widths_do_not_join():
    with pytest.raises(ValueError, match="width 16, text features 512"):
        open_clip_beside(small(), **TEXT)


def test_text_weights_of_a_file_are_those_of_the_whole_model(tmp_path):
    import open_clip

    torch.manual_seed(0)
    whole = open_clip.create_model("ViT-B-32", pretrained=None).eval()
    torch.save(whole.state_dict(), tmp_path / "whole.pt")
    clip = open_clip_beside(small(out_dim=512), "ViT-B-32", str(tmp_path / "whole.pt"))
    ids = clip.tokenize(["a point cloud model of a chair."])
    with torch.no_grad():
        torch.testing.assert_close(clip.encode_text(ids), whole.encode_text(ids), atol=1e-5, rtol=1e-4)


def save_objects(path, content):
    """What numpy writes for an array of objects, and for a dict."""
    np.save(path, np.array(content, dtype=object) if isinstance(content, list) else content, allow_pickle=True)


def test_openshapes_three_layouts(tmp_path):
    rng = np.random.default_rng(0)
    rows = [dict(xyz=rng.normal(size=(5, 3)).astype(np.float32), rgb=np.full((5, 3), 102.0)) for _ in range(2)]
    save_objects(tmp_path / "test_pc.npy", rows)
    (tmp_path / "test_split.json").write_text(json.dumps([{"category": "tv_stand"}, {"category": "bed"}]))
    data = OpenShapeModelNet40(str(tmp_path))
    assert data.labels == [36, 2]
    assert torch.allclose(data[0]["feat"], torch.full((5, 3), 0.4))
    assert np.allclose(OpenShapeModelNet40(str(tmp_path), swap_axes=True)[1]["coord"], rows[1]["xyz"][:, [0, 2, 1]])
    save_objects(tmp_path / "xyz_label.npy", dict(xyz=rng.normal(size=(3, 5, 3)), label=np.array([14, 0, 4])))
    data = OpenShapeScanObjectNN(str(tmp_path))
    assert [data.classes[i] for i in data.labels] == ["toilet", "bag", "chair"]
    assert "feat" not in data[0]
    save_objects(tmp_path / "a.npy", dict(xyz=rng.normal(size=(5, 3)), rgb=rng.random((5, 3))))
    (tmp_path / "lvis_testset.txt").write_text("7,Band_Aid,abc,a.npy\n1,zebra,abd,a.npy\n")
    data = ObjaverseLVIS(str(tmp_path))
    assert len(data.classes) == 1156
    assert [data.classes[i] for i in data.labels] == ["Band_Aid", "zebra"]
    assert data[1]["feat"].shape == (5, 3)
    (tmp_path / "lvis_testset.txt").write_text("7,Band_Ait,abc,a.npy\n")
    with pytest.raises(ValueError, match=r"Band_Ait.*did you mean 'Band_Aid'"):
        ObjaverseLVIS(str(tmp_path))


class Evil:
    def __reduce__(self):
        return (print, ("run",))


def test_pickled_code_in_an_array_file_is_not_run(tmp_path, capsys):
    with open(tmp_path / "test_pc.npy", "wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "|O", "fortran_order": False, "shape": (1,)})
        pickle.dump([Evil()], file)
    with pytest.raises(ValueError, match="only numpy arrays and plain containers"):
        OpenShapeModelNet40(str(tmp_path))
    assert "run" not in capsys.readouterr().out


def test_sentences_keep_underscores_where_the_release_does():
    assert len(TEMPLATES) == 64
    assert fill(TEMPLATES[0], "flower_pot") == "a point cloud model of flower pot."
    assert fill(AS_WRITTEN[0], "Band_Aid") == "a point cloud model of Band_Aid."
