"""Define the video tower of V-JEPA 2 and 2.1: tubelets, joint attention over space and time, rotary positions.

Paper: V-JEPA 2 (arXiv 2506.09985). Tokens stand frame by frame, one row of the batch per step in time, so that adapters
and readers of videos work on them as on those of an image tower.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from xmodal.encoders.sites import Edits, LayerNorm
from xmodal.encoders.statistics import IMAGENET_MEAN, IMAGENET_STD
from xmodal.encoders.taps import Taps
from xmodal.encoders.vit import VisionTransformer
from xmodal.encoders.vjepa2_keys import to_official
from xmodal.registry import ENCODERS
from xmodal.structures import Grid

GRIDS = {16: 16, 14: 18}  # patches of a side in pretraining, by patch size: positions of 2.1 are rescaled to it
LEVELS = {12: (2, 5, 8, 11), 24: (5, 11, 17, 23), 40: (9, 19, 29, 39), 48: (11, 23, 37, 47)}
SIZES: dict[str, dict[str, Any]] = {
    "base": dict(dim=768, depth=12, num_heads=12),
    "large": dict(dim=1024, depth=24, num_heads=16),
    "huge": dict(dim=1280, depth=32, num_heads=16),
    "giant": dict(dim=1408, depth=40, num_heads=22, mlp_ratio=48 / 11),
    "gigantic": dict(dim=1664, depth=48, num_heads=26, mlp_ratio=64 / 13),
}


class TubeletEmbed(nn.Module):
    """Cut clips into tubelets and project each. Site: `patch_embed`.

    Args:
        patch_size: pixels of a patch.
        tubelet: frames of a tubelet.
        dim: width D.
    """

    def __init__(self, patch_size: int, tubelet: int, dim: int):
        super().__init__()
        self.tubelet = tubelet
        size = (tubelet, patch_size, patch_size)
        self.proj = nn.Conv3d(3, dim, size, stride=size)
        self.edits = Edits()

    def forward(self, clips: Tensor) -> tuple[Tensor, tuple[int, int, int]]:
        """Map clips (B, 3, T, H, W) to tokens (B*T', h*w, D) and T', h, w; what does not fill a tubelet is left out."""
        patches = self.proj(clips)  # (B, D, T', h, w)
        t, h, w = patches.shape[-3:]
        return self.edits(patches.flatten(3).permute(0, 2, 3, 1).flatten(0, 1), clips), (t, h, w)


@ENCODERS.register_module(name="vjepa2")
class VJEPA2(VisionTransformer):
    """The encoder of V-JEPA 2, for any resolution and number of frames.

    An image is a clip of equal frames (2.0) or goes through its own patch projection (2.1). The feature is the mean of
    the tokens.

    Args:
        image_size: pixels of the images it was made for; positions need no resizing at another size.
        patch_size: pixels of a patch.
        dim: width D.
        depth: blocks.
        num_heads: attention heads.
        mlp_ratio: hidden width of the MLP over D.
        tubelet: frames that one token spans.
        version: `2.0` or `2.1`.
        rope_layout: layout of the rotary angles, see `rotary.Rotary`; default that of the released weights, `tiled` in
            2.0 and `interleaved` in 2.1.
        rescale: rescale rows and columns to the grid of pretraining, as the released 2.1 does; 2.0 never does.
        drop_path: stochastic depth of the last block, in training only.
        name: what the checkpoint calls itself.

    Raises:
        ValueError: another version, a depth or patch size that 2.1 does not have.
    """

    inflation = ""

    def __init__(
        self,
        image_size: int = 256,
        patch_size: int = 16,
        dim: int = 1024,
        depth: int = 24,
        num_heads: int = 16,
        mlp_ratio: float = 4.0,
        tubelet: int = 2,
        version: str = "2.0",
        rope_layout: str | None = None,
        rescale: bool = True,
        drop_path: float = 0.0,
        name: str = "vjepa2",
    ):
        if version not in ("2.0", "2.1"):
            raise ValueError(f"version {version!r}: choose 2.0 or 2.1 (in quotes)")
        later = version == "2.1"
        if later and (depth not in LEVELS or (rescale and patch_size not in GRIDS)):
            known = f"depths {', '.join(map(str, LEVELS))} and patches of 16 or 14 pixels"
            raise ValueError(f"V-JEPA 2.1 has {known}, not depth {depth} and patches of {patch_size}")
        layout = rope_layout or ("interleaved" if later else "tiled")
        rotary: dict[str, Any] = dict(kind="spacetime", layout=layout)
        if later and rescale:
            rotary["reference"] = (GRIDS[patch_size], GRIDS[patch_size])
        super().__init__(
            image_size, patch_size, dim, depth, num_heads, mlp_ratio, class_token=False, positions=False, pool="avg",
            drop_path=drop_path, pixel_mean=IMAGENET_MEAN, pixel_std=IMAGENET_STD, name=name, rotary=rotary, joint=True,
        )  # fmt: skip
        self.tubelet = tubelet
        self.levels = LEVELS[depth] if later else (depth - 1,)
        self.patch_embed: Any = TubeletEmbed(patch_size, tubelet, dim)  # type: ignore[assignment]
        self.image_embed = TubeletEmbed(patch_size, 1, dim) if later else None
        self.image_token = nn.Parameter(torch.zeros(1, 1, dim)) if later else None
        self.video_token = nn.Parameter(torch.zeros(1, 1, dim)) if later else None
        self.level_norms = nn.ModuleList(LayerNorm(dim, 1e-6) for _ in self.levels[:-1])
        self.reset_depth()

    def reset_depth(self) -> None:
        """Divide what each block adds to the stream by sqrt(2 i), for training from scratch."""
        for embed in (self.patch_embed, self.image_embed):
            if isinstance(embed, TubeletEmbed):
                nn.init.trunc_normal_(embed.proj.weight, std=0.02)
                nn.init.zeros_(embed.proj.bias)  # type: ignore[arg-type]
        with torch.no_grad():
            for i, block in enumerate(self.blocks):
                block.attn.proj.weight.div_((2 * (i + 1)) ** 0.5)
                block.mlp.fc2.weight.div_((2 * (i + 1)) ** 0.5)

    def embed(self, images: Tensor, num_frames: int = 1) -> tuple[Tensor, Grid]:  # type: ignore[override]
        """Make tokens of frames.

        Args:
            images: (B*T, 3, H, W), normalized.
            num_frames: T; 1 for images. Frames that do not fill a tubelet are left out.

        Returns:
            Tokens (B*T', h*w, D) with T' = T // tubelet, and their grid.

        Raises:
            ValueError: fewer frames than a tubelet has.
        """
        clips = images.unflatten(0, (-1, num_frames)).transpose(1, 2)  # (B, 3, T, H, W)
        embed, token = self.patch_embed, self.video_token
        if num_frames == 1 and self.image_embed is not None:
            embed, token = self.image_embed, self.image_token
        elif num_frames == 1:
            clips = clips.expand(-1, -1, self.tubelet, -1, -1)
        elif num_frames < self.tubelet:
            raise ValueError(f"{num_frames} frames are fewer than a tubelet of {self.name} has ({self.tubelet})")
        tokens, (t, h, w) = embed(clips)
        grid = Grid(t, h, w, 0)
        return self.norm_pre(self.embedded(tokens if token is None else tokens + token, grid)), grid

    def keep(self, tokens: Tensor, grid: Grid, kept: Tensor) -> tuple[Tensor, Grid]:
        """Keep some tokens of each clip, which keep their positions (masked pretraining).

        Args:
            tokens: (B*T', h*w, D), of `embed`.
            grid: their grid.
            kept: numbers (B, K) of the tokens that are kept, counted frame by frame and row by row.

        Returns:
            Tokens (B, K, D) and a grid that says which they are.
        """
        clips = tokens.unflatten(0, (-1, grid.t)).flatten(1, 2)  # (B, T'*h*w, D)
        part = clips.gather(1, kept[..., None].expand(-1, -1, clips.shape[-1]))
        return part, replace(grid, t=1, kept=kept)

    def levels_of(self, tokens: Tensor, grid: Grid, layers: Sequence[int] | None = None) -> list[Tensor]:
        """Run the blocks and return the normed tokens behind some of them.

        Args:
            tokens: of `embed` or `keep`.
            grid: their grid.
            layers: indices of blocks; default the hierarchical layers of 2.1, or the last block. Each level of 2.1 has
                its own norm; 2.0 has one for all.

        Raises:
            ValueError: a block without a norm.
        """
        layers = list(self.levels if layers is None else layers)
        known = self.levels if len(self.levels) > 1 else range(len(self.blocks))
        strange = [i for i in layers if i not in known]
        if strange:
            raise ValueError(f"{self.name} has no norm for the blocks {strange}; it has for {list(known)}")
        taps = Taps("post", layers=layers)
        self.forward_blocks(tokens, grid, taps=taps)
        return [self.norm_behind(i)(taps["post", i], grid) for i in layers]

    def norm_behind(self, layer: int) -> nn.Module:
        """Return the norm for the output of block `layer`."""
        return dict(zip(self.levels, [*self.level_norms, self.norm], strict=True)).get(layer, self.norm)

    def library_state(self) -> dict[str, Tensor]:
        """Return the weights under the names of the official release, without their prefix."""
        return to_official(self.state_dict())
