"""Methods on a vision transformer against formulas in float64, at sizes and with options that no shipped case has."""

import itertools

import pytest

from tests.parity import _reference as r
from tests.parity import _reference_tokens as tokens
from tests.parity import _reference_vit as vit

TOWER = dict(dim=40, depth=2, heads=1, patch=5, side=3, hidden=98, classes=3)


def about(system, arch, state, batch=2, **more):
    """A case; the sizes of the tower are said as the shipped cases say them, too."""
    size = arch["side"] * arch["patch"]
    named = dict(vit=dict(img_size=size, patch_size=arch["patch"], num_heads=arch["heads"]))
    return dict(system=system, seed=51, arch=arch | named, state=state, inputs={"image": [batch, 3, size, size]},
                outputs={"logits": ""}, loss="sum(logits * fill_input('cotangent', shape, seed))", **more)  # fmt: skip


BYPASSES = [
    dict(TOWER, s=10.0, width=3, sites=["blocks.0.adapter_attn", "blocks.1.adapter_attn", "blocks.1.adapter_mlp"]),
    dict(TOWER, s=0.01, width=11, side=2, heads=5, layer_scale=True, sites=["blocks.1.adapter_attn"], batch=1),
    dict(TOWER, s=1, width=8, side=1, patch=8, hidden=161, qkv_bias=False, sites=["blocks.0.adapter_mlp"]),
]  # fmt: skip


@pytest.mark.parametrize("sizes", BYPASSES, ids=lambda a: f"s {a['s']}")
def test_convpass(sizes):
    a = dict(sizes)
    state, batch = vit.convpass_shapes(a, a.pop("sites")), a.pop("batch", 2)
    r.judge(about("convpass", a, state, batch), vit.convpass)


@pytest.mark.parametrize("form", ["tt", "tk"])
@pytest.mark.parametrize("more", [
    dict(rank=3, s=2.0, heads=5), dict(rank=1, s=0.1, qkv_bias=False, side=2),
    dict(rank=17, s=1.0, layer_scale=True, depth=1),
], ids=lambda a: f"rank {a['rank']}")  # fmt: skip
def test_fact(form, more):
    a = dict(TOWER, **more, hidden=160)
    r.judge(about(f"fact_{form}", a, vit.fact_shapes(a, form), 1), vit.fact)


POOLS = [
    dict(), dict(layer_scale=True, global_pool="avg"), dict(fc_norm=True, global_pool="avg", qkv_bias=False),
    dict(token=False, global_pool="avg", heads=8), dict(side=2, depth=3, qkv_bias=False),
    dict(token=False, fc_norm=True, global_pool="avg"),
]  # fmt: skip


@pytest.mark.parametrize("more", POOLS, ids=str)
def test_ssf(more):
    a = dict(TOWER, **more)
    r.judge(about("ssf", a, vit.ssf_shapes(a), state_offset={"ssf_scale": 1.0}), vit.ssf)


PROMPTS = [(True, -1, 1, 3), (True, 7, 3, 3), (False, 50, 2, 3), (False, -1, 9, 3), (True, -1, 2, 1)]


@pytest.mark.parametrize(("deep", "project", "count", "depth"), PROMPTS)
def test_vpt(deep, project, count, depth):
    a = dict(TOWER, depth=depth, heads=5, prompt=dict(DEEP=deep, PROJECT=project, NUM_TOKENS=count, DROPOUT=0.1))
    r.judge(about(f"vpt_{'deep' if deep else 'shallow'}", a, tokens.vpt_shapes(a)), tokens.vpt)


READ = list(itertools.product((1, 3), (False, True), (False, True), (False, True)))


@pytest.mark.parametrize(("count", "mean", "weighted", "normed"), READ)
def test_vqt(count, mean, weighted, normed):
    h2t = dict(NUM_QUERY_TOKENS=count, POOLING_FEATS=mean, WEIGHTED_SUM_FEATS=weighted, NORMALIZE_FEATS=normed,
               DROPOUT=0.1, KEEP_FRAC=1.0)  # fmt: skip
    a = dict(TOWER, heads=4, h2t=h2t)
    r.judge(about("vqt", a, tokens.vqt_shapes(a)), tokens.vqt)
    if weighted:
        kept = a | dict(h2t={**h2t, "KEEP_FRAC": 0.05}, keep=[0, 39, 40, 41, 79, 119])
        r.judge(about("vqt", kept, tokens.vqt_shapes(kept)), tokens.vqt)


SUBNETS = [
    dict(visual_prompt_dim=[2, 0, 3, 1], lora_dim=[0, 4, 1, 0], adapter_dim=[6, 0, 1, 3]),
    dict(visual_prompt_dim=[0, 5, 0, 0], lora_dim=[1, 0, 0, 2], adapter_dim=[0, 0, 0, 1]),
    dict(visual_prompt_dim=[5, 5, 5, 5], lora_dim=[4, 4, 4, 4], adapter_dim=[6, 6, 6, 6]),
]


@pytest.mark.parametrize("positions", [True, False])
@pytest.mark.parametrize("subnet", SUBNETS, ids=lambda s: str(s["visual_prompt_dim"]))
def test_noah(subnet, positions):
    a = dict(TOWER, depth=4, heads=5, supernet=dict(prompt=5, lora=4, adapter=6), sampled_config=subnet,
             IS_not_position_VPT=not positions)  # fmt: skip
    r.judge(about("noah", a, tokens.noah_shapes(a)), tokens.noah)


@pytest.mark.parametrize(("terms", "rank"), [(4, 1), (8, 2), (1, 1), (56, 1)])
def test_kadaptation(terms, rank):
    visual = dict(img=8, patch=4, width=56, layers=2, heads=7, out=9)
    a = dict(clip_visual=visual, phm_dim=terms, phm_rank=rank, scale=160.0)
    case = dict(system="kadaptation", seed=52, arch=a, state=tokens.kadaptation_shapes(a, 122), inputs={})
    r.judge(case, tokens.kadaptation)
