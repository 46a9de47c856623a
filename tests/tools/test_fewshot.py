"""The few-shot grid end to end on drawn shapes, and the checker of data folders."""

import dataclasses
import inspect
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.xmodal.clips import small_clip
from tools import fewshot
from tools.data import check_fewshot
from xmodal.evaluation.bench import Bench, Source
from xmodal.evaluation.config import RECIPES, build_grid, read_config
from xmodal.evaluation.image_runs import DomainRun, ImageRun
from xmodal.evaluation.images import FewShotImages
from xmodal.evaluation.plans import BaseToNew, Coop11, DomainBed, MultiTask, Tip
from xmodal.evaluation.run_grid import RunGrid, draw_plot, format_searches, format_table
from xmodal.evaluation.runs import CacheRun, CaFoRun, LinearProbeRun, PromptRun, ZeroShotRun
from xmodal.heads.cocoop import CoCoOpHead
from xmodal.heads.coop import CoOpHead
from xmodal.heads.dplclip import DPLCLIPHead
from xmodal.heads.dpt import DPTHead
from xmodal.heads.mvlpt import MVLPTHead
from xmodal.official.prompts import load_inert
from xmodal.registry import DATASETS, build, check_arguments, resolve
from xmodal.toys.shape_images import ShapeImages

ROOT = Path(__file__).parents[2]


def source(name="plain", style="plain", colors=("red", "blue"), shapes=("ring", "cross")):
    make = lambda split, n, **k: ShapeImages(split, n, shapes, colors, style, size=16, **k)  # noqa: E731
    train = make("train", 4, augment=True, scale=(0.6, 1.0))
    return Source(name, train, make("train", 4), make("val", 2), make("test", 4))


@pytest.fixture
def bench():
    return Bench(small_clip(), [source()], second=small_clip(dim=8).visual, views=2)


RUNS = {
    "zero-shot": ZeroShotRun(),
    "probe": LinearProbeRun(steps=1),
    "coop": PromptRun(dict(type=CoOpHead, n_ctx=2), epochs=2),
    "cocoop": PromptRun(dict(type=CoCoOpHead, n_ctx=2), epochs={1: 1}),
    "tip": CacheRun(steps=(5, 3), passes=2),
    "tip-f": CacheRun(finetune=True, epochs=2, steps=(5, 3), passes=2),
    "cafo": CaFoRun(epochs=2, steps=(5, 3), passes=2),
    "mvlpt": ImageRun(dict(type=MVLPTHead, n_ctx=2, n_visual=2), epochs=1),
    "dpt": ImageRun(dict(type=DPTHead, n_ctx=2, n_visual=2, top_classes=2), epochs=2, text_lr=0.002),
}


