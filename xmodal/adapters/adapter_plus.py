"""Adapter+: one bottleneck behind the block on the residual stream, with a learned scale per channel.

Paper: Adapters Strike Back (arXiv 2406.06820). With a the stream behind attention, m the MLP's branch and
A(u) = s * (W1 gelu(W0 u + b0) + b1), the positions that it compares:
    post (Adapter+)  y = a + m(a); out = y + A(y)           pre       y = a + A(a); out = y + m(y)
    intermediate     y = m(a); out = a + y + A(y)           parallel  out = a + m(a) + A(a)
    houlsby          intermediate, and another A in the same way on attention's branch
One adapter has 2*D*h + h + 2*D weights; `pfeiffer` of the paper is `post` with a norm.
"""

from collections.abc import Iterable

from torch import nn

from xmodal.bottleneck import Bottleneck, OnStream
from xmodal.encoders.sites import choose_blocks, place
from xmodal.registry import ADAPTERS, did_you_mean, method
from xmodal.structures import Encoder

# position: its sites, and whether the adapter reads the branch's input
POSITIONS = {
    "post": (("post",), False),
    "pfeiffer": (("post",), False),
    "pre": (("pre_mlp",), False),
    "intermediate": (("mlp_branch",), False),
    "parallel": (("mlp_branch",), True),
    "houlsby": (("attn_branch", "mlp_branch"), False),
}


@method(
    ADAPTERS,
    "adapter_plus",
    slot="adapter",
    paper="Adapters Strike Back (arXiv 2406.06820)",
    params="L*(2*D*h + h + 2*D)",
    parity=("adapter_plus",),
    families=("vit", "swin"),
)
def adapter_plus(
    encoder: Encoder,
    hidden: int = 8,
    position: str = "post",
    scale: float | str = "channel",
    act: str | None = "gelu",
    norm: bool = False,
    bias: bool = True,
    dropout: float = 0.0,
    drop_path: float = 0.1,
    init: str = "houlsby",
    train_norms: bool = False,
    blocks: int | Iterable[int] | None = None,
    name: str = "adapter_plus",
) -> list[nn.Module]:
    """Place one adapter in every block (two with `position="houlsby"`).

    Args:
        encoder: a tower of blocks.
        hidden: width h.
        position: a name in `POSITIONS`.
        scale: s, a number, `learned` (one weight) or `channel` (D weights).
        act: activation; None for none.
        norm: a LayerNorm (eps 1e-6) in front of the adapter.
        bias: biases of both layers.
        dropout: between the layers, in training.
        drop_path: stochastic depth of the adapter, in training.
        init: `houlsby` (near the identity), `lora` (the identity) or `bert`.
        train_norms: train the norms of the chosen blocks and the final norm too.
        blocks: None for all, a number n for the last n, or indices.
        name: the adapters' name at their sites.

    Raises:
        ValueError: a width below 1, an unknown position, scale or initialization.
    """
    if position not in POSITIONS:
        raise ValueError(f"adapter_plus: no position is called {position!r}; {did_you_mean(position, POSITIONS)}")
    sites, parallel = POSITIONS[position]
    inside = dict(norm="in" if norm else "none", norm_eps=1e-6, bias=bias, init=init, drop_path=drop_path)
    modules: list[nn.Module] = []
    for block in choose_blocks(encoder, blocks):
        for site in sites:
            kind = Bottleneck if site.endswith("branch") else OnStream
            width = block.norm1.weight.shape[0]
            adapter = kind(width, hidden, act, parallel, scale, dropout, **inside)  # type: ignore[arg-type]
            modules.append(place(block, site, name, adapter))
        if train_norms:
            modules += [block.norm1.requires_grad_(True), block.norm2.requires_grad_(True)]
    return [*modules, encoder.norm.requires_grad_(True)] if train_norms else modules
