"""Methods without released code against their formulas in float64: BitFit, the attention probe, inflation, Florence."""

from typing import Any

import torch
from torch import nn

from tests.parity.core import Case, builder, grad_norms, load_mapped
from video.attentive_probe import AttentiveProbe
from xmodal.adapters.bitfit import bitfit
from xmodal.encoders.frozen import freeze
from xmodal.encoders.inflate import inflate
from xmodal.encoders.sites import LayerNorm
from xmodal.encoders.vit import VisionTransformer
from xmodal.heads.co_attention import CoAttentionHead
from xmodal.heads.dynamic_head import DynamicHead
from xmodal.structures import Grid


def tower(a: dict) -> VisionTransformer:
    """The case's image tower."""
    sizes = (a["image_size"], a["patch"], a["dim"], a["depth"], a["heads"])
    return VisionTransformer(*sizes, (a["hidden"] + 0.5) / a["dim"])


def results(case: Case, found: dict[str, Any], named: dict[str, Any]) -> dict[str, Any]:
    """Arrays and gradient norms."""
    first = next(iter(found.values()))
    out = grad_norms((first * case.cotangent(first.shape)).sum(), named) if named else {}
    return out | {k: v.detach().numpy() for k, v in found.items()}


@builder("formula_bitfit")
def bitfit_case(case: Case) -> dict[str, Any]:
    """Biases train, and nothing else does."""
    encoder = tower(case.arch)
    load_mapped(encoder, case.state())
    bitfit(freeze(encoder))
    live = {k: p for k, p in encoder.named_parameters() if p.requires_grad}
    assert set(live) == set(case.json["trainable"]), set(live) ^ set(case.json["trainable"])
    return results(case, {"feature": encoder(case.input("image"))}, live)


@builder("formula_inflated")
def inflated_case(case: Case) -> dict[str, Any]:
    """A ViT over space and time."""
    a, state, plain = case.arch, case.state(), tower(case.arch)
    load_mapped(plain, {k: v for k, v in state.items() if k != "time_embed"})
    encoder = inflate(plain, num_frames=a["frames"], tubelet=a["tubelet"]).eval()
    encoder.time_embed.data.copy_(state["time_embed"])
    clips = case.input("clips")
    tokens, grid = encoder.embed(clips.flatten(0, 1), clips.shape[1])
    feature = encoder.pool(encoder.forward_tokens(tokens, grid), grid).unflatten(0, (-1, grid.t)).mean(1)
    live = dict(encoder.named_parameters())
    named = {k: live.get(k, live.get(f"tower.{k}")) for k in case.json["trainable"]}
    return results(case, {"feature": feature}, named)


class Normed(nn.Module):
    """What the probe takes from a tower."""

    def __init__(self, dim: int, heads: int):
        super().__init__()
        self.dim, self.num_heads, self.num_prefix = dim, heads, 1
        self.norm = LayerNorm(dim)


@builder("formula_attentive_probe")
def attentive_probe_case(case: Case) -> dict[str, Any]:
    """The probe on class tokens."""
    a, state = case.arch, case.state()
    encoder = Normed(a["dim"], a["heads"])
    load_mapped(encoder.norm, {k.removeprefix("tower_norm."): state.pop(k) for k in list(state) if "tower_norm" in k})
    probe = AttentiveProbe(encoder, 1, per_frame=True, num_frames=a["frames"])
    load_mapped(probe, state)
    frames = case.input("frames")
    feature = probe(frames.flatten(0, 1)[:, None], Grid(a["frames"], 0, 0, 1), encoder)
    return results(case, {"feature": feature}, dict(probe.named_parameters()))


@builder("formula_co_attention")
def co_attention_case(case: Case) -> dict[str, Any]:
    """Both streams, with padding."""
    a = case.arch
    image, text = case.input("image"), case.input("text")
    head = CoAttentionHead(image.shape[-1], text.shape[-1], 3, a["dim"], a["depth"], a["heads"])
    head.load_state_dict(case.state(), strict=False)
    streams = head(image, text, torch.tensor(a["keep"], dtype=torch.bool))
    return results(case, {"image": streams[0], "matching": head.matching(*streams)}, {})


@builder("formula_dynamic_head")
def dynamic_head_case(case: Case) -> dict[str, Any]:
    """One block on three levels."""
    dim = case.arch["dim"]
    head = DynamicHead([dim] * 3, dim, depth=1)
    load_mapped(head, case.state())
    levels = [case.input(f"level{i}") for i in range(3)]
    return results(case, {f"level{i}": x for i, x in enumerate(head(levels))}, {})
