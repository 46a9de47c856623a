"""VQT: learned queries read the intermediate features of a tower that stays exactly as it is.

Paper: Visual Query Tuning: Towards Effective Usage of Intermediate Representations (arXiv 2212.03220). T queries a
block: L*T*D weights (and L*T for the weighted sum). The head sees D*(1 + L*T) features, or D*(1 + L) pooled or summed.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from xmodal.encoders.taps import Taps
from xmodal.readers import Reader
from xmodal.registry import READERS, method
from xmodal.structures import Encoder, Grid


@method(
    READERS,
    "vqt",
    slot="adapter+reader",
    paper="Visual Query Tuning: Towards Effective Usage of Intermediate Representations (arXiv 2212.03220)",
    params="L*T*D",
    parity=("vqt",),
)
class VisualQueries(Reader):
    """Queries attend to the keys and values of every block; nothing attends to them.

    The tower's own tokens run without a gradient whenever nothing in it trains, since nothing here changes them: only
    the few query tokens leave activations behind.

    Args:
        encoder: a tower of blocks with a class token.
        num_queries: T.
        combine: `concat` the T outputs of a block, their `mean`, or their weighted `sum` with learned coefficients.
        normalize: divide the class feature and each block's features by their L2 norm.
        keep: indices of the features handed on (feature selection), or a JSON file of them as
            `tools/select_features.py` writes it; None for all.
        dropout: on the queries, in training.

    At start: not the identity.
    Trains: the queries and the coefficients.
    Differs from the released code: the frozen stream leaves no graph; same numbers.

    Raises:
        ValueError: another `combine`, no query, features to keep that there are not, or a tower without class token.
    """

    inside_blocks = True
    taps = ("attn.k", "attn.v")
    reads = "prefix"
    keep: Tensor | None

    def __init__(
        self,
        encoder: Encoder,
        num_queries: int = 1,
        combine: str = "concat",
        normalize: bool = True,
        keep: Sequence[int] | Tensor | str | None = None,
        dropout: float = 0.0,
    ):
        super().__init__()
        if combine not in ("concat", "mean", "sum"):
            raise ValueError(f"vqt: combine must be concat, mean or sum, got {combine!r}")
        if num_queries < 1:
            raise ValueError(f"vqt: num_queries must be at least 1, got {num_queries}")
        if getattr(encoder, "cls_token", None) is None:
            raise ValueError("vqt reads a class token, and this tower has none")
        if any(getattr(block, "post_norm", False) for block in encoder.blocks):
            raise ValueError(f"vqt needs norms before attention and MLP, and {encoder.name} has them behind")
        depth, dim = len(encoder.blocks), encoder.dim
        self.layers = tuple(range(depth))
        self.combine, self.normalize = combine, normalize
        bound = (6 / (3 * encoder.patch_size**2 + dim)) ** 0.5
        self.queries = nn.Parameter(torch.empty(depth, num_queries, dim).uniform_(-bound, bound))
        self.coefficients = nn.Parameter(torch.ones(depth, num_queries)) if combine == "sum" else None
        self.dropout = nn.Dropout(dropout)
        width = dim * (1 + depth * (num_queries if combine == "concat" else 1))
        self.register_buffer("keep", None if keep is None else indices(keep, width))
        self.out_dim = width if self.keep is None else len(self.keep)

    def forward(self, tokens: Tensor, grid: Grid | None, encoder: Encoder, taps: Taps | None) -> Tensor:
        """Map the stream (B*T, N, D) and the taps to features (B, out_dim), averaged over the frames of a clip."""
        assert taps is not None
        groups = [encoder.norm(tokens, grid)[:, 0]]
        for i, block in enumerate(encoder.blocks):
            k, v = taps["attn.k", i], taps["attn.v", i]
            groups.append(self.gather(i, self.run_block(block, i, k, v, grid)))
        if self.normalize:
            groups = [F.normalize(group, dim=-1) for group in groups]
        feature = torch.cat(groups, dim=-1)
        feature = feature if self.keep is None else feature[:, self.keep]
        return feature if grid is None else feature.unflatten(0, (-1, grid.t)).mean(1)

    def run_block(self, block: Any, i: int, k: Tensor, v: Tensor, grid: Grid | None) -> Tensor:
        """Pass the queries of block i through it: (B, T, D)."""
        grid = None if grid is None else grid.prefix_only()
        x = self.dropout(self.queries[i].to(k.dtype)).expand(k.shape[0], -1, -1)
        y = x + block.ls1(block.attn.query(block.norm1(x, grid), k, v), grid)
        return y + block.ls2(block.mlp(block.norm2(x if block.parallel else y, grid), grid), grid)

    def gather(self, i: int, x: Tensor) -> Tensor:
        """One vector a block: x (B, T, D) to (B, T*D) or (B, D)."""
        if self.combine == "mean":
            return x.mean(1)
        if self.coefficients is not None:
            return (self.coefficients[i, :, None] * x).sum(1)
        return x.flatten(1)


def indices(keep: Sequence[int] | Tensor | str, width: int) -> Tensor:
    """Indices (n,) of `width` features, read from a JSON file if it is a path.

    Raises:
        ValueError: none, or one that is outside.
    """
    where = keep if isinstance(keep, str) else "keep"
    found = torch.as_tensor(json.loads(Path(keep).read_text()) if isinstance(keep, str) else keep, dtype=torch.long)
    if not len(found) or found.min() < 0 or found.max() >= width:
        raise ValueError(f"vqt: {where} must hold indices from 0 to {width - 1}, the features of this reader")
    return found


def most_used(weight: Tensor, fraction: float) -> Tensor:
    """Indices of the features a linear head uses most, by the L2 norm of its columns.

    Args:
        weight: (K, features) of a head trained with a `column_penalty`.
        fraction: share of features kept.

    Raises:
        ValueError: a share outside (0, 1].
    """
    if not 0 < fraction <= 1:
        raise ValueError(f"fraction must lie in (0, 1], got {fraction}")
    count = max(1, int(fraction * weight.shape[1]))
    return weight.norm(dim=0).topk(count).indices.sort().values
