"""The text tower against open_clip's on random weights, and what prompt methods rely on."""

import open_clip
import pytest
import torch
from open_clip.transformer import TextTransformer as OpenClipText
from torch import nn

from xmodal.encoders.clip import CLIP, zero_shot_weights
from xmodal.encoders.files import load_exactly
from xmodal.encoders.keys import from_clip_text_state, to_clip_text_state
from xmodal.encoders.text import TextTransformer
from xmodal.encoders.tokenizer import ClipTokenizer, HubTokenizer, WordTokenizer
from xmodal.encoders.vit import VisionTransformer

SMALL = dict(width=48, heads=3, layers=2, vocab_size=100, output_dim=24)
TEXTS = ["a photo of a cat.", "two words", "it's a Bee-eater, drawn with 17 pencils"]


def stirred(module, std=0.05, seed=0):
    """The module with noise on every weight, so that nothing is zero or one by construction."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        parameter.data.add_(torch.randn(parameter.shape, generator=generator) * std)
    return module.eval()


def some_ids(length, ends=(3, 7, 5)):
    ids = torch.randint(1, 98, (len(ends), length), generator=torch.Generator().manual_seed(1))
    for row, end in zip(ids, ends, strict=True):
        row[end], row[end + 1 :] = 99, 0
    return ids


@pytest.mark.parametrize("act", ["gelu", "quick_gelu"])
def test_clip_text_tower_equals_open_clip(act):
    layer = {"gelu": nn.GELU, "quick_gelu": open_clip.transformer.QuickGELU}[act]
    theirs = stirred(OpenClipText(context_length=12, act_layer=layer, **SMALL))
    ours = TextTransformer(100, 12, 48, 2, 3, 24, act=act)
    load_exactly(ours, from_clip_text_state(theirs.state_dict()), "open_clip")
    with torch.no_grad():
        want, got = theirs(some_ids(12)), ours(some_ids(12))
    assert want.std() > 0.1
    assert (got - want).abs().max() < 1e-5


def test_siglip_text_tower_equals_open_clip():
    norm = lambda dim: open_clip.transformer.LayerNorm(dim, eps=1e-6)  # noqa: E731
    kwargs = dict(no_causal_mask=True, proj_bias=True, pool_type="last", norm_layer=norm)
    theirs = stirred(OpenClipText(context_length=10, **kwargs, **SMALL))
    ours = TextTransformer(100, 10, 48, 2, 3, 24, act="gelu", norm_eps=1e-6, causal=False, pool="last", proj_bias=True)
    load_exactly(ours, from_clip_text_state(theirs.state_dict()), "open_clip")
    with torch.no_grad():
        assert (ours(some_ids(10)) - theirs(some_ids(10))).abs().max() < 1e-5
    back = to_clip_text_state(ours.state_dict())
    assert back.keys() == theirs.state_dict().keys()
    assert all(torch.equal(back[key], value) for key, value in theirs.state_dict().items())


def test_cutting_to_the_longest_text_changes_nothing():
    tower, ids = stirred(TextTransformer(100, 16, 48, 2, 3, 24)), some_ids(16)
    with torch.no_grad():
        assert (tower(ids) - tower(ids, truncate=False)).abs().max() < 1e-5
        other = ids.clone()
        other[:, 1] = 50
        assert (tower(other) - tower(ids)).abs().max() > 1e-3


def test_splicing_the_same_embeddings_gives_the_same_features():
    tower, ids = stirred(TextTransformer(100, 16, 48, 2, 3, 24)), some_ids(16)
    x = tower.embed(ids)
    context = nn.Parameter(x[:1, 1:3].detach().clone())
    spliced = torch.cat([x[:, :1], context.expand(3, -1, -1), x[:, 3:]], 1)
    same = ids.clone()
    same[:, 1:3] = ids[:1, 1:3]
    out = tower.encode_embedded(spliced, tower.end(ids))
    assert (out - tower(same)).abs().max() < 1e-5
    out.square().sum().backward()
    assert context.grad.abs().min() > 0


def test_recompute_keeps_the_gradient():
    tower, ids = stirred(TextTransformer(100, 16, 48, 2, 3, 24)), some_ids(16)
    for parameter in tower.parameters():
        parameter.requires_grad_(False)
    grads = []
    for tower.recompute in (False, True):
        x = tower.embed(ids).detach().requires_grad_()
        tower.encode_embedded(x, tower.end(ids)).square().sum().backward()
        grads.append(x.grad)
    assert grads[0].abs().max() > 0
    assert (grads[0] - grads[1]).abs().max() < 1e-6


def test_too_many_tokens_and_unknown_pools_are_refused():
    tower = TextTransformer(100, 8, 48, 1, 3, 24)
    with pytest.raises(ValueError, match="9 tokens"):
        tower.forward_blocks(torch.zeros(1, 9, 48))
    with pytest.raises(ValueError, match="first"):
        TextTransformer(100, 8, 48, 1, 3, 24, pool="first")


def test_clip_tokenizer_equals_open_clip():
    ours, theirs = ClipTokenizer(), open_clip.get_tokenizer("ViT-B-32")
    assert torch.equal(ours(TEXTS), theirs(TEXTS))
    assert ours.decode(ours.encode("a cat")).strip() == "a cat"
    assert ours("cat", context_length=5).shape == (1, 5)
    long = "word " * 80
    with pytest.raises(ValueError, match="82 tokens"):
        ours(long)
    assert torch.equal(ours(long, truncate=True), theirs(long))


def test_word_tokenizer():
    words = WordTokenizer(["<pad>", "<start>", "<unk>", "a", "red", "ring", "<end>"], context_length=6)
    assert words("A red, RING!").tolist() == [[1, 3, 4, 5, 6, 0]]
    assert words("a blue ring").tolist() == [[1, 3, 2, 5, 6, 0]]
    assert words.unknown(["a blue ring"]) == ["blue"]
    assert words.decode([3, 5]) == "a ring"
    with pytest.raises(ValueError, match="<pad>"):
        WordTokenizer(["a", "<end>"])
    with pytest.raises(ValueError, match="twice"):
        WordTokenizer(["<pad>", "a", "a", "<start>", "<unk>", "<end>"])


def test_hub_tokenizer_says_what_it_needs(monkeypatch):
    def absent(name):
        raise ImportError(name)

    monkeypatch.setattr(open_clip, "get_tokenizer", absent)
    with pytest.raises(FileNotFoundError, match=r"transformers.*timm/ViT-B-16-SigLIP"):
        HubTokenizer("ViT-B-16-SigLIP", 64)("a cat")


@pytest.fixture
def small_clip():
    words = WordTokenizer(["<pad>", "<start>", "<unk>", "a", "red", "ring", "dot", "<end>"], context_length=8)
    visual = VisionTransformer(image_size=16, patch_size=8, dim=32, depth=1, num_heads=2, out_dim=24)
    return stirred(CLIP(visual, TextTransformer(words.vocab_size, 8, 32, 1, 2, 24), words))


def test_zero_shot_weights_average_normalised_templates(small_clip):
    weights = zero_shot_weights(small_clip, ["red ring", "dot"], ["a {}", "{}"], batch_size=3)
    with torch.no_grad():
        parts = [small_clip.encode_text(small_clip.tokenize([f"a {c}", c]), True) for c in ("red ring", "dot")]
    want = torch.stack([nn.functional.normalize(p.mean(0), dim=0) for p in parts])
    assert (weights - want).abs().max() < 1e-6
    with pytest.raises(ValueError, match="no place"):
        zero_shot_weights(small_clip, ["dot"], ["a photo"])


def test_clip_logits_and_its_checks(small_clip):
    images, ids = torch.randn(3, 3, 16, 16), small_clip.tokenize(["a ring", "a dot"])
    logits = small_clip(images, ids)
    want = small_clip.logit_scale.exp() * torch.nn.functional.cosine_similarity(
        small_clip.encode_image(images)[:, None], small_clip.encode_text(ids)[None], dim=-1
    )
    assert (logits - want).abs().max() < 1e-4
    small_clip.tokenizer = None
    with pytest.raises(ValueError, match="without a tokenizer"):
        small_clip.tokenize("a dot")
    with pytest.raises(ValueError, match="width 24"):
        CLIP(small_clip.visual, TextTransformer(9, 8, 32, 1, 2, 16))
