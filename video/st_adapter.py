"""ST-Adapter: bottleneck adapters with a depth-wise space-time convolution turn an image tower into a video tower.

Paper: Parameter-Efficient Image-to-Video Transfer Learning (arXiv 2206.13559). Identity at the start. Each adapter has
2*D*Ca + D + 2*Ca + Ca*kt*kh*kw weights.
"""

from collections.abc import Iterable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from xmodal.encoders.sites import choose_blocks, place
from xmodal.registry import ADAPTERS, method
from xmodal.structures import Encoder, Grid, need_grid


class STAdapter(nn.Module):
    """Down, depth-wise convolution over time and space, up, added to the patch tokens; prefix tokens pass untouched.

    Args:
        dim: width D.
        bottleneck: width Ca between.
        kernel_size: (t, h, w), odd.

    At start: the identity (the convolution and all biases are zero).
    Trains: all of it.
    Differs from the released code: the convolution runs on the layout the tokens already have; the same numbers.
    """

    edits_patches_only = True

    def __init__(self, dim: int, bottleneck: int = 384, kernel_size: Sequence[int] = (3, 1, 1)):
        super().__init__()
        kernel_size = tuple(kernel_size)
        if len(kernel_size) != 3 or any(k < 1 or k % 2 == 0 for k in kernel_size):
            raise ValueError(f"st_adapter: kernel_size must be three odd numbers (t, h, w), got {kernel_size}")
        t, h, w = kernel_size
        self.padding = (t // 2, h // 2, w // 2)
        self.fc1 = nn.Linear(dim, bottleneck)
        self.conv = nn.Conv3d(bottleneck, bottleneck, (t, h, w), padding=self.padding, groups=bottleneck)
        self.fc2 = nn.Linear(bottleneck, dim)
        for zero in (self.conv.weight, self.conv.bias, self.fc1.bias, self.fc2.bias):
            assert zero is not None
            nn.init.zeros_(zero)

    def forward(self, x: Tensor, grid: Grid | None = None) -> Tensor:
        """Map the residual stream (B*T, N, D) to the same shape."""
        grid = need_grid(grid, "st_adapter")
        start, end = grid.prefix, grid.prefix + grid.num_patches
        if start == end:  # only prefix tokens are left, and they pass untouched
            return x
        patches = x[:, start:end]
        u = self.fc1(patches)
        if torch.is_grad_enabled():  # the convolution costs so little that its output is made again
            change = checkpoint(self.up, u, grid, use_reentrant=False, preserve_rng_state=False)
        else:
            change = self.up(u, grid)
        return torch.cat([x[:, :start], patches + change, x[:, end:]], dim=1)

    def up(self, u: Tensor, grid: Grid) -> Tensor:
        """Convolve u (B*T, h*w, Ca) and map it to (B*T, h*w, D)."""
        return self.fc2(self.convolve(u, grid))

    def convolve(self, u: Tensor, grid: Grid) -> Tensor:
        """Depth-wise convolution of u (B*T, h*w, Ca), zero-padded, over the frames of each clip.

        Over time alone it is a 2D convolution over (T, h*w) whose channels-last layout the tokens already have.
        """
        u = u.unflatten(0, (-1, grid.t))  # (B, T, hw, Ca)
        if self.padding[1:] == (0, 0):
            weight = self.conv.weight.flatten(3)  # (Ca, 1, kt, 1)
            v = F.conv2d(
                u.permute(0, 3, 1, 2), weight, self.conv.bias, padding=(self.padding[0], 0), groups=len(weight)
            )
            return v.permute(0, 2, 3, 1).flatten(0, 1)  # (B*T, hw, Ca)
        v = self.conv(u.unflatten(2, (grid.h, grid.w)).permute(0, 4, 1, 2, 3))  # (B, Ca, T, h, w)
        return v.permute(0, 2, 3, 4, 1).flatten(2, 3).flatten(0, 1)  # (B*T, hw, Ca)


@method(
    ADAPTERS,
    "st_adapter",
    slot="adapter",
    paper="ST-Adapter: Parameter-Efficient Image-to-Video Transfer Learning (arXiv 2206.13559)",
    params="adapters * (2*D*Ca + D + 2*Ca + Ca*kt*kh*kw)",
    parity=("st_adapter",),
)
def st_adapter(
    encoder: Encoder,
    bottleneck: int = 384,
    kernel_size: Sequence[int] = (3, 1, 1),
    sites: Sequence[str] = ("pre_mlp",),
    blocks: int | Iterable[int] | None = None,
    name: str = "st_adapter",
) -> list[nn.Module]:
    """Place ST-Adapters in the blocks of an encoder.

    Args:
        encoder: a tower of blocks.
        bottleneck: width Ca.
        kernel_size: (t, h, w).
        sites: `pre_attn`, `pre_mlp` or both. The paper's "12x384" is `pre_mlp` in 12 blocks, "24x384" both.
        blocks: None for all, a number n for the last n, or indices.
        name: the adapters' name at their sites.

    Raises:
        ValueError: another site, or an even kernel.
    """
    wrong = [site for site in sites if site not in ("pre_attn", "pre_mlp")]
    if wrong or not sites:
        raise ValueError(f"st_adapter: sites must be pre_attn and/or pre_mlp, got {list(sites)}")
    return [
        place(block, site, name, STAdapter(encoder.dim, bottleneck, kernel_size))
        for block in choose_blocks(encoder, blocks)
        for site in sites
    ]
