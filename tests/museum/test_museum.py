"""Every file of the museum still loads and gives the outputs that were kept beside it."""

import json
import shutil

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import load_file
from timm.models.vision_transformer import VisionTransformer as TimmVisionTransformer

import xmodal
from tests.museum import exhibits
from tests.museum.exhibits import CLASSES, FILES, models
from tests.museum.make import cached_logits
from xmodal.engine.checkpoint import load_weights, read
from xmodal.registry import MODELS, build

TOLERANCE = dict(rtol=1e-5, atol=1e-5)
FIGURES = {"points": "miou", "boxes": "map25"}


def kept(name):
    with np.load(FILES / name / "outputs.npz") as file:
        return dict(file)


def agree(found, wanted):
    assert found.keys() == wanted.keys()
    for key, value in wanted.items():
        np.testing.assert_allclose(np.asarray(found[key], np.float64), value, err_msg=key, **TOLERANCE)


def redrawn(model):
    """Give what trains other values, so that only the file can bring the right ones."""
    for p in model.parameters():
        if p.requires_grad:
            torch.nn.init.constant_(p, 0.123)
    return model


@pytest.mark.parametrize("name", models())
def test_checkpoints(name):
    model = redrawn(build(models()[name][1], MODELS))
    meta = load_weights(model, FILES / name / "best.pth")
    assert meta["classes"] == CLASSES
    agree(exhibits.outputs(name, model), kept(name))


@pytest.mark.parametrize("name", ["video-st-adapter", "image-lora"])
def test_a_finished_run_can_be_resumed_and_has_nothing_left(name, tmp_path):
    shutil.copy(FILES / name / "last.pth", tmp_path)
    runner = exhibits.train(name, tmp_path, "auto")
    assert runner.iter == 8
    state, old = read(tmp_path / "last.pth"), read(FILES / name / "last.pth")
    for key, value in old["state_dict"].items():
        assert torch.equal(state["state_dict"][key], value)


def test_a_run_goes_on_in_the_middle_of_an_epoch(tmp_path):
    shutil.copy(FILES / "mid-epoch" / "last.pth", tmp_path)
    assert read(tmp_path / "last.pth")["meta"]["step"] == 3
    exhibits.train("video-st-adapter", tmp_path, "auto")
    agree(read(tmp_path / "last.pth")["state_dict"], kept("mid-epoch"))


@pytest.mark.parametrize("name", models())
def test_reports(name):
    """What pages and tables read of a run."""
    report = json.loads((FILES / name / "report.json").read_text())
    assert report["status"] == "finished"
    assert report["step"] == 8
    assert [h["step"] for h in report["history"]] == list(range(1, 9))
    figure = FIGURES.get(models()[name][0], "top1")
    values = [e["val"][figure] for e in report["epochs"]]
    assert len(values) == 2
    assert report["best"][figure] == max(values)
    test = json.loads((FILES / name / "test.json").read_text())
    assert test["test"][figure] == pytest.approx(values[-1], abs=1e-6)


@pytest.mark.parametrize("name", [n for n, (kind, _) in models().items() if kind not in ("points", "boxes")])
def test_dumps(name):
    test = json.loads((FILES / name / "test.json").read_text())["test"]
    path = next((FILES / name).glob("dump.*"))
    if path.suffix == ".npz":
        with np.load(path) as file:
            scores, labels = file["scores"], file["label"]
    else:
        rows = json.loads(path.read_text())
        scores, labels = np.array([r["scores"] for r in rows]), np.array([r["label"] for r in rows])
    assert scores.shape == (5, 3)
    assert 100 * np.mean(scores.argmax(1) == labels) == pytest.approx(test["top1"])


@pytest.mark.parametrize("dtype", ["float16", "int8"])
def test_frozen_prefix_cache(dtype):
    model = redrawn(build(models()["video-evl"][1], MODELS))
    load_weights(model, FILES / "video-evl" / "best.pth")
    agree({"logits": cached_logits(model, FILES / "cache" / dtype, dtype)}, {"logits": kept("cache")[dtype]})


def test_adapters_of_xmodal_adapt():
    """Both adapters on one tower, loaded one after the other; the last one loaded is in use."""
    wanted = kept("adapted")
    for name, method in (("first", "lora"), ("second", "ssf")):
        model = xmodal.adapt(exhibits.tower(), method, num_classes=3, **({"rank": 2} if method == "lora" else {}))
        model.load(FILES / "adapted" / name, name)
        with torch.no_grad():
            agree({name: model.eval()(exhibits.images()).numpy()}, {name: wanted[name]})


def test_merged_tower_runs_in_timm():
    model = TimmVisionTransformer(
        img_size=16, patch_size=8, embed_dim=24, depth=2, num_heads=3, num_classes=3, pre_norm=True,
        act_layer=timm.layers.activations.GELU,
    )  # fmt: skip
    for block in model.blocks:
        block.mlp.act = QuickGELU()
    model.load_state_dict(load_file(FILES / "merged" / "merged.safetensors"))
    with torch.no_grad():
        agree({"logits": model.eval()(exhibits.images()).numpy()}, kept("merged"))


class QuickGELU(torch.nn.Module):
    def forward(self, x):
        return x * torch.sigmoid(1.702 * x)


def test_few_shot_heads():
    from xmodal.official.prompts import load_dassl, load_tip_keys

    coop, tip = exhibits.coop_head(), exhibits.tip_head()
    load_dassl(coop, FILES / "fewshot" / "coop")
    load_tip_keys(tip, FILES / "fewshot" / "best_F_2shots.pt")
    with torch.no_grad():
        found = {name: head(exhibits.features()).numpy() for name, head in (("coop", coop), ("tip", tip))}
    agree(found, kept("fewshot"))


def test_the_museum_is_small():
    assert sum(f.stat().st_size for f in FILES.rglob("*") if f.is_file()) < 3e6
