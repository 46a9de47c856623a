"""Few-shot methods of 2023 to 2025: starts, counts, runs in a grid, their draws and the public splits."""

import json

import pytest
import torch

from tests.xmodal.clips import small_clip
from xmodal.clip_tuning.clip_lora import CLIPLoRA
from xmodal.clip_tuning.maple import MaPLe
from xmodal.clip_tuning.promptsrc import PromptSRC, gaussian_weights
from xmodal.clip_tuning.templates import SRC_TEMPLATES
from xmodal.clip_tuning.tuned import WeightAverage
from xmodal.clip_tuning.two_stage import TwoStage
from xmodal.evaluation.bench import Bench, Source
from xmodal.evaluation.feature_runs import LPPlusPlusRun, ProLIPRun, TaskResRun
from xmodal.evaluation.method_plans import OwnDraw, PublicSplits
from xmodal.evaluation.plans import BaseToNew, Coop11, Labeled
from xmodal.evaluation.tower_runs import EpochRun, StepRun, thin
from xmodal.toys.shape_images import ShapeImages

NAMES = ["red star", "blue ring", "red heart"]


@pytest.fixture(scope="module")
def clip():
    return small_clip()


def zero_shot(clip, images, template="a photo of a {}."):
    ids = clip.tokenize([template.format(n) for n in NAMES])
    return clip.logits(clip.encode_image(images, True), clip.encode_text(ids, True))


def images(clip):
    return torch.randn(2, 3, clip.visual.image_size, clip.visual.image_size)


def test_lora_and_two_stages_start_as_zero_shot_clip(clip):
    x = images(clip)
    want = zero_shot(clip, x)
    for model in (CLIPLoRA(NAMES, clip, logit_scale=float(clip.logit_scale.exp())), TwoStage(NAMES, clip)):
        torch.testing.assert_close(model.eval()(x), want)
    two = TwoStage(NAMES, clip).eval()
    two.second_stage()
    torch.testing.assert_close(two(x), want)
    assert set(two.trained()) == {"classifier"}


def test_unknown_classes_of_the_second_stage_use_the_text_tower(clip):
    model, x = TwoStage(NAMES, clip).eval(), images(clip)
    with torch.no_grad():
        model.second_stage().mul_(-1)
        both = model(x)
        model.set_classes(["green circle", NAMES[1]])
        mixed = model(x)
        plain = TwoStage(["green circle"], clip).eval()(x)
    torch.testing.assert_close(mixed[:, 1], both[:, 1])
    torch.testing.assert_close(mixed[:, 0], plain[:, 0])


def test_what_trains_and_how_much(clip):
    text, visual = clip.text, clip.visual
    low = CLIPLoRA(NAMES, clip, targets=("q", "v"), rank=2)
    want = sum(len(t.blocks) * 2 * 2 * 2 * t.dim for t in (text, visual))
    assert sum(p.numel() for p in low.trained().values()) == want
    norms = TwoStage(NAMES, clip)
    assert sum(p.numel() for p in norms.trained().values()) == sum(len(t.blocks) * 4 * t.dim for t in (text, visual))
    more = TwoStage(NAMES, clip, released=False)
    assert len(more.trained()) == len(norms.trained()) + 4 + 2 * hasattr(visual.norm_pre, "weight") - 0 * 2
    assert not any("qkv" in name for name in TwoStage(NAMES, clip, first="biases").trained())
    coupled = MaPLe(NAMES, clip, n_ctx=2, depth=2)
    w, v = text.dim, visual.dim
    assert sum(p.numel() for p in coupled.trained().values()) == 2 * (2 * w + w * v + v)
    own = PromptSRC(NAMES, clip, n_text=3, n_visual=4, depth_text=2, depth_visual=1, templates=["a {}."])
    assert sum(p.numel() for p in own.trained().values()) == 2 * 3 * w + 4 * v
    with pytest.raises(ValueError, match="depth 99"):
        MaPLe(NAMES, clip, depth=99)
    with pytest.raises(ValueError, match="did you mean 'norms'"):
        TwoStage(NAMES, clip, first="norm")
    with pytest.raises(ValueError, match="choose both, vision or text"):
        CLIPLoRA(NAMES, clip, towers="image")


def test_the_teacher_has_60_sentences_and_no_gradient(clip):
    assert len(SRC_TEMPLATES) == len(set(SRC_TEMPLATES)) == 60
    assert all(t.count("{}") == 1 and t.endswith(".") for t in SRC_TEMPLATES)
    model, x = PromptSRC(NAMES, clip, depth_text=1, depth_visual=1, templates=["a {}.", "the {}."]), images(clip)
    model.loss(x, torch.tensor([0, 1]))["loss"].backward()
    assert all(p.grad is None for p in clip.parameters())
    assert all(p.grad is not None for p in model.trained().values())