def test_every_method_runs_and_the_grid_resumes(bench, tmp_path):
    grid = RunGrid(bench, Coop11(), RUNS, tmp_path)
    results = grid.run([1, 2], [1])
    assert len(results) == 1 + 2 * (len(RUNS) - 1)
    assert all(0 <= r["scores"]["plain"] <= 100 for r in results)
    by = {r["method"]: r for r in results}
    assert by["coop"]["selected_on"] == "none (last step)"
    assert by["tip"]["selected_on"] == "val"
    assert by["coop"]["trained_weights"] == 2 * 20
    assert by["tip-f"]["trained_weights"] == 4 * 2 * 16
    assert {"protocol", "splits", "templates", "encoders", "sample_sha256", "seed", "recipe"} <= by["coop"].keys()
    assert (tmp_path / "coop" / "shots2_seed1" / "prompt_learner" / "model.pth.tar-2").exists()
    assert load_inert(tmp_path / "tip-f/shots2_seed1/best_F_2shots.pt").shape == (8, 16)
    assert by["tip-f"]["details"]["search"]["points"] == 15
    assert "tip: 15 pairs" in format_searches(results)
    grid.bench = None  # nothing is run again
    assert grid.run([1, 2], [1]) == results
    table = format_table(results)
    assert "| coop |" in table
    assert "| zero-shot | " + f"{by['zero-shot']['scores']['plain']:.2f} |" in format_table([by["zero-shot"]])
    draw_plot(results, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").stat().st_size > 1000


def test_a_changed_recipe_runs_again_and_a_trained_prompt_can_be_loaded(bench, tmp_path):
    first = RunGrid(bench, Coop11(), {"coop": RUNS["coop"]}, tmp_path).run([2], [1])[0]
    loaded = PromptRun(dict(type=CoOpHead, n_ctx=2), load=str(tmp_path / "coop" / "shots2_seed1"))
    second = RunGrid(bench, Coop11(), {"coop": loaded}, tmp_path).run([2], [1])[0]
    assert second["stamp"] != first["stamp"]
    assert second["scores"] == first["scores"]
    assert second["details"]["left_out"] == ["prompt_learner.token_prefix", "prompt_learner.token_suffix"]


def test_prompts_move_to_new_classes_unless_they_belong_to_some(bench, tmp_path):
    run = PromptRun(dict(type=CoOpHead, n_ctx=2), epochs=1)
    result = RunGrid(bench, BaseToNew(), {"coop": run}, tmp_path).run([2], [1])[0]
    assert set(result["scores"]) == {"base", "new", "harmonic_mean"}
    stuck = PromptRun(dict(type=CoOpHead, n_ctx=2, class_specific=True), epochs=1)
    bench.sources = [source(colors=("red", "blue", "green", "white"), shapes=("ring",))]
    with pytest.raises(ValueError, match="belongs to the training classes"):
        RunGrid(bench, BaseToNew(), {"csc": stuck}, tmp_path).run([1], [1])


def test_domains_and_tasks(tmp_path):
    styles = [source(s, s) for s in ("plain", "gray", "negative")]
    bench = Bench(small_clip(), styles)
    run = DomainRun(dict(type=DPLCLIPHead, n_ctx=2, width=8), steps=3, interval=2, batch_size=4)
    result = RunGrid(bench, DomainBed(held_out="gray"), {"dpl": run}, tmp_path).run([-1], [0])[0]
    assert list(result["scores"]) == ["gray"]
    assert result["selected_on"] == "val"
    last = dataclasses.replace(run, select_on="last")
    result = RunGrid(bench, DomainBed(held_out="gray"), {"last": last}, tmp_path).run([-1], [0])[0]
    assert (result["selected_on"], result["details"]["selected"]) == ("none (last step)", 2)
    with pytest.raises(ValueError, match="choose val or last"):
        dataclasses.replace(run, select_on="test")
    tasks = Bench(small_clip(), [source("one"), source("two", colors=("green",))])
    run = ImageRun(dict(type=MVLPTHead, n_ctx=2, n_visual=0), epochs=1)
    scores = RunGrid(tasks, MultiTask(), {"mvlpt": run}, tmp_path).run([1], [1])[0]["scores"]
    assert set(scores) == {"one", "two", "mean"}


def test_selecting_on_the_test_set_must_be_asked_for(bench, tmp_path):
    greedy = CacheRun(finetune=True, epochs=1, steps=(3, 2), passes=1, select_on="test")
    with pytest.raises(ValueError, match="select on the TEST set"):
        RunGrid(bench, Coop11(), {"tip-f": greedy}, tmp_path)
    with pytest.raises(ValueError, match="select on the TEST set"):
        RunGrid(bench, Tip(search_on="test"), {"tip": RUNS["tip"]}, tmp_path)
    result = RunGrid(bench, Coop11(), {"tip-f": greedy}, tmp_path, allow_test_selection=True).run([1], [1])[0]
    assert result["selected_on"] == "test"
    assert "TEST (optimistic)" in format_table([result])


def test_features_are_computed_once_and_kept_on_disk(tmp_path, monkeypatch):
    make = lambda: Bench(small_clip(), [source()], views=2, cache=tmp_path)  # noqa: E731
    torch.manual_seed(0)
    bench = make()
    part = Coop11().plan(bench.sources[0].labeled(), 2, 1).train[0]
    first = bench.features(part, 0)
    assert not torch.allclose(first, bench.features(part, 1))
    assert torch.equal(first, bench.features(part, 2)), "two views are shared in turn"
    torch.manual_seed(0)
    again = make()
    monkeypatch.setattr(again, "run", lambda *a: pytest.fail("computed again"))
    assert torch.equal(again.features(part, 0), first)


def test_command_line(tmp_path, capsys):
    for name in ("_base_/fewshot_tiny_clip", "fewshot/tiny-clip_negatives16"):
        config = tmp_path / f"{name}.py"
        config.parent.mkdir()
        text = (ROOT / f"configs/{name}.py").read_text()
        config.write_text(
            text.replace("scale=(20.0, 20.0)", "steps=(4, 3), scale=(20.0, 20.0)")
            .replace("per_class=32", "per_class=2")
            .replace("per_class=40", "per_class=2")
        )
    args = [str(config), "--shots", "1", "--seeds", "1", "2", "--out", str(tmp_path / "out")]
    assert fewshot.main([*args, "--methods", "zero-shot CLIP", "Tip-Adapter"]) == 0
    assert "| Tip-Adapter |" in capsys.readouterr().out
    saved = json.loads((tmp_path / "out/Tip-Adapter/shots1_seed2/result.json").read_text())
    assert saved["protocol"] == "coop11"
    assert fewshot.main([*args, "--methods", "Tip-Adaptor"]) == 2
    assert "did you mean 'Tip-Adapter'" in capsys.readouterr().err


def test_config_mistakes_are_named(tmp_path):
    config = tmp_path / "bad.py"
    config.write_text("from xmodal.encoders.tiny import tiny_clip\nencoder = dict(type=tiny_clip)\nsource = 1\n")
    with pytest.raises(ValueError, match="did you mean 'sources'"):
        read_config(config)
    config.write_text("clip = None\n")
    with pytest.raises(ValueError, match="'clip' is now 'encoder'"):
        read_config(config)
    with pytest.raises(ValueError, match="no config at"):
        read_config(tmp_path / "none.py")


@pytest.mark.parametrize("tool", ["tools/fewshot.py", "tools/data/check_fewshot.py"])
def test_help_is_quick(tool):
    code = f"import runpy,sys; sys.path.insert(0, 'tools'); sys.argv=['{tool}','--help']\n"
    code += f"try: runpy.run_path('{tool}', run_name='__main__')\n"
    code += "except SystemExit: print('torch' in sys.modules, 'mmengine' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert out.strip().endswith("False False")


def test_checker_names_what_is_missing_and_what_does_not_match(tmp_path, capsys):
    folder = tmp_path / "eurosat"
    (folder / "2750").mkdir(parents=True)
    items = [[f"{i}.jpg", i % 2, f"class{i % 2}"] for i in range(4)]
    for path, *_ in items[:3]:
        (folder / "2750" / path).write_bytes(b"")
    (folder / "split_zhou_EuroSAT.json").write_text(json.dumps(dict.fromkeys(("train", "val", "test"), items)))
    assert check_fewshot.main([str(tmp_path), "eurosat", "dtd", "--sample", "1", "1"]) == 1
    out = capsys.readouterr().out
    assert "MISSING  dtd" in out
    assert "vgg/data/dtd" in out
    assert "WRONG    eurosat: 2 classes" in out
    assert "classes 2, expected 10" in out
    assert "3.jpg" in out
    assert "sample " in out


def test_checker_knows_shifted_sets_and_domains(tmp_path, capsys):
    for domain in "abcd":
        for label in ("dog", "horse"):
            (tmp_path / "PACS" / domain / label).mkdir(parents=True)
            (tmp_path / "PACS" / domain / label / "1.jpg").write_bytes(b"")
    assert check_fewshot.main([str(tmp_path), "PACS", "imagenet_r"]) == 1
    out = capsys.readouterr().out
    assert "WRONG    PACS: PACS/A 2, PACS/C 2, PACS/P 2, PACS/S 2 images" in out
    assert "PACS/A: classes 2, expected 7" in out
    assert "MISSING  imagenet_r" in out


@pytest.mark.parametrize("path", sorted((ROOT / "configs/fewshot").glob("*.py")), ids=lambda p: p.stem)
def test_every_config_names_parts_that_exist(path):
    cfg = read_config(path)
    assert build(cfg.protocol, RECIPES).name
    for recipe in cfg.methods.values():
        run = build(recipe, RECIPES)
        head = getattr(run, "head", None)
        if head is not None:
            check_arguments(head["type"], {k: v for k, v in head.items() if k != "type"})
    for source in cfg.sources:
        given = dict(source)
        check_arguments(given.pop("type", Source), given)
        data = source.get("train")
        if data is not None:
            view = inspect.signature(FewShotImages).parameters if data["type"] is ShapeImages else ()
            check_arguments(
                resolve(data["type"], DATASETS), {k: v for k, v in data.items() if k not in ("type", *view)}
            )
    check_arguments(cfg.encoder["type"], {k: v for k, v in cfg.encoder.items() if k != "type"})


def test_released_weights_are_tested_instead_of_trained(tmp_path):
    cfg = read_config(ROOT / "configs/fewshot/tiny-clip_negatives16.py")
    grid = build_grid(cfg, tmp_path, ["Tip-Adapter-F"], load={"Tip-Adapter-F": "best_F_1shots.pt"})
    assert grid.methods["Tip-Adapter-F"].load == "best_F_1shots.pt"
    with pytest.raises(ValueError, match="nothing to load"):
        build_grid(cfg, tmp_path, load={"zero-shot CLIP": "x"})
