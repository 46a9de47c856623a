"""The model of image and video experiments: encoder, adapters, reader and head."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from mmengine.model import BaseModel
from torch import Tensor, nn

from xmodal.encoders.frozen import freeze, hold_frozen_in
from xmodal.encoders.sites import placed
from xmodal.export import Exported, export
from xmodal.frozen_tower import FrozenTower
from xmodal.preprocessor import Preprocessor
from xmodal.readers import PooledReader, Reader
from xmodal.registry import ENCODERS, HEADS, MODELS, READERS, build

CACHED = "cached/"


class EncoderModel(FrozenTower, BaseModel):
    """Base of models of images and clips: a frozen encoder with adapters, a reader and a head.

    Args:
        encoder: the tower, or its config.
        head: from a feature to logits, a loss and predictions; receives `in_dim`.
        adapters: what edits the encoder, in order; each receives `encoder`.
        reader: from tokens to a feature; receives `encoder`. Default: the feature the encoder was trained to give.
        freeze_encoder: False trains the encoder too (full fine-tuning).
        mixing: further arguments of `Preprocessor` (`mixup`, `cutmix`, `num_classes`, `label_smoothing`).
        recompute: recompute activations in the backward pass, less memory for more time: of all blocks, or of the
            first n.
        compile_blocks: compile each block with `torch.compile`.
        channels_last: hold the weights of convolutions channels last, which convolutional networks on a GPU are faster
            with; the results are the same up to rounding.
        trunk_dtype: `bf16` (or `fp16` on a GPU) holds the frozen linear layers of the blocks in half precision and
            computes them in it; the residual stream and all that trains stay float32. `int8` (needs torchao) is for
            extraction, prediction and readers: no gradient passes it.

    Raises:
        ValueError: a misspelt argument anywhere below, with the nearest known one.
    """

    data_preprocessor: nn.Module

    def __init__(
        self,
        encoder: Any,
        head: Any,
        adapters: Sequence[Any] = (),
        reader: Any = None,
        freeze_encoder: bool = True,
        mixing: dict | None = None,
        recompute: bool | int = False,
        compile_blocks: bool = False,
        trunk_dtype: str | None = None,
        channels_last: bool = False,
    ):
        encoder = build(encoder, ENCODERS)
        super().__init__(data_preprocessor=Preprocessor(encoder.pixel_mean, encoder.pixel_std, **(mixing or {})))
        self.encoder = self.hold(encoder, adapters, freeze_encoder)
        self.reader: Reader = build(reader, READERS, encoder=encoder) if reader else PooledReader(encoder)
        self.head = build(head, HEADS, in_dim=self.reader.out_dim)
        if self.head is None:
            raise ValueError("model.head is none: give one, such as dict(type=ClassificationHead, num_classes=10)")
        assert isinstance(self.data_preprocessor, Preprocessor)
        self.data_preprocessor.check_labels = getattr(self.head, "check_labels", None)
        encoder.recompute = recompute
        self.trunk_dtype = trunk_dtype
        if trunk_dtype is not None:
            hold_frozen_in(nn.ModuleList(encoder.blocks), trunk_dtype)
        self._still_dead_parts()
        if channels_last:
            encoder.to(memory_format=torch.channels_last)
        if compile_blocks:
            for block in encoder.blocks:
                block.compile()

    def _still_dead_parts(self) -> None:
        """Freeze adapters of the last block that the reader cannot see: behind attention, on patches it ignores."""
        if self.reader.reads != "prefix":
            return
        last = self.encoder.blocks[-1]
        for name, module in placed(last):
            if getattr(module, "edits_patches_only", False) and not name.startswith("pre_attn"):
                freeze(module)

    def train(self, mode: bool = True) -> "EncoderModel":
        """Set the mode; frozen parts stay in evaluation mode.

        Raises:
            ValueError: something in the encoder is to be trained through an int8 trunk.
        """
        if mode and self.trunk_dtype == "int8" and any(p.requires_grad for p in self.encoder.parameters()):
            raise ValueError("no gradient passes an int8 trunk: train with trunk_dtype bf16 or None, predict with int8")
        return super().train(mode)

    def features(self, **inputs: Any) -> Tensor:
        """Features (B*V, D) of a batch whose pixels are normalized already.

        Args:
            **inputs: `clips` (B, V, T, 3, H, W) or `image` (B, 3, H, W), or what else the encoder embeds.

        Raises:
            ValueError: nothing the encoder can embed.
        """
        tokens, grid = self.embed(**inputs)
        taps = self.listen(**inputs)
        tokens = self.encoder.forward_blocks(tokens, grid, read=self.reader.reads, taps=taps)
        return self.reader(tokens, grid, self.encoder, taps)

    def listen(self, **inputs: Any) -> Any:
        """Make the taps that the reader wants, with the frames if it reads them."""
        taps = self.reader.listen()
        if self.reader.pixels and taps is not None:
            taps.pixels = inputs["clips"].flatten(0, 1).transpose(1, 2)  # (B*V, 3, T, H, W)
        return taps

    def embed(self, **inputs: Any) -> tuple[Tensor, Any]:
        """Tokens of a batch and their grid."""
        if "clips" in inputs:
            clips = inputs["clips"][:, :, :: self.reader.frame_step]
            return self.encoder.embed(clips.flatten(0, 2), num_frames=clips.shape[2])  # rows ((b v) t)
        if "image" in inputs:
            return self.encoder.embed(inputs["image"])
        return self.encoder.embed(**inputs)

    def forward(self, mode: str = "tensor", label: Any = None, sample_id: Any = None, **inputs: Any) -> Any:
        """Run a preprocessed batch.

        Args:
            mode: `tensor` for logits (B*V, K), `loss` for a dict of losses, `predict` for one dict a sample.
            label: (B,) or soft (B, K); may be None except for `loss`.
            sample_id: names of the samples.
            **inputs: see `features`; `skipped` and `replaced` (unreadable samples) are ignored here.

        Raises:
            ValueError: an unknown mode.
        """
        views = self.views_of(inputs)
        if mode == "predict" and not any(len(v) for v in inputs.values() if isinstance(v, Tensor)):
            return []
        feature = self.features(**inputs)
        if mode == "tensor":
            return self.head(feature)
        if mode == "loss":
            return self.head.loss(feature, label.repeat_interleave(views, 0) if views > 1 else label)
        if mode == "predict":
            scores = self.head.predict(feature).unflatten(0, (-1, views)).mean(1)  # (B, K)
            return self.to_predictions(scores, label, sample_id)
        raise ValueError(f"mode {mode!r}: choose tensor, loss or predict")

    def views_of(self, inputs: dict[str, Any]) -> int:
        """Return how many features a sample has, and take out of the inputs what is said of unreadable samples.

        Raises:
            ValueError: clips that the reader's segments do not divide.
        """
        for aside in ("skipped", "replaced"):
            inputs.pop(aside, None)
        views = next((v.shape[1] for key, v in inputs.items() if key == "clips" or key.startswith(CACHED)), 1)
        if views % self.reader.segments:
            raise ValueError(
                f"{views} clips a video do not make segments of {self.reader.segments}: set temporal_views"
            )
        return views // self.reader.segments

    def answers(self, pixels: Tensor) -> Tensor:
        """Map normalized images (B, 3, H, W) or clips (B, T, 3, H, W) to class probabilities (B, K)."""
        inputs = {"image": pixels} if pixels.ndim == 4 else {"clips": pixels[:, None]}
        return self.head.predict(self.features(**inputs))

    def export(self, path: str | Path, **options: Any) -> Exported:
        """Write the model as a graph that runs without xmodal, see `xmodal.export.export`."""
        return export(self, path, **options)

    @staticmethod
    def to_predictions(scores: Tensor, label: Any, sample_id: Any) -> list[dict[str, Any]]:
        """One dict a sample: `sample_id`, `scores` (K,) on the CPU, `label` or None."""
        scores = scores.cpu()
        labels = [None] * len(scores) if label is None else torch.as_tensor(label).cpu().tolist()
        names = sample_id if sample_id is not None else [str(i) for i in range(len(scores))]
        return [{"sample_id": n, "scores": s, "label": y} for n, s, y in zip(names, scores, labels, strict=True)]


@MODELS.register_module(name="transfer")
class TransferModel(EncoderModel):
    """A frozen encoder with small trained parts, whose frozen part can be computed once and cached.

    Args:
        *args: see `EncoderModel`.
        **kwargs: see `EncoderModel`.
    """

    def features(self, **inputs: Any) -> Tensor:
        """Return features (B*V, D) of a batch, or of `cached/<name>` (B, V, rows, ...) and their `grid`."""
        kept, grid = self.cached(inputs)
        return self.trained_part(kept, grid) if kept else super().features(**inputs)

    @staticmethod
    def cached(inputs: dict[str, Any]) -> tuple[dict[str, Tensor], Any]:
        """Return what `frozen_part` gives, from the `cached/<name>` of a batch; nothing where it has none."""
        kept = {key.removeprefix(CACHED): inputs[key] for key in inputs if key.startswith(CACHED)}
        grid = inputs.get("grid")
        grid = grid[0] if isinstance(grid, list) else grid  # one a sample, all alike
        return {k: v.flatten(0, 2).float() for k, v in kept.items()}, grid

    def boundary(self) -> int:
        """Index of the first block with anything trained in it; the number of blocks when none has.

        Raises:
            ValueError: something in front of the blocks trains, so nothing is frozen that could be kept.
        """
        blocks = list(self.encoder.blocks)
        inside = {id(p) for block in blocks for p in block.parameters()}
        behind = {id(p) for module in self.encoder.behind_blocks() for p in module.parameters()}
        if any(p.requires_grad and id(p) not in inside | behind for p in self.encoder.parameters()):
            raise ValueError(
                "something in front of the first block trains (prompts, positions): there is nothing to cache"
            )
        trains = [any(p.requires_grad for p in block.parameters()) for block in blocks]
        return trains.index(True) if True in trains else len(blocks)

    @torch.no_grad()
    def frozen_part(self, **inputs: Any) -> tuple[dict[str, Tensor], Any]:
        """Compute everything up to the first trained weight for a preprocessed batch.

        Returns:
            Named tensors whose first axis is a multiple of B*V, and the grid.
        """
        tokens, grid = self.embed(**inputs)
        stop = self.boundary()
        if stop < len(self.encoder.blocks):
            if self.reader.pixels:
                raise ValueError(f"{type(self.reader).__name__} reads every block: it cannot be cached with adapters")
            return {"stream": self.encoder.forward_blocks(tokens, grid, stop=stop)}, grid
        taps = self.listen(**inputs)
        tokens = self.encoder.forward_blocks(tokens, grid, read=self.reader.reads, taps=taps)
        return self.reader.frozen(tokens, grid, self.encoder, taps), grid

    def trained_part(self, kept: dict[str, Tensor], grid: Any) -> Tensor:
        """Features (B*V, D) from what `frozen_part` gave."""
        if "stream" not in kept:
            return self.reader.from_frozen(kept, grid, self.encoder)
        taps = self.reader.listen()
        start = self.boundary()
        tokens = self.encoder.forward_blocks(kept["stream"], grid, self.reader.reads, taps, start=start)
        return self.reader(tokens, grid, self.encoder, taps)
