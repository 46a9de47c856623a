"""MVLPT and DPT: where prompts stand, what mixes, what trains, and what the model makes of it."""

import pytest
import torch
import torch.nn.functional as F

from tests.xmodal.clips import NAMES, small_clip
from xmodal.heads.dpt import ClassAwarePrompts, DPTHead
from xmodal.heads.mvlpt import MVLPTHead, UnifiedPrompts, average_states
from xmodal.heads.visual_prompts import plain_feature
from xmodal.prompted import PromptedModel


@pytest.fixture
def clip():
    return small_clip()


@pytest.fixture
def tokens(clip):
    return clip.visual.embed(torch.randn(4, 3, 16, 16))


def by_hand(encoder, tokens, prompts):
    """Class token behind blocks whose input ends in the prompts of that block."""
    count = tokens.shape[1]
    for block, prompt in zip(encoder.blocks, prompts, strict=True):
        tokens = block(torch.cat([tokens[:, :count], prompt.expand(len(tokens), -1, -1)], 1))
    return encoder.proj(encoder.norm(tokens[:, 0]))


def test_deep_visual_prompts_are_fresh_in_every_block(clip, tokens):
    head = MVLPTHead(16, NAMES, clip, n_ctx=0, n_visual=3)
    want = by_hand(clip.visual, tokens[0], [head.visual[0], *head.deep])
    assert torch.allclose(head.encode(clip.visual, *tokens), want, atol=1e-5)


def test_shallow_prompts_flow_through(clip, tokens):
    head = MVLPTHead(16, NAMES, clip, n_ctx=0, n_visual=3, deep=False)
    x = torch.cat([tokens[0], head.visual.expand(4, -1, -1)], 1)
    for block in clip.visual.blocks:
        x = block(x)
    want = clip.visual.proj(clip.visual.norm(x[:, 0]))
    assert torch.allclose(head.encode(clip.visual, *tokens), want, atol=1e-5)


def test_text_only_mvlpt_leaves_the_image_tower_alone(clip, tokens):
    head = MVLPTHead(16, NAMES, clip, n_ctx=2, n_visual=0)
    assert torch.allclose(head.encode(clip.visual, *tokens), plain_feature(clip.visual, *tokens), atol=1e-6)


@pytest.mark.parametrize("mix", [True, False])
def test_prompts_see_each_other_only_when_they_mix(mix):
    network = UnifiedPrompts(20, 24, 8, mix_tokens=mix)
    text, visual = torch.randn(1, 3, 20), torch.randn(1, 5, 24)
    changed = network(text, visual + torch.randn(1, 5, 24))[0]
    assert torch.allclose(changed, network(text, visual)[0], atol=1e-6) == (not mix)


@pytest.mark.parametrize(("method", "count"), [("identity", 0), ("mlp", 388), ("transformer", 1260)])
def test_unified_network_by_the_formula(method, count):
    width, visual, p = 20, 24, 4
    network = UnifiedPrompts(width, visual, p, method)
    linear = 2 * (width + visual) * p + 2 * p + width + visual
    want = {"identity": 0, "mlp": linear, "transformer": linear + 12 * p * p + 13 * p}[method]
    assert sum(t.numel() for t in network.parameters()) == want
    out = network(torch.randn(1, 3, width), torch.randn(1, 5, visual))
    assert [tuple(o.shape) for o in out] == [(1, 3, width), (1, 5, visual)]


@pytest.mark.parametrize(
    "options",
    [
        dict(class_specific=True),
        dict(visual_project=6),
        dict(project_dim=20),
        dict(project_method="identity", position="front"),
        dict(deep=False),
    ],
)
def test_every_option_trains_everything(clip, tokens, options):
    head = MVLPTHead(16, NAMES, clip, n_ctx=2, n_visual=2, **options)
    head.loss(head.encode(clip.visual, *tokens), torch.tensor([0, 1, 2, 0]))["loss"].backward()
    assert not [n for n, p in head.named_parameters() if p.grad is None or p.grad.abs().max() == 0]


