"""Define the vision transformer: one class for CLIP, OpenCLIP, SigLIP, DINOv2, MAE, DeiT and AugReg towers.

Papers: ViT (arXiv 2010.11929), CLIP (2103.00020), DINOv2 with registers (2309.16588), SigLIP (2303.15343).
Names follow timm; weights come from timm, open_clip and OpenAI files.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from xmodal.encoders.block import Block, ParallelBlock, PostNormBlock, run_block
from xmodal.encoders.keys import to_timm_state
from xmodal.encoders.mixed_sizes import embed_together, seen
from xmodal.encoders.parts import make_norm
from xmodal.encoders.patches import PatchEmbed, PositionResize, StemEmbed, resize_positions
from xmodal.encoders.pooling import AttentionPool, QueryPool
from xmodal.encoders.sites import Pointwise, Stream
from xmodal.encoders.statistics import CLIP_MEAN, CLIP_STD
from xmodal.encoders.taps import Taps
from xmodal.registry import ENCODERS
from xmodal.structures import Encoder, Grid

CLIP_TOWER = dict(pre_norm=True, norm_eps=1e-5, patch_bias=False, pixel_mean=CLIP_MEAN, pixel_std=CLIP_STD)


@ENCODERS.register_module(name="vit")
class VisionTransformer(Encoder):
    """A vision transformer with named sites.

    Args:
        image_size: pixels of the (square) images that the positions belong to.
        patch_size: pixels of a patch.
        dim: width D.
        depth: blocks.
        num_heads: attention heads.
        mlp_ratio: hidden width of the MLP over D.
        qkv_bias: bias of the query, key and value projection.
        qk_norm: normalize queries and keys.
        init_values: initial LayerScale, None for none.
        act: activation, see `parts.ACTIVATIONS`.
        gated: gated MLP.
        class_token: whether a class token stands first.
        num_registers: register tokens behind the class token.
        embed_prefix: whether positions are also added to the prefix tokens (not so in DINOv2 with registers).
        pre_norm: a norm before the first block (CLIP).
        pool: `token`, `avg` (patches only), `map` (attention pooling, SigLIP) or `queries` (attention pooling by
            several queries of which the first is read, CoCa).
        pool_prefix: `avg` and `map` pool the prefix tokens too (timm's `pool_include_prefix`).
        pad_images: say nothing when images are padded to whole patches, with zeros at the right and below (timm's
            `dynamic_img_pad`).
        crop_images: leave out the pixels behind the last whole patch instead (towers whose own image size does not
            divide by the patch).
        fc_norm: norm after pooling instead of before it.
        norm_eps: of every norm.
        patch_bias: bias of the patch projection.
        out_dim: width of a final projection of the pooled feature, None for none.
        out_bias: bias of that projection.
        drop_path: stochastic depth of the last block, linearly from 0; in training only.
        pixel_mean: per channel, of images in [0, 1].
        pixel_std: per channel.
        name: what the checkpoint calls itself.
        rotary: rotary positions of the patches, arguments of `rotary.Rotary`; None for none.
        positions: whether there is a table of positions that is added to the tokens.
        patch_norm: a norm behind the patch projection.
        norm: kind of the norms, a name in `parts.NORMS`.
        attn_norm: a norm in front of the output projection of every attention.
        mlp_norm: a norm in front of the second layer of every MLP.
        mlp_norm_in: one more norm in front of the first layer of every MLP (ViTamin).
        bias: bias of the attention's output projection and of the MLPs.
        post_norm: norms behind attention and MLP instead of before them.
        parallel: the MLP reads what attention reads.
        final_norm: whether there is a norm behind the blocks, before or after pooling.
        pool_tokens: with `token`, how many of the first tokens are averaged (2 in distilled DeiT).
        pool_heads: heads of attention pooling, None for those of the blocks.
        pool_ratio: hidden width of attention pooling's MLP over D, None for `mlp_ratio`.
        pool_queries: with `queries`, how many there are; their width is `out_dim`.
        relative: whether attention has a bias by relative position (BEiT).
        resize: how positions are resized, arguments of `patches.PositionResize`.
        stem: builds timm's `HybridEmbed`, a convolution network that makes the patches; None for one convolution.
        joint: attend over all frames of a clip.
        layout: of the weights in timm's model, where it is not that of `VisionTransformer`: names in `timm_keys.PARTS`.

    Raises:
        ValueError: an image size that the patch size does not divide; an unknown `pool`.
    """

    inflation = "vit"

    def __init__(
        self,
        image_size: int = 224, patch_size: int = 16, dim: int = 768, depth: int = 12, num_heads: int = 12,
        mlp_ratio: float = 4.0, qkv_bias: bool = True, qk_norm: bool = False, init_values: float | None = None,
        act: str = "gelu", gated: bool = False, class_token: bool = True, num_registers: int = 0,
        embed_prefix: bool = True, pre_norm: bool = False, pool: str = "token", pool_prefix: bool = False,
        pad_images: bool = False, crop_images: bool = False, fc_norm: bool = False,
        norm_eps: float = 1e-6, patch_bias: bool = True, out_dim: int | None = None, out_bias: bool = False,
        drop_path: float = 0.0,
        pixel_mean: Sequence[float] = CLIP_MEAN, pixel_std: Sequence[float] = CLIP_STD, name: str = "vit",
        rotary: dict | None = None, positions: bool = True, norm: str = "layer", patch_norm: bool = False,
        attn_norm: bool = False, mlp_norm: bool = False, mlp_norm_in: bool = False, bias: bool = True,
        post_norm: bool = False, parallel: bool = False, final_norm: bool = True, pool_tokens: int = 1,
        pool_heads: int | None = None, pool_ratio: float | None = None, pool_queries: int = 256, joint: bool = False,
        relative: bool = False, resize: dict | None = None,
        stem: Callable[[], nn.Module] | None = None, layout: Sequence[str] = (),
    ):  # fmt: skip
        if image_size % patch_size:
            raise ValueError(f"image_size {image_size} is not a multiple of patch_size {patch_size}")
        if pool not in ("token", "avg", "map", "queries") or (pool == "token" and not class_token):
            raise ValueError(
                f"pool {pool!r} with class_token={class_token}: choose token (needs one), avg, map or queries"
            )
        super().__init__(
            name=name, dim=dim, out_dim=out_dim or dim, depth=depth, num_heads=num_heads, image_size=image_size,
            patch_size=patch_size, pixel_mean=pixel_mean, pixel_std=pixel_std, pool_type=pool,
            num_prefix=int(class_token) + num_registers,
        )  # fmt: skip
        self.layout = tuple(layout)
        self.embed_prefix, self.pool_tokens = embed_prefix, pool_tokens
        self.pool_start = 0 if pool_prefix else self.num_prefix
        first_norm = make_norm(norm, dim, norm_eps) if patch_norm else None
        patches = (patch_size, dim, patch_bias, pad_images, first_norm, crop_images)
        self.patch_embed = PatchEmbed(*patches) if stem is None else StemEmbed(stem())
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim)) if class_token else None
        self.reg_token = nn.Parameter(torch.zeros(1, num_registers, dim)) if num_registers else None
        self.resize = PositionResize(**(resize or {}))
        side = image_size // patch_size
        places = (self.resize.grid or side) ** 2 + (self.num_prefix if embed_prefix else 0)
        self.pos_embed = nn.Parameter(torch.zeros(1, places, dim)) if positions else None
        self.embedded = Stream()
        self.norm_pre = make_norm(norm, dim, norm_eps) if pre_norm else Pointwise()
        self.pre_blocks = Stream()
        rates = [drop_path * i / max(depth - 1, 1) for i in range(depth)]
        kind: type[Block] = PostNormBlock if post_norm else ParallelBlock if parallel else Block
        shared: dict[str, Any] = dict(
            mlp_ratio=mlp_ratio, qkv_bias=qkv_bias, qk_norm=qk_norm, init_values=init_values, act=act, gated=gated,
            norm_eps=norm_eps, norm=norm, attn_norm=attn_norm, mlp_norm=mlp_norm, mlp_norm_in=mlp_norm_in, bias=bias,
            rotary=rotary, joint=joint, relative=(side, side) if relative else None,
        )  # fmt: skip
        self.blocks = nn.ModuleList(kind(dim, num_heads, drop_path=rate, **shared) for rate in rates)
        self.norm = make_norm(norm, dim, norm_eps) if final_norm and not fc_norm else Pointwise()
        pooled = out_dim or dim if pool == "queries" else dim
        self.fc_norm = make_norm(norm, pooled, norm_eps) if final_norm and fc_norm else nn.Identity()
        pooling = (pool_heads or num_heads, pool_ratio or mlp_ratio, act, norm_eps, norm)
        self.attn_pool: nn.Module | None = AttentionPool(dim, *pooling) if pool == "map" else None
        if pool == "queries":
            self.attn_pool = QueryPool(dim, pooled, pool_heads or num_heads, pool_queries, norm_eps)
        self.proj = nn.Linear(pooled, out_dim, bias=out_bias) if out_dim else nn.Identity()
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Truncated normal weights (std 0.02), zero biases."""
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Conv2d):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        for token in (self.cls_token, self.reg_token, self.pos_embed):
            if token is not None:
                nn.init.trunc_normal_(token, std=0.02)

    def embed(self, images: Tensor | Sequence[Tensor], num_frames: int = 1) -> tuple[Tensor, Grid]:
        """Make tokens of images.

        Args:
            images: (B*T, 3, H, W), normalized with `pixel_mean` and `pixel_std`; or images (3, H_i, W_i) of several
                sizes, which share a grid with padding.
            num_frames: T, frames per clip.

        Returns:
            Tokens (B*T, prefix + h*w, D) and their grid.
        """
        if not isinstance(images, Tensor):
            return embed_together(self, images)
        tokens, h, w = self.patch_embed(images)
        grid = Grid(num_frames, h, w, self.num_prefix)
        prefix = [t.expand(tokens.shape[0], -1, -1) for t in (self.cls_token, self.reg_token) if t is not None]
        if self.pos_embed is None:
            tokens = torch.cat([*prefix, tokens], dim=1)
        elif self.embed_prefix:
            tokens = torch.cat([*prefix, tokens], dim=1) + self.positions(h, w)
        else:
            tokens = torch.cat([*prefix, tokens + self.positions(h, w)], dim=1)
        return self.norm_pre(self.embedded(tokens, grid), grid), grid

    def positions(self, h: int, w: int) -> Tensor:
        """Position embeddings (1, N, D) for a grid of h by w patches, resized when it is not the tower's own."""
        assert self.pos_embed is not None
        own = self.resize.grid or self.image_size // self.patch_size
        if h == w == own:
            return self.pos_embed
        return resize_positions(self.pos_embed, self.num_prefix if self.embed_prefix else 0, h, w, self.resize)

    def forward_blocks(
        self,
        tokens: Tensor,
        grid: Grid | None = None,
        read: str = "all",
        taps: Taps | None = None,
        start: int = 0,
        stop: int | None = None,
    ) -> Tensor:
        """Run the blocks.

        Args:
            tokens: (B, N, D).
            grid: where the patches sit, None where there is no grid.
            read: `all`, or `prefix` when only the class and register tokens of the result are looked at: then the last
                block computes no others.
            taps: what to keep from inside.
            start: first block run; `tokens` are its input.
            stop: run only the blocks before this one.

        Raises:
            ValueError: taps on images of several sizes.

        Returns:
            The raw residual stream, (B, N', D), or (B, prefix, D) for `read="prefix"`.
        """
        if taps is not None and grid is not None and grid.valid is not None:
            raise ValueError("what reads inside the blocks needs whole grids of patches: give images of one size")
        if start == 0:
            tokens = self.pre_blocks(tokens, grid)
        last = len(self.blocks) - 1
        for i, block in list(enumerate(self.blocks))[start:stop]:
            rows = self.num_prefix if i == last and read == "prefix" and grid is not None else None
            recompute = self.recompute is True or i < int(self.recompute)
            tokens = self.before_block(i, tokens, grid)
            tokens = run_block(block, tokens, grid, rows or None, taps.slot(i) if taps else None, recompute)
        return tokens

    def before_block(self, index: int, tokens: Tensor, grid: Grid | None) -> Tensor:
        """Change the tokens in front of block `index`; nothing, in a plain tower."""
        return tokens

    def behind_blocks(self) -> list[nn.Module]:
        """Return the modules that are run after the last block."""
        pooling = [] if self.attn_pool is None else [self.attn_pool]
        return [*super().behind_blocks(), self.fc_norm, *pooling]

    def library_state(self) -> dict[str, Tensor]:
        """Return the weights under timm's names."""
        return to_timm_state(self.state_dict(), self.layout)

    def pool(self, tokens: Tensor, grid: Grid | None = None) -> Tensor:
        """Pool normed tokens (B, N, D) to one feature (B, D_out) the way this checkpoint was trained."""
        if self.pool_type == "token":
            pooled = tokens[:, 0] if self.pool_tokens == 1 else tokens[:, : self.pool_tokens].mean(1)
            return self.proj(self.fc_norm(pooled))
        kept, end = seen(grid, tokens.shape[1]), None if grid is None else grid.prefix + grid.num_patches
        kept, read = None if kept is None else kept[:, self.pool_start : end], tokens[:, self.pool_start : end]
        if self.attn_pool is not None:
            pooled = self.attn_pool(read, kept)
        elif kept is None:
            pooled = read.mean(1)
        else:
            pooled = (read * kept[..., None]).sum(1) / kept.sum(1, keepdim=True)
        return self.proj(self.fc_norm(pooled))
