"""The sparse U-Net of EPCL's released detector: voxels of 2 cm to features of 64 channels at stride 2.

Paper: EPCL (arXiv 2212.04098). Frozen CLIP blocks stand at stride 8 (`bottleneck`).
"""

from collections.abc import Callable, Sequence

from torch import nn

from pointcloud.sparse import SparseTensor
from pointcloud.sparse_layers import SparseBasicBlock, SparseBatchNorm, SparseConv, SparseConvTranspose, SparseReLU


def stage(layer: nn.Module, channels: int, block: bool = True) -> nn.Sequential:
    """Return a convolution, its norm, ReLU, and a residual block: children 0, 1, 2 and 3."""
    parts: list[nn.Module] = [layer, SparseBatchNorm(channels), SparseReLU()]
    return nn.Sequential(*parts, *[SparseBasicBlock(channels)] * block)


class SparseUNet(nn.Module):
    """Down to stride 8 and up to stride 2, with skips added behind each step up; names as in EPCL's files.

    Args:
        in_channels: of the voxels (colors).
        widths: channels at strides 1, 2, 4 and 8.
        out_channels: of the result; default: the first width.
        bottleneck: what is added at stride 8, None for nothing.
    """

    def __init__(
        self,
        in_channels: int = 3,
        widths: Sequence[int] = (64, 128, 256, 512),
        out_channels: int | None = None,
        bottleneck: Callable[[SparseTensor], SparseTensor] | None = None,
    ):
        super().__init__()
        one, two, four, eight = widths
        out = self.out_dim = out_channels or one
        self.embdding_layer = stage(SparseConv(in_channels, one, 1), one, block=False)  # spelled so in the files
        self.downsampling_layer_2 = stage(SparseConv(one, two, 3, 2), two)
        self.downsampling_layer_4 = stage(SparseConv(two, four, 3, 2), four)
        self.downsampling_layer_8 = stage(SparseConv(four, eight, 3, 2), eight)
        self.upsampling_layer_4 = stage(SparseConvTranspose(eight, four, 3, 2), four)
        self.upsampling_layer_2 = stage(SparseConvTranspose(four, two, 3, 2), two)
        self.out_layer = stage(SparseConv(two, out, 1), out, block=False)
        self.bottleneck = bottleneck

    def down(self, x: SparseTensor) -> tuple[SparseTensor, SparseTensor, SparseTensor]:
        """Return the tensors at strides 2, 4 and 8."""
        two = self.downsampling_layer_2(self.embdding_layer(x))
        four = self.downsampling_layer_4(two)
        return two, four, self.downsampling_layer_8(four)

    def forward(self, x: SparseTensor) -> SparseTensor:
        """Map voxels (N, C) at stride 1 to (M, D) at stride 2."""
        two, four, eight = self.down(x)
        if self.bottleneck is not None:
            eight = eight + self.bottleneck(eight)
        four = self.upsampling_layer_4(eight) + four
        return self.out_layer(self.upsampling_layer_2(four) + two)