def test_masks_leave_a_task_its_own_classes(clip):
    logits, task = torch.randn(2, 3), torch.tensor([0, 1])
    make = lambda **k: MVLPTHead(16, NAMES, clip, task_sizes={"a": 1, "b": 2}, **k)  # noqa: E731
    ours, official = make().mask(logits, task), make(official=True).mask(logits, task)
    assert ours.isinf().tolist() == [[False, True, True], [True, False, False]]
    assert (official == 0).tolist() == [[False, True, True], [True, False, False]]


def test_averaged_states(clip):
    heads = [MVLPTHead(16, NAMES, clip) for _ in range(3)]
    want = {
        name: (p + q + r) / 3
        for (name, p), q, r in zip(heads[0].named_parameters(), *(h.parameters() for h in heads[1:]), strict=True)
    }
    mean = average_states([h.state_dict() for h in heads])
    assert mean.keys() == want.keys()
    assert all(torch.allclose(mean[name], value, atol=1e-6) for name, value in want.items())
    heads[0].load_state_dict(mean)
    assert torch.equal(heads[0].visual, mean["visual"])
    with pytest.raises(ValueError, match="same kind"):
        average_states([mean, {"ctx": mean["ctx"]}])


def dpt(clip, **options):
    return DPTHead(16, NAMES, clip, n_ctx=2, n_visual=2, top_classes=2, **options)


def test_dpt_asks_about_the_likeliest_classes(clip, tokens):
    head = dpt(clip, bottom=2)
    out = head.encode(clip.visual, *tokens)
    logits = head.text.logits(plain_feature(clip.visual, *tokens), head.template_features)
    assert torch.equal(out.selected, logits.argsort(1, descending=True)[:, :2])
    assert [tuple(x.shape) for x in out.layer_logits] == [(4, 2, 3)] * 2
    assert torch.allclose(out.plain, plain_feature(clip.visual, *tokens))


def test_dpt_losses_change_after_warm_up(clip, tokens):
    head = dpt(clip, warmup_epochs=2, alpha=0.0)
    out, label = head.encode(clip.visual, *tokens), torch.tensor([0, 1, 2, 0])
    main = F.cross_entropy(head(out), label)
    head.set_epoch(2)
    assert torch.allclose(head.loss(out, label)["loss"], main)
    head.set_epoch(1)
    sides = F.cross_entropy(head.text_logits(out), label) + F.cross_entropy(head.image_logits(out), label)
    assert torch.allclose(head.loss(out, label)["loss"], 0.1 * main + sides)


def test_a_label_nobody_asked_about_adds_nothing(clip, tokens):
    head = dpt(clip)
    out = head.encode(clip.visual, *tokens)
    missing = torch.tensor([({0, 1, 2} - set(s.tolist())).pop() for s in out.selected])
    assert head.block_loss(out, out.layer_logits[0], missing) == 0
    label = out.selected[:, 1]
    rows = torch.arange(4)
    want = F.cross_entropy(out.layer_logits[0][rows, 1], label)
    assert torch.allclose(head.block_loss(out, out.layer_logits[0], label), want)


@pytest.mark.parametrize("bottom", [1, 3])
def test_dpt_in_a_model_trains_everything_and_saves_only_itself(clip, bottom):
    config = dict(type="dpt", class_names=NAMES, clip=clip, n_ctx=2, n_visual=2, top_classes=3, bottom=bottom)
    model = PromptedModel(clip.visual, config)
    batch = dict(image=torch.randn(4, 3, 16, 16), label=torch.tensor([0, 1, 2, 0]))
    model(mode="loss", **batch)["loss"].backward()
    dead = [n for n, p in model.head.named_parameters() if p.grad is None]
    assert not dead
    assert all(k.startswith("head.") for k in model.saved_keys())
    scores = model.eval()(mode="predict", **batch)
    assert len(scores) == 4


