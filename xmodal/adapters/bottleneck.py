"""Bottleneck adapters: Houlsby, Pfeiffer and AdaptFormer.

Papers: Parameter-Efficient Transfer Learning for NLP (arXiv 1902.00751); AdapterFusion (2005.00247); AdaptFormer
(2205.13535). An adapter adds s * up(act(down(u))) to the output y of an operation; u is y in Houlsby's and Pfeiffer's,
the residual stream in AdaptFormer. Identity at the start (the up projection is zero): VPT's code starts both layers at
zero, where only the last bias ever learns. One adapter has 2*D*h + h + D weights.
"""

from collections.abc import Iterable

from torch import nn

from xmodal.bottleneck import Bottleneck, check_hidden
from xmodal.encoders.sites import choose_blocks, place, scale_behind
from xmodal.registry import ADAPTERS, method
from xmodal.structures import Encoder


@method(
    ADAPTERS,
    "houlsby",
    slot="adapter",
    paper="Parameter-Efficient Transfer Learning for NLP (arXiv 1902.00751)",
    params="2*L*(2*D*h + h + D)",
    parity=("bottleneck", "adapter_plus"),
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
    check_hidden(hidden, "houlsby")
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
    parity=("bottleneck", "adapter_plus"),
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
    check_hidden(hidden, "pfeiffer")
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
    parity=("adaptformer",),
    families=("vit", "swin"),
)
def adaptformer(
    encoder: Encoder,
    hidden: int = 64,
    scale: float | str = 0.1,
    act: str = "relu",
    dropout: float = 0.1,
    reads: str = "stream",
    norm: str = "none",
    blocks: int | Iterable[int] | None = None,
    name: str = "adaptformer",
) -> list[nn.Module]:
    """Place one adapter in every block, beside the MLP.

    Args:
        encoder: a tower of blocks.
        hidden: width h.
        scale: s, a number or `learned` (one weight, from 1).
        act: activation.
        dropout: inside the adapter, in training.
        reads: `stream`, in front of the MLP's norm, as the released code; `normed`, behind it, as the paper's formula;
            `output`, what the MLP gives (sequential).
        norm: a LayerNorm of the adapter `in` front or `out` behind, or `none`.
        blocks: None for all, a number n for the last n, or indices.
        name: the adapters' name at their sites.

    Raises:
        ValueError: a width below 1, or another place to read.
    """
    check_hidden(hidden, "adaptformer")
    if reads not in READS:
        raise ValueError(f"adaptformer: reads={reads!r}; choose {', '.join(READS)}")
    site, parallel = READS[reads]
    modules: list[nn.Module] = []
    for block in choose_blocks(encoder, blocks):
        sizes = block.norm1.weight.shape[0], hidden, act, parallel, scale, dropout, norm
        modules.append(place(block, site, name, Bottleneck(*sizes, layer_scale=scale_behind(block, site))))
    return modules


# what AdaptFormer reads: the site, and whether it is the operation's input
READS = {"stream": ("mlp_branch", True), "normed": ("mlp", True), "output": ("mlp_branch", False)}
