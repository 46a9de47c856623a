"""Adapters on image towers: official keys onto the product's modules."""

import json
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from tests.parity.core import Case, builder, grad_norms, load_mapped
from xmodal.adapted import Adapted
from xmodal.adapters.convpass import convpass
from xmodal.adapters.fact import fact
from xmodal.adapters.kadaptation import kadaptation
from xmodal.adapters.noah import choose_subnet, noah, searched_params
from xmodal.adapters.ssf import ssf
from xmodal.adapters.vpt import vpt
from xmodal.encoders.frozen import freeze
from xmodal.encoders.taps import Taps
from xmodal.encoders.timm_parts import exact_ratio
from xmodal.encoders.vit import VisionTransformer
from xmodal.merge import merge_adapters
from xmodal.official.adapters import CONVPASS, FACT, KADAPTATION, NOAH, SSF, VPT, VQT
from xmodal.official.names import Converter, Pairs, pattern_of, rename_key
from xmodal.peft_files import places
from xmodal.vqt import VisualQueries


def find(tree: Any, *keys: str, default: Any = None) -> Any:
    """The first of `keys` anywhere in a nested dict."""
    for key in keys:
        if isinstance(tree, Mapping) and key in tree:
            return tree[key]
    for value in tree.values() if isinstance(tree, Mapping) else ():
        found = find(value, *keys)
        if found is not None:
            return found
    return default


def need(case: Case, *keys: str) -> Any:
    """The first of `keys` anywhere in `arch`.

    Raises:
        KeyError: none of them is there.
    """
    found = find(case.arch, *keys)
    if found is None:
        raise KeyError(f"`arch` says nothing under {' or '.join(keys)}; it has {', '.join(case.arch)}")
    return found


def image_of(case: Case) -> Tensor:
    """The case's only input."""
    return case.input(next(iter(case.json["inputs"])))


def tower_of(case: Case, state: Mapping[str, Tensor], **options: Any) -> VisionTransformer:
    """A plain tower of the sizes that a timm state dict has, loaded and frozen."""
    dim, _, patch, _ = state["patch_embed.proj.weight"].shape
    tower = VisionTransformer(
        image_size=image_of(case).shape[-1],
        patch_size=patch,
        dim=dim,
        depth=len({k.split(".")[1] for k in state if k.startswith("blocks.")}),
        num_heads=need(case, "num_heads", "heads"),
        mlp_ratio=exact_ratio(len(state["blocks.0.mlp.fc1.weight"]), dim),
        qkv_bias="blocks.0.attn.qkv.bias" in state,
        init_values=1.0 if "blocks.0.ls1.gamma" in state else None,
        act="quick_gelu" if "quick" in str(find(case.arch, "mlp_act")).lower() else "gelu",
        class_token="cls_token" in state,
        patch_bias="patch_embed.proj.bias" in state,
        pre_norm="norm_pre.weight" in state,
        norm_eps=find(case.arch, "ln_eps", default=1e-6),
        **options,
    )
    load_mapped(tower, state)
    return freeze(tower)  # type: ignore[return-value]


def split(state: Mapping[str, Tensor], names: Pairs) -> tuple[dict, dict, dict]:
    """Official weights as those of the tower, of the method and of the head."""
    head = {k: v for k, v in state.items() if k.rsplit(".", 1)[0] in ("head", "head.last_layer", "head.linear")}
    own = {k: v for k, v in state.items() if k not in head and any(pattern_of(p)[0].fullmatch(k) for p, _ in names)}
    base = {k: v for k, v in state.items() if k not in own and k not in head}
    return base, own, head


