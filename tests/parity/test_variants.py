"""Cases of other sizes and options than those that ship: weights find their places, everything asked for is computed.

There is no official output here; what is checked is that the builders follow the case and not the sizes they were
written with. The numbers are pinned by the cases, and by the formulas in tests/xmodal/adapters.
"""

from pathlib import Path

import numpy as np
import pytest
from timm.models.convnext import ConvNeXt
from timm.models.swin_transformer import SwinTransformer

from tests.parity.__main__ import load_builders
from tests.parity.core import Case, find_builder

load_builders()


def vit(dim=24, depth=2, patch=4, image=12, hidden=60, qkv_bias=True, scale=False, token=True, fc_norm=False):
    """Shapes of a timm vision transformer, with a classifier of 3 classes."""
    state = {"cls_token": [1, 1, dim]} if token else {}
    state |= {"pos_embed": [1, (image // patch) ** 2 + token, dim]}
    state |= {"patch_embed.proj.weight": [dim, 3, patch, patch], "patch_embed.proj.bias": [dim]}
    for i in range(depth):
        layers = {
            "attn.qkv": (3 * dim, dim),
            "attn.proj": (dim, dim),
            "mlp.fc1": (hidden, dim),
            "mlp.fc2": (dim, hidden),
        }
        for name, shape in layers.items():
            state[f"blocks.{i}.{name}.weight"] = list(shape)
            if qkv_bias or name != "attn.qkv":
                state[f"blocks.{i}.{name}.bias"] = [shape[0]]
        for name in ("norm1", "norm2"):
            state |= {f"blocks.{i}.{name}.{leaf}": [dim] for leaf in ("weight", "bias")}
        if scale:
            state |= {f"blocks.{i}.ls{n}.gamma": [dim] for n in (1, 2)}
    state |= {f"{'fc_norm' if fc_norm else 'norm'}.{leaf}": [dim] for leaf in ("weight", "bias")}
    return state | {"head.weight": [3, dim], "head.bias": [3]}


def jeonsworld(dim=24, depth=2, patch=4, image=12, hidden=60, features=None):
    """Shapes of the ViT of VPT and VQT."""
    top = "enc.transformer."
    state = {f"{top}embeddings.position_embeddings": [1, (image // patch) ** 2 + 1, dim]}
    state |= {f"{top}embeddings.cls_token": [1, 1, dim], f"{top}embeddings.patch_embeddings.bias": [dim]}
    state[f"{top}embeddings.patch_embeddings.weight"] = [dim, 3, patch, patch]
    for i in range(depth):
        block = f"{top}encoder.layer.{i}."
        for name, shape in {"ffn.fc1": (hidden, dim), "ffn.fc2": (dim, hidden)}.items():
            state |= {f"{block}{name}.weight": list(shape), f"{block}{name}.bias": [shape[0]]}
        for name in ("query", "key", "value", "out"):
            state |= {f"{block}attn.{name}.weight": [dim, dim], f"{block}attn.{name}.bias": [dim]}
        for name in ("attention_norm", "ffn_norm"):
            state |= {f"{block}{name}.{leaf}": [dim] for leaf in ("weight", "bias")}
    state |= {f"{top}encoder.encoder_norm.{leaf}": [dim] for leaf in ("weight", "bias")}
    return state | {"head.last_layer.weight": [3, features or dim], "head.last_layer.bias": [3]}


def bypasses(dim, hidden, places):
    """Shapes of Convpass at some places."""
    parts = {"down": [hidden, dim], "conv": [hidden, hidden, 3, 3], "up": [dim, hidden]}
    shapes = {}
    for place in places:
        for part, shape in parts.items():
            shapes |= {f"{place}.adapter_{part}.weight": shape, f"{place}.adapter_{part}.bias": shape[:1]}
    return shapes


def scales(dim=24, depth=2, hidden=60):
    """Shapes of SSF."""
    at = {"": (dim,), "patch_embed.": (dim,)}
    for i in range(depth):
        at |= {f"blocks.{i}.": (dim, dim), f"blocks.{i}.attn.": (3 * dim, dim), f"blocks.{i}.mlp.": (hidden, dim)}
    return {
        f"{place}ssf_{kind}_{n}": [width]
        for place, widths in at.items()
        for n, width in enumerate(widths, 1)
        for kind in ("scale", "shift")
    }


def adapter(place, ins, outs, reduction, kernel):
    """Shapes of Conv-Adapter."""
    hidden = ins // reduction
    return {
        f"{place}.tuning_module.se": [1, outs, 1, 1],
        f"{place}.tuning_module.conv1.weight": [hidden, reduction, kernel, kernel],
        f"{place}.tuning_module.conv1.bias": [hidden],
        f"{place}.tuning_module.conv2.weight": [outs, hidden, 1, 1],
        f"{place}.tuning_module.conv2.bias": [outs],
    }


def bottlenecks(prefix, ins, width, count, groups=1, scheme="conv", reduction=4, kernel=3, down_bias=False, outs=None):
    """Shapes of a stage of bottlenecks with adapters."""
    state, outs = {}, outs or 4 * width
    for i in range(count):
        block, first = f"{prefix}{i}", ins if i == 0 else outs
        convs = {"conv1": [width, first, 1, 1], "conv2": [width, width // groups, 3, 3], "conv3": [outs, width, 1, 1]}
        norms = {"bn1": width, "bn2": width, "bn3": outs}
        if i == 0:
            convs["downsample.0"], norms["downsample.1"] = [outs, first, 1, 1], outs
            if down_bias:
                state[f"{block}.downsample.0.bias"] = [outs]
        state |= {f"{block}.{name}.weight": shape for name, shape in convs.items()}
        for name, size in norms.items():
            state |= {f"{block}.{name}.{leaf}": [size] for leaf in ("weight", "bias", "running_mean", "running_var")}
            state[f"{block}.{name}.num_batches_tracked"] = []
        sizes = {"conv": (width, width), "parallel": (first, outs), "sequential": (outs, outs)}[scheme]
        state |= adapter(block, *sizes, reduction, kernel)
    return state


def preact(width, outs, ins, groups):
    """Shapes of a BiT block."""
    state = {"body.0.gn1.weight": [ins], "body.0.gn1.bias": [ins], "body.0.downsample.weight": [outs, ins, 1, 1]}
    state |= {"body.0.conv1.weight": [width, ins, 1, 1], "body.0.conv2.weight": [width, width, 3, 3]}
    state |= {"body.0.conv3.weight": [outs, width, 1, 1]}
    state |= {f"body.0.gn{n}.{leaf}": [width] for n in (2, 3) for leaf in ("weight", "bias")}
    return state | adapter("body.0", width, width, 4, 3)


def swin_state(window, image, dims=12, heads=(2, 3), depths=(2, 1), mlp_ratio=2.0):
    """Shapes of a Swin in timm 0.4's layout."""
    body = SwinTransformer(image, 2, num_classes=0, embed_dim=dims, depths=depths, num_heads=heads, window_size=window,
                           mlp_ratio=mlp_ratio)  # fmt: skip
    state = {k: list(v.shape) for k, v in body.state_dict().items() if "relative_position_index" not in k}
    moved = {k: k.replace("layers.1.downsample", "layers.0.downsample") for k in state}
    return {moved[k]: v for k, v in state.items()}


def convnext_state(kernel):
    """Shapes of a ConvNeXt without layer scale, with adapters, under official names."""
    body = ConvNeXt(num_classes=0, depths=(1, 1, 1, 1), dims=(8, 8, 16, 16), kernel_sizes=kernel, ls_init_value=None)
    names = (("stem.", "downsample_layers.0."), (".blocks.", "."), ("conv_dw", "dwconv"), ("mlp.fc", "pwconv"),
             ("head.norm", "norm"))  # fmt: skip
    state = {}
    for key, value in body.state_dict().items():
        if ".downsample." in key:
            key = f"downsample_layers.{key.split('.')[1]}.{key.split('downsample.')[1]}"
        for ours, theirs in names:
            key = key.replace(ours, theirs)
        state[key] = list(value.shape)
    for i, dim in enumerate((8, 8, 16, 16)):
        state |= adapter(f"stages.{i}.0", dim, dim, 2, kernel)
    for i, (ins, outs) in enumerate(((8, 8), (8, 16), (16, 16))):
        place = {k.replace(".tuning_module", ""): v for k, v in adapter("x", ins, outs, 2, 2).items()}
        state |= {k.replace("x.", f"tuning_module_downsample.{i}.", 1): v for k, v in place.items()}
    return state


V = dict(vit=dict(img_size=12, patch_size=4, num_heads=3), s=10.0)
J = dict(vit=dict(img=12, patch=4, hidden=24, layers=2, heads=3))
PROMPT = dict(DEEP=True, PROJECT=-1)
H2T = dict(NUM_QUERY_TOKENS=3, POOLING_FEATS=False, WEIGHTED_SUM_FEATS=False, NORMALIZE_FEATS=False, KEEP_FRAC=1.0)
QUERIES = {"enc.transformer.encoder.query_prompt_embeddings": [2, 3, 24]}
PROMPTS = {"enc.transformer.prompt_embeddings": [1, 4, 7], "enc.transformer.prompt_proj.weight": [24, 7],
           "enc.transformer.prompt_proj.bias": [24]}  # fmt: skip
NOAH = {f"blocks.{i}.{k}": v for i in range(2) for k, v in {
    "visual_prompt_token": [1, 5, 24], "attn.LoRA_a.weight": [4, 24], "attn.LoRA_b.weight": [72, 4],
    "adapter.ln1.weight": [6, 24], "adapter.ln1.bias": [6], "adapter.ln2.weight": [24, 6], "adapter.ln2.bias": [24],
}.items()}  # fmt: skip
STAGE = dict(stride=2, gamma=4)

# name: system, arch, state, input, more of the case
VARIANTS = {
    "convpass, attention only, one block": ("convpass", dict(V, method="convpass_attn", hidden=5),
        vit() | bypasses(24, 5, ["blocks.1.adapter_attn"]), [2, 3, 12, 12], {}),
    "fact_tt, wide": ("fact_tt", dict(V, rank=3), vit(hidden=96) | {
        "FacTu.weight": [3, 24], "FacTv.weight": [24, 3],
        **{f"blocks.{i}.attn.{p}_FacTs.weight": [3, 3] for i in range(2) for p in ("q", "k", "v", "proj")},
        **{f"blocks.{i}.mlp.fc1_FacTs.weight": [12, 3] for i in range(2)},
        **{f"blocks.{i}.mlp.fc2_FacTs.weight": [3, 12] for i in range(2)}}, [1, 3, 12, 12], {}),
    "fact_tk, no bias": ("fact_tk", dict(V, rank=5), vit(hidden=96, qkv_bias=False) | {
        "FacTu.weight": [5, 24], "FacTv.weight": [24, 5], "FacTp": [5, 24], "FacTc": [5, 5, 5]}, [1, 3, 12, 12], {}),
    "ssf, layer scale, average": ("ssf", dict(V, global_pool="avg", init_values=1e-5),
        vit(scale=True) | scales(), [2, 3, 12, 12], {}),
    "ssf, norm behind the pooling": ("ssf", dict(V, global_pool="avg"),
        vit(fc_norm=True, qkv_bias=False) | scales(), [2, 3, 12, 12], {}),
    "ssf, no class token": ("ssf", dict(V, global_pool="avg"), vit(token=False) | scales(), [2, 3, 12, 12], {}),
    "vpt_shallow, projected": ("vpt_shallow", dict(J, prompt=dict(PROMPT, DEEP=False, PROJECT=7)),
        jeonsworld() | PROMPTS, [2, 3, 12, 12], {}),
    "vpt_deep, projected": ("vpt_deep", dict(J, prompt=dict(PROMPT, PROJECT=7)),
        jeonsworld() | PROMPTS | {"enc.transformer.deep_prompt_embeddings": [1, 4, 7]}, [2, 3, 12, 12], {}),
    "vqt, mean": ("vqt", dict(J, h2t=dict(H2T, POOLING_FEATS=True)), jeonsworld(features=72) | QUERIES,
        [2, 3, 12, 12], {}),
    "vqt, weighted sum": ("vqt", dict(J, h2t=dict(H2T, WEIGHTED_SUM_FEATS=True, NORMALIZE_FEATS=True)),
        jeonsworld(features=72) | QUERIES | {"enc.combine_params": [2, 3]}, [2, 3, 12, 12], {}),
    "vqt, kept features": ("vqt", dict(J, h2t=dict(H2T, KEEP_FRAC=0.03), keep=[0, 30, 100, 150, 167]),
        jeonsworld(features=5) | QUERIES, [2, 3, 12, 12], {}),
    "noah, no position, late prompts": ("noah", dict(V, supernet=dict(prompt=5, lora=4, adapter=6),
        IS_not_position_VPT=True, sampled_config=dict(visual_prompt_dim=[0, 3], lora_dim=[0, 2], adapter_dim=[6, 0])),
        vit() | NOAH, [2, 3, 12, 12], {}),
    "resnext, wide kernel": ("conv_adapter/conv_parallel", STAGE,
        bottlenecks("layer.", 8, 16, 2, groups=4, kernel=5, outs=32), [2, 8, 8, 8], {}),
    "resnet, sequential": ("conv_adapter/conv_sequential", dict(stride=1, gamma=4),
        bottlenecks("layer1.", 8, 12, 2), [2, 8, 9, 9], {}),
    "resnet, residual, one scheme": ("conv_adapter/residual", dict(STAGE, scheme="residual_sequential"),
        bottlenecks("layer.", 8, 8, 2, scheme="sequential"), [2, 8, 8, 8], {}),
    "clip, pooled": ("conv_adapter/conv_parallel", dict(STAGE, backbone="CLIP ModifiedResNet stage", heads=4),
        bottlenecks("layer.", 8, 8, 1, down_bias=True) | {
            "attnpool.positional_embedding": [17, 32], "attnpool.tuning_module.se": [1, 6],
            "attnpool.tuning_module.fc1.weight": [8, 32], "attnpool.tuning_module.fc1.bias": [8],
            "attnpool.tuning_module.fc2.weight": [6, 8], "attnpool.tuning_module.fc2.bias": [6],
            **{f"attnpool.{p}_proj.weight": [32, 32] for p in "qkv"}, "attnpool.c_proj.weight": [6, 32],
            **{f"attnpool.{p}_proj.bias": [32] for p in "qkv"}, "attnpool.c_proj.bias": [6]}, [2, 8, 8, 8], {}),
    "bit, odd width": ("conv_adapter/conv_parallel BiT", dict(stride=2, gamma=4, block="GroupNorm(4), StdConv2d"),
        preact(12, 20, 8, 4), [2, 8, 8, 8], {}),
    "convnext, small kernel": ("conv_adapter/conv_parallel ConvNeXt",
        dict(depths=[1, 1, 1, 1], dims=[8, 8, 16, 16], gamma=2), convnext_state(5), [1, 3, 48, 48], {}),
    "swin, window of the map": ("conv_adapter/conv_parallel Swin", dict(img_size=16, window_size=4, gamma=4),
        swin_state(4, 16) | adapter("layers.0.blocks.0", 12, 12, 4, 7) | adapter("layers.0.blocks.1", 12, 12, 4, 7)
        | adapter("layers.1.blocks.0", 24, 24, 4, 7), [2, 3, 16, 16], {}),
    "convpass_swin, attention only": ("convpass_swin", dict(img_size=16, window_size=4, s=0.1, method="convpass_attn"),
        swin_state(4, 16) | bypasses(12, 4, [f"layers.0.blocks.{i}.adapter_attn" for i in (0, 1)])
        | bypasses(24, 4, ["layers.1.blocks.0.adapter_attn"]), [2, 3, 16, 16], {}),
}  # fmt: skip


@pytest.mark.parametrize("name", VARIANTS)
def test_variant(name):
    system, arch, state, image, more = VARIANTS[name]
    loss = "sum(out * fill_input('cotangent', shape, seed))"
    about = dict(system=system, seed=5, arch=arch, state=state, inputs={"image": image}, outputs={"out": ""}, loss=loss)
    case = Case(Path(f"{system}.json"), about | more, {"merged_logits": np.zeros(0)})
    found = find_builder(system)(case)
    out = found.get("logits", found.get("out"))
    assert np.isfinite(out).all()
    added = [k for k in state if any(word in k for word in OWN)]
    assert added
    if system != "vqt":
        assert len(out) == image[0]
    silent = [k for k in added if not found.get(f"grad:{k}")]
    asleep = SWITCHED_OFF if system == "noah" else ()
    assert [k for k in silent if not k.startswith(asleep)] == []
    if "merged_logits" in found:
        np.testing.assert_allclose(found["merged_logits"], out, atol=1e-4)


SWITCHED_OFF = ("blocks.0.visual_prompt", "blocks.0.attn.LoRA", "blocks.1.adapter")  # sizes of 0
OWN = ("adapter_", "FacT", "ssf_", "prompt_", "query_prompt", "combine_params", "tuning_module", "LoRA", "adapter.ln")