def test_clips_are_averaged_over_frames(clip):
    """Features are means over the frames of a view, probabilities means over views."""
    model = PromptedModel(clip.visual, dict(type="mvlpt", class_names=NAMES, clip=clip, n_ctx=2, n_visual=2)).eval()
    clips = torch.randn(2, 2, 3, 3, 16, 16)
    found = torch.stack([p["scores"] for p in model(mode="predict", clips=clips)])
    each = model.features(image=clips.flatten(0, 2)).unflatten(0, (2, 2, 3)).mean(2)  # (clips, views, D)
    want = torch.stack([model.head(each[:, view]).softmax(-1) for view in range(2)]).mean(0)
    assert torch.allclose(found, want, atol=1e-5)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda c: MVLPTHead(16, NAMES, c, n_ctx=0, n_visual=0), "give prompts to the text or to the image side"),
        (lambda c: MVLPTHead(16, NAMES, c, project_method="transfomer"), "choose one of transformer"),
        (lambda c: MVLPTHead(16, NAMES, c, task_sizes={"a": 1}), "do not add up"),
        (lambda c: dpt(c, bottom=4), "between 1 and 3"),
        (
            lambda c: PromptedModel(c.visual, dict(type="coop", class_names=NAMES, clip=c)),
            "does not run the image tower",
        ),
    ],
)
def test_mistakes_are_named(clip, make, message):
    with pytest.raises(ValueError, match=message):
        make(clip)


def test_a_tasks_loss_is_among_its_own_classes(clip, tokens):
    head = MVLPTHead(16, NAMES, clip, n_ctx=2, n_visual=2, task_sizes={"a": 1, "b": 2})
    feature = head.encode(clip.visual, *tokens)
    logits, label = head(feature), torch.tensor([1, 2, 2, 1])
    want = F.cross_entropy(logits[:, 1:], label - 1)
    found = head.loss(feature, label, torch.ones(4).long())
    assert torch.allclose(found["loss"], want, atol=1e-5)
    hits = (logits[:, 1:].argmax(1) + 1 == label).float().mean() * 100
    assert torch.allclose(found["top1"], hits)
    assert torch.allclose(head.loss(feature, label)["loss"], F.cross_entropy(logits, label), atol=1e-5)


def test_visual_prompts_start_within_the_papers_bound(clip):
    """sqrt(6 / (3 * patch^2 + width)): patches of 8 pixels, width 24."""
    head = MVLPTHead(16, NAMES, clip, n_ctx=0, n_visual=400)
    bound = (6 / (3 * 8 * 8 + 24)) ** 0.5
    for prompts in (head.visual, head.deep):
        assert 0.98 * bound < prompts.abs().max() <= bound


def test_the_blocks_own_loss_is_weighed_by_alpha(clip, tokens):
    """Of two class-aware blocks the mean; alpha times that is added."""
    head = dpt(clip, bottom=2, warmup_epochs=0, alpha=0.3)
    out = head.encode(clip.visual, *tokens)
    label, rows = out.selected[:, 1], torch.arange(4)
    own = [F.cross_entropy(block[rows, 1], label) for block in out.layer_logits]
    assert len(own) == 2
    want = F.cross_entropy(head(out), label) + 0.3 * (own[0] + own[1]) / 2
    assert torch.allclose(head.loss(out, label)["loss"], want, atol=1e-5)


def test_class_aware_prompts_by_the_formula():
    """Attention of the projected text features over tokens and learned tokens, whose values are the raw tokens."""
    part = ClassAwarePrompts(feature_dim=6, dim=8, num_classes=3, n_tokens=4, attn_dim=5).double()
    for p in part.parameters():
        torch.nn.init.normal_(p, std=0.7)
    x, asked = torch.randn(2, 7, 8).double(), torch.randn(2, 2, 6).double()
    prompts, logits = part(x, asked)
    norm = lambda y, layer: (  # noqa: E731
        (y - y.mean(-1, keepdim=True)) / (y.var(-1, keepdim=True, correction=0) + 1e-5).sqrt() * layer.weight
        + layer.bias
    )
    for b in range(2):
        query = asked[b] @ part.meta_net.weight.t() + part.meta_net.bias
        seen = torch.cat([x[b], part.tokens])
        score = (query @ part.q.weight.t()) @ (seen @ part.k.weight.t()).t() / 5**0.5
        found = score.softmax(-1) @ seen @ part.out.weight.t()
        assert torch.allclose(prompts[b], norm(found + query, part.prompt_norm))
        assert torch.allclose(logits[b], norm(found, part.norm) @ part.classifier.weight.t())
