"""The two-layer bottleneck that Houlsby's, Pfeiffer's, AdaptFormer's and Adapter+'s adapters are made of."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from xmodal.encoders.parts import DropPath, make_activation
from xmodal.encoders.sites import unscaled
from xmodal.structures import Grid


class Bottleneck(nn.Module):
    """y -> y + scale * up(drop(act(down(u)))), u being y itself (sequential) or the operation's input x (parallel).

    Args:
        dim: width D.
        hidden: width h between.
        act: activation, see `block.ACTIVATIONS`; None for none.
        parallel: read the operation's input instead of its output.
        scale: a constant, `learned` (one weight, from 1) or `channel` (D weights, from 1).
        dropout: between the two layers, in training.
        norm: a LayerNorm `in` front of `down`, `out` behind the scaled result, or `none`.
        norm_eps: of that norm.
        bias: biases of both layers.
        init: `lora` (`up` zero: the identity), `bert_down` (the same, `down` normal with std 0.02), `houlsby` (both
            normal, std 0.01, cut at 2 std) or `bert` (both normal, std 0.02).
        drop_path: stochastic depth of `up`'s result, in front of the scale, in training.
        layer_scale: the tower's scale of the operation's output, if it has one; it does not act on what is added.

    At start: the identity with `init="lora"` or `bert_down`, else near it.
    Trains: all of it.

    Raises:
        ValueError: a width below 1, or an unknown scale, norm or initialization.
    """

    def __init__(
        self, dim: int, hidden: int, act: str | None = "gelu", parallel: bool = False, scale: float | str = 1.0,
        dropout: float = 0.0, norm: str = "none", norm_eps: float = 1e-5, bias: bool = True, init: str = "lora",
        drop_path: float = 0.0, layer_scale: nn.Module | None = None,
    ):  # fmt: skip
        super().__init__()
        check_hidden(hidden, "bottleneck")
        if norm not in ("none", "in", "out") or init not in INITS:
            raise ValueError(f"norm {norm!r}, init {init!r}: choose none, in or out, and one of {', '.join(INITS)}")
        self.parallel = parallel
        self.behind = (layer_scale,)  # in a tuple: known, not owned
        self.down = nn.Linear(dim, hidden, bias)
        self.act = make_activation(act) if act else nn.Identity()
        self.dropout = nn.Dropout(dropout)
        self.up = nn.Linear(hidden, dim, bias)
        self.norm = nn.LayerNorm(dim, eps=norm_eps) if norm != "none" else None
        self.norm_first = norm == "in"
        self.drop_path = DropPath(drop_path)
        self.scale = scale_of(scale, dim)
        INITS[init](self.down.weight, self.up.weight)
        for zero in (self.down.bias, self.up.bias) if bias else ():
            nn.init.zeros_(zero)

    def forward(self, y: Tensor, x: Tensor, grid: Grid | None = None) -> Tensor:
        """Map the output y (B, N, D) of an operation on x (B, N, D)."""
        return y + unscaled(self.adapt(x if self.parallel else y), self.behind[0])

    def adapt(self, u: Tensor) -> Tensor:
        """Map what is read (B, N, D) to what is added."""
        u = self.norm(u) if self.norm is not None and self.norm_first else u
        u = self.down(u)
        added = self.drop_path(self.up(self.dropout(self.act(u)))) * self.scale
        return self.norm(added) if self.norm is not None and not self.norm_first else added


class OnStream(Bottleneck):
    """x -> x + scale * up(drop(act(down(x)))), on the residual stream."""

    def forward(self, x: Tensor, grid: Grid | None = None) -> Tensor:  # type: ignore[override]
        """Map the stream (B, N, D)."""
        return x + self.adapt(x)


def scale_of(scale: float | str, dim: int) -> Any:
    """A constant, or the weights of a learned scale.

    Raises:
        ValueError: another word than `learned` and `channel`.
    """
    if not isinstance(scale, str):
        return scale
    if scale not in ("learned", "channel"):
        raise ValueError(f"scale {scale!r}: choose a number, learned or channel")
    return nn.Parameter(torch.ones(1 if scale == "learned" else dim))


def start_at_identity(down: Tensor, up: Tensor) -> None:
    """Random `down`, zero `up`."""
    nn.init.kaiming_uniform_(down, a=5**0.5)
    nn.init.zeros_(up)


def start_near_identity(down: Tensor, up: Tensor) -> None:
    """Small random weights, cut at two standard deviations."""
    for weight in (down, up):
        nn.init.trunc_normal_(weight, std=0.01, a=-0.02, b=0.02)


def start_like_bert(down: Tensor, up: Tensor) -> None:
    """Normal weights of standard deviation 0.02."""
    for weight in (down, up):
        nn.init.normal_(weight, std=0.02)


def start_at_identity_like_bert(down: Tensor, up: Tensor) -> None:
    """Truncated normal `down` of standard deviation 0.02, zero `up`."""
    nn.init.trunc_normal_(down, std=0.02)
    nn.init.zeros_(up)


INITS: dict[str, Callable[[Tensor, Tensor], None]] = {
    "lora": start_at_identity,
    "houlsby": start_near_identity,
    "bert": start_like_bert,
    "bert_down": start_at_identity_like_bert,
}


def check_hidden(hidden: int, method_name: str) -> None:
    """Refuse a bottleneck without width."""
    if hidden < 1:
        raise ValueError(f"{method_name}: hidden must be at least 1, got {hidden}")
