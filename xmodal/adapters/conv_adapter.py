"""Conv-Adapter: bottleneck convolutions beside, or behind, the convolutions of a frozen ConvNet.

Paper: Conv-Adapter: Exploring Parameter Efficient Transfer Learning for ConvNets (arXiv 2208.07463). Not the identity
at the start. An adapter from C to C' channels with kernel K and reduction g, h = C/g, has K^2*C + h + h*C' + 2*C'
weights; on a ResNet bottleneck of mid width w: 9*w + w^2/g + w/g + 2*w.
"""

from collections.abc import Callable, Iterable
from typing import Any, cast

import torch
from torch import Tensor, nn

from xmodal.encoders.parts import make_activation
from xmodal.encoders.sites import choose_blocks, place
from xmodal.registry import ADAPTERS, did_you_mean, method
from xmodal.structures import Encoder, Grid, need_grid

# scheme: (site, reads its input rather than its output); Swin has its own sites
SCHEMES = {
    "conv_parallel": ("conv", True),
    "conv_sequential": ("conv", False),
    "residual_parallel": ("residual", True),
    "residual_sequential": ("post", False),
}
SWIN_SITES = {"conv": "attn", "residual": "mlp", "post": "post"}


class ConvAdapter(nn.Module):
    """alpha * (1x1 convolution of act(grouped KxK convolution of x)).

    Args:
        ins: channels C of what it reads.
        outs: channels C' of what it is added to.
        reduction: g; h = C // g groups of g channels each.
        kernel: K.
        stride: of the operation it stands beside.
        padding: of the KxK convolution.
        act: activation, see `parts.ACTIVATIONS`.
        init: `kaiming` (ResNets), `trunc_normal` (ConvNeXt, Swin) or `default` (BiT), as in the released code.

    At start: not the identity.
    Trains: all of it.

    Raises:
        ValueError: channels that do not divide into h groups.
    """

    def __init__(
        self,
        ins: int,
        outs: int,
        reduction: float = 8,
        kernel: int = 3,
        stride: int = 1,
        padding: int = 1,
        act: str = "relu",
        init: str = "kaiming",
    ):
        super().__init__()
        hidden = int(ins // reduction)
        if hidden < 1 or ins % hidden:
            raise ValueError(
                f"conv_adapter: {ins} channels do not divide into {ins} // {reduction:g} = {hidden} groups"
            )
        self.conv = nn.Conv2d(ins, hidden, kernel, stride=stride, padding=padding, groups=hidden)
        self.act = make_activation(act)
        self.up = nn.Conv2d(hidden, outs, 1)
        self.alpha = nn.Parameter(torch.ones(1, outs, 1, 1))
        for layer in (self.conv, self.up):
            if init == "kaiming":
                nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
            elif init == "trunc_normal":
                nn.init.trunc_normal_(layer.weight, std=0.02)
            assert layer.bias is not None
            nn.init.zeros_(layer.bias)

    def adapt(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, C', H', W')."""
        return self.up(self.act(self.conv(x))) * self.alpha


class Beside(ConvAdapter):
    """Add an adapter's output to an operation's output; it reads the operation's input or output.

    Args:
        parallel: read the input.
        **kwargs: see `ConvAdapter`.
    """

    def __init__(self, parallel: bool, **kwargs: int | float | str):
        super().__init__(**kwargs)  # type: ignore[arg-type]
        self.parallel = parallel

    def forward(self, y: Tensor, x: Tensor, grid: Grid | None = None) -> Tensor:
        """Map the output y of an operation on x: maps, or tokens (B, H*W, C) with their grid."""
        return y + as_map(self.adapt, x if self.parallel else y, grid)


class Behind(ConvAdapter):
    """On the residual stream: x -> x + its adaptation."""

    def forward(self, x: Tensor, grid: Grid | None = None) -> Tensor:
        """Map a map, or tokens (B, H*W, C) with their grid."""
        return x + as_map(self.adapt, x, grid)


def as_map(function: Callable[[Tensor], Tensor], x: Tensor, grid: Grid | None) -> Tensor:
    """Apply a function of maps to a map or to tokens (B, H*W, C)."""
    if x.ndim == 4:
        return function(x)
    grid = need_grid(grid, "conv_adapter")
    maps = function(x.transpose(1, 2).unflatten(2, (grid.h, grid.w)))  # (B, C, H, W)
    return maps.flatten(2).transpose(1, 2)


class LinearAdapter(nn.Module):
    """Linear adapter beside an attention pooling: y + alpha * fc2(act(fc1(x))).

    Args:
        ins: width of x.
        outs: width of y.
        reduction: g; h = ins // g.
        act: activation.

    At start: not the identity.
    Trains: all of it.
    """

    def __init__(self, ins: int, outs: int, reduction: float = 8, act: str = "relu"):
        super().__init__()
        hidden = int(ins // reduction)
        self.fc1, self.act, self.fc2 = nn.Linear(ins, hidden), make_activation(act), nn.Linear(hidden, outs)
        self.alpha = nn.Parameter(torch.ones(1, outs))

    def forward(self, y: Tensor, x: Tensor, grid: Grid | None = None) -> Tensor:
        """Map the pooled y (B, outs) of the token x (B, ins)."""
        return y + self.fc2(self.act(self.fc1(x))) * self.alpha


class ExtraNorm(nn.BatchNorm2d):
    """A trained BatchNorm behind the last map, as the released ResNets have it."""

    def forward(self, y: Tensor, x: Tensor, grid: Grid | None = None) -> Tensor:  # type: ignore[override]
        """Normalize the map y (B, C, H, W)."""
        return super().forward(y)


@method(
    ADAPTERS,
    "conv_adapter",
    slot="adapter",
    paper="Conv-Adapter: Exploring Parameter Efficient Transfer Learning for ConvNets (arXiv 2208.07463)",
    params="ResNet, per block of mid width w: 9*w + w^2/g + w/g + 2*w",
    parity=("conv_adapter", "conv_adapter_bit", "conv_adapter_convnext", "conv_adapter_residual"),
    families=("convnet", "swin"),
)
def conv_adapter(
    encoder: Encoder,
    reduction: float = 8,
    scheme: str = "conv_parallel",
    norms: str = "paper",
    biases: bool = False,
    kernel_size: int | None = None,
    blocks: int | Iterable[int] | None = None,
    name: str = "conv_adapter",
) -> list[nn.Module]:
    """Place convolutional adapters in the blocks of a ConvNet or a Swin.

    Args:
        encoder: a `ConvNet`.
        reduction: g, the compression of the adapters.
        scheme: `conv_parallel`, `conv_sequential`, `residual_parallel` or `residual_sequential`.
        norms: which norms train beside them: `none`; `paper` (an extra BatchNorm behind a ResNet, the final norm of
            BiT, the block and final norms of ConvNeXt, all of Swin, none of CLIP); `all` adds every norm's affine.
        biases: train every bias, too.
        kernel_size: K of the adapters in the blocks; None for that of the convolution they stand beside.
        blocks: None for all, a number n for the last n, or indices.
        name: the adapters' name at their sites.

    Raises:
        ValueError: another scheme or choice of norms, or a tower without convolutional blocks.
    """
    if scheme not in SCHEMES:
        raise ValueError(f"conv_adapter: no scheme is called {scheme!r}; {did_you_mean(scheme, SCHEMES)}")
    if norms not in ("none", "paper", "all"):
        raise ValueError(f"conv_adapter: norms must be none, paper or all, got {norms!r}")
    if encoder.root is None:
        raise ValueError(f"conv_adapter: {type(encoder).__name__} is no ConvNet or Swin")
    if kernel_size is not None and kernel_size % 2 != 1:
        raise ValueError(f"conv_adapter: kernel_size must be odd, got {kernel_size}")
    modules = [place_beside(block, scheme, reduction, name, kernel_size) for block in choose_blocks(encoder, blocks)]
    if scheme.startswith("conv") and blocks is None:
        modules += [place_further(owner, site, scheme, reduction, name) for owner, site in encoder.further_sites()]
    train_norms(encoder, norms, name)
    if biases:
        for key, parameter in encoder.root.named_parameters():
            if key.endswith("bias"):
                parameter.requires_grad_(True)
    return modules


def place_beside(
    block: Any, scheme: str, reduction: float, name: str = "conv_adapter", kernel: int | None = None
) -> nn.Module:
    """Place the adapter of one block."""
    site, parallel = SCHEMES[scheme]
    ins, outs, own, stride = block.sizes(site)
    kernel = kernel or own
    if not parallel:
        ins, stride = outs, 1
    kwargs = dict(ins=ins, outs=outs, reduction=reduction, kernel=kernel, stride=stride, padding=kernel // 2)
    kwargs |= dict(act=block.act, init=INITS.get(block.family, "kaiming"))
    site = SWIN_SITES[site] if block.family == "swin" else site
    module = Behind(**kwargs) if site == "post" else Beside(parallel=parallel, **kwargs)
    return place(block, site, name, module)


INITS = {"convnext": "trunc_normal", "swin": "trunc_normal", "bit": "default"}


def place_further(owner: nn.Module, site: str, scheme: str, reduction: float, name: str) -> nn.Module:
    """Place the adapter beside a convolution between stages, or a linear one beside the attention pooling."""
    op: Any = owner.get_submodule(site)
    ins, outs, kernel, stride = op.sizes()
    if not isinstance(op, nn.Conv2d):
        return place(owner, site, name, LinearAdapter(ins, outs, reduction))
    parallel = SCHEMES[scheme][1]
    size = dict(ins=ins, kernel=kernel, stride=stride, padding=0) if parallel else dict(ins=outs, kernel=3)
    module = Beside(parallel=parallel, outs=outs, reduction=reduction, act="gelu", init="trunc_normal", **size)
    return place(owner, site, name, module)


def train_norms(encoder: Encoder, norms: str, name: str) -> None:
    """Let norms of the tower train, and place the extra one of ResNets."""
    if norms == "none":
        return
    family, body = encoder.family, cast(Any, encoder.root)  # a timm model: its parts are looked up by their names
    chosen: list[nn.Module] = []
    if family in ("resnet", "efficientnet"):
        place(encoder, "norm", name, ExtraNorm(encoder.dim))
    elif family == "bit":
        chosen = [body.norm]
    elif family == "convnext":
        chosen = [*(block.norm for block in encoder.blocks), body.head.norm]
    elif family == "swin":
        chosen = [m for m in body.modules() if isinstance(m, nn.LayerNorm)]
    if norms == "all":
        kinds = nn.LayerNorm | nn.GroupNorm | nn.modules.batchnorm._BatchNorm
        chosen = [m for m in body.modules() if isinstance(m, kinds)]
    for module in chosen:
        for parameter in module.parameters(recurse=False):
            parameter.requires_grad_(True)
