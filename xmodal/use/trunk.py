"""Run many trained tasks on one frozen encoder: its weights are held once, and what tasks share is computed once."""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from xmodal.encoders.sites import placed
from xmodal.encoders.taps import Taps
from xmodal.frozen_tower import FrozenTower
from xmodal.model import TransferModel


def share_weights(models: Iterable[nn.Module]) -> int:
    """Let models of one frozen encoder hold its weights together; returns the bytes that this saved.

    Models whose encoders have the same name and hash give up their own copies of all weights that do not train and
    that no checkpoint holds.
    """
    held: dict[tuple, nn.Parameter | Tensor] = {}
    saved = 0
    for model in models:
        if not isinstance(model, FrozenTower) or model.encoder is None:
            continue
        own = model.saved_keys()
        for module_name, module in model.named_modules():
            for name, value in [*module._parameters.items(), *module._buffers.items()]:
                key = f"{module_name}.{name}".lstrip(".")
                inner = key.partition("encoder.")[2]
                if value is None or not inner or key in own or value.requires_grad:
                    continue
                at = (*model._fingerprint, inner, value.shape, value.dtype)
                kept = held.setdefault(at, value)
                if kept is not value and torch.equal(kept, value):
                    store = module._parameters if name in module._parameters else module._buffers
                    store[name] = kept  # type: ignore[assignment]
                    saved += value.numel() * value.element_size()
    return saved


def boundary_of(model: Any) -> int | None:
    """Return the number of blocks that are the frozen encoder's alone; None where nothing can be shared."""
    if not isinstance(model, TransferModel):
        return None
    try:
        boundary = model.boundary()
    except ValueError:
        return None
    blocks = list(model.encoder.blocks)
    changed = any(True for block in blocks[:boundary] for _ in placed(block))
    return None if changed or (boundary < len(blocks) and model.reader.pixels) else boundary


class SharedTrunk:
    """Compute the features of several models, whose encoder is the same, on one batch.

    The frozen blocks run once, up to where each model's own part begins; models that cannot share run whole.

    Args:
        models: with one frozen encoder and one way of reading pixels.
    """

    def __init__(self, models: Sequence[Any]):
        self.models = list(models)
        self.boundaries = [boundary_of(model) for model in models]
        self.depth = len(models[0].encoder.blocks)

    def scores(self, batch: dict[str, Any], wanted: Sequence[int]) -> dict[int, Tensor]:
        """Return the scores (B, K) of the wanted models, by their numbers.

        Args:
            batch: collated samples, `clips` or `image`.
            wanted: numbers of models.
        """
        inputs = self.models[wanted[0]].data_preprocessor(batch)
        pixels = {key: inputs[key] for key in ("clips", "image") if key in inputs}
        shared = [i for i in wanted if self.boundaries[i] is not None]
        features = self.shared_features(pixels, shared) if shared else {}
        features |= {i: self.models[i].features(**pixels) for i in wanted if i not in features}
        count = len(next(iter(pixels.values())))
        return {i: self.models[i].head.predict(f).unflatten(0, (count, -1)).mean(1) for i, f in features.items()}

    def shared_features(self, pixels: dict[str, Tensor], shared: Sequence[int]) -> dict[int, Tensor]:
        """Run the frozen blocks in pieces from boundary to boundary; returns features by number."""
        last = max(shared, key=lambda i: self.boundaries[i] or 0)
        tokens, grid = self.models[last].embed(**pixels)
        encoder, at, found = self.models[last].encoder, 0, {}
        for stop in sorted({self.boundaries[i] or 0 for i in shared}):
            here = [i for i in shared if self.boundaries[i] == stop]
            if stop < self.depth:
                tokens = encoder.forward_blocks(tokens, grid, start=at, stop=stop) if stop > at else tokens
                at = stop
                for i in here:
                    found[i] = self.models[i].trained_part({"stream": tokens}, grid)
                continue
            taps = self.taps_of(here, pixels)
            reads = {self.models[i].reader.reads for i in here}
            read = "prefix" if reads == {"prefix"} else "all"
            tokens = encoder.forward_blocks(tokens, grid, read=read, taps=taps, start=at)
            for i in here:
                kept = self.models[i].reader.frozen(tokens, grid, encoder, taps)
                found[i] = self.models[i].trained_part(kept, grid)
        return found

    def taps_of(self, numbers: Sequence[int], pixels: dict[str, Tensor]) -> Taps | None:
        """Return taps for all that the readers of some models listen to."""
        own = [taps for i in numbers if (taps := self.models[i].listen(**pixels)) is not None]
        if not own:
            return None
        readers = [self.models[i].reader for i in numbers]
        taps = Taps(*{name for r in readers for name in r.taps}, layers={n for r in readers for n in r.layers})
        taps.pixels = next((t.pixels for t in own if t.pixels is not None), None)
        return taps
