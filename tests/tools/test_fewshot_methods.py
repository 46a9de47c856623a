"""Every method and protocol through `tools/fewshot.py` with the tiny CLIP: it runs, resumes and says what it did."""

import json

import pytest
from PIL import Image

from tools import fewshot

pytestmark = pytest.mark.slow
HEAD = """
from xmodal.encoders.timm_weights import timm_encoder
from xmodal.encoders.tiny import tiny_clip
from xmodal.heads.cocoop import CoCoOpHead
from xmodal.heads.coop import CoOpHead
from xmodal.heads.dplclip import DPLCLIPHead
from xmodal.heads.dpt import DPTHead
from xmodal.heads.mvlpt import MVLPTHead
from xmodal.evaluation.folders import read_folder
from xmodal.evaluation.image_runs import DomainRun, ImageRun
from xmodal.evaluation.images import ListedImages
from xmodal.toys.shape_images import ShapeImages
from xmodal.evaluation.plans import BaseToNew, Coop11, CrossDataset, DomainBed, DomainShift, MultiTask, Tip
from xmodal.evaluation.runs import CacheRun, CaFoRun, LinearProbeRun, PromptRun, ZeroShotRun

encoder = dict(type=tiny_clip)
sources = []
for _name, _style, _shapes, _colors in {sources}:
    _data = dict(type=ShapeImages, shapes=_shapes, colors=_colors, style=_style)
    sources.append(dict(
        name=_name,
        train=dict(**_data, split="train", per_class=4, augment=True, scale=(0.6, 1.0)),
        plain=dict(**_data, split="train", per_class=4),
        val=dict(**_data, split="val", per_class=4),
        test=dict(**_data, split="test", per_class=4),
    ))
"""
RINGS = ("ring", "cross")
ONE = [("one", "plain", RINGS, ("red", "blue"))]
TWO = [*ONE, ("two", "plain", ("star",), ("green", "white"))]
STYLES = [(s, s, RINGS, ("red", "blue")) for s in ("plain", "gray", "noisy", "negative")]


def run(tmp_path, name, body, sources=ONE, args=("--shots", "2", "--seeds", "1")):
    """Results by method and seed."""
    config = tmp_path / f"{name}.py"
    config.write_text(HEAD.replace("{sources}", repr(sources)) + body)
    out = tmp_path / name
    assert fewshot.main([str(config), *args, "--out", str(out)]) == 0
    found = {}
    for path in out.glob("*/*/result.json"):
        result = json.loads(path.read_text())
        found[result["method"], result["seed"]] = result
    return found


def test_prompts_caches_and_probe(tmp_path):
    body = """
protocol = dict(type=Tip)
_cache = dict(type=CacheRun, passes=2, steps=(20, 5), logit_scale=15.0)
methods = {
    "zero-shot": dict(type=ZeroShotRun),
    "probe": dict(type=LinearProbeRun, steps=2),
    "CoOp": dict(type=PromptRun, head=dict(type=CoOpHead, n_ctx=4), lr=0.02, epochs=5),
    "CoCoOp": dict(type=PromptRun, head=dict(type=CoCoOpHead, init_words="a photo of a", chunk=8), epochs=2),
    "Tip-Adapter": dict(**_cache),
    "Tip-Adapter-F": dict(**_cache, finetune=True, epochs=3),
    "DPT": dict(type=ImageRun, head=dict(type=DPTHead, n_ctx=2, n_visual=2, top_classes=2), epochs=2, text_lr=0.002),
    "MVLPT": dict(type=ImageRun, head=dict(type=MVLPTHead, n_ctx=2, n_visual=2), epochs=2),
}
"""
    args = ("--shots", "2", "--seeds", "1", "--workers", "2")
    found = run(tmp_path, "all", body, args=args)
    assert len(found) == 8
    assert {r["protocol"] for r in found.values()} == {"tip"}
    assert found["Tip-Adapter-F", 1]["selected_on"] == "val"
    assert found["CoOp", 1]["selected_on"] == "none (last step)"
    assert found["zero-shot", 1]["scores"]["one"] > 80, "the tiny CLIP knows these pictures"
    for name in ("CoOp", "CoCoOp", "DPT", "MVLPT"):
        assert list((tmp_path / "all" / name).rglob("model.pth.tar-*")), name
    assert list((tmp_path / "all" / "Tip-Adapter-F").rglob("best_F_2shots.pt"))
    stamps = {p: p.stat().st_mtime_ns for p in (tmp_path / "all").rglob("result.json")}
    run(tmp_path, "all", body, args=args)
    assert stamps == {p: p.stat().st_mtime_ns for p in (tmp_path / "all").rglob("result.json")}, "nothing ran again"


