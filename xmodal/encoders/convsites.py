"""Base class of the blocks of CNNs and Swins: named sites, and convolutions, norms and linear layers with sites."""

from typing import Any, NamedTuple

import timm.layers
import torch
import torch.utils.checkpoint
from torch import Tensor, nn

from xmodal.encoders.sites import Edits, LayerNorm, Linear, Pointwise, Stream

BATCH_NORMS = nn.modules.batchnorm._BatchNorm


class Sizes(NamedTuple):
    """Channels, kernel and stride of an operation, for an adapter beside it."""

    ins: int
    outs: int
    kernel: int
    stride: int


class Conv2d(nn.Conv2d):
    """`nn.Conv2d` with a site."""

    maps = True  # what comes out has its channels on the second axis
    edits: Edits

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W)."""
        return self.edits(super().forward(x), x)

    def sizes(self) -> Sizes:
        """Its own sizes."""
        return Sizes(self.in_channels, self.out_channels, self.kernel_size[0], self.stride[0])


class LayerNorm2d(timm.layers.LayerNorm2d):
    """LayerNorm over the channels of a map, with a site."""

    maps = True
    edits: Edits

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W)."""
        return self.edits(super().forward(x), x)


class Sited:
    """Base class of convolutional blocks with sites.

    Attributes:
        family: of the tower.
        act: activation of an adapter beside the convolution.
        convs: names of the block's first, its adapted, and its last convolution.
        recompute: recompute activations in the backward pass; the tower sets it.
        aa: timm's anti-aliasing, in the blocks that have it.
    """

    family = "resnet"
    act = "relu"
    convs = ("conv1", "conv2", "conv3")
    recompute = False
    aa: Any

    def __call__(self, x: Tensor) -> Tensor:
        """Run the block, recomputing its activations in the backward pass where the tower asks for it."""
        run: Any = super().__call__  # type: ignore[misc]
        moving = any(isinstance(m, BATCH_NORMS) and m.training for m in self.modules())  # type: ignore[attr-defined]
        needed = self.recompute and torch.is_grad_enabled() and not moving  # statistics would move twice
        if needed and (x.requires_grad or any(p.requires_grad for p in self.parameters())):  # type: ignore[attr-defined]
            return torch.utils.checkpoint.checkpoint(run, x, use_reentrant=False)
        return run(x)

    def add_sites(self) -> None:
        """Create the sites."""
        self.conv, self.residual, self.post = Pointwise(), Pointwise(), Stream()

    def sizes(self, site: str) -> Sizes:
        """Return the sizes of the operation between the input and the output of a site."""
        first, conv, last = (getattr(self, name) for name in self.convs)
        return sizes_of((first, conv, last), site)


def sizes_of(convs: tuple[nn.Conv2d, nn.Conv2d, nn.Conv2d], site: str) -> Sizes:
    """Return the sizes between input and output of a site, of a block's first, adapted and last convolution."""
    first, conv, last = convs
    kernel, stride = conv.kernel_size[0], conv.stride[0]
    if site == "conv":
        return Sizes(conv.in_channels, conv.out_channels, kernel, stride)
    return Sizes(first.in_channels if site == "residual" else last.out_channels, last.out_channels, 3, stride)


# operations of ConvNeXt and Swin, inside and between the blocks
OPS: dict[type[nn.Module], type[nn.Module]] = {
    nn.Conv2d: Conv2d,
    nn.Linear: Linear,
    nn.LayerNorm: LayerNorm,
    timm.layers.LayerNorm: LayerNorm,
    timm.layers.LayerNorm2d: LayerNorm2d,
}


def add_site(module: nn.Module) -> None:
    """Add a site to an operation with weights that has none."""
    for plain, ours in OPS.items():
        if type(module) is plain:
            module.__class__ = ours
            module.edits = Edits()
