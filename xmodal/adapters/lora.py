"""LoRA: a trained low-rank update beside frozen linear layers.

Paper: LoRA: Low-Rank Adaptation of Large Language Models (arXiv 2106.09685). Identity at the start (B is zero). A
target of shape (out, in) costs rank*(in + out) weights. Folds into the layer.
"""

import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from xmodal.encoders.sites import choose_blocks, find_site, place
from xmodal.registry import ADAPTERS, did_you_mean, method
from xmodal.structures import Encoder, Grid

PARTS = ("q", "k", "v")
LAYERS = {"qkv": "attn.qkv", "proj": "attn.proj", "fc1": "mlp.fc1", "fc2": "mlp.fc2"}


class LowRank(nn.Module):
    """x -> scale * (B (A dropout(x) + a) + b), A random and B zero; the biases a and b only where asked for.

    Args:
        in_features: width of x.
        out_features: width of the result.
        rank: width between.
        scale: constant factor.
        dropout: on x, in training.
        bias: biases of both layers, zero at the start.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        rank: int,
        scale: float = 1.0,
        dropout: float = 0.0,
        bias: bool = False,
    ):
        super().__init__()
        self.a_bias = nn.Parameter(torch.zeros(rank)) if bias else None
        self.b_bias = nn.Parameter(torch.zeros(out_features)) if bias else None
        self.a = nn.Parameter(torch.empty(rank, in_features))
        self.b = nn.Parameter(torch.zeros(out_features, rank))
        self.scale = scale
        self.dropout = nn.Dropout(dropout)
        nn.init.kaiming_uniform_(self.a, a=math.sqrt(5))

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., in) to (..., out)."""
        return F.linear(F.linear(self.dropout(x), self.a, self.a_bias), self.b, self.b_bias) * self.scale

    def delta(self) -> Tensor:
        """The weight update (out, in)."""
        return self.scale * (self.b @ self.a)

    def shift(self) -> Tensor | None:
        """The bias update (out); None without biases."""
        if self.a_bias is None or self.b_bias is None:
            return None
        return self.scale * (self.b @ self.a_bias + self.b_bias)


class LoRA(nn.Module):
    """Low-rank updates of one linear layer, of all of it or of the q, k, v parts of a fused projection.

    Args:
        in_features: of the layer.
        out_features: of the layer.
        parts: which thirds of the output are updated, a subset of q, k, v; empty for the whole.
        rank: of each update.
        scale: constant factor.
        dropout: on the input, in training.
        bias: biases of both low-rank layers.

    At start: the identity.
    Trains: all of it.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        parts: Sequence[str] = (),
        rank: int = 8,
        scale: float = 1.0,
        dropout: float = 0.0,
        bias: bool = False,
    ):
        super().__init__()
        width = out_features // 3 if parts else out_features
        self.parts: Any = nn.ModuleDict(  # of LowRank, which nn.ModuleDict cannot say
            {part: LowRank(in_features, width, rank, scale, dropout, bias) for part in (parts or ("whole",))}
        )

    def forward(self, y: Tensor, x: Tensor, grid: Grid | None = None) -> Tensor:
        """Add the update of the layer's input x (..., in) to its output y (..., out)."""
        if "whole" in self.parts:
            return y + self.parts["whole"](x)
        thirds = zip(PARTS, y.chunk(3, dim=-1), strict=True)
        return torch.cat([t + self.parts[p](x) if p in self.parts else t for p, t in thirds], dim=-1)

    def fold(self, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Return the layer's weight and bias with the update added."""
        bias = self.fold_bias(weight, bias)
        if "whole" in self.parts:
            return weight + self.parts["whole"].delta(), bias
        thirds = zip(PARTS, weight.chunk(3), strict=True)
        return torch.cat([t + self.parts[p].delta() if p in self.parts else t for p, t in thirds]), bias

    def fold_bias(self, weight: Tensor, bias: Tensor | None) -> Tensor | None:
        """Return the layer's bias with the update added."""
        shifts = {name: part.shift() for name, part in self.parts.items()}
        if all(shift is None for shift in shifts.values()):
            return bias
        bias = weight.new_zeros(len(weight)) if bias is None else bias
        if "whole" in shifts:
            return bias + shifts["whole"]
        thirds = zip(PARTS, bias.chunk(3), strict=True)
        return torch.cat([t + shifts[p] if p in shifts else t for p, t in thirds])


@method(
    ADAPTERS,
    "lora",
    slot="adapter",
    paper="LoRA: Low-Rank Adaptation of Large Language Models (arXiv 2106.09685)",
    params="L * sum over targets of rank*(in + out); q and v: 4*L*rank*D",
    parity=("noah", "adapter_plus", "peft_files", "clip_lora"),
    families=("vit", "swin"),
)
def lora(
    encoder: Encoder,
    rank: int = 8,
    alpha: float | None = None,
    targets: Sequence[str] = ("q", "v"),
    dropout: float = 0.0,
    sqrt_scale: bool = False,
    bias: bool = False,
    blocks: int | Iterable[int] | None = None,
    name: str = "lora",
) -> list[nn.Module]:
    """Place low-rank updates beside linear layers of an encoder.

    Args:
        encoder: a tower of blocks.
        rank: of each update.
        alpha: the update is scaled by alpha / rank; None for a factor of 1.
        targets: any of q, k, v (each an update of its own), qkv (one update of the fused projection), proj, fc1, fc2.
        dropout: on the updates' input, in training, drawn anew for each update.
        sqrt_scale: divide alpha by the root of the rank (CLIP-LoRA, rank-stabilized LoRA).
        bias: biases of the updates too.
        blocks: None for all, a number n for the last n, or indices.
        name: the adapter's name at its sites.

    Raises:
        ValueError: an unknown target, `qkv` beside one of its parts, or a rank below 1.
    """
    targets = (targets,) if isinstance(targets, str) else tuple(dict.fromkeys(targets))
    for target in targets:
        if target not in (*PARTS, *LAYERS):
            raise ValueError(f"lora: no target is called {target!r}; {did_you_mean(target, (*PARTS, *LAYERS))}")
    parts = tuple(p for p in PARTS if p in targets)
    if not targets or (parts and "qkv" in targets):
        raise ValueError(f"lora: targets {targets} must be some, and qkv excludes its parts q, k, v")
    if rank < 1:
        raise ValueError(f"lora: rank must be at least 1, got {rank}")
    sites = ["attn.qkv"] if parts else []
    sites += [LAYERS[t] for t in LAYERS if t in targets]
    scale = 1.0 if alpha is None else alpha / rank**0.5 if sqrt_scale else alpha / rank
    modules: list[nn.Module] = []
    for block in choose_blocks(encoder, blocks):
        for site in sites:
            find_site(block, site)
            layer = block.get_submodule(site)
            own = parts if site == "attn.qkv" else ()
            update = LoRA(layer.in_features, layer.out_features, own, rank, scale, dropout, bias)
            modules.append(place(block, site, name, update))
    return modules
