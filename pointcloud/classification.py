"""Classification of object clouds: any head on an encoder of clouds, and EPCL."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pointcloud import task
from pointcloud.epcl import EPCL
from pointcloud.task_token import Tower
from pointcloud.tokenizer import PointTokenizer
from xmodal.engine.predict import described
from xmodal.registry import HEADS, build, method


class CloudClassifier(task.TaskNetwork):
    """Base of networks that give a whole cloud a class: truths and reports."""

    targets = ("label",)

    def truth(self, batch: dict[str, Any], index: int) -> dict[str, Any]:
        """Return the `label` of a cloud."""
        return {"label": int(batch["label"][index])} if batch.get("label") is not None else {}

    def show(
        self, found: dict[str, Any], names: Sequence[str], stem: Path | None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return `label`, `name` and `score` of the likeliest class, all `scores`, and a title of the page."""
        row = described(found["scores"], names, len(found["scores"]))
        return row, {"title": f"{row['name']} ({100 * row['score']:.0f} %)"} if "name" in row else {}


@method(
    task.NETWORKS,
    "feature_classification3d",
    slot="head",
    paper="Uni3D: Exploring Unified 3D Representation at Scale, arXiv 2310.06773",
    params="those of the head: D*K + K for a linear one",
    parity=("uni3d",),
    families=("none",),
)
class FeatureClassifier(CloudClassifier):
    """A head on the feature of a frozen encoder of clouds: linear, zero-shot, prompts.

    Args:
        encoder: maps (coord, feat, lengths) to features (B, `out_dim`), such as `Uni3D`.
        head: any head of images, or its config; receives `in_dim`.
    """

    feat_dim = 3
    gray = 0.4

    def __init__(self, encoder: Any, head: Any):
        super().__init__()
        self.encoder, self.head = encoder, build(head, HEADS, in_dim=encoder.out_dim)

    def forward(self, coord: Tensor, feat: Tensor | None = None, lengths: Tensor | None = None) -> Tensor:
        """Map clouds (B, P, 3), centered, of unit radius, with colors (B, P, 3) in 0..1 to logits (B, K)."""
        return self.head(self.encoder(coord, feat, lengths))

    def loss(self, label: Tensor, **inputs: Tensor) -> dict[str, Tensor]:
        """Return the head's losses."""
        return self.head.loss(self.encoder(**inputs), label)

    def predict(self, **inputs: Tensor) -> list[dict[str, Any]]:
        """One dict a cloud with `scores` (K,), class probabilities."""
        return [{"scores": s} for s in self.head.predict(self.encoder(**inputs)).float().cpu()]


