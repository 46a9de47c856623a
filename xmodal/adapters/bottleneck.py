"""Bottleneck adapters: Houlsby, Pfeiffer and AdaptFormer.

Papers: Parameter-Efficient Transfer Learning for NLP (arXiv 1902.00751); AdapterFusion (2005.00247); AdaptFormer
(2205.13535). Identity at the start (the up projection is zero). One adapter has 2*D*h + h + D weights.
"""

from collections.abc import Iterable

from torch import Tensor, nn

from xmodal.encoders.parts import make_activation
from xmodal.encoders.sites import choose_blocks, place
from xmodal.registry import ADAPTERS, method
from xmodal.structures import Encoder, Grid


class Bottleneck(nn.Module):
    """y -> y + s * up(act(down(u))), u being y itself (sequential) or the operation's input (parallel).

    Args:
        dim: width D.
        hidden: width h between.
        act: activation, see `parts.ACTIVATIONS`.
        parallel: read the operation's input instead of its output.
        scale: s.
        dropout: between the two layers, in training.

    At start: the identity.
    Trains: all of it.
    """

    def __init__(
        self,
        dim: int,
        hidden: int,
        act: str = "gelu",
        parallel: bool = False,
        scale: float = 1.0,
        dropout: float = 0.0,
    ):
        super().__init__()
        self.parallel, self.scale = parallel, scale
        self.down = nn.Linear(dim, hidden)
        self.act = make_activation(act)
        self.dropout = nn.Dropout(dropout)
        self.up = nn.Linear(hidden, dim)
        nn.init.kaiming_uniform_(self.down.weight, a=5**0.5)
        for zero in (self.down.bias, self.up.weight, self.up.bias):
            nn.init.zeros_(zero)

    def forward(self, y: Tensor, x: Tensor, grid: Grid | None = None) -> Tensor:
        """Map the output y (B, N, D) of an operation on x (B, N, D)."""
        u = self.down(x if self.parallel else y)
        return y + self.up(self.dropout(self.act(u))) * self.scale


def check(hidden: int, method_name: str) -> None:
    """Refuse a bottleneck without width."""
    if hidden < 1:
        raise ValueError(f"{method_name}: hidden must be at least 1, got {hidden}")


@method(
    ADAPTERS,
    "houlsby",
    slot="adapter",
    paper="Parameter-Efficient Transfer Learning for NLP (arXiv 1902.00751)",
    params="2*L*(2*D*h + h + D)",
    families=("vit", "swin"),
)
def houlsby(
    encoder: Encoder,
    hidden: int = 8,
    act: str = "gelu",
    dropout: float = 0.0,
    blocks: int | Iterable[int] | None = None,
    name: str = "houlsby",
) -> list[nn.Module]:
    """Place two adapters in every block, behind attention and behind the MLP, before the residual sums.

    Args:
        encoder: a tower of blocks.
        hidden: width h.
        act: activation.
        dropout: inside the adapter, in training.
        blocks: None for all, a number n for the last n, or indices.
        name: the adapters' name at their sites.

    Raises:
        ValueError: a width below 1.
    """
    check(hidden, "houlsby")
    return [
        place(block, site, name, Bottleneck(block.norm1.weight.shape[0], hidden, act, dropout=dropout))
        for block in choose_blocks(encoder, blocks)
        for site in ("attn", "mlp")
    ]


@method(
    ADAPTERS,
    "pfeiffer",
    slot="adapter",
    paper="AdapterFusion: Non-Destructive Task Composition for Transfer Learning (arXiv 2005.00247)",
    params="L*(2*D*h + h + D)",
    families=("vit", "swin"),
)
def pfeiffer(
    encoder: Encoder,
    hidden: int = 96,
    act: str = "gelu",
    dropout: float = 0.0,
    blocks: int | Iterable[int] | None = None,
    name: str = "pfeiffer",
) -> list[nn.Module]:
    """Place one adapter in every block, behind the MLP, before the residual sum.

    Args:
        encoder: a tower of blocks.
        hidden: width h; D/8 in the VPT repository's runs.
        act: activation.
        dropout: inside the adapter, in training.
        blocks: None for all, a number n for the last n, or indices.
        name: the adapters' name at their sites.

    Raises:
        ValueError: a width below 1.
    """
    check(hidden, "pfeiffer")
    return [
        place(block, "mlp", name, Bottleneck(block.norm1.weight.shape[0], hidden, act, dropout=dropout))
        for block in choose_blocks(encoder, blocks)
    ]


@method(
    ADAPTERS,
    "adaptformer",
    slot="adapter",
    paper="AdaptFormer: Adapting Vision Transformers for Scalable Visual Recognition (arXiv 2205.13535)",
    params="L*(2*D*h + h + D)",
    families=("vit", "swin"),
)
def adaptformer(
    encoder: Encoder,
    hidden: int = 64,
    scale: float = 0.1,
    act: str = "relu",
    dropout: float = 0.1,
    blocks: int | Iterable[int] | None = None,
    name: str = "adaptformer",
) -> list[nn.Module]:
    """Place one adapter in every block, parallel to the MLP.

    Args:
        encoder: a tower of blocks.
        hidden: width h.
        scale: s.
        act: activation.
        dropout: inside the adapter, in training.
        blocks: None for all, a number n for the last n, or indices.
        name: the adapters' name at their sites.

    Raises:
        ValueError: a width below 1.

    Differs from the released code: it reads what the MLP reads, behind the norm.
    """
    check(hidden, "adaptformer")
    return [
        place(block, "mlp", name, Bottleneck(block.norm1.weight.shape[0], hidden, act, True, scale, dropout))
        for block in choose_blocks(encoder, blocks)
    ]
