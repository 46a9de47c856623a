"""FacT: all weight updates of a tower as one tensor, factorized.

Paper: FacT: Factor-Tuning for Lightweight Adaptation on Vision Transformer (arXiv 2212.03145). Identity at the start
(V is zero). With r = rank: tensor train 2*D*r + 12*L*r^2 weights, Tucker 2*D*r + 12*L*r + r^3. Folds into the layers.
"""

import math
from collections.abc import Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from xmodal.encoders.sites import choose_blocks, place
from xmodal.registry import ADAPTERS, method
from xmodal.structures import Encoder, Grid

SITES = ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")


class Factors(nn.Module):
    """Factors that all layers share: U, V and, in the Tucker form, the core C and the columns P.

    Args:
        dim: width D.
        rank: r.
        columns: D x D slices of the tower's linear layers, 12 per block, for the Tucker form; 0 for the tensor train.
    """

    def __init__(self, dim: int, rank: int, columns: int = 0):
        super().__init__()
        self.u = nn.Parameter(torch.empty(rank, dim))
        self.v = nn.Parameter(torch.zeros(dim, rank))
        nn.init.kaiming_uniform_(self.u, a=math.sqrt(5))
        if columns:
            self.p = nn.Parameter(torch.empty(rank, columns))
            self.c = nn.Parameter(torch.empty(rank, rank, rank))
            nn.init.xavier_uniform_(self.p)
            nn.init.xavier_uniform_(self.c)


class FacT(nn.Module):
    """The update of one linear layer whose weight is a row or a column of D x D slices.

    Args:
        factors: what all layers share.
        outs: slices stacked on the output (3 of a fused qkv, 4 of fc1).
        ins: slices side by side on the input (4 of fc2).
        scale: s.
        dropout: on the code, in training.

    At start: the identity.
    Trains: all of it.
    Differs from the released code: no module-level globals, so that copies and several towers work.
    """

    def __init__(self, factors: Factors, outs: int, ins: int, scale: float = 1.0, dropout: float = 0.1):
        super().__init__()
        self.shared = (factors,)  # in a tuple: known, not owned
        self.outs, self.ins, self.scale = outs, ins, scale
        self.dropout = nn.Dropout(dropout)

    def sigma(self) -> Tensor:
        """The map of codes (outs*r, ins*r)."""
        raise NotImplementedError

    def forward(self, y: Tensor, x: Tensor, grid: Grid | None = None) -> Tensor:
        """Add the update of the layer's input x (..., ins*D) to its output y (..., outs*D)."""
        factors = self.shared[0]
        code = F.linear(x.unflatten(-1, (self.ins, -1)), factors.u).flatten(-2)  # (..., ins*r)
        code = self.dropout(F.linear(code, self.sigma())).unflatten(-1, (self.outs, -1))
        return y + F.linear(code, factors.v).flatten(-2) * self.scale

    def delta(self) -> Tensor:
        """The weight update (outs*D, ins*D)."""
        u, v = self.shared[0].u, self.shared[0].v
        sigma = self.sigma().reshape(self.outs, u.shape[0], self.ins, u.shape[0])
        delta = torch.einsum("dr,orip,pe->odie", v, sigma, u)
        return self.scale * delta.flatten(2).flatten(0, 1)

    def fold(self, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Return the layer's weight and bias with the update added."""
        return weight + self.delta(), bias


class FacTTT(FacT):
    """Tensor-train form of FacT: one core per layer, or one per part of a fused projection."""

    def __init__(
        self, factors: Factors, outs: int, ins: int, scale: float = 1.0, dropout: float = 0.1, parts: str = "s"
    ):
        super().__init__(factors, outs, ins, scale, dropout)
        rank = factors.u.shape[0]
        self.parts = parts
        shape = (outs // len(parts) * rank, ins * rank)
        self.cores = nn.ParameterDict({part: nn.Parameter(torch.empty(shape)) for part in parts})
        for core in self.cores.values():
            nn.init.kaiming_uniform_(core, a=math.sqrt(5))

    def sigma(self) -> Tensor:
        """Stack the layer's cores."""
        return torch.cat([self.cores[part] for part in self.parts])


class FacTTK(FacT):
    """Tucker: each layer mixes the slices of the shared core with its columns of P.

    Differs from the paper as the released code does: the four slices of an MLP layer are interleaved.
    """

    def __init__(self, factors: Factors, outs: int, ins: int, scale: float, dropout: float, start: int, split: bool):
        super().__init__(factors, outs, ins, scale, dropout)
        self.start, self.split = start, split

    def sigma(self) -> Tensor:
        """C times its columns of P."""
        columns = max(self.outs, self.ins)
        mixed = self.shared[0].c @ self.shared[0].p[:, self.start : self.start + columns]  # (r, r, columns)
        if self.split:  # q, k, v: a map each
            return mixed.permute(2, 1, 0).flatten(0, 1)  # (columns*r, r)
        table = mixed.flatten(1)  # (r, r*columns), the slice index runs fastest
        return table if self.ins > self.outs else table.T


@method(
    ADAPTERS,
    "fact",
    slot="adapter",
    paper="FacT: Factor-Tuning for Lightweight Adaptation on Vision Transformer (arXiv 2212.03145)",
    params="tt: 2*D*r + 12*L*r^2; tk: 2*D*r + 12*L*r + r^3",
    parity=("fact_tt", "fact_tk"),
)
def fact(
    encoder: Encoder,
    rank: int = 16,
    scale: float = 1.0,
    form: str = "tt",
    dropout: float = 0.1,
    blocks: int | Iterable[int] | None = None,
    name: str = "fact",
) -> list[nn.Module]:
    """Place factorized updates beside every linear layer of an encoder's blocks.

    Args:
        encoder: a tower of blocks of one width.
        rank: r.
        scale: s, tuned per task over 0.01 to 100 in the paper.
        form: `tt` (tensor train) or `tk` (Tucker).
        dropout: on the codes, in training.
        blocks: None for all, a number n for the last n, or indices.
        name: the updates' name at their sites.

    Raises:
        ValueError: another form, or layers that are not made of D x D slices (gated MLPs, Swin).
    """
    if form not in ("tt", "tk"):
        raise ValueError(f"fact: form must be tt or tk, got {form!r}")
    layers = [
        (block, site, *slices(block, site, encoder.dim)) for block in choose_blocks(encoder, blocks) for site in SITES
    ]
    columns = sum(max(outs, ins) for *_, outs, ins in layers)
    factors = Factors(encoder.dim, rank, columns if form == "tk" else 0)
    start = 0
    modules: list[nn.Module] = []
    for block, site, outs, ins in layers:
        if form == "tt":
            update: FacT = FacTTT(factors, outs, ins, scale, dropout, "qkv" if site == "attn.qkv" else "s")
        else:
            update = FacTTK(factors, outs, ins, scale, dropout, start, split=site.startswith("attn"))
        start += max(outs, ins)
        modules.append(place(block, site, name, update))
    modules[0].factors = factors  # the first update owns what all share
    return modules


def slices(block: Any, site: str, dim: int) -> tuple[int, int]:
    """Return the numbers of D x D slices of a layer's weight along its output and input."""
    layer = block.get_submodule(site)
    out, width = layer.out_features, layer.in_features
    if out % dim or width % dim or dim not in (out, width):
        raise ValueError(f"fact: {site} maps {width} to {out}, which is no row or column of {dim} x {dim} slices")
    return out // dim, width // dim
