"""Adapters on image towers against formulas in float64, at sizes and with options that no shipped case has."""

import itertools

from tests.parity import _reference as r
from tests.parity import _reference_adapters as adapters
from tests.parity._reference_video import variants

TOWER = dict(img_size=12, patch_size=4, embed_dim=56, depth=2, num_heads=7, num_classes=3)
SCALES = itertools.cycle(["channel", 0.7, "learned", 1.0])
PLAIN = dict(act_layer=True, norm_layer=False, bias=True, init="houlsby", dim=5, attn_adapter=False, dropout=0.1)


def adapter_plus_variants():
    """Every position in both kinds of blocks, low-rank maps and prompts."""
    found = {}
    places = ("post", "pre", "intermediate", "parallel", "pfeiffer", "houlsby")
    for n, (config, vit) in enumerate(itertools.product(places, ({}, {"block": "respost"}))):
        options = dict(
            config=config, scaling=next(SCALES), norm_layer=n % 3 == 0, act_layer=n % 5 != 1, bias=n % 4 != 2
        )
        found[f"{config}{n}"] = dict(adapter={**PLAIN, **options}, vit=vit, train_ln=n % 2 == 1)
    found["qkvo"] = dict(lora=dict(dim=3, location=list("qkvo"), scaling=0.6, dropout=0.1, bias=True))
    found["vo"] = dict(lora=dict(dim=4, location=["v", "o"], scaling=2.0, dropout=0.0, bias=False))
    found["prompts"] = dict(prompt={"num": 4})
    empty = dict(adapter=None, lora=None, prompt=None, vit={}, train_ln=False)
    return {k: {**empty, **v} for k, v in found.items()}


def test_adapter_plus():
    about = dict(system="adapter_plus", seed=21, arch=TOWER, inputs={"image": {"shape": [2, 3, 12, 12]}})
    found = adapter_plus_variants()
    about["variants"] = {k: {**v, "state": adapters.plus_shapes(TOWER, v, 122)} for k, v in found.items()}
    r.judge(about, variants(adapters.adapter_plus_variant))


def test_adaptformer():
    found = {}
    options = itertools.product(("parallel", "sequential"), ("none", "in", "out"), ("0.3", "learnable_scalar"))
    for n, (option, norm, scalar) in enumerate(options):
        tuning = dict(ffn_adapt=True, ffn_option=option, ffn_adapter_layernorm_option=norm, ffn_adapter_scalar=scalar,
                      ffn_num=5)  # fmt: skip
        found[f"v{n}"] = dict(tuning=tuning, global_pool=n % 3 == 1, head_bn=n % 4 == 2)
    found["plain"] = dict(tuning={**tuning, "ffn_adapt": False}, global_pool=True, head_bn=True)
    about = dict(system="adaptformer", seed=22, arch=TOWER, inputs={"image": {"shape": [2, 3, 12, 12]}})
    about["variants"] = {k: {**v, "state": adapters.former_shapes(TOWER, v, 122)} for k, v in found.items()}
    r.judge(about, variants(adapters.adaptformer_variant))
