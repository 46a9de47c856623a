"""Blocks of convolutional and windowed towers with named sites.

timm's and open_clip's own blocks, weights and keys; `sited` gives them the forward pass of this file, in which a method
can place modules. Maps are (B, C, H, W); in Swin they are tokens (B, H*W, C) with their grid.

Sites of a convolutional block: `conv` (the KxK convolution up to its activation; y and x are maps), `residual` (the
branch before the identity is added; x is the block's input) and `post`, a stream.
"""

from typing import Any

import timm.layers
import torch
import torch.nn.functional as F
from open_clip import modified_resnet as clip_resnet
from timm.models import _efficientnet_blocks as efficientnet
from timm.models import convnext, regnet, resnet, resnetv2, swin_transformer, swin_transformer_v2
from torch import Tensor, nn

from xmodal.encoders.convsites import Sited, Sizes, add_site, sizes_of
from xmodal.encoders.parts import DropPath
from xmodal.encoders.sites import Edits
from xmodal.encoders.windowblocks import SwinBlock, SwinV2Block


class StdConv2d(timm.layers.StdConv2d):
    """BiT's convolution with standardized filters, by the formula: timm's detour through a batch norm rounds more."""

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W)."""
        variance, mean = torch.var_mean(self.weight, dim=(1, 2, 3), keepdim=True, unbiased=False)
        weight = (self.weight - mean) / torch.sqrt(variance + self.eps)
        return F.conv2d(x, weight, self.bias, self.stride, self.padding, self.dilation, self.groups)


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


class RegNetBottleneck(Sited, regnet.Bottleneck):
    """RegNet: `conv` is the grouped 3x3 convolution."""

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W)."""
        u = self.conv1(x)
        y = self.conv.edits(self.conv2(u), u)
        y = self.residual.edits(self.conv3(self.se(y)), x)
        if self.downsample is not None:
            y = self.drop_path(y) + self.downsample(x)
        return self.post(self.act3(y))

    def sizes(self, site: str) -> Sizes:
        """See `Sited`."""
        return sizes_of((self.conv1.conv, self.conv2.conv, self.conv3.conv), site)


class UniversalInvertedResidual(Sited, efficientnet.UniversalInvertedResidual):
    """MobileNetV4: `conv` is the depth-wise convolution in the middle, or the expanding one where there is none."""

    family = "efficientnet"

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W)."""
        u = self.dw_start(x)
        if isinstance(self.dw_mid, nn.Identity):
            y = self.conv.edits(self.pw_exp(u), u)
        else:
            u = self.pw_exp(u)
            y = self.conv.edits(self.dw_mid(u), u)
        y = self.layer_scale(self.dw_end(self.pw_proj(self.se(y))))
        y = self.residual.edits(y, x)
        return self.post(self.drop_path(y) + x if self.has_skip else y)

    def sizes(self, site: str) -> Sizes:
        """See `Sited`; the stride of the branch is that of whichever convolution has it."""
        middle = self.pw_exp if isinstance(self.dw_mid, nn.Identity) else self.dw_mid
        found = sizes_of((self.pw_exp.conv, middle.conv, self.pw_proj.conv), site)
        if site == "conv":
            return found
        parts = (self.dw_start, self.pw_exp, self.dw_mid, self.dw_end)
        return found._replace(stride=max(p.conv.stride[0] for p in parts if hasattr(p, "conv")))


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
    efficientnet.UniversalInvertedResidual: UniversalInvertedResidual,
    regnet.Bottleneck: RegNetBottleneck,
    swin_transformer_v2.SwinTransformerV2Block: SwinV2Block,
    swin_transformer.SwinTransformerBlock: SwinBlock,
}


WITH_SITED_OPS = (convnext.ConvNeXt, swin_transformer.SwinTransformer, swin_transformer_v2.SwinTransformerV2)
REPLACED: dict[type[nn.Module], type[nn.Module]] = {
    timm.layers.StdConv2d: StdConv2d,
    timm.layers.DropPath: DropPath,  # ours stays on in frozen towers when a recipe asks for it
}


def sited(model: nn.Module) -> nn.Module:
    """Add sites to every block of a timm or open_clip model in place; weights and keys stay.

    Raises:
        ValueError: the model has no block of a kind that is known here, or most of its weights lie outside of them.
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
        known = ", ".join(sorted({k.__name__ for k in KINDS}))
        raise ValueError(f"{type(model).__name__} has none of the blocks that have sites: {known}")
    if isinstance(model, WITH_SITED_OPS):
        for module in list(model.modules()):
            add_site(module)
    for name in ("conv_stem", "conv_head"):  # of MobileNets and EfficientNets
        add_site(getattr(model, name, nn.Identity()))
    share = covered(model)
    if share < 0.5:
        raise ValueError(f"only {share:.0%} of the weights of {type(model).__name__} have sites")
    return model


def covered(model: nn.Module) -> float:
    """Return the share of a model's weights, its classifier aside, that lie in blocks or operations with sites."""
    head = {id(p) for p in classifier_of(model).parameters()}
    count = {id(p): p.numel() for p in model.parameters() if id(p) not in head}
    reached = {
        id(p): p.numel() for m in model.modules() if isinstance(m, Sited) or hasattr(m, "edits") for p in m.parameters()
    }
    return sum(n for key, n in reached.items() if key in count) / max(sum(count.values()), 1)


def classifier_of(model: Any) -> nn.Module:
    """Return the class head of a timm model, an identity where there is none."""
    found = model.get_classifier() if hasattr(model, "get_classifier") else None
    return found if isinstance(found, nn.Module) else nn.Identity()


def blocks_of(model: nn.Module) -> list[Any]:
    """Return the blocks with sites, in order."""
    return [m for m in model.modules() if isinstance(m, Sited)]
