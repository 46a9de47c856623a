"""Dynamic Head: attention over scales, places and channels of a feature pyramid, for detection on any encoder.

Paper: Dynamic Head: Unifying Object Detection Heads with Attentions (arXiv 2106.08322); Florence (2111.11432) detects
with it. There are no released weights of Florence's. `LightFPN(neck=dict(type=DynamicHead))` trains it on a dense task.
"""

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import deform_conv2d

from xmodal.registry import HEADS, method


class DeformableConv(nn.Module):
    """Modulated deformable 3x3 convolution with offsets and masks given as inputs.

    Args:
        dim: channels in and out.
    """

    def __init__(self, dim: int):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(dim, dim, 3, 3))
        nn.init.normal_(self.weight, std=0.01)
        self.norm = nn.GroupNorm(max(g for g in (16, 8, 4, 2, 1) if dim % g == 0), dim)

    def forward(self, x: Tensor, offset: Tensor, mask: Tensor, stride: int = 1) -> Tensor:
        """Map (B, C, h, w) to (B, C, h/stride, w/stride), with offsets (B, 18, ...) and weights (B, 9, ...)."""
        return self.norm(deform_conv2d(x, offset, self.weight, stride=stride, padding=1, mask=mask))


class DynamicReLU(nn.Module):
    """The larger of two linear functions a channel, whose slopes depend on the whole map (task-aware attention).

    At start: the ReLU.

    Args:
        dim: channels.
        reduction: of the hidden layer.
    """

    def __init__(self, dim: int, reduction: int = 4):
        super().__init__()
        self.dim = dim
        self.fc1, self.fc2 = nn.Linear(dim, dim // reduction), nn.Linear(dim // reduction, 4 * dim)
        nn.init.zeros_(self.fc2.weight)
        nn.init.zeros_(self.fc2.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, h, w) to the same."""
        theta = F.hardsigmoid(self.fc2(torch.relu(self.fc1(x.mean((2, 3)))))) - 0.5  # (B, 4C)
        a1, b1, a2, b2 = (t[..., None, None] for t in theta.split(self.dim, dim=1))
        return torch.maximum(x * (1 + 2 * a1) + b1, x * 2 * a2 + b2)


class DynamicBlock(nn.Module):
    """One round of scale-, spatial- and task-aware attention over the levels of a pyramid.

    At start: identity (a gate of 0 on the change).
    Differs from the released code: the gate is ours.

    Args:
        dim: channels C of every level.
    """

    def __init__(self, dim: int):
        super().__init__()
        self.same, self.finer, self.coarser = DeformableConv(dim), DeformableConv(dim), DeformableConv(dim)
        self.look = nn.Conv2d(dim, 27, 3, padding=1)  # 18 offsets and 9 weights
        nn.init.zeros_(self.look.weight)
        nn.init.zeros_(self.look.bias)  # type: ignore[arg-type]
        self.scale = nn.Conv2d(dim, 1, 1)
        self.task = DynamicReLU(dim)
        self.gate = nn.Parameter(torch.zeros(()))

    def forward(self, levels: Sequence[Tensor]) -> list[Tensor]:
        """Map L levels (B, C, h, w), each half as large as the one before, to the same shapes."""
        return [x + self.gate * (self.attend(levels, i) - x) for i, x in enumerate(levels)]

    def attend(self, levels: Sequence[Tensor], i: int) -> Tensor:
        """Compute the new level i from itself and its neighbors."""
        x = levels[i]
        look = self.look(x)
        offset, mask = look[:, :18], look[:, 18:].sigmoid()
        seen = [self.same(x, offset, mask)]
        if i > 0:  # a finer level, with stride 2
            seen.append(self.finer(levels[i - 1], offset, mask, stride=2))
        if i < len(levels) - 1:  # a coarser level, enlarged
            size = levels[i + 1].shape[-2:]
            near = F.interpolate(offset, size=size, mode="bilinear"), F.interpolate(mask, size=size, mode="bilinear")
            seen.append(F.interpolate(self.coarser(levels[i + 1], *near), size=x.shape[-2:], mode="bilinear"))
        weights = [F.hardsigmoid(torch.relu(self.scale(s.mean((2, 3), keepdim=True)))) for s in seen]
        mixed = torch.stack([w * s for w, s in zip(weights, seen, strict=True)]).mean(0)
        return self.task(mixed)


@method(
    HEADS,
    "dynamic_head",
    slot="head",
    paper="Dynamic Head: Unifying Object Detection Heads with Attentions, arXiv 2106.08322",
    parity=("dynamic_head",),
    families=("convnet", "swin"),
)
class DynamicHead(nn.Module):
    """A stack of dynamic blocks over a pyramid.

    Paper: arXiv 2106.08322.
    At start: identity, where the levels have `dim` channels already; else the 1 by 1 convolutions that make them so.

    Args:
        in_dims: channels of every level, finest first.
        dim: channels C inside.
        depth: blocks.

    Raises:
        ValueError: no level, no block.
    """

    def __init__(self, in_dims: Sequence[int], dim: int = 256, depth: int = 6):
        super().__init__()
        if not in_dims or depth < 1:
            raise ValueError(f"in_dims={list(in_dims)}, depth={depth}: give at least one level and one block")
        self.dim = dim
        self.widen = nn.ModuleList(nn.Identity() if d == dim else nn.Conv2d(d, dim, 1) for d in in_dims)
        self.blocks = nn.ModuleList(DynamicBlock(dim) for _ in range(depth))

    def forward(self, levels: Sequence[Tensor]) -> list[Tensor]:
        """Map L levels (B, C_l, h_l, w_l) to L levels (B, C, h_l, w_l).

        Raises:
            ValueError: another number of levels, or levels that are not half as large as the one before.
        """
        if len(levels) != len(self.widen):
            raise ValueError(f"{len(levels)} levels, and the head was built for {len(self.widen)}")
        for a, b in pairwise(levels):
            if tuple(b.shape[-2:]) != tuple((n + 1) // 2 for n in a.shape[-2:]):
                raise ValueError(
                    f"levels of {tuple(a.shape[-2:])} and {tuple(b.shape[-2:])}: each halves the one before"
                )
        out = [widen(x) for widen, x in zip(self.widen, levels, strict=True)]
        for block in self.blocks:
            out = block(out)
        return out