@method(
    task.NETWORKS,
    "classification3d",
    params="tokenizer, position MLP, task tokens, head",
    parity=("epcl_cls",),
    **task.EPCL,
)
class EPCLClassifier(CloudClassifier):
    """Class token and strongest point tokens of the frozen blocks, an embedding in CLIP's space, a small head.

    Paper: arXiv 2212.04098.
    Trains: tokenizer, positions, task tokens, norm, embedding and head: 3,067,176 weights for ViT-B/32 and 40 classes.

    Args:
        encoder: a frozen `Encoder`.
        num_classes: K.
        num_groups: point tokens G.
        group_size: members of a group.
        num_task_tokens: T; None for one per class, 0 for none.
        feat_dim: channels of further point features (normals, colors); 0 for coordinates only.
        scale: see `PointTokenizer`.
        text: text features of the class prompts (K, D_out) for the second loss, or an `.npy` file of them (such as the
            release's `clip_texts_emb.npy`); None for no such loss.
        text_weight: of the second loss.
        hidden: width of the head.
        dropout: of the head.
        label_smoothing: of the first loss.
        skip_near_origin: see `PointTokenizer`.
        width: see `MiniPointNet`.
        votes: passes over randomly drawn, scaled and shifted copies of a cloud whose logits are averaged when
            predicting (the released code takes 10); 1 predicts the cloud as it is. Reports name the number.
        vote_points: points drawn for each pass; None takes all.

    Raises:
        ValueError: fewer than two classes, no votes, or text features that do not fit.
    """

    official = "epcl-classification"
    text: Tensor | None

    def __init__(
        self,
        encoder: Tower,
        num_classes: int,
        num_groups: int = 64,
        group_size: int = 32,
        num_task_tokens: int | None = None,
        feat_dim: int = 0,
        scale: float = 1.0,
        text: Tensor | str | None = None,
        text_weight: float = 1.0,
        hidden: int = 256,
        dropout: float = 0.5,
        label_smoothing: float = 0.0,
        skip_near_origin: bool = False,
        width: int = 128,
        votes: int = 1,
        vote_points: int | None = None,
    ):
        super().__init__()
        if num_classes < 2 or votes < 1:
            raise ValueError(f"num_classes={num_classes}, votes={votes}: at least 2 classes and 1 vote are needed")
        self.votes, self.vote_points, self.feat_dim = votes, vote_points, feat_dim
        dim, out = encoder.dim, encoder.out_dim
        if isinstance(text, str):
            text = torch.from_numpy(np.load(text, allow_pickle=False)).float()
        if text is not None and tuple(text.shape) != (num_classes, out):
            raise ValueError(f"text features {tuple(text.shape)} do not fit {num_classes} classes x {out} channels")
        self.num_classes, self.text_weight, self.label_smoothing = num_classes, text_weight, label_smoothing
        self.tokenizer = PointTokenizer(
            num_groups, group_size, dim, feat_dim, scale=scale, skip_near_origin=skip_near_origin, width=width
        )
        self.epcl = EPCL(encoder, num_classes if num_task_tokens is None else num_task_tokens, pre_norm=True)
        self.norm = nn.LayerNorm(dim)
        self.proj2emb = nn.Sequential(
            nn.Linear(out + dim, out),
            nn.BatchNorm1d(out),
            nn.ReLU(inplace=True),
            nn.Dropout(0.2),
            nn.Linear(out, out),
            nn.LayerNorm(out),
        )
        self.head = nn.Sequential(
            nn.Dropout(dropout),
            nn.Linear(out, hidden),
            nn.BatchNorm1d(hidden),
            nn.ReLU(inplace=True),
            nn.Dropout(dropout),
            nn.Linear(hidden, num_classes),
        )
        self.register_buffer("text", text, persistent=False)

    @property
    def encoder(self) -> Tower:
        """Return the frozen tower."""
        return self.epcl.encoder

    def embed(self, coord: Tensor, feat: Tensor | None = None, lengths: Tensor | None = None) -> Tensor:
        """Embedding (B, D_out) of clouds (B, P, 3)."""
        tokens, centers = self.tokenizer(coord, feat, lengths)
        x = self.epcl(tokens, centers)  # (B, prefix + G + T, D)
        tower = self.encoder
        feature = tower.pool(tower.norm(x))  # (B, D_out)
        strongest = self.norm(x[:, self.epcl.num_prefix :]).amax(dim=1)  # (B, D), task tokens included
        return self.proj2emb(torch.cat([feature, strongest], dim=1))

    def forward(
        self, coord: Tensor, feat: Tensor | None = None, lengths: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Classify clouds.

        Args:
            coord: (B, P, 3), centered, unit radius.
            feat: (B, P, C) when the tokenizer wants features.
            lengths: points of each cloud (B,).

        Returns:
            Logits (B, K) and embeddings (B, D_out).
        """
        embedding = self.embed(coord, feat, lengths)
        return self.head(embedding), embedding

    def loss(self, label: Tensor, **inputs: Tensor) -> dict[str, Tensor]:
        """Cross-entropy of the head and, with text features, of embedding x text (not normalized, no temperature)."""
        logits, embedding = self(**inputs)
        logits, embedding = logits.float(), embedding.float()
        losses = {"loss_cls": F.cross_entropy(logits, label, label_smoothing=self.label_smoothing)}
        if self.text is not None:
            losses["loss_text"] = self.text_weight * F.cross_entropy(embedding @ self.text.t(), label)
        losses["top1"] = (logits.argmax(1) == label).float().mean() * 100
        return losses

    def predict(self, **inputs: Tensor) -> list[dict[str, Any]]:
        """One dict a cloud with `scores` (K,), class probabilities of the head, and the number of `votes`."""
        if self.votes == 1:
            logits = self(**inputs)[0].float()
        else:
            passes = [self(**redrawn(seed, self.vote_points, **inputs))[0].float() for seed in range(self.votes)]
            logits = torch.stack(passes).mean(0)
        return [{"scores": s, "votes": self.votes} for s in logits.softmax(-1).cpu()]


def redrawn(
    seed: int, count: int | None, coord: Tensor, feat: Tensor | None = None, lengths: Tensor | None = None
) -> dict[str, Tensor | None]:
    """Clouds with `count` random points, every axis scaled by 2/3 to 3/2 and shifted by up to 0.2, as in training.

    Raises:
        ValueError: padded clouds, whose points cannot be drawn alike.
    """
    if lengths is not None:
        raise ValueError("votes need clouds with the same number of points: fix it with a transform, not with pad_to")
    random = torch.Generator().manual_seed(seed)
    keep = torch.randperm(coord.shape[1], generator=random)[:count].to(coord.device)
    scale, shift = torch.rand(2, len(coord), 1, 3, generator=random).to(coord.device)
    coord = coord[:, keep] * (2 / 3 + scale * (3 / 2 - 2 / 3)) + (shift - 0.5) * 0.4
    return {"coord": coord, "feat": None if feat is None else feat[:, keep]}
