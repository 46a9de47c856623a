"""UniCL and MS-CLIP against formulas in float64, at sizes, labels and ways to share that no shipped case has."""

import pytest

from tests.parity import _reference as r
from tests.parity import _reference_pairs as pairs

ROWS = [
    [38, 6, 10, 39, 0, 0, 0, 0],
    [38, 6, 7, 8, 6, 11, 39, 0],
    [38, 12, 39, 0, 0, 0, 0, 0],
    [38, 5, 5, 39, 0, 0, 0, 0],
]
LABELS = {"classes": [3, 3, 3, 3], "captions": [0, 0, 0, 0], "mixed": [2, 0, 2, 0], "different": [4, 1, 3, 2]}


@pytest.mark.parametrize("kind", LABELS)
def test_unicl(kind):
    a = dict(image_resolution=16, patch_size=2, swin_dim=6, depths=[2, 2], heads=[1, 3], window=4, context_length=8,
             vocab_size=40, text_width=20, text_layers=1, text_heads=5, dim=7, mlp_ratio=2, text_layernorm_eps=1e-12,
             swin_norm_eps=1e-5)  # fmt: skip
    state = pairs.unicl_shapes(a, 46)
    inputs = dict(image=[4, 3, 16, 16], tokens=ROWS, labels=LABELS[kind])
    about = dict(system="unicl", seed=111, arch=a, state=state, inputs=inputs, trainable=list(state))
    r.judge(about | {"tolerance": "abs 5e-5 + 5e-5*|value|"}, pairs.unicl)


ATTENTION = ["attn.in_proj_weight", "attn.in_proj_bias", "attn.out_proj"]
BRANCH = dict(PARALLEL_IN_V=True, PARALLEL_RESNET_LAYERS=[0, 1, 1, 1, 1], PARALLEL_LATERAL_LAYER=[2, 3, 4, 5, 6],
              PRALLEL_T2B_PADDINGS=[0] * 5, EARLY_CONV_RES_LAYERS=[1, 1, 1, 1], EARLY_CONV_RES_FIRSTCONV_KERNEL=3,
              EARLY_CONV=True)  # fmt: skip
STRIDES = {16: [8, 4, 2, 1, 1], 32: [16, 8, 4, 2, 1]}
KINDS = {
    "all shared": (dict(SHARE_MODULES=[*ATTENTION, "mlp"], N_LAYERS=0), dict(layers=2, heads=3, width=24), 8),
    "attention of the last": (dict(SHARE_MODULES=ATTENTION, N_LAYERS=2), dict(layers=3, heads=1, width=20), 8),
    "nothing shared": (dict(SHARE_MODULES=[], N_LAYERS=0), dict(layers=1, heads=2, width=20), 8),
    "s, patches of 16": (dict(BRANCH, SHARE_MODULES=["mlp"], N_LAYERS=3), dict(layers=7, heads=4, width=32), 16),
    "s, class token once": (dict(BRANCH, SHARE_MODULES=[*ATTENTION, "mlp"], N_LAYERS=1, PRALLEL_T2B_USECLS=False),
                            dict(layers=7, heads=2, width=32), 32),
}  # fmt: skip


@pytest.mark.parametrize("name", KINDS)
def test_msclip(name):
    custom, sizes, patch = KINDS[name]
    strides = {"PRALLEL_T2B_KERNELS": STRIDES.get(patch), "PRALLEL_T2B_STRIDES": STRIDES.get(patch)}
    a = dict(sizes, embed_dim=9, image_resolution=2 * patch, patch_size=patch, context_length=8, vocab_size=40,
             custom=custom | (strides if patch > 8 else {}))  # fmt: skip
    state, tied = pairs.msclip_shapes(a)
    live = [k for k in state if "running" not in k and "num_batches" not in k]
    inputs = dict(image=[4, 3, 2 * patch, 2 * patch], tokens=ROWS)
    about = dict(system="msclip", seed=112, arch=a, state=state, tied=tied, inputs=inputs, trainable=live)
    r.judge(about | {"tolerance": "abs 5e-5 + 5e-5*|value|"}, pairs.msclip)
