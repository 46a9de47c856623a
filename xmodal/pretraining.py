"""Training an image and a text tower against each other, and judging them zero-shot while they train.

Papers: CLIP (arXiv 2103.00020), UniCL (2204.03610), MS-CLIP (2207.12661); Florence (2111.11432) trains UniCL's loss.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from mmengine.model import BaseModel
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from xmodal.encoders.clip import CLIP, zero_shot_weights
from xmodal.losses import clip_loss, unicl_loss
from xmodal.model import TransferModel
from xmodal.preprocessor import Preprocessor
from xmodal.registry import ENCODERS, MODELS, TRANSFORMS, build, did_you_mean

LOSSES: dict[str, Callable[..., dict[str, Tensor]]] = {"clip": clip_loss, "unicl": unicl_loss}


@ENCODERS.register_module(name="two_towers")
def two_towers(visual: Any, text: Any, tokenizer: Any = None) -> CLIP:
    """Any image tower beside any text tower, or their configs, trained from `CLIP`'s first scale.

    Example:
        two_towers(dict(type="timm_encoder", name="vit_small_patch16_224"), dict(type="text_transformer", out_dim=384))

    Args:
        visual: an encoder with `out_dim` D, or its config.
        text: a text tower with the same `out_dim`, or its config.
        tokenizer: of the text tower, or its config.
    """
    return CLIP(build(visual, ENCODERS), build(text, ENCODERS), build(tokenizer, TRANSFORMS))


@MODELS.register_module(name="contrastive")
class ContrastiveModel(BaseModel):
    """Two towers and their contrastive loss; everything trains.

    Args:
        clip: the towers (`CLIP`, `MSCLIP`, `unicl`, ...), or their config.
        loss: `unicl` reads labels (0 for a caption, a class number above 0 else), `clip` takes every text as a caption.
        tokenizer: of the text tower, or its config, where the towers bring none.
        classes: names of the classes that validation images are sorted into, or a file with one a line.
        templates: sentences of the zero-shot classifier.
        chunk: samples that a tower takes at a time; activations are recomputed in the backward pass, so that a batch of
            any size fits with the very same loss. (Adding gradients of small batches would change a contrastive loss.)
        max_scale: the factor on similarities is kept at or below.

    Raises:
        ValueError: an unknown loss; a misspelt argument of the towers.
    """

    def __init__(
        self,
        clip: Any,
        loss: str = "unicl",
        tokenizer: Any = None,
        classes: Sequence[str] | str | None = None,
        templates: Sequence[str] = ("a photo of a {}.",),
        chunk: int | None = None,
        max_scale: float = 100.0,
    ):
        if loss not in LOSSES:
            raise ValueError(f"no contrastive loss is called {loss!r}; {did_you_mean(loss, LOSSES)}")
        if chunk is not None and chunk < 2:
            raise ValueError(f"chunk={chunk}: give at least 2 samples at a time, or None for the whole batch")
        clip = build(clip, ENCODERS)
        super().__init__(data_preprocessor=Preprocessor(clip.visual.pixel_mean, clip.visual.pixel_std))
        self.clip: CLIP = clip
        if tokenizer is not None:
            clip.tokenizer = build(tokenizer, TRANSFORMS)
        clip.requires_grad_(True)
        self.criterion, self.chunk, self.max_scale = LOSSES[loss], chunk, max_scale
        self.class_file = Path(classes) if isinstance(classes, str) else None
        self.classes, self.templates = [] if self.class_file else list(classes or ()), list(templates)
        self._classifier: Tensor | None = None

    def init_weights(self) -> None:
        """Do nothing: `Runner.train` calls this, and mmengine's version would re-initialize the towers."""

    def frozen_fingerprint(self) -> dict[str, str]:
        """Nothing is frozen."""
        return {}

    def train(self, mode: bool = True) -> "ContrastiveModel":
        """Set the mode and drop the cached zero-shot classifier, which training makes stale."""
        self._classifier = None
        return super().train(mode)

    def in_chunks(self, tower: Callable[..., Tensor], rows: Tensor, **options: Any) -> Tensor:
        """Unit features (B, D) of images or token ids, a chunk at a time."""
        if self.chunk is None or len(rows) <= self.chunk:
            return tower(rows, normalize=True, **options)
        parts = rows.split(self.chunk)
        if not torch.is_grad_enabled():
            return torch.cat([tower(part, normalize=True, **options) for part in parts])
        run = partial(checkpoint, tower, normalize=True, use_reentrant=False, **options)
        return torch.cat([run(part) for part in parts])

    @property
    def log_scale(self) -> Tensor:
        """Logarithm of the factor on similarities, kept below `max_scale`."""
        return self.clip.logit_scale.clamp(max=math.log(self.max_scale))

    def forward(
        self,
        mode: str = "tensor",
        image: Tensor | None = None,
        caption: Sequence[str] | None = None,
        text: Tensor | None = None,
        label: Any = None,
        sample_id: Any = None,
        **_: Any,
    ) -> Any:
        """Run a preprocessed batch.

        Args:
            mode: `loss` for `loss`, `i2t`, `t2i` and the batch's retrieval `top1`; `predict` for one dict a sample;
                `tensor` for unit image features (B, D).
            image: (B, 3, H, W), normalized.
            caption: B texts, or
            text: their token ids (B, L).
            label: (B,); in `loss` see `unicl_target`, in `predict` the class from 0.
            sample_id: names of the samples.
            **_: `skipped` and `replaced` samples.

        Raises:
            ValueError: an unknown mode; a loss without texts; a prediction without classes.
        """
        if mode == "loss":
            return self.loss(image, self.tokens(caption, text), label)
        if mode == "tensor":
            return self.in_chunks(self.clip.encode_image, image)  # type: ignore[arg-type]
        if mode != "predict":
            raise ValueError(f"mode {mode!r}: choose tensor, loss or predict")
        if image is None:
            return []
        logits = self.log_scale.exp() * self.in_chunks(self.clip.encode_image, image) @ self.classifier().t()
        return TransferModel.to_predictions(logits.float().softmax(-1), label, sample_id)

    def tokens(self, caption: Sequence[str] | None, text: Tensor | None) -> Tensor:
        """Token ids (B, L), cut to the longest text, on the device of the towers."""
        if text is not None:
            return self.clip.text.cut(text)
        if caption is None:
            raise ValueError("contrastive training needs a `caption` (or token ids `text`) with every image")
        if self.clip.tokenizer is None:
            raise ValueError("these towers bring no tokenizer: set `tokenizer` of the model")
        ids = self.clip.text.cut(self.clip.tokenizer(list(caption), truncate=True))  # on the host: nothing waits
        return ids.to(self.clip.logit_scale.device, non_blocking=True)

    def loss(self, image: Any, ids: Tensor, label: Any) -> dict[str, Tensor]:
        """The loss over the batches of all processes."""
        image_features = self.in_chunks(self.clip.encode_image, image)
        text_features = self.in_chunks(self.clip.encode_text, ids, truncate=False)
        found = self.criterion(image_features, text_features, self.log_scale, label)
        with torch.no_grad():
            best = (image_features @ text_features.t()).argmax(1)
            same = (ids[best] == ids).all(1)  # an equal text counts
        return {**found, "top1": same.float().mean() * 100}

    def classifier(self) -> Tensor:
        """Zero-shot weights (K, D) of the classes, made once an evaluation."""
        if self.class_file and not self.classes:
            lines = self.class_file.read_text(encoding="utf-8").splitlines()
            self.classes = [line.strip() for line in lines if line.strip()]
        if not self.classes:
            raise ValueError("zero-shot evaluation sorts images into classes: set `classes` of the model")
        if self._classifier is None or self._classifier.device != self.clip.logit_scale.device:
            self._classifier = zero_shot_weights(self.clip, self.classes, self.templates)
        return self._classifier


@torch.no_grad()
def retrieval(
    image: Tensor, text: Tensor, same: Tensor | None = None, at: Sequence[int] = (1, 5, 10)
) -> dict[str, float]:
    """Recall of retrieval in percent, image to text (`i2t_r1`, ...) and text to image (`t2i_r1`, ...).

    Args:
        image: (N, D) unit features.
        text: (M, D) unit features.
        same: (N, M) bool, which belong together; default: row i with row i. Any of several counts.
        at: ranks.

    Raises:
        ValueError: no pairs given for features of different number.
    """
    if same is None:
        if len(image) != len(text):
            raise ValueError(f"{len(image)} images and {len(text)} texts: say which belong together (`same`)")
        same = torch.eye(len(image), dtype=torch.bool, device=image.device)
    similar, found = image @ text.t(), {}
    for name, scores, pairs in (("i2t", similar, same), ("t2i", similar.t(), same.t())):
        order = scores.topk(min(max(at), scores.shape[1]), dim=1).indices
        hits = pairs.gather(1, order)  # (N, k)
        for k in at:
            found[f"{name}_r{k}"] = 100 * hits[:, :k].any(1).float().mean().item()
    return found
