"""Small towers of every family, frozen and filled."""

import copy
import functools

import timm
import torch
from open_clip.modified_resnet import ModifiedResNet
from torch import nn

from xmodal.encoders.convnet import ConvNet
from xmodal.encoders.frozen import freeze
from xmodal.encoders.vit import VisionTransformer


def vit(**kwargs):
    given = dict(image_size=16, patch_size=8, dim=24, depth=3, num_heads=3) | kwargs
    return VisionTransformer(**given)


def swin():
    options = dict(img_size=32, patch_size=4, window_size=4, embed_dim=16, depths=(2, 1), num_heads=(2, 4))
    return ConvNet(timm.create_model("swin_tiny_patch4_window7_224", num_classes=0, **options), 32)


def swin_v2():
    options = dict(img_size=32, patch_size=4, window_size=4, embed_dim=16, depths=(2, 1), num_heads=(2, 4))
    return ConvNet(timm.create_model("swinv2_tiny_window8_256", num_classes=0, **options), 32)


def resnet():
    return ConvNet(
        timm.models.resnet.ResNet(timm.models.resnet.Bottleneck, [1, 1, 1, 1], num_classes=0, channels=(8, 8, 8, 16)),
        32,
    )


def convnext():
    return ConvNet(timm.models.convnext.ConvNeXt(num_classes=0, depths=(1, 1, 1, 1), dims=(8, 16, 16, 24)), 32)


def efficientnet():
    return ConvNet(timm.create_model("efficientnet_lite0", num_classes=0), 32)


def bit():
    layers = dict(
        conv_layer=timm.layers.StdConv2d, norm_layer=functools.partial(timm.layers.GroupNormAct, num_groups=4)
    )
    body = timm.models.resnetv2.ResNetV2([1, 1], (32, 64), num_classes=0, stem_type="fixed", stem_chs=16, **layers)
    return ConvNet(body, 32)


def clip_resnet():
    return ConvNet(ModifiedResNet([1, 1, 1, 1], output_dim=12, heads=4, image_size=32, width=8), 32)


TOWERS = {
    "vit": {
        "token": vit,
        "average": lambda: vit(pool="avg", fc_norm=True, num_registers=2, init_values=1.0),
        "clip": lambda: vit(pre_norm=True, act="quick_gelu", out_dim=10, patch_bias=False),
    },
    "swin": {"swin": swin},
    "convnext": {"convnext": convnext},
    "convnet": {
        "resnet": resnet,
        "convnext": convnext,
        "bit": bit,
        "clip-resnet": clip_resnet,
        "efficientnet": efficientnet,
    },
}


def build(make):
    """A frozen tower in evaluation mode whose weights are all of ordinary size."""
    torch.manual_seed(0)
    return copy.deepcopy(first(make))


@functools.cache
def first(make):
    """The tower that the others are copies of."""
    tower = make()
    refill(tower, 0.2)
    for module in tower.modules():
        if isinstance(module, nn.LayerNorm | nn.GroupNorm | nn.BatchNorm2d):
            nn.init.ones_(module.weight)
    return freeze(tower)


def refill(module, std=0.3, only=lambda p: True):
    """Random weights."""
    for p in module.parameters():
        if only(p):
            nn.init.normal_(p, std=std)
    return module
