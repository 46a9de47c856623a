"""Prompt heads: the splice against plain lists, chunking, zero-shot at the start, traps of the released code."""

import copy
import pickle

import pytest
import torch
import torch.nn.functional as F

from tests.xmodal.clips import NAMES, small_clip
from xmodal.heads import text_side
from xmodal.heads.cocoop import CoCoOpHead
from xmodal.heads.coop import CoOpHead
from xmodal.heads.dplclip import DPLCLIPHead
from xmodal.heads.text_side import PromptTokens, TextSide, fill, make_prompt_ids
from xmodal.heads.zero_shot import ZeroShotHead
from xmodal.model import TransferModel


@pytest.fixture
def clip():
    return small_clip()


def spliced_by_hand(clip, name, ctx, position):
    """[start][...][end] of one class, built token by token."""
    table = clip.text.token_embedding.weight
    words, half = table[torch.tensor(clip.tokenizer.encode(name))], len(ctx) // 2
    order = {"end": [ctx, words], "middle": [ctx[:half], words, ctx[half:]], "front": [words, ctx]}[position]
    start, end = table[[clip.tokenizer.sot]], table[[clip.tokenizer.eot]]
    x = torch.cat([start, *order, end])[None]
    return clip.text.pool(clip.text.forward_blocks(x), torch.tensor([x.shape[1] - 1]))


@pytest.mark.parametrize("position", ["end", "middle", "front"])
@pytest.mark.parametrize("class_specific", [False, True])
def test_coop_equals_prompts_put_together_by_hand(clip, position, class_specific):
    head = CoOpHead(16, NAMES, clip, n_ctx=5, position=position, class_specific=class_specific)
    ctx = head.ctx if class_specific else head.ctx.expand(3, -1, -1)
    want = torch.cat([spliced_by_hand(clip, n, c, position) for n, c in zip(NAMES, ctx, strict=True)])
    assert torch.allclose(head.text_features(), want, atol=1e-5)
    feature = torch.randn(4, 16)
    logits = clip.logit_scale.exp() * F.normalize(feature, dim=-1) @ F.normalize(want, dim=-1).t()
    assert torch.allclose(head(feature), logits, atol=1e-4)


@pytest.mark.parametrize("head_type", [CoOpHead, CoCoOpHead])
def test_words_count_in_tokens_and_start_from_zero_shot(clip, head_type):
    head = head_type(16, NAMES, clip, init_words="a photo of the")
    assert head.ctx.shape == (4, 20)
    zero_shot = ZeroShotHead(16, NAMES, clip, ["a photo of the {}."])
    feature = torch.randn(4, 16)
    same = torch.allclose(head(feature), zero_shot(feature), atol=1e-4)
    assert same == (head_type is CoOpHead), "CoCoOp's shift is a fresh network, so it does not start from zero-shot"


class Halves:
    """A tokenizer that makes two tokens of a long word, as byte pairs do."""

    context_length, sot, eot = 14, 30, 31

    def encode(self, text):
        words = text.replace(".", " .").split()
        return [1 + len(piece) for w in words for piece in ((w[:3], w[3:]) if len(w) > 3 else (w,))]


def test_words_of_several_tokens_are_warned_of():
    with pytest.warns(UserWarning, match="2 words and makes 3 tokens; the context has 3"):
        ours = make_prompt_ids(Halves(), NAMES, 0, "a photo")
    with pytest.warns(UserWarning, match="has 2 vectors"):
        official = make_prompt_ids(Halves(), NAMES, 0, "a photo", official=True)
    assert (ours.n_ctx, official.n_ctx) == (3, 2)
    assert torch.equal(ours.ids, official.ids)


@pytest.mark.parametrize("chunk", [1, 2])
@pytest.mark.parametrize("make", [CoOpHead, CoCoOpHead, DPLCLIPHead])
def test_chunks_change_neither_logits_nor_gradients(clip, make, chunk):
    torch.manual_seed(1)
    whole = make(16, NAMES, clip, n_ctx=3)
    torch.manual_seed(1)
    parts = make(16, NAMES, clip, n_ctx=3, chunk=chunk, truncate=False)
    whole.eval(), parts.eval()
    feature, label = torch.randn(4, 16), torch.tensor([0, 1, 2, 1])
    for head in (whole, parts):
        head.loss(feature, label)["loss"].backward()
    for p, q in zip(whole.parameters(), parts.parameters(), strict=True):
        assert p.grad.abs().max() > 0
        assert torch.allclose(p.grad, q.grad, atol=1e-5)