def test_cafo_with_dino_folder_of_synthetic_shots_and_sentences(tmp_path):
    from xmodal.toys.shape_images import ShapeImages

    drawn = ShapeImages("val", 2, RINGS, ("red", "blue"))
    for i in range(len(drawn)):
        folder = tmp_path / "made" / drawn.classes[drawn.labels[i]].replace(" ", "_")
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(drawn[i]["image"].permute(1, 2, 0).numpy()).save(folder / f"{i}.png")
    sentences = {name: [f"a photo of a {name}.", f"a drawing of a {name}."] for name in drawn.classes}
    (tmp_path / "sentences.json").write_text(json.dumps(sentences))
    made, told = str(tmp_path / "made"), str(tmp_path / "sentences.json")
    body = f"""
_made = dict(type=ListedImages, splits=dict(type=read_folder, folder={made!r}), split="train", size=48)
sources.append(dict(name="made", train=dict(**_made, augment=True, scale=(0.5, 1.0)), plain=_made))
bench = dict(second=dict(type=timm_encoder, name="vit_small_patch16_224.dino", weights="random", image_size=48))
protocol = dict(type=Tip)
methods = {{"CaFo": dict(type=CaFoRun, synthetic="made", synthetic_shots=2, sentences={told!r},
                        epochs=3, passes=2, steps=(20, 5), logit_scale=15.0)}}
"""
    result = run(tmp_path, "cafo", body)["CaFo", 1]
    assert result["trained_weights"] == 4 * (2 + 2) * (96 + 384)
    assert set(result["encoders"]) == {"clip", "second", "text"}
    assert result["details"]["search"]["keys"] == 16


def test_several_tasks_are_averaged_and_continued_on_a_target(tmp_path):
    head = "dict(type=MVLPTHead, n_ctx=2, n_visual=2)"
    body = f"""
protocol = dict(type=MultiTask)
methods = {{"MVLPT": dict(type=ImageRun, head={head}, epochs=2, mask_tasks=True)}}
"""
    first = run(tmp_path, "tasks", body, TWO, ("--shots", "1", "--seeds", "1", "2"))
    assert set(first["MVLPT", 2]["scores"]) == {"one", "two", "mean"}
    folders = [str(tmp_path / "tasks" / "MVLPT" / f"shots1_seed{s}") for s in (1, 2)]
    body = f"""
protocol = dict(type=Coop11)
methods = {{
    "start": dict(type=ImageRun, head={head}, epochs=1, lr=0.0, start={folders!r}),
    "scratch": dict(type=ImageRun, head={head}, epochs=1),
}}
"""
    found = run(tmp_path, "target", body, [("target", "plain", ("heart", "square"), ("red", "cyan"))])
    assert set(found) == {("start", 1), ("scratch", 1)}
    import torch

    key, file = "vpt_embeddings", "prompt_learner/model.pth.tar-"
    read = lambda p: torch.load(p, weights_only=True)["state_dict"][key]  # noqa: E731
    mean = (read(f"{folders[0]}/{file}2") + read(f"{folders[1]}/{file}2")) / 2
    went_on = read(tmp_path / "target" / "start" / "shots2_seed1" / f"{file}1")
    assert torch.allclose(went_on, mean, atol=1e-4), "one step at the warm-up's small rate away from the mean"


def test_base_to_new_cross_data_and_shift(tmp_path):
    methods = """
methods = {"CoOp": dict(type=PromptRun, head=dict(type=CoOpHead, n_ctx=2), epochs=2)}
"""
    base = run(tmp_path, "base2new", "protocol = dict(type=BaseToNew)\n" + methods)["CoOp", 1]
    assert set(base["scores"]) == {"base", "new", "harmonic_mean"}
    cross = run(tmp_path, "cross", "protocol = dict(type=CrossDataset)\n" + methods, TWO)["CoOp", 1]
    assert set(cross["scores"]) == {"one", "two", "target_mean"}
    shift = run(tmp_path, "shift", "protocol = dict(type=DomainShift)\n" + methods, STYLES)["CoOp", 1]
    assert set(shift["scores"]) == {"plain", "gray", "noisy", "negative", "target_mean"}


def test_domainbed(tmp_path):
    body = """
protocol = dict(type=DomainBed, held_out="negative")
methods = {
    "zero-shot": dict(type=ZeroShotRun),
    "DPLCLIP": dict(type=DomainRun, head=dict(type=DPLCLIPHead, n_ctx=2, width=16), steps=5, interval=2, batch_size=4),
}
"""
    found = run(tmp_path, "dpl", body, STYLES, ("--seeds", "0"))
    assert found["DPLCLIP", 0]["selected_on"] == "val"
    assert set(found["zero-shot", 0]["scores"]) == {"negative"}


def test_a_validation_report_leaves_the_test_split_alone(tmp_path, capsys):
    body = 'protocol = dict(type=Coop11)\nmethods = {"zero-shot": dict(type=ZeroShotRun)}\n'
    on_test = run(tmp_path, "one", body)["zero-shot", 1]
    on_val = run(tmp_path, "other", body, args=("--on", "val", "--seeds", "1"))["zero-shot", 1]
    assert on_test["splits"] != on_val["splits"]
    assert "VALIDATION split" in capsys.readouterr().out
