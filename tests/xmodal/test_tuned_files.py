"""Files of CLIP-LoRA, MaPLe and PromptSRC: the released layout, there and back, in a grid, and what does not fit."""

import pytest
import torch

from tests.xmodal.clips import small_clip
from xmodal.clip_tuning.clip_lora import CLIPLoRA
from xmodal.clip_tuning.maple import MaPLe
from xmodal.clip_tuning.promptsrc import PromptSRC
from xmodal.clip_tuning.two_stage import TwoStage
from xmodal.evaluation.bench import Bench, Source
from xmodal.evaluation.plans import Coop11
from xmodal.evaluation.run_grid import RunGrid
from xmodal.evaluation.tower_runs import EpochRun, StepRun
from xmodal.official.clip_tuning import load_tuned, save_tuned
from xmodal.toys.shape_images import ShapeImages

NAMES = ["red star", "blue ring", "red heart"]
PROMPTS = dict(n_text=3, n_visual=4, depth_text=2, depth_visual=2, templates=["a {}."])
MAKERS = {
    "clip_lora": lambda clip, **more: CLIPLoRA(NAMES, clip, targets=("q", "v", "o"), **more),
    "maple": lambda clip, **more: MaPLe(NAMES, clip, **{"n_ctx": 2, "depth": 2, **more}),
    "promptsrc": lambda clip, **more: PromptSRC(NAMES, clip, **{**PROMPTS, **more}),
}


@pytest.fixture(scope="module")
def clip():
    return small_clip()


def redrawn(model):
    with torch.no_grad():
        for p in model.trained().values():
            p.normal_(std=0.2)
    return model.eval()


@pytest.mark.parametrize("name", MAKERS)
def test_there_and_back(tmp_path, clip, name):
    first, second = redrawn(MAKERS[name](clip)), MAKERS[name](clip).eval()
    x = torch.randn(2, 3, clip.visual.image_size, clip.visual.image_size)
    with torch.no_grad():
        before = second(x)
        load_tuned(second, save_tuned(first, tmp_path, 5))
        assert not torch.allclose(before, second(x))
        assert torch.equal(first(x), second(x))


def test_layers_of_clip_lora_count_texts_first(tmp_path, clip):
    """By hand: the last block of each tower is adapted, so layer_0 is of the text and layer_1 of the image tower."""
    model = redrawn(MAKERS["clip_lora"](clip, blocks=1))
    weights = torch.load(save_tuned(model, tmp_path), weights_only=True)["weights"]
    assert set(weights) == {"layer_0", "layer_1"}
    assert set(weights["layer_0"]) == {"q_proj", "v_proj", "proj"}
    text, visual = clip.text, clip.visual
    for layer, tower, side in (("layer_0", text, "text"), ("layer_1", visual, "visual")):
        assert weights[layer]["q_proj"]["w_lora_A"].shape == (2, tower.dim)
        assert weights[layer]["proj"]["w_lora_B"].shape == (tower.dim, 2)
        last = len(tower.blocks) - 1
        own = model.trained()[f"clip.{side}.blocks.{last}.attn.qkv.edits.clip_lora.parts.v.b"]
        assert torch.equal(weights[layer]["v_proj"]["w_lora_B"], own)


def test_a_whole_model_of_dassl_gives_its_prompts(tmp_path, clip):
    model, want = MAKERS["maple"](clip), redrawn(MAKERS["maple"](clip)).trained()
    state = {
        "prompt_learner.ctx": want["ctx"].half(),
        "prompt_learner.proj.weight": want["proj.weight"],
        "prompt_learner.proj.bias": want["proj.bias"],
        "prompt_learner.compound_prompts_text.0": want["text_prompts.0"],
        "prompt_learner.compound_prompt_projections.0.weight": want["projections.0.weight"],
        "prompt_learner.compound_prompt_projections.0.bias": want["projections.0.bias"],
        "prompt_learner.token_prefix": torch.zeros(3, 1, 4),
        "image_encoder.conv1.weight": torch.zeros(2),
        "logit_scale": torch.zeros(()),
    }
    torch.save({"state_dict": state, "epoch": 5}, tmp_path / "model.pth.tar-5")
    load_tuned(model, tmp_path / "model.pth.tar-5")
    assert torch.equal(model.ctx, want["ctx"].half().float())
    assert torch.equal(model.projections[0].weight, want["projections.0.weight"])


def test_what_does_not_fit_is_named(tmp_path, clip):
    path = save_tuned(MAKERS["maple"](clip, n_ctx=3), tmp_path)
    with pytest.raises(ValueError, match=r"prompt_learner\.ctx.*\(3, \d+\), \(2, "):
        load_tuned(MAKERS["maple"](clip), path)
    path = save_tuned(MAKERS["clip_lora"](clip), tmp_path)
    with pytest.raises(ValueError, match=r"does not fit this CLIPLoRA.*None"):
        load_tuned(MAKERS["clip_lora"](clip, towers="vision"), path)
    with pytest.raises(ValueError, match="no official file of 'two_stage'"):
        save_tuned(TwoStage(NAMES, clip), tmp_path)


@pytest.mark.parametrize(
    ("recipe", "file"),
    [
        (lambda **more: StepRun(dict(type=CLIPLoRA), steps=2, lr=0.05, **more), "lora_weights.pt"),
        (lambda **more: EpochRun(dict(type=MaPLe, depth=2), epochs=1, lr=0.05, **more), "model.pth.tar-1"),
    ],
)
def test_a_grid_keeps_the_file_and_tests_it_again(tmp_path, clip, recipe, file):
    part = lambda split, n: ShapeImages(  # noqa: E731
        colors=("red", "blue"), shapes=("ring", "cross"), style="negative", split=split, per_class=n
    )
    bench = Bench(clip, [Source("tiny", part("train", 6), val=part("val", 4), test=part("test", 5))], views=2)
    first = RunGrid(bench, Coop11(), {"own": recipe()}, tmp_path / "a").cell("own", 1, 1)
    kept = tmp_path / "a" / "own" / "shots1_seed1" / file
    again = RunGrid(bench, Coop11(), {"own": recipe(load=str(kept))}, tmp_path / "b").cell("own", 1, 1)
    assert again["scores"] == first["scores"]
    assert first["details"]["losses"]
    assert not again["details"]["losses"]  # nothing was trained
