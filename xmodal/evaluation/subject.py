"""Wrap the encoder that ELEVATER judges: its text side, features of images, and classifiers on images."""

import contextlib
import copy
import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from xmodal.encoders.clip import CLIP, class_weights
from xmodal.encoders.frozen import fingerprint, freeze
from xmodal.evaluation.bank import FeatureBank
from xmodal.evaluation.elevater_data import ImageSet
from xmodal.model import TransferModel
from xmodal.preprocessor import normalize
from xmodal.structures import Encoder


class Subject:
    """The encoder under judgement.

    Args:
        model: a `CLIP`, or an image tower (which then has no zero-shot classifier).
        name: in tables and submissions.
        device: where it computes.
    """

    def __init__(self, model: CLIP | Encoder, name: str = "", device: str | torch.device = "cpu"):
        model = model.to(device)
        self.clip = model.eval() if isinstance(model, CLIP) else None
        self.visual = freeze(model.visual if isinstance(model, CLIP) else model)
        self.name, self.device = name or self.visual.name, torch.device(device)
        self.sha = fingerprint(self.visual)
        self.scale = self.clip.logit_scale.item() if self.clip else None

    @property
    def image_size(self) -> int:
        """Pixels of the images it reads."""
        return self.visual.image_size

    def text_weights(self, sentences: Sequence[Sequence[str]]) -> Tensor:
        """Unit vectors (K, D): the mean feature of each class's sentences.

        Raises:
            ValueError: this encoder has no text tower.
        """
        if self.clip is None:
            raise ValueError(f"{self.name} has no text tower: no zero-shot classifier and no text-initialized head")
        return class_weights(self.clip.encode_sentences, sentences).cpu()


@contextlib.contextmanager
def without_projection(encoder: Encoder) -> Iterator[Tensor | None]:
    """Take the projection of the feature out of an encoder meanwhile; gives its weight (D_out, D) or None."""
    proj = encoder.proj
    if not isinstance(proj, nn.Linear):
        yield None
        return
    encoder.proj = nn.Identity()
    try:
        yield proj.weight.detach().cpu()
    finally:
        encoder.proj = proj


@torch.no_grad()
def features(subject: Subject, images: ImageSet, folder: str | Path | None = None, raw: bool = False) -> Tensor:
    """Features (N, D) of images in float32, on the CPU; kept on disk and read from there next time.

    Args:
        subject: the encoder.
        images: what to read.
        folder: where features are kept, None for nowhere.
        raw: without the encoder's projection.
    """
    key = hashlib.sha256(f"{subject.sha} {images.digest()} {raw}".encode()).hexdigest()[:24]
    compute = lambda rows: encode(subject.visual, images[torch.tensor(rows)].to(subject.device)).float().cpu()  # noqa: E731
    with without_projection(subject.visual) if raw else contextlib.nullcontext():
        return FeatureBank(folder).get(key, range(len(images)), compute, 64, lambda: not images.broken)


def encode(encoder: Encoder, images: Tensor) -> Tensor:
    """Features (B, D) of u8 images (B, 3, S, S)."""
    mean, std = (
        torch.tensor(v, dtype=torch.float32, device=images.device) for v in (encoder.pixel_mean, encoder.pixel_std)
    )
    return encoder(normalize(images, mean, std))


class ImageClassifier(TransferModel):
    """An encoder, adapters in it, and a head: u8 images to logits. Copies of it train apart from each other.

    Args:
        encoder: copied, so that the given one stays as it is.
        adapters: configs, as in a `TransferModel`.
        head: from a feature to logits.
        freeze_encoder: False trains all of it (fine-tuning).
        raw: leave the encoder's projection out; the head reads the wider feature.
    """

    def __init__(
        self,
        encoder: Encoder,
        adapters: Sequence[Any],
        head: nn.Module,
        freeze_encoder: bool = True,
        raw: bool = False,
    ):
        encoder = copy.deepcopy(encoder).requires_grad_()
        if raw and isinstance(encoder.proj, nn.Linear):
            encoder.proj = nn.Identity()
        super().__init__(encoder, head, adapters, freeze_encoder=freeze_encoder)

    def forward(self, images: Tensor) -> Tensor:  # type: ignore[override]
        """Map u8 images (B, 3, S, S) to logits (B, K)."""
        return super().forward(**self.data_preprocessor({"image": images}))
