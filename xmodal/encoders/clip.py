"""CLIP: an image and a text tower that share a feature space (arXiv 2103.00020), and zero-shot classifiers."""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from xmodal.encoders.keys import to_clip_state
from xmodal.encoders.text import TextTransformer
from xmodal.encoders.tokenizer import Tokenizer
from xmodal.structures import Encoder

LOGIT_SCALE = 2.6592600369327783  # log(1 / 0.07), where training starts


class CLIP(nn.Module):
    """Two towers and the scale of their similarity.

    Args:
        visual: the image tower, an encoder with `out_dim` D.
        text: the text tower with the same `out_dim`.
        tokenizer: of the text tower; None when only token ids will be given.
        logit_scale: initial log of the scale.
        logit_bias: initial bias of the similarity (SigLIP), None for none.

    Raises:
        ValueError: towers whose features differ in width.
    """

    def __init__(
        self,
        visual: Encoder,
        text: TextTransformer,
        tokenizer: Tokenizer | None = None,
        logit_scale: float = LOGIT_SCALE,
        logit_bias: float | None = None,
    ):
        super().__init__()
        if visual.out_dim != text.out_dim:
            raise ValueError(f"image features have width {visual.out_dim}, text features {text.out_dim}: must agree")
        self.visual, self.text, self.tokenizer = visual, text, tokenizer
        self.name, self.out_dim = visual.name, text.out_dim
        self.logit_scale = nn.Parameter(torch.tensor(float(logit_scale)))
        self.logit_bias = None if logit_bias is None else nn.Parameter(torch.tensor(float(logit_bias)))

    def encode_image(self, images: Tensor, normalize: bool = False) -> Tensor:
        """Encode normalized images (B, 3, H, W) to features (B, D)."""
        features = self.visual(images)
        return F.normalize(features, dim=-1) if normalize else features

    def encode_text(self, ids: Tensor, normalize: bool = False, truncate: bool = True) -> Tensor:
        """Encode token ids (K, L) to features (K, D); `truncate` drops what stands behind the last token read."""
        features = self.text(ids, truncate)
        return F.normalize(features, dim=-1) if normalize else features

    def logits(self, image_features: Tensor, text_features: Tensor) -> Tensor:
        """Compute scaled similarities (B, K) of normalized features (B, D) and (K, D)."""
        logits = self.logit_scale.exp() * image_features @ text_features.t()  # (B, K)
        return logits if self.logit_bias is None else logits + self.logit_bias

    def forward(self, images: Tensor, ids: Tensor) -> Tensor:
        """Logits (B, K) of images (B, 3, H, W) against texts (K, L)."""
        return self.logits(self.encode_image(images, True), self.encode_text(ids, True))

    def library_state(self) -> dict[str, Tensor]:
        """Return the weights under OpenAI's and open_clip's names, without adapters; SigLIP's under open_clip's."""
        return to_clip_state(self.state_dict(), getattr(self.visual, "layout", ()))

    def tokenize(self, texts: str | Sequence[str]) -> Tensor:
        """Tokenize texts to ids (K, L) on the device of the towers.

        Raises:
            ValueError: this CLIP has no tokenizer.
        """
        if self.tokenizer is None:
            raise ValueError(f"{self.name} was built without a tokenizer: give token ids, or set `clip.tokenizer`")
        return self.tokenizer(texts).to(self.logit_scale.device)

    def encode_sentences(self, texts: Sequence[str], batch_size: int = 256) -> Tensor:
        """Features (N, D) of sentences."""
        return torch.cat([self.encode_text(part) for part in self.tokenize(texts).split(batch_size)])


def fill(template: str, name: str) -> str:
    """Put a class name into a template: in the place of `{}` with underscores read as spaces, of `{_}` as it is.

    Raises:
        ValueError: neither is in the template.
    """
    if "{_}" in template:
        return template.replace("{_}", name)
    if "{}" not in template:
        raise ValueError(f"template {template!r} has no place {{}} for the class name")
    return template.format(name.replace("_", " "))


@torch.no_grad()
def class_weights(encode: Callable[[list[str]], Tensor], sentences: Sequence[Sequence[str]]) -> Tensor:
    """Classifier weights, unit vectors (K, D): per class the mean of its sentences' unit features.

    Args:
        encode: from sentences to features (N, D).
        sentences: one list a class.
    """
    features = F.normalize(encode([s for own in sentences for s in own]), dim=-1)
    means = [part.mean(0) for part in features.split([len(own) for own in sentences])]
    return F.normalize(torch.stack(means), dim=-1)


def zero_shot_weights(
    clip: CLIP, classes: Sequence[str], templates: Sequence[str] = ("a photo of a {}.",), batch_size: int = 256
) -> Tensor:
    """Classifier weights (K, D) out of class names; see `class_weights`.

    Args:
        clip: the towers and their tokenizer.
        classes: K names.
        templates: sentences with one `{}` each.
        batch_size: texts per forward pass.

    Raises:
        ValueError: a template without `{}`.
    """
    sentences = [[fill(template, name) for template in templates] for name in classes]
    return class_weights(lambda texts: clip.encode_sentences(texts, batch_size), sentences)
