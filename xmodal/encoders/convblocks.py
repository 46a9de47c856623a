"""Blocks of convolutional and windowed towers with named sites.

timm's and open_clip's own blocks, weights and keys; `sited` gives them the forward pass of this file, in which a method
can place modules. Maps are (B, C, H, W); in Swin they are tokens (B, H*W, C) with their grid.

Sites of a convolutional block: `conv` (the KxK convolution up to its activation; y and x are maps), `residual` (the
branch before the identity is added; x is the block's input) and `post`, a stream.
"""

from typing import Any, NamedTuple

import timm.layers
import torch
import torch.nn.functional as F
import torch.utils.checkpoint
from open_clip import modified_resnet as clip_resnet
from timm.models import _efficientnet_blocks as efficientnet
from timm.models import convnext, resnet, resnetv2, swin_transformer
from torch import Tensor, nn

from xmodal.encoders.parts import DropPath
from xmodal.encoders.sites import Branch, Edits, LayerNorm, Linear, Pointwise, Stream
from xmodal.structures import Grid

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


class StdConv2d(timm.layers.StdConv2d):
    """BiT's convolution with standardized filters, by the formula: timm's detour through a batch norm rounds more."""

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W)."""
        variance, mean = torch.var_mean(self.weight, dim=(1, 2, 3), keepdim=True, unbiased=False)
        weight = (self.weight - mean) / torch.sqrt(variance + self.eps)
        return F.conv2d(x, weight, self.bias, self.stride, self.padding, self.dilation, self.groups)


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
        kernel, stride = conv.kernel_size[0], conv.stride[0]
        if site == "conv":
            return Sizes(conv.in_channels, conv.out_channels, kernel, stride)
        return Sizes(first.in_channels if site == "residual" else last.out_channels, last.out_channels, 3, stride)


class ResNetBottleneck(Sited, resnet.Bottleneck):
    """ResNet and ResNeXt (v1.5: the stride is that of the 3x3 convolution)."""

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W)."""
        u = self.act1(self.bn1(self.conv1(x)))
        y = self.conv.edits(self.act2(self.drop_block(self.bn2(self.conv2(u)))), u)
        y = self.bn3(self.conv3(self.aa(y)))
        y = y if self.se is None else self.se(y)
        y = self.residual.edits(y, x)
        y = y if self.drop_path is None else self.drop_path(y)
        return self.post(self.act3(y + (x if self.downsample is None else self.downsample(x))))


class BasicBlock(Sited, resnet.BasicBlock):
    """ResNet-18 and -34; `conv` is the first convolution, which has the stride."""

    convs = ("conv1", "conv1", "conv2")

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W)."""
        y = self.conv.edits(self.act1(self.drop_block(self.bn1(self.conv1(x)))), x)
        y = self.bn2(self.conv2(self.aa(y)))
        y = y if self.se is None else self.se(y)
        y = self.residual.edits(y, x)
        y = y if self.drop_path is None else self.drop_path(y)
        return self.post(self.act2(y + (x if self.downsample is None else self.downsample(x))))


class ClipBottleneck(Sited, clip_resnet.Bottleneck):
    """CLIP's ResNet: the convolution has stride 1, an average pooling behind it does the rest."""

    family = "clip"

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W)."""
        u = self.act1(self.bn1(self.conv1(x)))
        y = self.conv.edits(self.act2(self.bn2(self.conv2(u))), u)
        y = self.residual.edits(self.bn3(self.conv3(self.avgpool(y))), x)
        return self.post(self.act3(y + (x if self.downsample is None else self.downsample(x))))

    def sizes(self, site: str) -> Sizes:
        """See `Sited`."""
        found = super().sizes(site)
        return found if site == "conv" else found._replace(stride=self.stride)


class ClipAttentionPool(clip_resnet.AttentionPool2d):
    """CLIP's attention pooling with a site: x is the token of the mean, y what is pooled."""

    def add_sites(self) -> None:
        """Create the site."""
        self.edits = Edits()

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, C_out)."""
        y = super().forward(x)
        if not len(self.edits):
            return y
        return self.edits(y, x.flatten(2).mean(-1) + self.positional_embedding[0].to(x.dtype))

    def sizes(self) -> Sizes:
        """Its own sizes."""
        return Sizes(self.c_proj.in_features, self.c_proj.out_features, 1, 1)


class PreActBottleneck(Sited, resnetv2.PreActBottleneck):
    """BiT: an adapter at `conv` reads what comes before the norm and is added before the next one."""

    family = "bit"

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W)."""
        before = self.norm1(x)
        shortcut = x if self.downsample is None else self.downsample(before)
        u = self.conv1(before)
        y = self.conv.edits(self.conv2(self.norm2(u)), u)
        y = self.residual.edits(self.conv3(self.norm3(y)), x)
        return self.post(self.drop_path(y) + shortcut)


