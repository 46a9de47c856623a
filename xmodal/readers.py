"""Readers: from the tokens of the last block, or from taps inside, to one feature a clip or an image."""

from torch import Tensor, nn

from xmodal.encoders.taps import Taps
from xmodal.registry import READERS
from xmodal.structures import Encoder, Grid


class Reader(nn.Module):
    """Base class of readers.

    Attributes:
        reads: `prefix` when only class and register tokens of the last block are looked at, `all`, or `taps` when only
            the taps are.
        taps: names listened to.
        layers: indices of the blocks listened to.
        out_dim: width of the feature.
        segments: consecutive clips of a video that become one feature; `forward` then gives (B / segments, out_dim).
        pixels: `forward` reads the normalized frames too, as `taps.pixels` (B, 3, T, H, W).
        frame_step: the encoder sees every frame_step-th frame only.
        inside_blocks: `forward` calls parts of the tower's blocks by itself.
    """

    reads: str = "all"
    taps: tuple[str, ...] = ()
    layers: tuple[int, ...] = ()
    out_dim: int
    segments = 1
    pixels = False
    frame_step = 1
    inside_blocks = False

    def forward(self, tokens: Tensor, grid: Grid | None, encoder: Encoder, taps: Taps | None) -> Tensor:
        """Map the raw residual stream (B*T, N, D) to features (B, out_dim)."""
        raise NotImplementedError

    def listen(self) -> Taps | None:
        """Return the taps this reader wants to see, None for none."""
        return Taps(*self.taps, layers=self.layers) if self.taps or self.pixels else None

    def frozen(self, tokens: Tensor, grid: Grid | None, encoder: Encoder, taps: Taps | None) -> dict[str, Tensor]:
        """Return the smallest set of a frozen encoder's outputs that this reader needs; a cache keeps these.

        Returns:
            Named tensors; the first axis of each is a multiple of B, rows ordered by sample.
        """
        kept = {} if self.reads == "taps" else {"tokens": tokens}
        kept |= {"pixels": taps.pixels} if self.pixels and taps is not None and taps.pixels is not None else {}
        return kept | {f"{name}.{i}": taps[name, i] for name in self.taps for i in self.layers if taps is not None}

    def from_frozen(self, kept: dict[str, Tensor], grid: Grid | None, encoder: Encoder) -> Tensor:
        """Features (B, out_dim) from what `frozen` gave."""
        taps = self.listen()
        if taps is not None:
            taps.pixels = kept.get("pixels")
        for i in self.layers:
            for name in self.taps:
                taps.slots[i].write(name, kept[f"{name}.{i}"])  # type: ignore[union-attr]
        return self(kept.get("tokens"), grid, encoder, taps)


@READERS.register_module(name="pooled")
class PooledReader(Reader):
    """The feature the encoder was trained to give, averaged over the frames of a clip.

    Args:
        encoder: the tower read.
    """

    def __init__(self, encoder: Encoder):
        super().__init__()
        self.reads = "prefix" if encoder.pool_type == "token" else "all"
        self.out_dim = encoder.out_dim

    def forward(self, tokens: Tensor, grid: Grid | None, encoder: Encoder, taps: Taps | None = None) -> Tensor:
        """Map (B*T, N, D) to (B, D_out)."""
        feature = encoder.pool(encoder.norm(tokens, grid), grid)
        return feature if grid is None else feature.unflatten(0, (-1, grid.t)).mean(1)
