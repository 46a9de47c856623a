"""BitFit: train the biases the encoder has, and nothing else.

Paper: BitFit: Simple Parameter-efficient Fine-tuning for Transformer-based Masked Language-models (arXiv 2106.10199).
Identity at the start, nothing is added. It is the one method that un-freezes by name; a ViT of width D and depth L has
(11*L + 2)*D biases.
"""

from collections.abc import Iterable

from torch import nn

from xmodal.encoders.sites import Edits, Stream, choose_blocks
from xmodal.registry import ADAPTERS, method
from xmodal.structures import Encoder


@method(
    ADAPTERS,
    "bitfit",
    slot="adapter",
    paper="BitFit: Simple Parameter-efficient Fine-tuning for Transformer-based Masked Language-models (2106.10199)",
    parity=("bitfit",),
    params="every bias: (11*L + 2)*D on a ViT",
    families=("vit", "swin", "convnet"),
)
def bitfit(encoder: Encoder, blocks: int | Iterable[int] | None = None) -> list[nn.Module]:
    """Train the biases of an encoder.

    Args:
        encoder: a tower.
        blocks: None for every bias of the tower; a number n for the last n blocks, or indices, for theirs only.

    Returns:
        The modules whose bias trains now.

    Raises:
        ValueError: there is no bias to train.
    """
    roots = [encoder] if blocks is None else choose_blocks(encoder, blocks)
    found = [owner for root in roots for owner in own_modules(root) if isinstance(bias_of(owner), nn.Parameter)]
    if not found:
        raise ValueError(f"bitfit: {type(encoder).__name__} has no bias to train there")
    for owner in found:
        bias_of(owner).requires_grad_(True)  # type: ignore[union-attr]
    return found


def bias_of(module: nn.Module) -> nn.Parameter | None:
    """Return the module's bias, None where it has none."""
    return dict(module.named_parameters(recurse=False)).get("bias")


def own_modules(root: nn.Module) -> Iterable[nn.Module]:
    """Yield all modules below `root` except placed ones."""
    yield root
    for child in root.children():
        if not isinstance(child, Stream | Edits):
            yield from own_modules(child)