class ConvNeXtBlock(Sited, convnext.ConvNeXtBlock):
    """ConvNeXt: `conv` is the depth-wise convolution, before the norm."""

    family = "convnext"
    act = "gelu"

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W)."""
        y = self.conv.edits(self.conv_dw(x), x)
        if self.use_conv_mlp:
            y = self.mlp(self.norm(y))
        else:
            y = self.mlp(self.norm(y.permute(0, 2, 3, 1))).permute(0, 3, 1, 2)
        y = y if self.gamma is None else y * self.gamma.reshape(1, -1, 1, 1)
        return self.post(self.drop_path(self.residual.edits(y, x)) + self.shortcut(x))

    def sizes(self, site: str) -> Sizes:
        """See `Sited`."""
        ins, outs, stride = self.conv_dw.in_channels, self.conv_dw.out_channels, self.conv_dw.stride[0]
        return Sizes(outs if site == "post" else ins, outs, self.conv_dw.kernel_size[0], stride)


class InvertedResidual(Sited, efficientnet.InvertedResidual):
    """MobileNet-like block of EfficientNet: `conv` is the depth-wise convolution."""

    family = "efficientnet"
    convs = ("conv_pw", "conv_dw", "conv_pwl")

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W)."""
        u = x if self.conv_s2d is None else self.bn_s2d(self.conv_s2d(x))
        u = self.bn1(self.conv_pw(u))
        y = self.conv.edits(self.bn2(self.conv_dw(u)), u)
        y = self.residual.edits(self.bn3(self.conv_pwl(self.se(self.aa(y)))), x)
        return self.post(self.drop_path(y) + x if self.has_skip else y)


class DepthwiseSeparable(Sited, efficientnet.DepthwiseSeparableConv):
    """First block of EfficientNet: `conv` is the depth-wise convolution."""

    family = "efficientnet"
    convs = ("conv_dw", "conv_dw", "conv_pw")

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W)."""
        u = x if self.conv_s2d is None else self.bn_s2d(self.conv_s2d(x))
        y = self.conv.edits(self.bn1(self.conv_dw(u)), u)
        y = self.residual.edits(self.bn2(self.conv_pw(self.se(self.aa(y)))), x)
        return self.post(self.drop_path(y) + x if self.has_skip else y)


class EdgeResidual(Sited, efficientnet.EdgeResidual):
    """Fused block of EfficientNet-V2 and EdgeTPU: `conv` is the expanding convolution."""

    family = "efficientnet"
    convs = ("conv_exp", "conv_exp", "conv_pwl")

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W)."""
        y = self.conv.edits(self.bn1(self.conv_exp(x)), x)
        y = self.residual.edits(self.bn2(self.conv_pwl(self.se(self.aa(y)))), x)
        return self.post(self.drop_path(y) + x if self.has_skip else y)


