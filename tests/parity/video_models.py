"""ST-Adapter and EVL: official keys onto the product's modules."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from tests.parity.core import Case, builder, grad_norms, load_mapped
from video.aim import aim
from video.checkpoints import AIM, EVL, ST_ADAPTER
from video.evl import EVLDecoder
from video.readers import TimeMeanReader
from video.st_adapter import st_adapter
from xmodal.encoders.keys import from_clip_visual_state
from xmodal.encoders.taps import Taps
from xmodal.encoders.timm_parts import exact_ratio
from xmodal.encoders.vit import VisionTransformer
from xmodal.heads.classification import ClassificationHead
from xmodal.model import TransferModel


def clip_tower(
    state: Mapping[str, Tensor], heads: int, image_size: int, patch_size: int, eps: float, out_dim: int | None = None
) -> nn.Module:
    """A CLIP tower from CLIP's visual keys, without its projection unless its width is given."""
    width = state["class_embedding"].shape[0]
    depth = 1 + max(int(k.split(".")[2]) for k in state if k.startswith("transformer.resblocks."))
    hidden = state["transformer.resblocks.0.mlp.c_fc.weight"].shape[0]
    tower = VisionTransformer(
        image_size=image_size,
        patch_size=patch_size,
        dim=width,
        depth=depth,
        num_heads=heads,
        mlp_ratio=exact_ratio(hidden, width),
        act="quick_gelu",
        pre_norm=True,
        patch_bias=False,
        norm_eps=eps,
        out_dim=out_dim,
    )
    state = {k: v for k, v in state.items() if k != "proj" or out_dim}
    state.setdefault("ln_post.weight", torch.ones(width))
    state.setdefault("ln_post.bias", torch.zeros(width))
    load_mapped(tower, from_clip_visual_state(state))
    return tower


def frames_of(case: Case) -> Tensor:
    """The case's clips (B, 3, T, H, W) as the product's (B, 1, T, 3, H, W)."""
    return case.input("video").transpose(1, 2)[:, None]


@builder("ST-Adapter")
def st_adapter_case(case: Case) -> dict[str, Any]:
    """Logits, block outputs and gradient norms of ST-Adapter."""
    a, state = case.arch, case.state()
    own = {k: v for k, v in state.items() if "adapter_" in k or k.startswith("fc.")}
    visual = {k: v for k, v in state.items() if k not in own}
    sites = [s for s in ("pre_attn", "pre_mlp") if a[f"adapter_{s}"]]
    model = TransferModel(
        encoder=clip_tower(visual, a["heads"], a["input_resolution"], a["patch_size"], a.get("ln_eps", 1e-5)),
        adapters=[
            dict(
                type=st_adapter,
                bottleneck=a["adapter_width"],
                kernel_size=a["adapter_kernel_size"],
                sites=sites,
                blocks=a["adapter_layers"],
            )
        ],
        reader=dict(type=TimeMeanReader),
        head=dict(type=ClassificationHead, num_classes=a["num_classes"], dropout=0.5),
    ).eval()
    ours = ST_ADAPTER.to_ours(own)
    assert set(ours) == model.saved_keys(), set(ours) ^ model.saved_keys()
    model.load_state_dict(ours, strict=False)
    logits = model(mode="tensor", clips=frames_of(case))
    computed = {"logits": logits.detach().numpy()}
    tensors = dict(model.named_parameters())
    names = dict(zip(own, ours, strict=True))
    computed |= grad_norms((logits * case.cotangent(logits.shape)).sum(), {k: tensors[v] for k, v in names.items()})
    return computed | block_outputs(case, model)


def block_outputs(case: Case, model: nn.Module) -> dict[str, Any]:
    """Whatever `block<i>_out` the case asks for, all tokens computed."""
    asked = [n for n in case.expected if n.startswith("block")]
    layers = [int(n.removeprefix("block").removesuffix("_out")) for n in asked]
    taps = Taps("post", layers=layers)
    with torch.no_grad():
        model.encoder.forward_blocks(*model.embed(clips=frames_of(case)), taps=taps)
    return {n: taps["post", i].numpy() for n, i in zip(asked, layers, strict=True)}


