"""V-JEPA 2 and 2.1: official keys onto the product's video tower."""

from typing import Any

import torch
from torch import Tensor

from tests.parity.core import Case, builder, grad_norms, load_mapped
from xmodal.encoders.vjepa2 import VJEPA2
from xmodal.encoders.vjepa2_keys import from_official, to_official


def tower_of(case: Case, version: str) -> VJEPA2:
    """The tower with the case's weights."""
    a = case.arch
    state = from_official(case.state())
    hidden = state["blocks.0.mlp.fc1.weight"].shape[0]
    tower = VJEPA2(
        a["img_size"], a["patch_size"], a["embed_dim"], a["depth"], a["num_heads"], (hidden + 0.5) / a["embed_dim"],
        a["tubelet_size"], version, rescale=a.get("interpolate_rope", True),
    )  # fmt: skip
    load_mapped(tower, state)
    return tower.eval()


def embedded(tower: VJEPA2, video: Tensor) -> tuple[Tensor, Any]:
    """Tokens of clips (B, 3, T, H, W), or images (B, 3, H, W), and their grid."""
    clips = video[:, :, None] if video.ndim == 4 else video
    return tower.embed(clips.transpose(1, 2).flatten(0, 1), clips.shape[2])


def by_clip(tokens: Tensor, clips: Tensor) -> Tensor:
    """Tokens (B*T', N, D) as one sequence a clip."""
    return tokens.unflatten(0, (len(clips), -1)).flatten(1, 2)


@builder("vjepa2")
def vjepa2_case(case: Case, version: str = "2.0") -> dict[str, Any]:
    """Tokens at two sizes, of kept tokens and of an image, inner layers and gradients."""
    tower, video = tower_of(case, version), case.input("video")
    out = {}
    for name, entry in (("tokens", "video"), ("tokens_other", "video_other"), ("tokens_image", "image")):
        if entry in case.json["inputs"]:
            clips = case.input(entry)
            out[name] = by_clip(tower.forward_tokens(*embedded(tower, clips)), clips)
    if "masks" in case.json:
        kept = torch.tensor(case.json["masks"])
        out["tokens_masked"] = tower.forward_tokens(*tower.keep(*embedded(tower, video), kept))
    for layer in case.arch.get("out_layers", ()):
        (level,) = tower.levels_of(*embedded(tower, video), layers=[layer])
        out[f"layer{layer}"] = by_clip(level, video)
    for name, entry in (("hier_image", "image"), ("hier_video", "video"), ("hier", "video")):
        if name in case.expected:
            clips = case.input(entry)
            out[name] = by_clip(torch.cat(tower.levels_of(*embedded(tower, clips)), -1), clips)
    loss = (out["tokens"] * case.cotangent(out["tokens"].shape)).sum()
    norms = grad_norms(loss, named(tower))
    return {key: value.detach() for key, value in out.items()} | norms


@builder("vjepa2_1")
def vjepa2_1_case(case: Case) -> dict[str, Any]:
    """The same of version 2.1."""
    return vjepa2_case(case, "2.1")


def named(tower: VJEPA2) -> dict[str, Tensor | None]:
    """Trained tensors under their official names."""
    return dict(to_official(dict(tower.named_parameters())))