class SwinBlock(Sited, swin_transformer.SwinTransformerBlock):
    """Swin: the sites of a transformer block; what is placed at `attn` sees the un-shifted map, outside drop-path.

    Attributes:
        pad_first: pad maps that windows do not divide before they are shifted, as Swin's detection code does; timm
            shifts first.
    """

    family = "swin"
    pad_first = False
    act = "gelu"
    attn: Any  # timm's, with sites added
    mlp: Any

    def add_sites(self) -> None:
        """Create the sites of a transformer block."""
        self.pre_attn, self.pre_mlp, self.post = Stream(), Stream(), Stream()
        self.attn.edits, self.mlp.edits = Edits(), Edits()
        self.attn_branch, self.mlp_branch = Branch(), Branch()
        for op in (self.norm1, self.attn.qkv, self.attn.proj, self.norm2, self.mlp.fc1, self.mlp.fc2):
            add_site(op)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, H, W, C)."""
        _, h, w, _ = x.shape
        grid = Grid(1, h, w, prefix=0)
        x = self.pre_attn(x.flatten(1, 2), grid)  # (B, HW, C)
        u = self.norm1(x, grid)
        y = self.drop_path1(self.attend(u.unflatten(1, (h, w))).flatten(1, 2))
        x = self.pre_mlp(x + self.attn_branch(self.attn.edits(y, u, grid), x, grid), grid)
        u = self.norm2(x, grid)
        y = self.mlp.edits(self.drop_path2(self.mlp(u)), u, grid)
        x = self.post(x + self.mlp_branch(y, x, grid), grid)
        return x.unflatten(1, (h, w))

    def attend(self, x: Tensor) -> Tensor:
        """Attention within shifted windows of a map (B, H, W, C)."""
        h, w = x.shape[1:3]
        down, right = -h % self.window_size[0], -w % self.window_size[1]
        if not self.pad_first or not (down or right):
            return self._attn(x)
        return self._attn(nn.functional.pad(x, (0, 0, 0, right, 0, down)))[:, :h, :w]

    def sizes(self, site: str) -> Sizes:
        """See `Sited`."""
        return Sizes(self.dim, self.dim, 7, 1)


KINDS: dict[type[nn.Module], type[nn.Module]] = {
    resnet.Bottleneck: ResNetBottleneck,
    resnet.BasicBlock: BasicBlock,
    clip_resnet.Bottleneck: ClipBottleneck,
    clip_resnet.AttentionPool2d: ClipAttentionPool,
    resnetv2.PreActBottleneck: PreActBottleneck,
    convnext.ConvNeXtBlock: ConvNeXtBlock,
    efficientnet.InvertedResidual: InvertedResidual,
    efficientnet.DepthwiseSeparableConv: DepthwiseSeparable,
    efficientnet.EdgeResidual: EdgeResidual,
    swin_transformer.SwinTransformerBlock: SwinBlock,
}


REPLACED: dict[type[nn.Module], type[nn.Module]] = {
    timm.layers.StdConv2d: StdConv2d,
    timm.layers.DropPath: DropPath,  # ours stays on in frozen towers when a recipe asks for it
}
# operations of ConvNeXt and Swin, inside and between the blocks
OPS: dict[type[nn.Module], type[nn.Module]] = {
    nn.Conv2d: Conv2d,
    nn.Linear: Linear,
    nn.LayerNorm: LayerNorm,
    timm.layers.LayerNorm: LayerNorm,
    timm.layers.LayerNorm2d: LayerNorm2d,
}


def sited(model: nn.Module) -> nn.Module:
    """Add sites to every block of a timm or open_clip model in place; weights and keys stay.

    Raises:
        ValueError: the model has no block of a kind that is known here.
    """
    found = 0
    modules: list[Any] = list(model.modules())
    for module in modules:
        kind = KINDS.get(type(module))
        if kind is not None:
            module.__class__ = kind
            module.add_sites()
            found += 1
        elif type(module) in REPLACED:
            module.__class__ = REPLACED[type(module)]
    if not found:
        known = ", ".join(sorted(k.__name__ for k in KINDS))
        raise ValueError(f"{type(model).__name__} has none of the blocks that have sites: {known}")
    if isinstance(model, convnext.ConvNeXt | swin_transformer.SwinTransformer):
        for module in list(model.modules()):
            add_site(module)
    return model


def add_site(module: nn.Module) -> None:
    """Add a site to an operation with weights that has none."""
    for plain, ours in OPS.items():
        if type(module) is plain:
            module.__class__ = ours
            module.edits = Edits()


def blocks_of(model: nn.Module) -> list[Any]:
    """Return the blocks with sites, in order."""
    return [m for m in model.modules() if isinstance(m, Sited)]
