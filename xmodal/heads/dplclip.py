"""DPLCLIP (amortised prompts): a small network makes a domain's context out of a batch of its images.

Paper: Domain Prompt Learning for Efficiently Adapting CLIP to Unseen Domains (arXiv 2111.12853).
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from xmodal.heads.base import top1
from xmodal.heads.text_side import PromptIds, PromptLearner
from xmodal.registry import HEADS, method


class PromptMLP(nn.Module):
    """Linear layers with dropout and ReLU between them, as in DomainBed.

    Args:
        in_dim: width of the input.
        out_dim: width of the output.
        width: hidden width.
        depth: layers.
        dropout: behind every layer but the last.

    Raises:
        ValueError: fewer than two layers.
    """

    def __init__(self, in_dim: int, out_dim: int, width: int, depth: int, dropout: float):
        super().__init__()
        if depth < 2:
            raise ValueError(f"depth={depth}: the network has an input and an output layer, so at least 2")
        self.input = nn.Linear(in_dim, width)
        self.hiddens = nn.ModuleList(nn.Linear(width, width) for _ in range(depth - 2))
        self.output = nn.Linear(width, out_dim)
        self.dropout = nn.Dropout(dropout)
        for layer in (self.input, *self.hiddens, self.output):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.constant_(layer.bias, 0.01)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, in_dim) to (B, out_dim)."""
        for layer in (self.input, *self.hiddens):
            x = F.relu(self.dropout(layer(x)))
        return self.output(x)


@method(
    HEADS,
    "dplclip",
    slot="head",
    paper="Domain Prompt Learning for Efficiently Adapting CLIP to Unseen Domains, arXiv 2111.12853",
    params="D*w + w + (depth-2)*(w*w + w) + w*T*W + T*W",
    parity=("dplclip",),
)
class DPLCLIPHead(PromptLearner):
    """Scaled cosines to the features of [domain prompt of this batch][class name].

    The prompt is the mean over the batch, so a prediction depends on the batch it is made in (it is transductive).

    Paper: arXiv 2111.12853.
    At start: not the identity.
    Trains: `network`.
    Differs from the released code: each training domain is classified against its own prompts. There the domains' text
    features are joined and labels point into the first domain's block; `official=True` does that.

    Args:
        in_dim: D.
        class_names: names of the K classes.
        clip: a `CLIP` or its config; its text tower stays frozen.
        n_ctx: T, domain tokens.
        width: of the network.
        depth: of the network.
        dropout: in the network.
        chunk: prompts per pass of the text tower, recomputed in the backward pass; None for all at once.
        truncate: cut sequences to the longest prompt.
        logit_scale: another scale than that of `clip`.
        official: see above.
        prompt_ids: finished token ids in place of tokenized class names.
    """

    def __init__(
        self,
        in_dim: int,
        class_names: Sequence[str],
        clip: Any,
        n_ctx: int = 16,
        width: int = 512,
        depth: int = 3,
        dropout: float = 0.1,
        chunk: int | None = None,
        truncate: bool = True,
        logit_scale: float | None = None,
        official: bool = False,
        prompt_ids: PromptIds | None = None,
    ):
        super().__init__(class_names)
        self.official = official
        tower = dict(logit_scale=logit_scale, chunk=chunk, truncate=truncate)
        self.make_prompts(clip, n_ctx, tower, prompt_ids=prompt_ids)
        self.shape = tuple(self.prompts.words.shape)
        self.network = PromptMLP(in_dim, self.shape[0] * self.shape[1], width, depth, dropout)

    def domain_prompt(self, feature: Tensor) -> Tensor:
        """The context (T, W) of the domain that features (B, D), not normalized, come from."""
        return self.network(feature).mean(0).view(self.shape)

    def text_features(self, features: Sequence[Tensor]) -> Tensor:
        """Features (G, K, D) of the classes in each of G domains, given a batch (B_g, D) of each."""
        ctx = torch.stack([self.domain_prompt(f) for f in features])  # (G, T, W)
        return self.text.encode_groups(self.prompts, ctx)

    def forward(self, feature: Tensor) -> Tensor:
        """Map the features (B, D) of one domain's batch, not normalized, to logits (B, K)."""
        return self.text.logits(feature, self.text_features([feature])[0])

    def loss_over_domains(self, features: Sequence[Tensor], labels: Sequence[Tensor]) -> dict[str, Tensor]:
        """Cross-entropy over one batch of each training domain.

        Args:
            features: (B_g, D) of each domain, not normalized.
            labels: (B_g,) of each.
        """
        text, label = self.text_features(features), torch.cat(list(labels))
        if self.official:
            logits = self.text.logits(torch.cat(list(features)), text.flatten(0, 1))  # (B, G*K)
        else:
            logits = torch.cat([self.text.logits(f, t) for f, t in zip(features, text, strict=True)])
        return {"loss": F.cross_entropy(logits, label), "top1": top1(logits, label)}