def test_text_features_are_kept_until_the_context_changes(clip, monkeypatch):
    head, calls = CoOpHead(16, NAMES, clip, n_ctx=2), []
    plain = head.text_features
    monkeypatch.setattr(head, "text_features", lambda: calls.append(1) or plain())
    with torch.no_grad():
        first, again = head(torch.ones(1, 16)), head(torch.ones(1, 16))
        assert len(calls) == 1
        assert torch.equal(first, again)
        head.ctx.copy_(torch.randn(2, 20))
        assert not torch.allclose(head(torch.ones(1, 16)), first)
    head(torch.ones(1, 16))
    assert len(calls) == 3


@pytest.mark.parametrize(
    ("make", "count"),
    [
        (lambda c: CoOpHead(16, NAMES, c, n_ctx=5), 5 * 20),
        (lambda c: CoOpHead(16, NAMES, c, n_ctx=5, class_specific=True), 3 * 5 * 20),
        (lambda c: CoCoOpHead(16, NAMES, c, n_ctx=5), 5 * 20 + 16 * 1 + 1 + 1 * 20 + 20),
        (lambda c: DPLCLIPHead(16, NAMES, c, n_ctx=2, width=8), 16 * 8 + 8 + 8 * 8 + 8 + 8 * 40 + 40),
    ],
)
def test_weights_by_the_papers_formula_and_nothing_else_saved(clip, make, count):
    head = make(clip)
    assert sum(p.numel() for p in head.parameters()) == count
    assert sum(v.numel() for v in head.state_dict().values()) == count
    for other in (copy.deepcopy(head), pickle.loads(pickle.dumps(head))):
        assert torch.allclose(other.eval()(torch.ones(2, 16)), head.eval()(torch.ones(2, 16)))
        assert other.text.tower is not head.text.tower


def test_the_text_tower_moves_with_the_head(clip):
    head = CoOpHead(16, NAMES, clip, n_ctx=2).double()
    assert head.text.tower.token_embedding.weight.dtype == torch.float64
    assert head(torch.ones(1, 16, dtype=torch.float64)).dtype == torch.float64


def test_cocoop_gives_each_image_its_own_prompts(clip):
    head, feature = CoCoOpHead(16, NAMES, clip, n_ctx=2), torch.randn(5, 16)
    rows = torch.cat([head(f[None]) for f in feature])
    assert torch.allclose(head(feature), rows, atol=1e-4)


def test_dplclip_depends_on_its_batch_and_classifies_each_domain_by_its_own_prompts(clip):
    head = DPLCLIPHead(16, NAMES, clip, n_ctx=2, width=8).eval()
    with torch.no_grad():
        head.network.output.weight.mul_(30)
    one, two = torch.randn(6, 16), 3 + torch.randn(6, 16)
    label = torch.randint(0, 3, (6,))
    assert not torch.allclose(head(one)[:3], head(one[:3]), atol=1e-3)
    ours = head.loss_over_domains([one, two], [label, label])["loss"]
    want = (F.cross_entropy(head(one), label) + F.cross_entropy(head(two), label)) / 2
    assert torch.allclose(ours, want, atol=1e-5)
    head.official = True
    assert head.loss_over_domains([one, two], [label, label])["loss"] > ours, "the release has twice the classes"


def test_a_transfer_model_trains_the_context_alone_and_saves_it_alone(clip):
    model = TransferModel(clip.visual, dict(type="coop", class_names=NAMES, clip=clip, n_ctx=3))
    assert model.saved_keys() == {"head.ctx"}
    batch = dict(image=torch.randn(2, 3, 16, 16), label=torch.tensor([0, 2]))
    model(mode="loss", **batch)["loss"].backward()
    assert [n for n, p in model.named_parameters() if p.grad is not None] == ["head.ctx"]
    scores = model.eval()(mode="predict", **batch)[0]["scores"]
    assert torch.allclose(scores.sum(), torch.tensor(1.0))


