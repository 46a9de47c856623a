"""Sites: the named points of a tower where a method places its modules.

Two kinds. A *stream* site holds modules that act on the residual stream, `module(x, grid) -> x`. An *op* site belongs
to one operation (a linear layer, a norm, the whole attention) and holds modules that act on its output and may look at
its input, `module(y, x, grid) -> y`. Several modules at one site run in the order in which they were placed, and the
keys of the tower's own weights never change.
"""

from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from xmodal.structures import Encoder, Grid

M = TypeVar("M", bound=nn.Module)


class Stream(nn.ModuleDict):
    """Modules on the residual stream, in order; empty it is the identity."""

    def forward(self, x: Tensor, grid: Grid | None = None) -> Tensor:
        """Map x (B, N, D) to (B, N', D)."""
        for module in self.values():
            x = module(x, grid)
        return x


class Edits(nn.ModuleDict):
    """Modules on the output of one operation, in order; empty it is the identity.

    Attributes:
        widen: hand float32 to the modules, whatever the operation computes in.
    """

    widen = False

    def forward(self, y: Tensor, x: Tensor, grid: Grid | None = None) -> Tensor:
        """Map the output y of an operation on x to the edited output."""
        if self.widen:
            y, x = y.float(), x.float()
        for module in self.values():
            y = module(y, x, grid)
        return y


class Branch(nn.Module):
    """The output of a residual branch where it joins the stream; modules here are given the stream as their input."""

    def __init__(self) -> None:
        super().__init__()
        self.edits = Edits()

    def forward(self, y: Tensor, x: Tensor, grid: Grid | None = None) -> Tensor:
        """Map the branch's output y (B, N, D), of the stream x, to the edited output."""
        return self.edits(y, x, grid) if self.edits else y


def autocasting(x: Tensor) -> bool:
    """Return whether autocast is on where a tensor is; it knows no meta device."""
    return not x.is_meta and torch.is_autocast_enabled(x.device.type)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """`F.linear` in the precision of its weight: beside a float32 stream a frozen trunk may be held in bfloat16."""
    if autocasting(x):
        return F.linear(x, weight, bias)
    return F.linear(x.to(weight.dtype), weight, None if bias is None else bias.to(weight.dtype))


class Linear(nn.Linear):
    """`nn.Linear` with a site, in the precision of its weight."""

    def __init__(self, in_features: int, out_features: int, bias: bool = True):
        super().__init__(in_features, out_features, bias)
        self.edits = Edits()

    def forward(self, x: Tensor, grid: Grid | None = None) -> Tensor:
        """Map (..., in) to (..., out)."""
        return self.edits(linear(x, self.weight, self.bias), x, grid)


class LayerNorm(nn.LayerNorm):
    """`nn.LayerNorm` with a site; computed in float32 and returned in the input's type."""

    def __init__(self, dim: int, eps: float = 1e-6):
        super().__init__(dim, eps=eps)
        self.edits = Edits()

    def forward(self, x: Tensor, grid: Grid | None = None) -> Tensor:
        """Normalize the last axis."""
        if x.dtype == self.weight.dtype:
            y = super().forward(x)
        else:
            y = nn.functional.layer_norm(x.float(), self.normalized_shape, self.weight, self.bias, self.eps).to(x.dtype)
        return self.edits(y, x, grid)


class RMSNorm(nn.RMSNorm):
    """`nn.RMSNorm` with a site; computed in float32 and returned in the input's type."""

    def __init__(self, dim: int, eps: float = 1e-6):
        super().__init__(dim, eps=eps)
        self.edits = Edits()

    def forward(self, x: Tensor, grid: Grid | None = None) -> Tensor:
        """Normalize the last axis by its root mean square."""
        return self.edits(super().forward(x.to(self.weight.dtype)).to(x.dtype), x, grid)


class Pointwise(nn.Module):
    """An operation without weights (an activation, the identity) with a site."""

    def __init__(self, op: nn.Module | None = None):
        super().__init__()
        self.op = op or nn.Identity()
        self.edits = Edits()

    def forward(self, x: Tensor, grid: Grid | None = None) -> Tensor:
        """Apply the operation."""
        return self.edits(self.op(x), x, grid)


