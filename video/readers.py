"""Readers that combine the features of a clip's frames."""

from torch import Tensor

from xmodal.encoders.patches import patches_of
from xmodal.encoders.taps import Taps
from xmodal.readers import Reader
from xmodal.registry import READERS
from xmodal.structures import Encoder, Grid, need_grid


def frame_stream(tokens: Tensor, grid: Grid | None) -> Tensor:
    """Return one token per frame (B*T, D): the class token, or the mean of the patches where there is none."""
    if grid is not None and grid.prefix:
        return tokens[:, 0]
    return patches_of(tokens, grid, 0).mean(1)


@READERS.register_module(name="time_mean")
class TimeMeanReader(Reader):
    """Average the class token over frames on the raw residual stream, then apply the encoder's final norm.

    Papers: ST-Adapter (arXiv 2206.13559), mean(norm); AIM (2302.03024), norm first. The order moves the logits. CLIP's
    projection is not used. Towers without a class token are averaged over patches.

    Args:
        encoder: the tower read.
        norm_first: apply the final norm to each frame, then average.
    """

    def __init__(self, encoder: Encoder, norm_first: bool = False):
        super().__init__()
        self.norm_first = norm_first
        self.reads = "prefix" if encoder.num_prefix else "all"
        self.out_dim = encoder.dim

    def forward(self, tokens: Tensor, grid: Grid | None, encoder: Encoder, taps: Taps | None = None) -> Tensor:
        """Map (B*T, N, D) to (B, D)."""
        frames = frame_stream(tokens, grid).unflatten(0, (-1, need_grid(grid, "TimeMeanReader").t))  # (B, T, D)
        return encoder.norm(frames).mean(1) if self.norm_first else encoder.norm(frames.mean(1))