def test_ensembles_average_unit_features(clip):
    side, templates = TextSide(clip), ["a photo of a {}.", "the {}."]
    each = [side.encode_templates(NAMES, [t]) for t in templates]
    assert torch.allclose(side.encode_templates(NAMES, templates), F.normalize(sum(each), dim=-1), atol=1e-6)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda c: CoOpHead(16, NAMES, c, position="ende"), "choose one of end, middle, front"),
        (lambda c: CoOpHead(16, ["cat " * 24, "dog"], c, n_ctx=2), "tokens, at most 24 fit"),
        (lambda c: CoOpHead(16, ["cat"], c), "at least 2 classes"),
        (lambda c: CoOpHead(16, NAMES, c, n_ctx=0), "at least 1 vector"),
        (lambda c: CoOpHead(16, NAMES, c, chunk=0), "chunk=0"),
        (lambda c: ZeroShotHead(16, NAMES, c, ["a photo"]), "no place {}"),
        (lambda c: DPLCLIPHead(16, NAMES, c, depth=1), "depth=1"),
        (lambda c: CoCoOpHead(8, NAMES, c), "at least 16"),
    ],
)
def test_mistakes_are_named(clip, make, message):
    with pytest.raises(ValueError, match=message):
        make(clip)


def test_labels_out_of_range_and_missing_tokenizer(clip):
    head = CoOpHead(16, NAMES, clip, n_ctx=2)
    with pytest.raises(ValueError, match="label 3 is out of range"):
        head.loss(torch.ones(1, 16), torch.tensor([3]))
    clip.tokenizer = None
    with pytest.raises(ValueError, match="no tokenizer"):
        CoOpHead(16, NAMES, clip)


def test_front_and_middle_leave_the_end_token_where_it_was(clip):
    ids = make_prompt_ids(clip.tokenizer, NAMES, 4)
    for position in ("front", "middle"):
        x = PromptTokens(clip.text, ids, position)
        marked = x.splice(torch.full((4, 20), 7.0), torch.arange(3))
        assert (marked == 7).all(-1).sum(1).tolist() == [4, 4, 4]
        end = clip.text.token_embedding.weight[clip.tokenizer.eot]
        assert torch.equal(marked[torch.arange(3), x.end], end.expand(3, -1))


@pytest.mark.parametrize(
    ("make", "saves"),
    [
        (lambda c, **k: CoOpHead(16, NAMES, c, n_ctx=5, **k), True),
        (lambda c, **k: CoOpHead(16, NAMES, c, n_ctx=5, position="middle", **k), True),
        (lambda c, **k: CoOpHead(16, NAMES, c, n_ctx=5, position="front", **k), False),
        (lambda c, **k: CoOpHead(16, NAMES, c, n_ctx=5, class_specific=True, **k), False),
        (lambda c, **k: CoCoOpHead(16, NAMES, c, n_ctx=5, **k), True),
    ],
    ids=["end", "middle", "front", "class-specific", "cocoop"],
)
def test_a_shared_beginning_is_computed_once_and_changes_nothing(clip, make, saves):
    """The reference runs every prompt on its own, with all its tokens."""
    feature, label = torch.randn(4, 16), torch.tensor([0, 1, 2, 0])
    tokens = []
    clip.text.blocks[0].mlp.register_forward_pre_hook(lambda m, a: tokens.append(a[0].shape[:-1].numel()))

    def result(share, **more):
        torch.manual_seed(0)
        head = make(clip, **more)
        head.text.share = share
        tokens.clear()
        logits = head(feature)
        F.cross_entropy(logits, label).backward()
        return logits.detach(), [p.grad for p in head.parameters()], max(tokens)

    want, grads, most = result(False, truncate=False)
    for share, more in (
        (True, {}),
        (True, {"truncate": False}),
        (True, {"chunk": 2}),
        (True, {"chunk": 4}),
        (False, {}),
    ):
        logits, found, seen = result(share, **more)
        assert torch.allclose(logits, want, atol=2e-5), (share, more)
        for a, b in zip(found, grads, strict=True):
            assert torch.allclose(a, b, atol=1e-5), (share, more)
        assert seen <= most
        if share and not more and saves:
            assert seen < result(False)[2]


def test_sharing_is_chosen_where_it_pays(clip, monkeypatch):
    calls, head = [], CoOpHead(16, NAMES, clip, n_ctx=4)
    monkeypatch.setattr(clip.text, "encode_branches", lambda *a: calls.append(1) or torch.ones(1, 3, 16))
    head(torch.randn(2, 16))
    assert not calls, "a few tokens of a tiny tower are faster on their own"
    monkeypatch.setattr(text_side, "PAYS", 0)
    head(torch.randn(2, 16))
    assert calls


