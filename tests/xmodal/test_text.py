"""The text tower against open_clip's on random weights, and what prompt methods rely on."""

import math

import open_clip
import pytest
import torch
from open_clip.transformer import TextTransformer as OpenClipText
from torch import nn

from tests.xmodal.adapters import plain
from xmodal.encoders.clip import CLIP, zero_shot_weights
from xmodal.encoders.files import load_exactly
from xmodal.encoders.keys import from_clip_text_state, to_clip_text_state
from xmodal.encoders.text import TextTransformer
from xmodal.encoders.tokenizer import ClipTokenizer, HubTokenizer, WordTokenizer
from xmodal.encoders.unicl import unicl
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
    with pytest.raises(ValueError, match="choose end"):
        TextTransformer(100, 8, 48, 1, 3, 24, pool="frist")


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


def test_zero_shot_weights_average_normalized_templates(small_clip):
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


def test_a_text_tower_equals_its_formula():
    """Embedding and positions from the first on, causal blocks, norm and projection of the token of the largest id."""
    tower, ids = stirred(TextTransformer(100, 12, 48, 2, 3, 24, act="gelu"), 0.2).double(), some_ids(9)
    x = tower.token_embedding.weight[ids] + tower.pos_embed[:9]
    for block in tower.blocks:
        u = plain.norm(x, block.norm1)
        q, k, v = (u @ block.attn.qkv.weight.T + block.attn.qkv.bias).chunk(3, -1)
        rows = [plain.attention(q[:, i : i + 1], k[:, : i + 1], v[:, : i + 1], 3) for i in range(9)]
        x = x + torch.cat(rows, 1) @ block.attn.proj.weight.T + block.attn.proj.bias
        hidden = nn.functional.gelu(plain.norm(x, block.norm2) @ block.mlp.fc1.weight.T + block.mlp.fc1.bias)
        x = x + hidden @ block.mlp.fc2.weight.T + block.mlp.fc2.bias
    want = torch.stack([plain.norm(x[row, end], tower.norm) for row, end in enumerate((3, 7, 5))]) @ tower.proj.weight.T
    for truncate in (True, False):
        torch.testing.assert_close(tower(ids, truncate), want)
        torch.testing.assert_close(tower.encode_embedded(tower.embed(ids), tower.end(ids), truncate), want)


def test_the_row_that_is_read():
    ids = torch.tensor([[1, 5, 99, 0, 0], [1, 99, 0, 0, 0], [1, 5, 6, 7, 99]])
    assert TextTransformer(100, 5, 24, 1, 3, 8).end(ids).tolist() == [2, 1, 4]
    assert TextTransformer(100, 5, 24, 1, 3, 8, pool="last").end(ids).tolist() == [4, 4, 4]


def test_a_text_tower_starts_as_clip_does():
    torch.manual_seed(0)
    tower = TextTransformer(500, 300, 128, 4, 4, 96)
    wanted = {
        tower.token_embedding.weight: 0.02,
        tower.pos_embed: 0.01,
        tower.proj.weight: 128**-0.5,
        tower.blocks[1].attn.qkv.weight: 128**-0.5,
        tower.blocks[2].attn.proj.weight: 128**-0.5 * 8**-0.5,
        tower.blocks[3].mlp.fc1.weight: 256**-0.5,
        tower.blocks[0].mlp.fc2.weight: 128**-0.5 * 8**-0.5,
    }
    for weight, std in wanted.items():
        assert weight.std().item() == pytest.approx(std, rel=0.03)
    assert not any(p.any() for n, p in tower.named_parameters() if n.endswith("bias"))
    biased = TextTransformer(50, 4, 24, 1, 3, 8, proj_bias=True)
    assert not biased.proj.bias.any()
    assert tower.proj.bias is None


def test_sequences_that_begin_alike_equal_each_computed_whole():
    tower = stirred(TextTransformer(100, 12, 48, 2, 3, 24), 0.2).double()
    beginning, ends = torch.randn(2, 3, 48, dtype=torch.double), torch.randn(2, 4, 5, 48, dtype=torch.double)
    end = torch.tensor([3, 7, 5, 4])
    got = tower.encode_branches(beginning, ends, end)
    for group in range(2):
        for branch in range(4):
            x = torch.cat([beginning[group], ends[group, branch]])[None]
            torch.testing.assert_close(got[group, branch], tower.encode_embedded(x, end[branch : branch + 1])[0])
    with pytest.raises(ValueError, match="got 13"):
        tower.encode_branches(torch.zeros(1, 8, 48), torch.zeros(1, 1, 5, 48), end)
    with pytest.raises(ValueError, match="not causal"):
        TextTransformer(9, 12, 48, 1, 3, 24, causal=False).encode_branches(beginning, ends, end)


def test_what_is_cut_ends_with_the_end_token():
    words = WordTokenizer(["<pad>", "<start>", "<unk>", "a", "red", "ring", "<end>"], context_length=5)
    assert words("a red ring a red", truncate=True).tolist() == [[1, 3, 4, 5, 6]]
    assert words("a red ring").tolist() == [[1, 3, 4, 5, 6]]
    assert words(["a", "ring"], context_length=4).tolist() == [[1, 3, 6, 0], [1, 5, 6, 0]]
    with pytest.raises(ValueError, match="7 tokens, only 5"):
        words("a red ring a red")
    assert words.vocab_size == 7
    assert words.encode("A RED-ring_a, Red's") == [3, 4, 5, 3, 2]
    assert (ClipTokenizer().sot, ClipTokenizer().eot, ClipTokenizer().vocab_size) == (49406, 49407, 49408)
    assert ClipTokenizer()("").tolist()[0][:3] == [49406, 49407, 0]


def test_the_scale_of_similarities_and_its_bias(small_clip):
    image, text = nn.functional.normalize(torch.randn(3, 24), dim=-1), torch.eye(24)[:2]
    assert CLIP(small_clip.visual, small_clip.text).logit_scale.exp().item() == pytest.approx(1 / 0.07, rel=1e-6)
    siglip = CLIP(small_clip.visual, small_clip.text, logit_scale=math.log(10), logit_bias=-4.0)
    torch.testing.assert_close(siglip.logits(image, text), 10 * image[:, :2] - 4)
    assert unicl(32, 8, (1, 1), (1, 2), 4, text_depth=1, vocab_size=9).logit_scale.item() == 1.0


def test_features_are_normed_where_asked(small_clip):
    images, ids = torch.randn(3, 3, 16, 16), small_clip.tokenize(["a ring", "a dot"])
    for encode, given in ((small_clip.encode_image, images), (small_clip.encode_text, ids)):
        raw, unit = encode(given), encode(given, normalize=True)
        torch.testing.assert_close(unit, raw / raw.square().sum(-1, keepdim=True).sqrt())
        assert (raw.norm(dim=-1) - 1).abs().min() > 1e-2


def test_zero_shot_weights_are_unit_vectors_of_unit_templates(small_clip):
    """Two templates whose features differ much in length: the mean is that of the unit vectors, then normed."""
    features = {"red ring": [[3.0, 0.0], [0.0, 1.0]], "dot": [[0.0, 2.0], [0.0, 5.0]]}
    table = torch.tensor([row for rows in features.values() for row in rows])
    small_clip.encode_text = lambda ids, normalize=False: nn.functional.normalize(table, dim=-1) if normalize else table
    weights = zero_shot_weights(small_clip, list(features), ["a {}", "{}"])
    torch.testing.assert_close(weights, torch.tensor([[0.5**0.5, 0.5**0.5], [0.0, 1.0]]))