def head_of(head: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The classifier's weight and bias under their official keys, training."""
    return {k: v.clone().requires_grad_() for k, v in head.items()}


def classify(feature: Tensor, head: Mapping[str, Tensor]) -> Tensor:
    """Logits (B, K); without a classifier, the feature."""
    weight = next((v for k, v in head.items() if k.endswith("weight")), None)
    bias = next((v for k, v in head.items() if k.endswith("bias")), None)
    return feature if weight is None else nn.functional.linear(feature, weight, bias)


def loaded(part: nn.Module, converter: Converter, own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Load a method's official weights; which tensor each official key became."""
    start = "reader." if isinstance(part, VisualQueries) else "encoder."
    ours = {k.removeprefix(start): v for k, v in converter.to_ours(own).items()}
    names = {k: rename_key(k, converter.pairs).removeprefix(start) for k in own}
    live = {k: p for k, p in part.named_parameters() if p.requires_grad}
    assert set(ours) == set(live), sorted(set(ours) ^ set(live))[:6]
    for key, value in ours.items():
        assert live[key].shape == value.shape, (key, live[key].shape, value.shape)
        live[key].data.copy_(value)
    return {k: live[name] for k, name in names.items()}


def numbered(tower: nn.Module, images: Tensor, blocks: int) -> dict[str, Any]:
    """The residual stream behind the first blocks, all tokens computed."""
    taps = Taps("post", layers=range(blocks))
    tower.forward_blocks(*tower.embed(images), taps=taps)
    return {f"block{i}_out": taps["post", i].detach().numpy() for i in range(blocks)}


def block64(tensor: Tensor) -> np.ndarray:
    """A tensor as 2-D, its first 64x64."""
    flat = tensor.reshape(len(tensor), -1)
    return flat[:64, :64].detach().numpy()


def gradients(logits: Tensor, case: Case, tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """Gradient norms under official keys."""
    name = re.search(r"fill_input\(\W*(\w+)", case.json.get("loss", ""))
    return grad_norms((logits * case.cotangent(logits.shape, name.group(1) if name else "cotangent")).sum(), tensors)


def run(case: Case, encoder: nn.Module, method: Converter, own: Mapping, head: Mapping) -> dict[str, Any]:
    """Logits and gradients of a tower with a method in it."""
    tensors, head = loaded(encoder.eval(), method, own), head_of(head)
    logits = classify(encoder(image_of(case)), head)
    return {"logits": logits.detach().numpy()} | gradients(logits, case, tensors | head)


def merged(case: Case, encoder: nn.Module, head: Mapping, partial: bool = False) -> dict[str, Any]:
    """Logits of the merged tower, its weights and their differences from the plain ones."""
    if not any(k.startswith(("merged", "delta")) for k in case.expected):
        return {}
    plain = merge_adapters(encoder, partial)
    with torch.no_grad():
        out = {"merged_logits": classify(plain(image_of(case)), head).numpy()}
    after, before = plain.state_dict(), encoder.state_dict()
    for name in case.expected:
        kind, _, key = name.partition(":")
        if kind == "merged":
            out[name] = block64(after[key])
        elif kind == "delta":
            out[name] = block64(after[key] - before[key])
    return out


@builder("convpass")
def convpass_case(case: Case) -> dict[str, Any]:
    """Convpass on a ViT."""
    base, own, head = split(case.state(), CONVPASS.pairs)
    encoder = tower_of(case, base)
    place_bypasses(case, encoder, encoder, own)
    return run(case, encoder, CONVPASS, own, head)


def place_bypasses(case: Case, encoder: nn.Module, root: nn.Module, own: Mapping[str, Tensor]) -> None:
    """Place Convpass at every site the case has weights for; official paths lead from `root` to the blocks."""
    blocks = list(encoder.blocks)
    for key, weight in own.items():
        found = re.fullmatch(r"(.+)\.adapter_(attn|mlp)\.adapter_down\.weight", key)
        if found:
            number = blocks.index(root.get_submodule(found.group(1)))
            convpass(encoder, len(weight), need(case, "s", "scale"), found.group(2), blocks=[number])


@builder("fact_tt", "fact_tk")
def fact_case(case: Case) -> dict[str, Any]:
    """FacT, plain and merged."""
    form = case.json["system"][-2:]
    base, own, head = split(case.state(), FACT.pairs)
    encoder = tower_of(case, base)
    fact(encoder, rank=len(own["FacTu.weight"]), scale=need(case, "s", "scale"), form=form)
    return run(case, encoder, FACT, own, head) | merged(case, encoder, head)


@builder("peft_files")
def peft_case(case: Case) -> dict[str, Any]:
    """LoRA and DoRA folders of the package peft on a timm tower."""
    state, image = case.state(), image_of(case)
    out: dict[str, Any] = {}
    for name, variant in ({"base": None} | case.json["variants"]).items():
        head = nn.Linear(state["head.weight"].shape[1], len(state["head.weight"]))
        head.load_state_dict({k: state[f"head.{k}"] for k in ("weight", "bias")})
        adapted = Adapted(tower_of(case, {k: v for k, v in state.items() if not k.startswith("head.")}), head).eval()
        if variant is None:
            out["base.logits"] = adapted(image).detach().numpy()
            continue
        tensors = case.state(variant["file"])
        with tempfile.TemporaryDirectory() as folder:
            save_file(tensors, f"{folder}/adapter_model.safetensors")
            Path(folder, "adapter_config.json").write_text(json.dumps(variant["adapter_config"]))
            adapted.load_peft(folder).eval()
        config = adapted.methods["peft"]["arguments"]["config"]
        logits = adapted(image)
        out[f"{name}.logits"] = logits.detach().numpy()
        loss = (logits * case.cotangent(logits.shape)).sum()
        here = places(adapted, config)
        grads = torch.autograd.grad(loss, [tensor for tensor, _ in here.values()], allow_unused=True)
        for key, grad in zip(here, grads, strict=True):
            out[f"{name}.grad:base_model.model.{key}"] = np.float32(0 if grad is None else grad.norm())
        tower = merge_adapters(adapted.encoder)
        out[f"{name}.merged_logits"] = adapted.head(tower(image)).detach().numpy()
        for key, value in (
            tower.library_state() | {f"head.{k}": v for k, v in adapted.head.named_parameters()}
        ).items():
            out[f"{name}.merged:{key}"] = value.detach().numpy()
    return out


@builder("ssf")
def ssf_case(case: Case) -> dict[str, Any]:
    """SSF with LayerScale and pooling options, plain and merged."""
    base, own, head = split(case.state(), SSF.pairs)
    fc_norm = "fc_norm.weight" in base
    pooling = find(case.arch, "global_pool", "pool", default="avg" if fc_norm else "token")
    encoder = tower_of(case, base, pool="avg" if pooling in ("avg", "mean", True) else "token", fc_norm=fc_norm)
    ssf(encoder)
    out = run(case, encoder, SSF, own, head)
    return out | merged(case, encoder, head, partial=fc_norm)


@builder("vpt_shallow", "vpt_deep")
def vpt_case(case: Case) -> dict[str, Any]:
    """VPT on the jeonsworld layout."""
    state = {k: v for k, v in case.state().items() if v.numel()}  # one block has no deep prompts
    base, own, head = split(state, VPT.pairs)
    encoder = tower_of(case, from_jeonsworld(base))
    prompt, first = case.arch["prompt"], own["enc.transformer.prompt_embeddings"]
    projection = first.shape[2] if any("prompt_proj" in k for k in own) else None
    vpt(encoder, first.shape[1], deep=prompt["DEEP"], projection=projection)
    out = run(case, encoder, VPT, own, head)
    with torch.no_grad():
        out["cls_feature"] = encoder(image_of(case)).numpy()
    return out


@builder("vqt")
def vqt_case(case: Case) -> dict[str, Any]:
    """VQT with its ways to combine."""
    base, own, head = split(case.state(), VQT.pairs)
    encoder, options = tower_of(case, from_jeonsworld(base)), case.arch["h2t"]
    combine = "mean" if options["POOLING_FEATS"] else "sum" if options["WEIGHTED_SUM_FEATS"] else "concat"
    queries = own["enc.transformer.encoder.query_prompt_embeddings"].shape[1]
    keep = kept_features(case, head)
    reader = VisualQueries(encoder, queries, combine, normalize=options["NORMALIZE_FEATS"], keep=keep).eval()
    if combine != "sum":
        own.pop("enc.combine_params", None)  # created, never used
    tensors, head = loaded(reader, VQT, own), head_of(head)
    tokens, grid = encoder.embed(image_of(case))
    taps = Taps(*reader.taps, layers=reader.layers)
    tokens = encoder.forward_blocks(tokens, grid, read=reader.reads, taps=taps)
    features = reader(tokens, grid, encoder, taps)
    logits = classify(features, head)
    out = {"logits": logits.detach().numpy(), "features": features.detach().numpy()}
    return out | gradients(logits, case, tensors | head)


def kept_features(case: Case, head: Mapping[str, Tensor]) -> list[int] | None:
    """The indices of a feature selection: a list of as many numbers as the head has inputs."""
    if case.arch["h2t"].get("KEEP_FRAC", 1.0) >= 1:
        return None
    width = next(v.shape[1] for k, v in head.items() if k.endswith("weight"))
    places = [case.json, case.arch, case.arch["h2t"], case.json["inputs"]]
    lists = [v for place in places for v in place.values() if isinstance(v, list) and len(v) == width]
    if not lists:
        raise KeyError(f"the head has {width} inputs, but no list of so many indices is in the case")
    return lists[0]


@builder("kadaptation")
def kadaptation_case(case: Case) -> dict[str, Any]:
    """The update matrices that KAdaptation means."""
    from xmodal.encoders.keys import from_clip_visual_state

    base, own, _ = split(case.state(), KADAPTATION.pairs)
    visual = case.arch["clip_visual"]
    tower = VisionTransformer(
        image_size=visual["img"],
        patch_size=visual["patch"],
        dim=visual["width"],
        depth=visual["layers"],
        num_heads=visual["heads"],
        mlp_ratio=exact_ratio(len(base["transformer.resblocks.0.mlp.c_fc.weight"]), visual["width"]),
        act="quick_gelu",
        pre_norm=True,
        patch_bias=False,
        norm_eps=1e-5,
        out_dim=visual["out"],
    )
    load_mapped(tower, from_clip_visual_state(base))
    kadaptation(freeze(tower), terms=case.arch["phm_dim"], rank=case.arch.get("phm_rank", 1))
    loaded(tower, KADAPTATION, own)
    out = {}
    for name in case.expected:
        kind, _, layer = name.partition(":layer")
        if kind in ("H_q", "H_v_paper"):
            update = tower.blocks[int(layer)].attn.qkv.edits["kadaptation"]
            out[name] = update.parts[kind[2]].matrix().detach().numpy()
    return out


@builder("noah")
def noah_case(case: Case) -> dict[str, Any]:
    """One subnet of NOAH's supernet."""
    base, own, head = split(case.state(), NOAH.pairs)
    base = {k: v for k, v in base.items() if not k.startswith("visual_prompt_token")}  # no output depends on them
    encoder, sampled = tower_of(case, base), case.arch["sampled_config"]
    positions = not case.arch.get("IS_not_position_VPT", False)
    sizes = {kind: sampled[f"{key}_dim"] for kind, key in NOAH_KINDS.items()}
    largest = {k: case.arch["supernet"][k] for k in NOAH_KINDS}
    noah(encoder, **largest)
    choose_subnet(encoder, sizes)
    out = run(case, encoder, NOAH, own, head)
    count = searched_params(sizes, encoder.dim, largest["prompt"], positions)
    aliases = {f"grad:{a}": out.get(f"grad:{k}") for a, k in case.json.get("aliases", {}).items()}
    return out | aliases | {"sampled_params": np.asarray(count)}


NOAH_KINDS = {"prompt": "visual_prompt", "lora": "lora", "adapter": "adapter"}


def from_jeonsworld(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Keys of the jeonsworld ViT (separate query, key, value) as timm's."""
    table = (
        ("embeddings.cls_token", "cls_token"),
        ("embeddings.position_embeddings", "pos_embed"),
        ("embeddings.patch_embeddings.{w}", "patch_embed.proj.{w}"),
        ("encoder.encoder_norm.{w}", "norm.{w}"),
        ("encoder.layer.{i}.attention_norm.{w}", "blocks.{i}.norm1.{w}"),
        ("encoder.layer.{i}.ffn_norm.{w}", "blocks.{i}.norm2.{w}"),
        ("encoder.layer.{i}.ffn.{x}", "blocks.{i}.mlp.{x}"),
        ("encoder.layer.{i}.attn.out.{w}", "blocks.{i}.attn.proj.{w}"),
        ("encoder.layer.{i}.attn.{x}", "blocks.{i}.attn.{x}"),
    )
    names = {k: rename_key(k.removeprefix("enc.transformer."), table) for k in state}
    ours = {names[k]: v for k, v in state.items()}
    for key in [k for k in ours if ".attn.query." in k]:
        parts = [ours.pop(key.replace("query", part)) for part in ("query", "key", "value")]
        ours[key.replace("query", "qkv")] = torch.cat(parts)
    return ours