def test_chunks_of_images_are_computed_again_instead_of_kept(clip):
    """B x K prompts in passes of `chunk`: the tower runs each pass twice, forward and again for the gradient."""
    calls = []
    clip.text.blocks[0].register_forward_pre_hook(lambda *_: calls.append(1))
    head = CoCoOpHead(16, NAMES, clip, n_ctx=2, chunk=3)
    head.loss(torch.randn(4, 16), torch.tensor([0, 1, 2, 0]))["loss"].backward()
    assert len(calls) == 2 * 4


def test_a_tower_that_is_not_causal_shares_nothing(clip):
    clip.text.causal = False
    head = CoOpHead(16, NAMES, clip, n_ctx=2)
    head(torch.randn(2, 16))
    with pytest.raises(ValueError, match="no beginning can be shared"):
        clip.text.encode_branches(torch.zeros(1, 2, 20), torch.zeros(1, 3, 2, 20), torch.tensor([3, 3, 3]))


def test_dplclips_loss_is_the_mean_over_samples(clip):
    """Domains of 6 and 2 images: each image counts alike."""
    head = DPLCLIPHead(16, NAMES, clip, n_ctx=2, width=8).eval()
    one, two = torch.randn(6, 16), torch.randn(2, 16)
    labels = torch.tensor([0, 1, 2, 0, 1, 2]), torch.tensor([2, 0])
    rows = [F.cross_entropy(head(f), y, reduction="none") for f, y in zip((one, two), labels, strict=True)]
    found = head.loss_over_domains([one, two], labels)
    assert torch.allclose(found["loss"], torch.cat(rows).mean(), atol=1e-5)
    hits = torch.cat([head(f).argmax(1) == y for f, y in zip((one, two), labels, strict=True)])
    assert found["top1"].item() == pytest.approx(100 * hits.double().mean().item(), abs=1e-4)


def test_dplclips_prompt_is_the_mean_over_the_batch(clip):
    """Layers with ReLU between them on raw features, written out; the mean of the outputs, not of the inputs."""
    head, x = DPLCLIPHead(16, NAMES, clip, n_ctx=2, width=8, depth=3).eval(), 4 * torch.randn(5, 16)
    net = head.network
    hidden = (x @ net.input.weight.t() + net.input.bias).clamp(min=0)
    hidden = (hidden @ net.hiddens[0].weight.t() + net.hiddens[0].bias).clamp(min=0)
    want = (hidden @ net.output.weight.t() + net.output.bias).mean(0).view(2, 20)
    assert torch.allclose(head.domain_prompt(x), want, atol=1e-5)


def test_cocoops_shift_by_the_formula(clip):
    """Every context vector of an image is moved by the same network's answer to its unit feature."""
    head, x = CoCoOpHead(16, NAMES, clip, n_ctx=3), 5 * torch.randn(2, 16)
    one, two = head.meta_net.linear1, head.meta_net.linear2
    torch.nn.init.normal_(two.weight)
    hidden = (F.normalize(x, dim=-1) @ one.weight.t() + one.bias).clamp(min=0)
    shift = hidden @ two.weight.t() + two.bias
    assert torch.allclose(head.shift(x), shift, atol=1e-5)
    for row in range(2):
        text = torch.cat([spliced_by_hand(clip, name, head.ctx + shift[row], "end") for name in NAMES])
        want = clip.logit_scale.exp() * F.normalize(x[row], dim=-1) @ F.normalize(text, dim=-1).t()
        assert torch.allclose(head(x)[row], want, atol=1e-3)


def test_a_heads_own_scale_and_the_models_bias(clip):
    """logits = scale * cosine + bias; the model's own scale where the head has none."""
    clip.logit_bias = torch.nn.Parameter(torch.tensor(-7.0))
    feature, text = torch.randn(4, 16), torch.randn(3, 16)
    cosine = F.normalize(feature, dim=-1) @ F.normalize(text, dim=-1).t()
    assert torch.allclose(TextSide(clip).logits(feature, text), clip.logit_scale.exp() * cosine - 7, atol=1e-5)
    assert torch.allclose(TextSide(clip, 30).logits(feature, text), 30 * cosine - 7, atol=1e-5)
    each = text.expand(4, 3, 16)
    assert torch.allclose(TextSide(clip, 30).logits(feature, each), 30 * cosine - 7, atol=1e-5)


def test_underscores_in_names_are_blanks(clip):
    assert fill("the {}.", "red_dog") == "the red dog."
    one, other = (make_prompt_ids(clip.tokenizer, names, 2).ids for names in (["red_dog", "cat"], ["red dog", "cat"]))
    assert torch.equal(one, other)
