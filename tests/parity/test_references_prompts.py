"""Prompts over CLIP against formulas in float64, at sizes and with options that no shipped case has."""

import itertools

import pytest

from tests.parity import _reference as r
from tests.parity import _reference_prompts as prompts
from tests.parity._reference_clip import clip_shapes

ARCH = dict(embed_dim=35, image_resolution=12, vision_layers=3, vision_width=24, vision_heads=3, patch_size=4,
            context_length=17, vocab_size=60, text_width=40, text_heads=5, text_layers=2)  # fmt: skip
LENGTHS = [1, 3, 2, 4, 1]


def rows(n, words=3, count=5):
    """Ids of [start, n placeholders, name, ., end]."""
    first, found = 10, []
    for length in LENGTHS[:count]:
        row = [58, *([words] * n), *range(first, first + length), 4, 59]
        found.append(row + [0] * (17 - len(row)))
        first += length
    return found


def about(system, arch=None, inputs=None, own=None, **more):
    a = ARCH | (arch or {})
    given = {"image": [2, 3, 12, 12], **(inputs or {})}
    return dict(system=system, seed=71, arch=a, state=clip_shapes(a, 122) | (own or {}), inputs=given,
                tolerance="abs 5e-5 + 5e-5*|value|", state_offset={"logit_scale": 1.3},
                loss="sum(logits * fill_input('cotangent', shape, seed))", **more)  # fmt: skip


def test_coop():
    variants, places = {}, ("end", "middle", "front")
    for n, (place, csc, count) in enumerate(itertools.product(places, (False, True), (1, 3, 5))):
        shape = [5, count, 40] if csc else [count, 40]
        variants[f"v{n}"] = dict(class_token_position=place, csc=csc, n_ctx=count, ctx_shape=shape, ctx="fill_array",
                                 tokens=rows(count), name_lens=LENGTHS)  # fmt: skip
    for place in places:
        variants[f"words_{place}"] = dict(class_token_position=place, csc=False, n_ctx=3, ctx_shape=[3, 40],
                                          ctx="embeddings", tokens=rows(3, 7), name_lens=LENGTHS)  # fmt: skip
    r.judge(about("coop", variants=variants), prompts.coop)
    heads = dict(vision_heads=1, text_heads=1, vision_layers=1, text_layers=1)
    r.judge(about("coop", heads, variants={"v": variants["v1"]}), prompts.coop)


@pytest.mark.parametrize(("dim", "n"), [(35, 1), (16, 3), (50, 5)])
def test_cocoop(dim, n):
    own = {"prompt_learner.ctx": [n, 40]}
    for name, (outs, ins) in {"linear1": (dim // 16, dim), "linear2": (40, dim // 16)}.items():
        own |= r.affine(f"prompt_learner.meta_net.{name}", outs, ins)
    inputs = dict(tokens=rows(n, 7), label=[4, 0])
    r.judge(about("cocoop", dict(embed_dim=dim, n_ctx=n), inputs, own), prompts.cocoop)


@pytest.mark.parametrize(("depth", "tokens"), [(2, 1), (3, 5), (5, 2)])
def test_dplclip(depth, tokens):
    own = r.affine("network.input", 9, 40) | r.affine("network.output", 40 * tokens, 9)
    for i in range(depth - 2):
        own |= r.affine(f"network.hiddens.{i}", 9, 9)
    arch = dict(embed_dim=40, num_domain_tokens=tokens, mlp_width=9, mlp_depth=depth, mlp_dropout=0.1, n_classes=5,
                n_train_domains=2, lr=0.03, momentum=0.2)  # fmt: skip
    inputs = dict(prompt_tokens=rows(tokens), zeroshot_tokens=rows(2, 6), image=[3, 3, 12, 12])
    r.judge(about("dplclip", arch, inputs, own), prompts.dplclip)


UNIFIED = dict(vpt_n_ctx=2, coop_n_ctx=3, vpt_deep=True, csc=False, class_token_position="middle", vpt_project=-1,
               project_method="transformer", project_dim=10, cut_contextlen=False)  # fmt: skip
VARIANTS = {
    "plain": {}, "cut": dict(cut_contextlen=True, coop_n_ctx=4, class_token_position="end"),
    "shallow": dict(vpt_deep=False, class_token_position="front"), "class_specific": dict(csc=True),
    "text_width": dict(project_dim=40), "image_width": dict(project_dim=24, csc=True, cut_contextlen=True),
    "projected": dict(vpt_project=7, project_dim=7),
    "identity": dict(project_method="identity", vpt_project=5, csc=True),
    "image_alone": dict(coop_n_ctx=0, vpt_project=9), "shallow_alone": dict(coop_n_ctx=0, vpt_deep=False, vpt_n_ctx=5),
    "text_alone": dict(vpt_n_ctx=0, coop_n_ctx=1, csc=True, cut_contextlen=True),
}  # fmt: skip


def test_mvlpt():
    variants = {}
    for name, more in VARIANTS.items():
        v = UNIFIED | more | {"tokens": rows((UNIFIED | more)["coop_n_ctx"]), "name_lens": LENGTHS}
        variants[name] = v | {"trainable": prompts.mvlpt_shapes(ARCH, v, 5)}
    tasks = {"sizes": {"a": 2, "b": 1, "c": 2}, "ids": [2, 0]}
    r.judge(about("mvlpt", inputs={"tasks": tasks}, variants=variants), prompts.mvlpt)


@pytest.mark.parametrize(("bottom", "cpn", "position", "label"), [
    (1, 2, "end", [0, 3]), (2, 9, "middle", [4, 4]), (3, 1, "front", [1, 2]),
])  # fmt: skip
def test_dpt(bottom, cpn, position, label):
    arch = dict(bottom_limit=bottom, cpn=cpn, class_token_position=position, coop_n_ctx=3, vpt_n_ctx=2, n_classes=5,
                cavpt_ctx_len=7, attn_dim=6, alpha=0.7)  # fmt: skip
    inputs = dict(label=label, prompt_tokens=rows(3), template_tokens=rows(2, 6), name_lens=LENGTHS)
    r.judge(about("dpt_cavpt", arch, inputs, prompts.dpt_shapes(ARCH | arch)), prompts.dpt)
