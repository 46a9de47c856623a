"""KAdaptation: weight updates as sums of Kronecker products of rank-one factors.

Paper: Parameter-efficient Model Adaptation for Vision Transformers (arXiv 2203.16329). Identity at the start. With t
terms and q, v adapted: L*(4*D + D) + 4*t^2 weights. Folds into the layers.
"""

import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from xmodal.encoders.sites import choose_blocks, place
from xmodal.registry import ADAPTERS, did_you_mean, method
from xmodal.structures import Encoder, Grid

PARTS = ("q", "k", "v")
LAYERS = {"proj": "attn.proj", "fc1": "mlp.fc1", "fc2": "mlp.fc2"}


class Slow(nn.Module):
    """The factors A_i = left_i right_i (t x t, rank k) of one target, shared by all blocks."""

    def __init__(self, terms: int, rank: int = 1):
        super().__init__()
        self.left = nn.Parameter(torch.randn(terms, terms, rank) / math.sqrt(terms))
        self.right = nn.Parameter(torch.randn(terms, rank, terms) / math.sqrt(terms * rank))


class Kronecker(nn.Module):
    """H = sum_i A_i kron B_i with B_i = left_i right_i: x -> x H, of rank t*k^2.

    Args:
        slow: the shared factors of A.
        in_features: width of x, a multiple of t.
        out_features: width of the result, a multiple of t.
    """

    def __init__(self, slow: Slow, in_features: int, out_features: int):
        super().__init__()
        terms, _, rank = slow.left.shape
        self.shared = (slow,)  # in a tuple: known, not owned
        self.left = nn.Parameter(torch.randn(terms, in_features // terms, rank) / math.sqrt(in_features // terms))
        self.right = nn.Parameter(torch.zeros(terms, rank, out_features // terms))

    def factors(self) -> tuple[Tensor, Tensor]:
        """H = P Q^T as P (in, t*k*k) and Q (out, t*k*k)."""
        slow = self.shared[0]
        p = torch.einsum("iak,ibl->abikl", slow.left, self.left).flatten(2).flatten(0, 1)
        q = torch.einsum("ikc,ild->cdikl", slow.right, self.right).flatten(2).flatten(0, 1)
        return p, q

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., in) to (..., out)."""
        p, q = self.factors()
        return F.linear(x @ p, q)

    def matrix(self) -> Tensor:
        """H (in, out)."""
        p, q = self.factors()
        return p @ q.T


class KAdaptation(nn.Module):
    """Kronecker updates of one linear layer, of all of it or of the q, k, v parts of a fused projection, and a bias.

    Args:
        parts: updates by part (q, k, v) or under `whole`.
        width: of the bias, added to every part that is updated.
        scale: s, of the update and not of the bias.
        dropout: on the update, in training.

    At start: the identity.
    Trains: all of it.
    Differs from the released code: the update is one of the weights (there the tokens, heads and images of a batch are
    mixed), v has factors of its own, and one factor starts random so that gradients flow.
    """

    def __init__(self, parts: dict[str, Kronecker], width: int, scale: float = 1.0, dropout: float = 0.0):
        super().__init__()
        self.parts: Any = nn.ModuleDict(parts)  # of Kronecker, which nn.ModuleDict cannot say
        self.bias = nn.Parameter(torch.zeros(width))
        self.scale = scale
        self.dropout = nn.Dropout(dropout)

    def update(self, part: str, x: Tensor) -> Tensor:
        """Compute the update of one part of the output."""
        return self.dropout(self.parts[part](x)) * self.scale + self.bias

    def forward(self, y: Tensor, x: Tensor, grid: Grid | None = None) -> Tensor:
        """Add the updates of the layer's input x (..., in) to its output y (..., out)."""
        if "whole" in self.parts:
            return y + self.update("whole", x)
        thirds = zip(PARTS, y.chunk(3, dim=-1), strict=True)
        return torch.cat([t + self.update(p, x) if p in self.parts else t for p, t in thirds], dim=-1)

    def fold(self, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return the layer's weight and bias with the updates added."""
        bias = weight.new_zeros(len(weight)) if bias is None else bias
        if "whole" in self.parts:
            return weight + self.scale * self.parts["whole"].matrix().T, bias + self.bias
        weights, biases = list(weight.chunk(3)), list(bias.chunk(3))
        for i, part in enumerate(PARTS):
            if part in self.parts:
                weights[i] = weights[i] + self.scale * self.parts[part].matrix().T
                biases[i] = biases[i] + self.bias
        return torch.cat(weights), torch.cat(biases)


@method(
    ADAPTERS,
    "kadaptation",
    slot="adapter",
    paper="Parameter-efficient Model Adaptation for Vision Transformers (arXiv 2203.16329)",
    params="q and v: L*(4*D + D) + 4*t^2",
    parity=("kadaptation",),
)
def kadaptation(
    encoder: Encoder,
    terms: int = 32,
    rank: int = 1,
    scale: float = 1.0,
    targets: Sequence[str] = ("q", "v"),
    dropout: float = 0.0,
    blocks: int | Iterable[int] | None = None,
    name: str = "kadaptation",
) -> list[nn.Module]:
    """Place Kronecker updates beside linear layers of an encoder.

    Args:
        encoder: a tower of blocks of one width.
        terms: t, terms of the sum and size of the shared factors; divides every width.
        rank: k of every factor.
        scale: s.
        targets: any of q, k, v, proj, fc1, fc2. `lowest_dimension` tells which modules the paper would choose.
        dropout: on the updates, in training (the released code: 0.5 on H).
        blocks: None for all, a number n for the last n, or indices.
        name: the updates' name at their sites.

    Raises:
        ValueError: an unknown target, or a width that `terms` does not divide.
    """
    targets = (targets,) if isinstance(targets, str) else tuple(dict.fromkeys(targets))
    for target in targets:
        if target not in (*PARTS, *LAYERS):
            raise ValueError(f"kadaptation: no target is called {target!r}; {did_you_mean(target, (*PARTS, *LAYERS))}")
    if not targets or terms < 1 or rank < 1 or encoder.dim % terms:
        raise ValueError(
            f"kadaptation: terms={terms} must divide the width {encoder.dim}, rank={rank} be positive, and targets "
            f"{targets} name some"
        )
    slow = {target: Slow(terms, rank) for target in targets}
    parts = [t for t in targets if t in PARTS]
    groups = {"attn.qkv": parts} if parts else {}
    groups |= {LAYERS[t]: [t] for t in targets if t in LAYERS}
    modules: list[Any] = []
    for block in choose_blocks(encoder, blocks):
        for site, group in groups.items():
            layer = block.get_submodule(site)
            width = layer.out_features // (3 if site == "attn.qkv" else 1)
            updates = {(t if t in PARTS else "whole"): Kronecker(slow[t], layer.in_features, width) for t in group}
            modules.append(place(block, site, name, KAdaptation(updates, width, scale, dropout)))
    for target, factors in slow.items():  # the first update of a target owns what all share
        part = target if target in PARTS else "whole"
        first = modules[list(groups).index("attn.qkv" if target in PARTS else LAYERS[target])]
        first.parts[part].slow = factors
    return modules


def local_intrinsic_dimension(features: Tensor, neighbors: int = 20) -> float:
    """Maximum-likelihood estimate of the dimension that features locally fill (Levina and Bickel), averaged.

    Args:
        features: (B, D).
        neighbors: k, at least 2 and below B.

    Raises:
        ValueError: too few features for k.
    """
    if not 2 <= neighbors < len(features):
        raise ValueError(f"neighbors={neighbors} must be at least 2 and below the number of features, {len(features)}")
    distances = torch.cdist(features.double(), features.double())
    radii = distances.sort(dim=1).values[:, 1 : neighbors + 1].clamp_min(1e-12)  # (B, k), itself left out
    return float((-1 / (radii / radii[:, -1:]).log().mean(1).clamp_max(-1e-12)).mean())


@torch.no_grad()
def lowest_dimension(encoder: Encoder, images: Tensor, neighbors: int = 20) -> list[tuple[str, float]]:
    """Submodules of an encoder by the local intrinsic dimension of what they give for a set of images, lowest first.

    Args:
        encoder: a tower of blocks.
        images: (B, 3, H, W), normalized.
        neighbors: of the estimate.

    Returns:
        Pairs such as ("blocks.3.attn", 7.1); the paper adapts the lowest (the attention modules).
    """
    probes = {}
    for i, block in enumerate(encoder.blocks):
        for site in ("attn", "mlp"):
            probes[f"blocks.{i}.{site}"] = place(block, site, "__probe__", MeanToken())
    try:
        tokens, grid = encoder.embed(images)
        encoder.forward_blocks(tokens, grid)
    finally:
        for block in encoder.blocks:
            for site in ("attn", "mlp"):
                block.get_submodule(site).edits.pop("__probe__")
    found = {name: local_intrinsic_dimension(probe.seen, neighbors) for name, probe in probes.items()}
    return sorted(found.items(), key=lambda pair: pair[1])


class MeanToken(nn.Module):
    """Remember the mean token of an operation's output."""

    seen: Tensor

    def forward(self, y: Tensor, x: Tensor, grid: Grid | None = None) -> Tensor:
        """Pass y (B, N, D) on."""
        self.seen = y.mean(1)
        return y