@builder("aim")
def aim_case(case: Case) -> dict[str, Any]:
    """Features of the frames, logits, block outputs and gradient norms of every variant of AIM."""
    out: dict[str, Any] = {}
    for tag, variant in case.variants():
        a, state = variant.arch, variant.state()
        model = aim_model(a, state)
        tokens, grid = model.embed(clips=frames_of(case))
        taps = Taps("post", layers=range(a["layers"]))
        tokens = model.encoder.forward_blocks(tokens, grid, taps=taps)
        frames = model.encoder.norm(tokens)[:, 0].unflatten(0, (-1, grid.t))
        logits = model(mode="tensor", clips=frames_of(case))
        out |= {f"{tag}.features": frames.mT.detach().numpy(), f"{tag}.logits": logits.detach().numpy()}
        out |= {f"{tag}.block{i}_out": taps["post", i].detach().numpy() for i in range(a["layers"])}
        own = AIM.plain(state)
        tensors = dict(model.named_parameters())
        named = {k: tensors[AIM.ours(k)] for k in own}
        out |= grad_norms((logits * case.cotangent(logits.shape)).sum(), named, f"{tag}.grad:")
    return out


def aim_model(a: Mapping[str, Any], state: Mapping[str, Tensor]) -> TransferModel:
    """A model with the weights of one variant, read as a released checkpoint is."""
    plain = AIM.plain(state)
    visual = {k.removeprefix("backbone."): v for k, v in state.items() if k not in plain}
    hidden = next((len(v) for k, v in plain.items() if k.endswith("D_fc1.weight")), None)
    model = TransferModel(
        encoder=clip_tower(visual, a["heads"], a["input_resolution"], a["patch_size"], a.get("ln_eps", 1e-5)),
        adapters=[
            dict(
                type=aim,
                num_frames=a["num_frames"],
                hidden=hidden,
                scale=a["adapter_scale"],
                temporal_adapters=a["num_tadapter"],
                drop_path=a["drop_path_rate"],
            )
        ],
        reader=dict(type=TimeMeanReader, norm_first=True),
        head=dict(type=ClassificationHead, num_classes=a["num_classes"], dropout=0.5),
    ).eval()
    ours = AIM.to_ours(state)
    assert set(ours) == model.saved_keys(), set(ours) ^ model.saved_keys()
    model.load_state_dict(ours, strict=False)
    return model


@builder("EVL")
def evl_case(case: Case) -> dict[str, Any]:
    """Logits, decoder inputs, queries and gradient norms of EVL."""
    a, state = case.arch, case.state()
    own = {k: v for k, v in state.items() if not k.startswith("visual.")}
    visual = {k.removeprefix("visual."): v for k, v in state.items() if k.startswith("visual.")}
    vit, eps = a["vit"], a.get("ln_eps", 1e-5)
    model = TransferModel(
        encoder=clip_tower(visual, vit["heads"], vit["image_size"], vit["patch_size"], eps),
        reader=dict(
            type=EVLDecoder,
            num_frames=a["num_frames"],
            num_layers=a["decoder_num_layers"],
            qkv_dim=a["decoder_qkv_dim"],
            num_heads=a["decoder_num_heads"],
            mlp_factor=a["decoder_mlp_factor"],
            temporal_conv=a["enable_temporal_conv"],
            temporal_pos_embed=a["enable_temporal_pos_embed"],
            temporal_cross_attention=a["enable_temporal_cross_attention"],
        ),
        head=ClassificationHead(vit["width"], a["num_classes"], dropout=0.5, norm=True, init_std=None),
    ).eval()
    ours = EVL.to_ours(own)
    assert set(ours) == model.saved_keys(), set(ours) ^ model.saved_keys()
    model.load_state_dict(ours, strict=False)
    logits = model(mode="tensor", clips=frames_of(case))
    tensors, names = dict(model.named_parameters()), dict(zip(own, ours, strict=True))
    computed = grad_norms((logits * case.cotangent(logits.shape)).sum(), {k: tensors[v] for k, v in names.items()})
    return computed | {"logits": logits.detach().numpy()} | decoder_steps(case, model)


@torch.no_grad()
def decoder_steps(case: Case, model: nn.Module) -> dict[str, Any]:
    """`decoder_in<i>` and `query_out<i>` of every decoder layer."""
    reader, steps = model.reader, {}
    tokens, grid = model.embed(clips=frames_of(case))
    taps = Taps(*reader.taps, layers=reader.layers)
    model.encoder.forward_blocks(tokens, grid, read=reader.reads, taps=taps)
    x = reader.query.expand(len(tokens) // grid.t, 1, -1)
    for n, (layer, i) in enumerate(zip(reader.decoder, reader.layers, strict=True)):
        frames, maps = reader.seen(layer, i, grid, taps)
        x = layer(x, frames, maps, grid)
        motion = None if maps is None else layer.cross_attention(maps)
        steps |= {
            f"decoder_in{n}": layer.augment(frames, motion, grid).flatten(1, 2).numpy(),
            f"query_out{n}": x.numpy(),
        }
    return steps