class LayerScale(nn.Module):
    """A learned scale per channel, with a site."""

    def __init__(self, dim: int, init_values: float = 1e-5):
        super().__init__()
        self.gamma = nn.Parameter(init_values * torch.ones(dim))
        self.edits = Edits()

    def forward(self, x: Tensor, grid: Grid | None = None) -> Tensor:
        """Scale the last axis."""
        return self.edits(x * self.gamma, x, grid)


SCALES = {"attn": "ls1", "mlp": "ls2"}  # the layer scale behind an operation of a block


def scale_behind(block: nn.Module, site: str) -> nn.Module | None:
    """Return the layer scale right behind a site of a block, None where there is none or a norm stands between."""
    behind = None if getattr(block, "post_norm", False) else getattr(block, SCALES.get(site, ""), None)
    return behind if hasattr(behind, "gamma") else None


def unscaled(change: Tensor, behind: nn.Module | None) -> Tensor:
    """Divide what is added in front of a layer scale by it, so that it joins the stream as it is.

    Args:
        change: (B, N, D).
        behind: the layer scale, None for none; where it is zero nothing passes.
    """
    gamma = getattr(behind, "gamma", None)
    return change if gamma is None else change / gamma.masked_fill(gamma == 0, torch.inf)


def find_site(owner: nn.Module, site: str) -> Stream | Edits:
    """Return the container of a site by name, such as `pre_mlp`, `attn` or `mlp.fc1`.

    Raises:
        ValueError: `owner` has no such site; the message lists those it has.
    """
    try:
        found = owner.get_submodule(site)
    except AttributeError:
        found = None
    if isinstance(found, Stream):
        return found
    edits = getattr(found, "edits", None)
    if isinstance(edits, Edits):
        return edits
    raise ValueError(f"{type(owner).__name__} has no site {site!r}; it has {', '.join(site_names(owner))}")


def site_names(owner: nn.Module) -> list[str]:
    """Return the names of all sites of a block or a tower (without its blocks' sites)."""
    names = []
    for name, module in owner.named_modules():
        if not name or name.startswith("blocks.") or ".edits." in name:
            continue
        if isinstance(module, Stream) or isinstance(getattr(module, "edits", None), Edits):
            names.append(name)
    return names


def place(owner: nn.Module, site: str, name: str, module: M) -> M:
    """Place a module at a site, behind those already there, and return it.

    Raises:
        ValueError: no such site, or the name is taken there.
    """
    where = find_site(owner, site)
    if name in where:
        raise ValueError(f"site {site!r} already holds {name!r}: give this adapter another name")
    where[name] = module
    return module


def remove(owner: nn.Module, site: str, name: str) -> nn.Module:
    """Take a module away from a site and return the very same module.

    Raises:
        ValueError: the site holds nothing of that name.
    """
    where = find_site(owner, site)
    if name not in where:
        raise ValueError(f"site {site!r} holds no {name!r}; it holds {sorted(where.keys()) or 'nothing'}")
    return where.pop(name)


def placed(root: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Yield all placed modules below `root` with their full names."""
    for prefix, container in root.named_modules():
        if isinstance(container, Stream | Edits):
            for name, module in container.items():
                yield f"{prefix}.{name}", module


def choose_blocks(encoder: Encoder, blocks: int | Iterable[int] | None = None) -> list[Any]:
    """Return the blocks of a tower that a method works on.

    Args:
        encoder: a tower of blocks.
        blocks: None for all, a number n for the last n, or indices (negative ones count from the end).

    Raises:
        ValueError: more blocks than there are, an index outside, one twice, or none at all.
    """
    depth = len(encoder.blocks)
    if blocks is None:
        return list(encoder.blocks)
    if isinstance(blocks, int):
        if not 1 <= blocks <= depth:
            raise ValueError(f"blocks={blocks}: choose the last 1 to {depth} blocks, or give indices")
        return list(encoder.blocks)[-blocks:]
    indices = [int(i) for i in blocks]
    outside = [i for i in indices if not -depth <= i < depth]
    if outside or not indices:
        raise ValueError(f"blocks={indices}: indices of a tower with {depth} blocks go from 0 to {depth - 1}")
    if len({i % depth for i in indices}) < len(indices):
        raise ValueError(f"blocks={indices}: a block is named twice")
    return [encoder.blocks[i] for i in indices]
