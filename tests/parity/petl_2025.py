"""AdaptFormer, Houlsby, Pfeiffer, Adapter+ and Mona: official keys onto the product's modules."""

import re
from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from tests.parity.core import Case, builder, grad_norms, load_mapped, tagged
from tests.parity.petl import from_jeonsworld, gradients, image_of, loaded, numbered, run, split, tower_of
from tests.parity.petl_conv import swin_body, swin_key, usable
from xmodal.adapters.adapter_plus import POSITIONS, adapter_plus
from xmodal.adapters.bottleneck import adaptformer, houlsby, pfeiffer
from xmodal.adapters.lora import lora
from xmodal.adapters.mona import mona
from xmodal.adapters.vpt import vpt
from xmodal.bottleneck import Bottleneck
from xmodal.encoders.convnet import ConvNet
from xmodal.encoders.frozen import freeze
from xmodal.encoders.sites import place
from xmodal.heads.classification import ClassificationHead
from xmodal.official import adapters as official
from xmodal.official.names import Converter, rename
from xmodal.structures import Grid

BLOCK, OURS = "blocks.{i}", "encoder.blocks.{i}"


@builder("adaptformer")
def adaptformer_case(case: Case) -> dict[str, Any]:
    """Logits, the first block and gradients of every variant."""
    out: dict[str, Any] = {}
    for tag, variant in case.variants():
        out |= tagged(tag, adaptformer_variant(variant))
    return out


def adaptformer_variant(case: Case) -> dict[str, Any]:
    """One setting of AdaptFormer, with its head."""
    a, state = case.arch, case.state()
    tuning, pooled = a["tuning"], bool(a.get("global_pool"))
    head = {k: v for k, v in state.items() if k.startswith("head.")}
    own = {k: v for k, v in state.items() if "adaptmlp" in k}
    base = fused({k: v for k, v in state.items() if k not in head and k not in own})
    encoder = tower_of(case, base, pool="avg" if pooled else "token", fc_norm="fc_norm.weight" in base)
    if own:
        place_adaptformer(encoder, tuning, own)
    names: dict[str, str] = {}
    if "fc_norm.weight" in base:
        encoder.fc_norm.requires_grad_(True)
        names = {k: k for k in base if k.startswith("fc_norm.")}
    site = f"{OURS.removeprefix('encoder.')}.mlp_branch.edits.adaptformer"
    pairs = [(f"{BLOCK}.adaptmlp.{x}", f"{site}.{y}") for x, y in official.PARALLEL]
    live = dict(encoder.named_parameters())
    for key, value in own.items():
        names[key] = next(iter(rename({key: value}, pairs)))
        live[names[key]].data.copy_(value)
    tensors = {key: live[name] for key, name in names.items()}
    classifier = adaptformer_head(head)
    logits = classifier(encoder.eval()(image_of(case)))
    last = sorted(
        k for k in head if k.endswith(("1.weight", "1.bias") if "head.1.weight" in head else ("weight", "bias"))
    )
    tensors |= {k: getattr(classifier.fc, k.rsplit(".", 1)[1]) for k in last}
    out = {"logits": logits.detach().numpy()} | gradients(logits, case, tensors)
    return out | numbered(encoder, image_of(case), len(encoder.blocks))


def place_adaptformer(encoder: nn.Module, tuning: Mapping[str, Any], own: Mapping[str, Tensor]) -> None:
    """Place the adapters of a setting of `main_image.py`."""
    scale = tuning["ffn_adapter_scalar"]
    adaptformer(
        encoder,
        hidden=len(next(v for k, v in own.items() if k.endswith("down_proj.bias"))),
        scale="learned" if scale == "learnable_scalar" else float(scale),
        reads="output" if tuning["ffn_option"] == "sequential" else "stream",
        norm=tuning["ffn_adapter_layernorm_option"],
    )


def adaptformer_head(head: Mapping[str, Tensor]) -> ClassificationHead:
    """A linear head, behind a BatchNorm where the keys are numbered."""
    number = "1." if "head.1.weight" in head else ""
    weight, bias = head[f"head.{number}weight"], head[f"head.{number}bias"]
    classifier = ClassificationHead(weight.shape[1], len(weight), norm="batch" if number else False).eval()
    classifier.fc.load_state_dict({"weight": weight, "bias": bias})
    if number:
        classifier.norm.load_state_dict(
            {k.removeprefix("head.0."): v for k, v in head.items() if k.startswith("head.0.")}
        )
    return classifier


