"""MS-CLIP and MS-CLIP-S: one transformer for images and texts.

Paper: Learning Visual Representation from Modality-Shared Contrastive Language-Image Pre-training (arXiv 2207.12661).
Both towers are made of `Block`s; they share weights and not modules, so that each has its own sites for adapters. The
-S variant specializes early: a convolutional stem takes the place of visual layer 0, and a parallel branch of
convolutions on the raw image is fused into the tokens before some blocks.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from xmodal.encoders.clip import CLIP
from xmodal.encoders.msclip_conv import EarlyConv, LateralAdapter, ParallelBranch
from xmodal.encoders.sites import Edits
from xmodal.encoders.text import TextTransformer
from xmodal.encoders.tokenizer import Tokenizer
from xmodal.encoders.vit import VisionTransformer
from xmodal.registry import ENCODERS, check_arguments, did_you_mean, method
from xmodal.structures import Grid

SHARED = ("attn", "mlp")
SHAREABLE = (
    ("attn", "attn.qkv", "attn.qkv.weight", "attn.qkv.bias", "attn.proj", "mlp", "mlp.fc1", "mlp.fc2")
    + ("norm1", "norm2")
)  # fmt: skip


@ENCODERS.register_module(name="msclip_tower")
class MSCLIPTower(VisionTransformer):
    """The image tower of MS-CLIP(-S): a ViT with an optional convolutional stem and an optional parallel branch.

    Args:
        image_size: pixels of the square images.
        patch_size: pixels of a patch, 8, 16 or 32 with the stem or the branch.
        dim: width D.
        depth: visual layers; the convolutional stem counts as layer 0, so that one block fewer follows it.
        num_heads: attention heads.
        out_dim: width of the projected feature.
        early_conv: the convolutional stem.
        stem_blocks: residual blocks a stage of the stem.
        stem_kernel: edge of the stem's first kernel.
        lateral_layers: visual layers before which the branch is fused, one a stage of the branch; empty: no branch.
        branch_blocks: bottlenecks a stage of the branch; the first stage is one convolution.
        branch_dims: width of every stage of the branch; default: D/16 doubled up to D.
        lateral_strides: patches' pixels over those of each stage's grid; default: what the patch size asks for.
        lateral_kernels: of the convolution that brings a stage onto the grid of patches; default: the strides.
        lateral_padding: of that convolution.
        fuse_class_token: add the class token to itself in a fusion (as released), or pass it by.
        mlp_ratio: hidden width of the MLP over D.
        norm_eps: of every LayerNorm.
        name: what the checkpoint calls itself.

    Raises:
        ValueError: lists of the branch that differ in length, a layer that does not exist, an odd patch size.
    """

    def __init__(
        self,
        image_size: int = 224,
        patch_size: int = 32,
        dim: int = 768,
        depth: int = 12,
        num_heads: int = 12,
        out_dim: int | None = 512,
        early_conv: bool = True,
        stem_blocks: Sequence[int] = (1, 1, 1, 1),
        stem_kernel: int = 3,
        lateral_layers: Sequence[int] = (2, 4, 6, 8, 10),
        branch_blocks: Sequence[int] = (0, 1, 1, 1, 1),
        branch_dims: Sequence[int] | None = None,
        lateral_strides: Sequence[int] | None = None,
        lateral_kernels: Sequence[int] | None = None,
        lateral_padding: Sequence[int] | None = None,
        fuse_class_token: bool = True,
        mlp_ratio: float = 4.0,
        norm_eps: float = 1e-12,
        name: str = "msclip",
    ):
        self.first_layer = int(early_conv)  # visual layer of blocks[0]
        super().__init__(
            image_size, patch_size, dim, depth - self.first_layer, num_heads, mlp_ratio, act="quick_gelu",
            pre_norm=True, norm_eps=norm_eps, patch_bias=False, out_dim=out_dim, name=name,
        )  # fmt: skip
        if early_conv:
            self.patch_embed = ConvStem(EarlyConv(dim, patch_size, stem_blocks, stem_kernel))  # type: ignore[assignment]
        self.lateral_layers = tuple(int(n) for n in lateral_layers)
        outside = [n for n in self.lateral_layers if not self.first_layer <= n < depth]
        if outside:
            raise ValueError(f"lateral_layers has {outside}: blocks are the layers {self.first_layer} to {depth - 1}")
        self.branch = self.lateral = None
        if self.lateral_layers:
            stages = len(self.lateral_layers)
            strides = list(lateral_strides or default_strides(patch_size, stages))
            kernels, padding = list(lateral_kernels or strides), list(lateral_padding or [0] * stages)
            dims = list(branch_dims or (dim // 2 ** (stages - 1 - i) for i in range(stages)))
            given = {len(strides), len(kernels), len(padding), len(dims), len(branch_blocks), stages}
            if len(given) > 1:
                raise ValueError(f"the branch has {stages} lateral_layers, and other lists of another length: {given}")
            self.branch = ParallelBranch(dims, patch_size, strides, branch_blocks)
            self.lateral = nn.ModuleList(
                LateralAdapter(dims[i], dim, kernels[i], strides[i], padding[i], fuse_class_token, norm_eps)
                for i in range(stages)
            )

    def embed(self, images: Tensor, num_frames: int = 1) -> tuple[Tensor, Grid]:  # type: ignore[override]
        """Make tokens of images, and run the parallel branch; its maps travel in the grid.

        Args:
            images: (B*T, 3, H, W), normalized.
            num_frames: T, frames per clip.
        """
        tokens, grid = super().embed(images, num_frames)
        if self.branch is not None:
            grid = replace(grid, maps=tuple(self.branch(images)))
        return tokens, grid

    def before_block(self, index: int, tokens: Tensor, grid: Grid | None) -> Tensor:
        """Fuse a stage of the branch into the tokens, in front of the lateral layers.

        Raises:
            ValueError: tokens without the maps of the branch.
        """
        layer = index + self.first_layer
        if layer not in self.lateral_layers:
            return tokens
        if grid is None or not grid.maps:
            raise ValueError(f"{self.name} fuses the image into its blocks: its tokens come from its own `embed`")
        return self.fuse(self.lateral_layers.index(layer), tokens, grid)

    def fuse(self, stage: int, tokens: Tensor, grid: Grid) -> Tensor:
        """Fuse one stage of the branch into the class token and the patches; prompts behind them are left alone."""
        count = grid.prefix + grid.num_patches
        fused = self.lateral[stage](tokens[:, :count], grid.maps[stage], grid)  # type: ignore[index]
        return fused if tokens.shape[1] == count else torch.cat([fused, tokens[:, count:]], dim=1)


class ConvStem(nn.Module):
    """The convolutional stem in the place of the patch embedding. Site: `patch_embed`."""

    def __init__(self, stem: nn.Module):
        super().__init__()
        self.stem = stem
        self.edits = Edits()

    def forward(self, images: Tensor) -> tuple[Tensor, int, int]:
        """Map images (B, 3, H, W) to patches (B, h*w, D), h and w."""
        patches = self.stem(images)  # (B, D, h, w)
        h, w = patches.shape[-2:]
        return self.edits(patches.flatten(2).transpose(1, 2), images), h, w


def default_strides(patch_size: int, stages: int) -> list[int]:
    """Return the ratio of each stage's grid to that of the patches: 16, 8, 4, 2, 1 for patches of 32 pixels."""
    return [max(patch_size // 2 ** (i + 1), 1) for i in range(stages)]


@method(
    ENCODERS,
    "msclip",
    slot="encoder",
    paper="Modality-Shared Contrastive Language-Image Pre-training, arXiv 2207.12661",
    params="all: 132,408,001 (MS-CLIP-S B/32), 210,340,801 unshared",
    parity=("msclip",),
)
class MSCLIP(CLIP):
    """An image and a text tower whose layers share weights.

    Example:
        MSCLIP()                                           # MS-CLIP-S B/32, 132,408,001 weights
        MSCLIP(early_conv=False, lateral_layers=())        # MS-CLIP B/32
        MSCLIP(share=())                                   # nothing shared, 210,340,801 weights

    Args:
        share: parts of a block that layer n of both towers has in common, names of `SHAREABLE`.
        first_shared: first layer that shares; default 1 behind a convolutional stem (which is layer 0), else 0.
        depth: layers of both towers.
        dim: width of both towers.
        num_heads: heads of both towers.
        out_dim: D, width of the shared feature space.
        vocab_size: entries of the token table.
        context_length: longest text.
        mlp_ratio: of both towers.
        norm_eps: of every LayerNorm.
        tokenizer: of the text tower.
        logit_scale: initial log of the scale; the release starts at 1.0.
        **visual: further arguments of `MSCLIPTower`.

    Raises:
        ValueError: a part that cannot be shared; arguments the tower refuses.
    """

    def __init__(
        self,
        share: Sequence[str] = SHARED,
        first_shared: int | None = None,
        depth: int = 12,
        dim: int = 768,
        num_heads: int = 12,
        out_dim: int = 512,
        vocab_size: int = 49408,
        context_length: int = 77,
        mlp_ratio: float = 4.0,
        norm_eps: float = 1e-12,
        tokenizer: Tokenizer | None = None,
        logit_scale: float = 1.0,
        **visual: object,
    ):
        for part in share:
            if part not in SHAREABLE:
                raise ValueError(f"share: {part!r} is no part that can be shared; {did_you_mean(part, SHAREABLE)}")
        check_arguments(MSCLIPTower, visual)
        sizes = dict(dim=dim, num_heads=num_heads, out_dim=out_dim, mlp_ratio=mlp_ratio, norm_eps=norm_eps)
        tower = MSCLIPTower(depth=depth, **sizes, **visual)  # type: ignore[arg-type]
        text = TextTransformer(vocab_size, context_length, depth=depth, name=f"{tower.name}-text", **sizes)  # type: ignore[arg-type]
        super().__init__(tower, text, tokenizer, logit_scale)
        self.share = tuple(share)
        self.first_shared = tower.first_layer if first_shared is None else first_shared
        for layer in range(max(self.first_shared, tower.first_layer), min(depth, tower.first_layer + tower.depth)):
            tie(tower.blocks[layer - tower.first_layer], text.blocks[layer], self.share)


def tie(owner: nn.Module, block: nn.Module, parts: Sequence[str]) -> None:
    """Give `block` the very same weights as `owner` in the parts named."""
    for name, weight in list(owner.named_parameters()):
        if any(name == part or name.startswith(part + ".") for part in parts):
            path, _, leaf = name.rpartition(".")
            setattr(block.get_submodule(path), leaf, weight)
