"""Blocks of Swin and Swin V2 with named sites: those of a transformer block, on timm's own modules."""

from typing import Any

from timm.models import swin_transformer, swin_transformer_v2
from torch import Tensor, nn

from xmodal.encoders.convsites import Sited, Sizes, add_site
from xmodal.encoders.sites import Branch, Edits, Stream
from xmodal.structures import Grid


class WindowSites(Sited):
    """The sites of a transformer block, on blocks of windows.

    Attributes:
        pad_first: pad maps that windows do not divide before they are shifted, as Swin's detection code does; timm
            shifts first.
    """

    family = "swin"
    pad_first = False
    act = "gelu"
    attn: Any  # timm's, with sites added
    mlp: Any
    norm1: Any
    norm2: Any
    dim: int
    window_size: Any
    _attn: Any

    def add_sites(self) -> None:
        """Create the sites of a transformer block."""
        self.pre_attn, self.pre_mlp, self.post = Stream(), Stream(), Stream()
        self.attn.edits, self.mlp.edits = Edits(), Edits()
        self.attn_branch, self.mlp_branch = Branch(), Branch()
        for op in (self.norm1, self.attn.qkv, self.attn.proj, self.norm2, self.mlp.fc1, self.mlp.fc2):
            add_site(op)

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


class SwinBlock(WindowSites, swin_transformer.SwinTransformerBlock):
    """Swin: the sites of a transformer block; what is placed at `attn` sees the un-shifted map, outside drop-path."""

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
        return self.post(x + self.mlp_branch(y, x, grid), grid).unflatten(1, (h, w))


class SwinV2Block(WindowSites, swin_transformer_v2.SwinTransformerV2Block):
    """Swin V2: as Swin, with the norms behind attention and MLP; what is placed at `attn` sees the normed output."""

    def add_sites(self) -> None:
        """Create the sites; the projection of queries, keys and values is called as a module, so that its site acts."""
        super().add_sites()
        self.attn.qkv_bias_separate = True

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, H, W, C)."""
        _, h, w, _ = x.shape
        grid = Grid(1, h, w, prefix=0)
        x = self.pre_attn(x.flatten(1, 2), grid)  # (B, HW, C)
        y = self.norm1(self.attend(x.unflatten(1, (h, w))).flatten(1, 2), grid)
        x = self.pre_mlp(x + self.attn_branch(self.attn.edits(self.drop_path1(y), x, grid), x, grid), grid)
        y = self.mlp.edits(self.drop_path2(self.norm2(self.mlp(x), grid)), x, grid)
        return self.post(x + self.mlp_branch(y, x, grid), grid).unflatten(1, (h, w))