def fused(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """AdaptFormer's tower (separate queries, keys and values, MLP in the block) under timm's names."""
    out = {}
    for key, value in state.items():
        if found := re.fullmatch(r"(.*attn)\.q_proj\.(\w+)", key):
            parts = [state[f"{found[1]}.{part}_proj.{found[2]}"] for part in "qkv"]
            out[f"{found[1]}.qkv.{found[2]}"] = torch.cat(parts)
        elif not re.search(r"attn\.[kv]_proj", key):
            out[re.sub(r"^(blocks\.\d+)\.(fc[12])", r"\1.mlp.\2", key)] = value
    return out


@builder("bottleneck")
def bottleneck_case(case: Case) -> dict[str, Any]:
    """Houlsby and Pfeiffer under the names of Adapter+ and of VPT."""
    out: dict[str, Any] = {}
    for tag, variant in case.variants():
        out |= tagged(tag, bottleneck_variant(variant))
    return out


def bottleneck_variant(case: Case) -> dict[str, Any]:
    """One placement."""
    state, kind = case.state(), case.arch["method"]
    place_method = {"houlsby": houlsby, "pfeiffer": pfeiffer}[kind]
    sites = {"adapter": "mlp", "adapter_attn": "attn"}
    pairs = [
        (f"{BLOCK}.{theirs}.bottleneck.{number}.{{w}}", f"{OURS}.{site}.edits.{kind}.{part}.{{w}}")
        for theirs, site in sites.items()
        for number, part in ((1, "down"), (4, "up"))
    ]
    layer = "transformer.encoder.layer.{i}"
    pairs += [(f"{layer}.adapter_{p}sample.{{w}}", f"{OURS}.mlp.edits.{kind}.{p}.{{w}}") for p in ("down", "up")]
    base, own, head = split(state, pairs)
    if any(k.startswith("transformer.") for k in base):
        base = from_jeonsworld({f"enc.{k}": v for k, v in base.items()})
    encoder = tower_of(case, base)
    first = next(v for k, v in own.items() if k.endswith(("bottleneck.1.weight", "downsample.weight")))
    place_method(encoder, len(first))
    return run(case, encoder, Converter(kind, pairs), own, head)


@builder("adapter_plus")
def adapter_plus_case(case: Case) -> dict[str, Any]:
    """Every position of adapters, and LoRA and prompts of the same code."""
    out: dict[str, Any] = {}
    for tag, variant in case.variants():
        changed = Case(
            variant.path, variant.json | {"arch": case.arch | (variant.arch.get("vit") or {})}, variant.expected
        )
        out |= tagged(tag, adapter_plus_variant(changed, variant.arch))
    return out


def adapter_plus_variant(case: Case, about: Mapping[str, Any]) -> dict[str, Any]:
    """One setting of Adapter+'s code."""
    adapter, low_rank, prompt = about.get("adapter"), about.get("lora"), about.get("prompt")
    position = adapter["config"] if adapter else "post"
    sites = [f"{s}.edits" if s.endswith("branch") else s for s in POSITIONS[position][0]]
    names = official.adapter_plus("case", sites[-1], "attn_branch.edits" if adapter and len(sites) > 1 else "",
                                  bool(about.get("train_ln")))  # fmt: skip
    pairs = [*names.pairs, *further_names()]
    state = case.state()
    base, own, head = split(state, pairs)
    norms = {k: v for k, v in own.items() if "norm" in k and "norm_a" not in k}
    encoder = tower_of(case, base | norms, post_norm=case.arch.get("block") == "respost")
    if adapter:
        first = next(v for k, v in own.items() if k.endswith("bottleneck.1.weight"))
        adapter_plus(encoder, len(first), position, adapter["scaling"], "gelu" if adapter["act_layer"] else None,
                     norm=bool(adapter["norm_layer"]), bias=adapter["bias"], init=adapter["init"])  # fmt: skip
    if low_rank:
        place_low_rank(encoder, low_rank, own)
    if prompt:
        vpt(encoder, next(v for k, v in own.items() if k.endswith(".prompt")).shape[0])
    if about.get("train_ln"):
        for module in (*encoder.blocks, encoder):
            for name in ("norm1", "norm2", "norm"):
                if hasattr(module, name):
                    getattr(module, name).requires_grad_(True)
    return (
        prompted(case, encoder, own, head) if prompt else finished(case, encoder, Converter("case", pairs), own, head)
    )


def finished(case: Case, encoder: nn.Module, names: Converter, own: Mapping, head: Mapping) -> dict[str, Any]:
    """Logits, gradients and normed tokens."""
    out = run(case, encoder, names, own, head)
    tokens, grid = encoder.embed(image_of(case))
    return out | {"features": encoder.norm(encoder.forward_blocks(tokens, grid), grid).detach().numpy()}


def further_names() -> list[tuple[str, str]]:
    """Names of LoRA's parts."""
    at = f"{OURS}.attn.qkv.edits.lora.parts"
    pairs = [
        (f"{BLOCK}.attn.adapters.{p}.bottleneck.{n}.weight", f"{at}.{p}.{x}")
        for p in "qkv"
        for n, x in ((1, "a"), (4, "b"))
    ]
    pairs += [
        (f"{BLOCK}.attn.adapters.{p}.bottleneck.{n}.bias", f"{at}.{p}.{x}_bias")
        for p in "qkv"
        for n, x in ((1, "a"), (4, "b"))
    ]
    out = f"{OURS}.attn.proj.edits.lora_o"
    return (
        pairs
        + [(f"{BLOCK}.attn.adapters.o.bottleneck.{n}.{{w}}", f"{out}.{x}.{{w}}") for n, x in ((1, "down"), (4, "up"))]
        + [(f"{BLOCK}.attn.adapters.{{w}}.scaling", f"{at}.{{w}}.scale"), (f"{BLOCK}.prompt", f"{OURS}.prompt")]
    )


def place_low_rank(encoder: nn.Module, options: Mapping[str, Any], own: Mapping[str, Tensor]) -> None:
    """Low-rank maps of queries, keys and values, and of what the output projection gives."""
    rank, location = options["dim"], options["location"]
    bias = any(re.search(r"\.adapters\.[qkv]\..*bias$", k) for k in own)
    if parts := [p for p in location if p != "o"]:
        lora(encoder, rank, alpha=options["scaling"] * rank, targets=parts, dropout=options["dropout"], bias=bias)
    for block in encoder.blocks if "o" in location else ():
        biased = any(".adapters.o." in k and k.endswith("bias") for k in own)
        behind = Bottleneck(encoder.dim, rank, act=None, scale=options["scaling"], bias=biased)
        place(block, "attn.proj", "lora_o", behind)


def prompted(case: Case, encoder: nn.Module, own: Mapping[str, Tensor], head: Mapping[str, Tensor]) -> dict[str, Any]:
    """Prompts of every block; they stand behind the class token there, behind the patches here."""
    prompts = [own[f"blocks.{i}.prompt"] for i in range(len(encoder.blocks))]
    live = {k: p for k, p in encoder.named_parameters() if p.requires_grad}
    named = {"first": live["pre_blocks.vpt.tokens"], "rest": live.get("pre_blocks.vpt.deep")}
    named["first"].data.copy_(prompts[0][None])
    if named["rest"] is not None:
        named["rest"].data.copy_(torch.stack(prompts[1:]).reshape(named["rest"].shape))
    heads = {k: v.clone().requires_grad_() for k, v in head.items()}
    tokens, grid = encoder.embed(image_of(case))
    tokens = encoder.norm(encoder.eval().forward_blocks(tokens, grid), grid)
    logits = nn.functional.linear(tokens[:, 0], heads["head.weight"], heads["head.bias"])
    loss = (logits * case.cotangent(logits.shape)).sum()
    grads = torch.autograd.grad(loss, [t for t in (*named.values(), *heads.values()) if t is not None])
    out = {f"grad:{k}": float(g.norm()) for k, g in zip(heads, grads[-len(heads) :], strict=True)}
    blocks = [grads[0][0], *(grads[1].reshape(len(prompts) - 1, *prompts[0].shape) if len(prompts) > 1 else ())]
    out |= {f"grad:blocks.{i}.prompt": float(g.norm()) for i, g in enumerate(blocks)}
    count, own_rows = len(prompts[0]), grid.prefix + grid.num_patches
    order = torch.cat([tokens[:, :1], tokens[:, own_rows : own_rows + count], tokens[:, 1:own_rows]], 1)
    return out | {"logits": logits.detach().numpy(), "features": order.detach().numpy()}


@builder("mona")
def mona_case(case: Case) -> dict[str, Any]:
    """Maps of the stages that are asked for, one module alone, and gradients."""
    a = case.arch
    base, own, _ = split(usable(case.state()), official.MONA.pairs)
    norms = {k: base.pop(k) for k in list(base) if re.match(r"norm\d", k)}
    body = swin_body(case, base, strict_img_size=False, always_partition=True,
                     norm_layer=partial(nn.LayerNorm, eps=a.get("ln_eps", 1e-5)))  # fmt: skip
    body.norm = nn.Identity()
    load_mapped(body, {swin_key(k): v for k, v in base.items()})
    encoder = freeze(ConvNet(body, pad_first=True))
    hidden = next(v for k, v in own.items() if k.endswith("project1.bias"))
    mona(encoder, len(hidden))
    tensors = loaded(encoder.eval(), official.MONA, own)
    out, x = {}, body.patch_embed(image_of(case))
    for i, stage in enumerate(body.layers):
        x = stage(x)  # (B, H, W, C)
        if f"norm{i}.weight" in norms:
            weight, bias = norms[f"norm{i}.weight"], norms[f"norm{i}.bias"]
            out[f"stage{i}"] = nn.functional.layer_norm(x, x.shape[-1:], weight, bias, a.get("ln_eps", 1e-5)).permute(
                0, 3, 1, 2
            )
    loss = sum((v * case.cotangent(v.shape, k.replace("stage", "cotangent"))).sum() for k, v in out.items())
    grads = grad_norms(loss, tensors)
    if "tokens" in case.json["inputs"]:
        h, w = case.json["inputs"]["tokens"]["hw"]
        out["mona_alone"] = encoder.blocks[0].pre_mlp["mona"](case.input("tokens"), Grid(1, h, w, prefix=0))
    return {k: v.detach().numpy() for k, v in out.items()} | grads