def test_weights_of_epochs_by_hand():
    weights = gaussian_weights(3, 2, 1)
    e = 2.718281828459045**-0.5
    assert weights == pytest.approx([e / (1 + 2 * e), 1 / (1 + 2 * e), e / (1 + 2 * e)])


def test_the_average_replaces_the_weights(clip):
    model = MaPLe(NAMES, clip, depth=1)
    kept = WeightAverage(model)
    model.ctx.data.fill_(1.0)
    kept.add(0.25)
    model.ctx.data.fill_(3.0)
    kept.add(0.75)
    kept.install()
    assert torch.allclose(model.ctx, torch.tensor(2.5))


@pytest.fixture(scope="module")
def bench(clip):
    shapes = dict(colors=("red", "blue"), shapes=("ring", "cross"), style="negative")
    part = lambda split, n: ShapeImages(**shapes, split=split, per_class=n)  # noqa: E731
    return Bench(clip, [Source("tiny", part("train", 6), val=part("val", 4), test=part("test", 5))], views=2)


RUNS = {
    "taskres": TaskResRun(epochs=2),
    "lp++": LPPlusPlusRun(epochs=20),
    "prolip": ProLIPRun(epochs=4),
    "clip_lora": StepRun(dict(type=CLIPLoRA), batch_size=4, steps=2),
    "two_stage": StepRun(dict(type=TwoStage), batch_size=4, steps=3),
    "maple": EpochRun(dict(type=MaPLe, depth=1), epochs=1),
    "promptsrc": EpochRun(
        dict(type=PromptSRC, depth_text=1, depth_visual=1, templates=("a {}.",)), epochs=2, average=(1, 1)
    ),
}


@pytest.mark.parametrize("name", RUNS)
def test_a_run_of_each_method(bench, name):
    data = bench.sources[0].labeled()
    outcome = RUNS[name](bench, Coop11().plan(data, 2, 1))
    assert 0 <= outcome.scores["tiny"] <= 100
    assert outcome.trained > 0
    assert outcome.selected_on == ("val" if name == "lp++" else "none (last step)")
    again = RUNS[name](bench, Coop11().plan(data, 2, 1))
    assert again.scores == outcome.scores


@pytest.mark.parametrize("name", ["clip_lora", "two_stage", "maple", "promptsrc", "prolip"])
def test_methods_that_can_move_are_tested_on_new_classes(bench, name):
    scores = RUNS[name](bench, BaseToNew().plan(bench.sources[0].labeled(), 2, 1)).scores
    assert set(scores) == {"base", "new"}


def test_losses_are_thinned():
    assert thin([1.0, 3.0, 5.0, 7.0], 2) == [2.0, 6.0]
    assert thin([]) == []


DATA = Labeled("d", ["a", "b"], [0, 0, 0, 1, 1, 1], [0, 1], [0, 1], [f"img/{i}.jpg" for i in range(6)])


def test_own_draws_repeat_short_classes_and_differ(tmp_path):
    plan = OwnDraw("lp_plus_plus").plan(DATA, 2, 1)
    assert len(plan.train[0].indices) == len(plan.val[0].indices) == 4
    first = OwnDraw("clip_lora").plan(DATA, 1, 3)
    assert first.val[0].labels == [0, 1]
    with pytest.raises(ValueError, match="choose one of"):
        OwnDraw("coop")


def write(folder, rows, name="shot_1-seed_1_train.jsonl"):
    lines = [json.dumps(dict(_impath=p, _label=y, _domain=0, _classname="x")) for p, y in rows]
    (folder / name).write_text("\n".join(lines) + "\n")


def test_public_splits_choose_the_named_images(tmp_path):
    write(tmp_path, [("d/img/4.jpg", 1), ("/abs/root/d/img/2.jpg", 0)])
    plan = PublicSplits(str(tmp_path)).plan(DATA, 1, 1)
    assert plan.train[0].indices == [4, 2]
    assert plan.val == []
    halves = PublicSplits(str(tmp_path), base_to_new=True).plan(DATA, 1, 1)
    assert halves.train[0].indices == [2]
    assert set(halves.tests) == {"base", "new"}
    with pytest.raises(ValueError, match="no split file"):
        PublicSplits(str(tmp_path)).plan(DATA, 2, 1)
    write(tmp_path, [("d/img/9.jpg", 1)])
    with pytest.raises(ValueError, match=r"line 1: d/img/9\.jpg is no training image"):
        PublicSplits(str(tmp_path)).plan(DATA, 1, 1)
    write(tmp_path, [("d/img/4.jpg", 0)])
    with pytest.raises(ValueError, match="label 0, but 1"):
        PublicSplits(str(tmp_path)).plan(DATA, 1, 1)
    write(tmp_path, [("d/img/4.jpg", 1), ("d/img/3.jpg", 1)])
    with pytest.raises(ValueError, match="classes without 1"):
        PublicSplits(str(tmp_path)).plan(DATA, 1, 1)
