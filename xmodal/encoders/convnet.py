"""Convolutional towers and Swin: timm and open_clip models with the interface of `Encoder`.

The tokens of these towers are maps (B, C, H, W), which only their own `pool` and the adapters that say so understand.
"""

import inspect
from collections.abc import Sequence
from typing import Any

import timm
import torch
from open_clip.modified_resnet import ModifiedResNet
from torch import Tensor, nn

from xmodal.encoders.convblocks import ClipAttentionPool, blocks_of, sited
from xmodal.encoders.convsites import BATCH_NORMS, Conv2d
from xmodal.encoders.keys import base_state
from xmodal.encoders.sites import Pointwise
from xmodal.encoders.statistics import CLIP_MEAN, CLIP_STD, IMAGENET_MEAN, IMAGENET_STD
from xmodal.registry import ENCODERS
from xmodal.structures import Encoder, Grid
from xmodal.torch_files import read_torch


class ConvNet(Encoder):
    """A timm or open_clip tower of stages with named sites in its blocks and behind its last map (`norm`).

    Args:
        body: ResNet, ResNeXt, BiT, ConvNeXt, EfficientNet or Swin of timm, or the visual ResNet of CLIP. It is changed
            in place: its blocks get sites. Weights, keys and outputs stay.
        image_size: pixels of the images it was made for.
        pixel_mean: per channel, of images in [0, 1].
        pixel_std: per channel.
        name: what the checkpoint calls itself.
        pad_first: pad maps that a Swin's windows do not divide before they are shifted, as its detection code does.
        proj: what the pooled feature goes through (open_clip's projection), None for nothing.

    Raises:
        ValueError: a model without a block that is known, or without a pooled feature.
    """

    body: Any

    def __init__(
        self,
        body: Any,
        image_size: int = 224,
        pixel_mean: Sequence[float] = IMAGENET_MEAN,
        pixel_std: Sequence[float] = IMAGENET_STD,
        name: str = "convnet",
        pad_first: bool = False,
        proj: nn.Module | None = None,
    ):
        clip, blocks = isinstance(body, ModifiedResNet), blocks_of(sited(body))
        if not clip and "pre_logits" not in inspect.signature(body.forward_head).parameters:
            raise ValueError(f"{type(body).__name__} has no pooled feature: it is made for dense tasks")
        dim = body.layer4[-1].conv3.out_channels if clip else body.num_features
        pooled = width_behind(proj) or getattr(body, "head_hidden_size", None) or dim
        super().__init__(
            name=name, dim=dim, out_dim=body.output_dim if clip else pooled,
            depth=len(blocks), num_heads=0, image_size=image_size, patch_size=32, pixel_mean=pixel_mean,
            pixel_std=pixel_std, pool_type="map", family=blocks[0].family,
        )  # fmt: skip
        for block in blocks:
            block.pad_first = pad_first
        self.body, self.clip, self.norm, self.proj = body, clip, Pointwise(), proj or nn.Identity()

    @property
    def blocks(self) -> list[Any]:  # type: ignore[override]  # they belong to the stages
        """The blocks with sites, in order."""
        return blocks_of(self.body)

    @property
    def root(self) -> nn.Module:
        """The library's model."""
        return self.body

    def further_sites(self) -> list[tuple[nn.Module, str]]:
        """Convolutions between stages (ConvNeXt) and the attention pooling (CLIP): (owner, site)."""
        return [
            (self.body, name)
            for name, m in self.body.named_modules()
            if isinstance(m, ClipAttentionPool) or (isinstance(m, Conv2d) and ".downsample." in name)
        ]

    def train(self, mode: bool = True) -> "ConvNet":
        """Set the mode; unless all weights train, the statistics of the BatchNorms stay as they are."""
        super().train(mode)
        if mode and not all(p.requires_grad for p in self.body.parameters()):
            for module in self.body.modules():
                if isinstance(module, BATCH_NORMS):
                    module.training = False
        return self

    def embed(self, images: Tensor, num_frames: int = 1) -> tuple[Tensor, Grid]:
        """Return normalized images (B*T, 3, H, W) unchanged, and the grid of the last map."""
        return images, Grid(num_frames, images.shape[2] // self.patch_size, images.shape[3] // self.patch_size, 0)

    def forward_blocks(
        self,
        tokens: Tensor,
        grid: Grid | None = None,
        read: str = "all",
        taps: Any = None,
        start: int = 0,
        stop: int | None = None,
    ) -> Tensor:
        """Images (B, 3, H, W) to the last map (B, C, h, w) ((B, h, w, C) in Swin).

        Raises:
            ValueError: somebody listens to taps, which these towers do not have, or asks for some of the blocks.
        """
        if stop == 0:
            return tokens
        if start or stop not in (None, self.depth):
            raise ValueError(f"{self.name} runs all its blocks or none, not those from {start} to {stop}")
        if taps is not None:
            raise ValueError(f"{self.name} has no taps: methods that read attention inside need a vision transformer")
        tokens = channels_last(tokens)
        for i, block in enumerate(self.blocks):
            block.recompute = self.recompute is True or i < int(self.recompute)
        if not self.clip:
            return self.body.forward_features(tokens)
        for part in (self.body.stem, self.body.layer1, self.body.layer2, self.body.layer3, self.body.layer4):
            tokens = part(tokens)
        return tokens

    def pool(self, tokens: Tensor, grid: Grid | None = None) -> Tensor:
        """The last map to a feature (B, D_out)."""
        if self.clip:
            return self.body.attnpool(tokens)
        return self.proj(self.body.forward_head(tokens, pre_logits=True))

    def feature_maps(self, images: Tensor) -> list[Tensor]:
        """Maps (B, C_i, h_i, w_i) of all stages, finest first, for dense tasks: strides 4, 8, 16, 32."""
        images = channels_last(images)
        if self.clip:
            maps, x = [], self.body.stem(images)
            for stage in (self.body.layer1, self.body.layer2, self.body.layer3, self.body.layer4):
                x = stage(x)
                maps.append(x)
            return maps
        maps = self.body.forward_intermediates(images, output_fmt="NCHW", intermediates_only=True)
        return maps[-4:]

    @torch.no_grad()
    def map_dims(self) -> list[int]:
        """Return the channels of the maps that `feature_maps` gives."""
        device = next(self.parameters()).device
        mode = self.training
        self.eval()
        dims = [
            m.shape[1] for m in self.feature_maps(torch.zeros(1, 3, self.image_size, self.image_size, device=device))
        ]
        self.train(mode)
        return dims

    def library_state(self) -> dict[str, Tensor]:
        """Return the weights under the library's names."""
        return base_state(self.body.state_dict())


def width_behind(proj: nn.Module | None) -> int | None:
    """Return the width that a projection of the feature gives, None without one."""
    layers = [m for m in proj.modules() if isinstance(m, nn.Linear)] if proj else []
    return layers[-1].out_features if layers else None


def channels_last(images: Tensor) -> Tensor:
    """Return images (B, C, H, W) in channels-last memory format; all later maps follow.

    Grouped convolutions, Conv-Adapter's above all, run two to four times faster on the CPU that way.
    """
    return images.contiguous(memory_format=torch.channels_last)


@ENCODERS.register_module(name="convnet")
def convnet(
    name: str = "resnet50", pretrained: bool = False, checkpoint: str = "", pad_first: bool = False, **options: Any
) -> ConvNet:
    """Build a tower by its timm name, or one of CLIP's ResNets as `clip/RN50`.

    Args:
        name: `resnet50`, `resnext50_32x4d`, `resnetv2_50x1_bit`, `convnext_tiny`, `efficientnet_lite0`,
            `swin_tiny_patch4_window7_224`, ..., or `clip/RN50`, `clip/RN101`, `clip/RN50x4`, ...
        pretrained: download weights where the machine may (timm: True; CLIP: OpenAI's).
        checkpoint: path of a state dict instead.
        pad_first: see `ConvNet`.
        **options: of the timm model.

    Raises:
        ValueError: a name neither library knows, or a model without known blocks.
    """
    if name.startswith("clip/"):
        return clip_resnet(name.removeprefix("clip/"), pretrained, checkpoint)
    if not timm.is_model(name):
        near = timm.list_models(f"*{name.split('_')[0]}*")[:8]
        raise ValueError(f"timm has no model {name!r}; near it: {', '.join(near) or 'nothing'}")
    body: Any = timm.create_model(name, pretrained=pretrained, num_classes=0, **options)
    if checkpoint:
        load_body(body, checkpoint)
    cfg = body.pretrained_cfg
    size = options.get("img_size") or cfg.get("input_size", (3, 224, 224))[-1]
    return ConvNet(body, size, cfg.get("mean", IMAGENET_MEAN), cfg.get("std", IMAGENET_STD), name, pad_first)


def clip_resnet(name: str, pretrained: bool = False, checkpoint: str = "") -> ConvNet:
    """The visual ResNet of a CLIP model.

    Raises:
        ValueError: a name open_clip does not know, or a vision transformer.
    """
    import open_clip

    if name not in open_clip.list_models():
        raise ValueError(f"open_clip has no model {name!r}; its ResNets begin with RN")
    model = open_clip.create_model(name, pretrained="openai" if pretrained else None)
    body = model.visual
    if not isinstance(body, ModifiedResNet):
        raise ValueError(f"clip/{name} is no ResNet: use the encoder for vision transformers")
    if checkpoint:
        load_body(body, checkpoint)
    size = body.image_size[0] if isinstance(body.image_size, tuple) else body.image_size
    return ConvNet(body, size, CLIP_MEAN, CLIP_STD, f"clip/{name}")


def load_body(body: nn.Module, path: str) -> None:
    """Load a state dict, its classifier left aside.

    Raises:
        ValueError: keys that do not fit, by name.
    """
    state = read_torch(path)
    state = state.get("state_dict", state)
    heads = ("fc.", "classifier.", "head.fc.")
    missing, unexpected = body.load_state_dict(state, strict=False)
    unexpected = [k for k in unexpected if not k.startswith(heads)]
    if missing or unexpected:
        raise ValueError(f"{path} does not fit: missing {missing[:4]}, unexpected {unexpected[:4]}")
