"""Taps record outputs inside the blocks for a reader; only what is asked for is kept."""

from collections.abc import Iterable

from torch import Tensor

TAP_NAMES = ("attn.q", "attn.k", "attn.v", "post")


class Slot:
    """Record of one block's outputs; only the names asked for are kept."""

    def __init__(self, names: Iterable[str]):
        self.values: dict[str, Tensor | None] = dict.fromkeys(names)

    def write(self, name: str, value: Tensor) -> None:
        """Keep `value` when `name` was asked for. Written by name, never appended: recomputation writes the same."""
        if name in self.values:
            self.values[name] = value


class Taps:
    """Record some outputs of some blocks during one forward pass.

    Example:
        taps = Taps("attn.q", "post", layers=[10, 11])
        encoder.forward_blocks(tokens, grid, taps=taps)
        taps["post", 11]                    # (B, N, D)

    Args:
        names: `attn.q`, `attn.k`, `attn.v` (B, H, N, D/H), after the projection, unscaled; `post` (B, N, D), the
            residual stream behind the block.
        layers: indices of the blocks listened to.

    Raises:
        ValueError: an unknown name.
    """

    def __init__(self, *names: str, layers: Iterable[int]):
        unknown = sorted(set(names) - set(TAP_NAMES))
        if unknown:
            raise ValueError(f"no tap is called {unknown[0]!r}; there are {', '.join(TAP_NAMES)}")
        self.pixels: Tensor | None = None  # the normalized frames (B, 3, T, H, W), for readers that want them
        self.slots = {layer: Slot(names) for layer in layers}

    def slot(self, layer: int) -> Slot | None:
        """Return the record of block `layer`, None when it is not tapped."""
        return self.slots.get(layer)

    def __getitem__(self, key: tuple[str, int]) -> Tensor:
        name, layer = key
        value = self.slots[layer].values[name]
        if value is None:
            raise KeyError(f"block {layer} has not written {name!r}: run forward_blocks with these taps first")
        return value
