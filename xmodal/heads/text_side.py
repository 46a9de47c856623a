"""The text side of a CLIP head: a frozen tower, its tokenizer, and class prompts with a gap for learned context.

Papers: CLIP (arXiv 2103.00020), CoOp (2109.01134).
"""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from xmodal.encoders.clip import class_weights, fill
from xmodal.encoders.frozen import freeze
from xmodal.heads.base import ScoringHead, unit
from xmodal.registry import ENCODERS, build

POSITIONS = ("end", "middle", "front")
PLACEHOLDER = "X"
PAYS = 2**15  # tokens saved times their width from which sharing is faster (measured on a CPU, tiny CLIP and ViT-B/16)


class TextSide(nn.Module):
    """A frozen text tower that a head uses: it moves with the model, and is neither trained, saved nor counted.

    Args:
        clip: a `CLIP` or its config; only its text tower, tokenizer, scale and bias are kept.
        logit_scale: another scale of the similarities than that of `clip`.
        chunk: prompts per forward pass of the tower, recomputed in the backward pass; None runs all at once and keeps
            their activations.
        truncate: cut sequences to the longest prompt (exact in a causal tower).

    Attributes:
        share: compute what prompts of one context have in common (the start, the context in front of the name) once.
            Exact in a causal tower; nothing to share where every class has its own context or names come first. None
            does it where it pays.
    """

    share: bool | None = None
    scale: Tensor
    bias: Tensor

    def __init__(self, clip: Any, logit_scale: float | None = None, chunk: int | None = None, truncate: bool = True):
        super().__init__()
        if chunk is not None and chunk < 1:
            raise ValueError(f"chunk={chunk}: give at least 1 prompt per pass, or None for all at once")
        clip = build(clip, ENCODERS)
        self.known = (freeze(clip.text),)  # in a tuple: known, not owned
        self.tokenizer = clip.tokenizer
        self.chunk, self.truncate = chunk, truncate
        scale = clip.logit_scale.detach().exp() if logit_scale is None else torch.tensor(float(logit_scale))
        bias = torch.zeros(()) if clip.logit_bias is None else clip.logit_bias.detach()
        self.register_buffer("scale", scale.clone(), persistent=False)
        self.register_buffer("bias", bias.clone(), persistent=False)

    @property
    def tower(self) -> Any:
        """The text tower."""
        return self.known[0]

    def _apply(self, fn: Callable, recurse: bool = True) -> "TextSide":
        self.tower._apply(fn, recurse)
        return super()._apply(fn, recurse)

    def encode(self, prompts: "PromptTokens", ctx: Tensor) -> Tensor:
        """Features (K, D), not normalized, of all K prompts.

        Args:
            prompts: the classes' tokens.
            ctx: one context (n, W) for all classes, or one each (K, n, W).
        """
        if ctx.ndim == 2:
            return self.encode_groups(prompts, ctx[None])[0]
        size = self.chunk or len(ctx)
        parts = list(zip(ctx.split(size), prompts.every_class.split(size), strict=True))
        return torch.cat([self.step(self.run, len(parts) > 1, prompts, *part) for part in parts])

    def encode_groups(self, prompts: "PromptTokens", ctx: Tensor) -> Tensor:
        """Features (G, K, D), not normalized, of all K prompts with each of several contexts (G, n, W)."""
        count = len(prompts.end)
        saved = len(ctx) * (count - 1) * prompts.shared * self.tower.dim
        possible = self.tower.causal and self.tower.pool_type == "end" and prompts.shared > 1
        share = possible and (saved >= PAYS if self.share is None else self.share)
        run = self.run_shared if share else self.run_groups
        size = self.chunk or len(ctx) * count
        several = len(ctx) * count > size
        rows = [
            torch.cat([self.step(run, several, prompts, groups, part) for part in prompts.every_class.split(size)], 1)
            for groups in ctx.split(max(1, size // count))
        ]
        return torch.cat(rows)

    @staticmethod
    def step(run: Callable[..., Tensor], recompute: bool, *args: Any) -> Tensor:
        """One pass of the tower, computed again in the backward pass where there are several."""
        if recompute and torch.is_grad_enabled():
            return checkpoint(run, *args, use_reentrant=False)
        return run(*args)

    def stop(self, prompts: "PromptTokens", classes: Tensor) -> int | None:
        """Tokens of the longest prompt of `classes` (R,); None to keep all. A GPU is waited for where they are few."""
        if not (self.truncate and self.tower.causal):
            return None
        every = len(classes) >= len(prompts.end)
        return 1 + (prompts.longest if every else int(prompts.end[classes].max()))

    def run(self, prompts: "PromptTokens", ctx: Tensor, classes: Tensor) -> Tensor:
        """Features (R, D) of the prompts of `classes` (R,) with contexts (R, n, W)."""
        end = prompts.end[classes]
        return self.tower.encode_embedded(
            prompts.splice(ctx, classes, self.stop(prompts, classes)), end, truncate=False
        )

    def run_groups(self, prompts: "PromptTokens", ctx: Tensor, classes: Tensor) -> Tensor:
        """Features (G, C, D) of the prompts of `classes` (C,) with each context (G, n, W)."""
        each = ctx.repeat_interleave(len(classes), 0), classes.repeat(len(ctx))
        return self.run(prompts, *each).unflatten(0, (len(ctx), -1))

    def run_shared(self, prompts: "PromptTokens", ctx: Tensor, classes: Tensor) -> Tensor:
        """The same, what the prompts of a context begin with computed once."""
        end = prompts.end[classes]
        each = ctx.repeat_interleave(len(classes), 0), classes.repeat(len(ctx))
        x = prompts.splice(*each, self.stop(prompts, classes)).unflatten(0, (len(ctx), -1))  # (G, C, L, W)
        return self.tower.encode_branches(x[:, 0, : prompts.shared], x[:, :, prompts.shared :], end)

    @torch.no_grad()
    def encode_ids(self, ids: Tensor) -> Tensor:
        """Normalized features (K, D) of token ids (K, L)."""
        return unit(torch.cat([self.tower(part) for part in ids.to(self.scale.device).split(self.chunk or 256)]))

    def encode_templates(
        self, class_names: Sequence[str], templates: Sequence[str] | Sequence[Sequence[str]]
    ) -> Tensor:
        """Classifier weights (K, D): per class the mean of its sentences' unit features, normalized again.

        Args:
            class_names: K names.
            templates: sentences with one `{}` for all classes, or one list of finished sentences a class.

        Raises:
            ValueError: a template without `{}`.
        """
        shared = [t for t in templates if isinstance(t, str)]
        sentences = [[fill(t, name) for t in shared] for name in class_names] if shared else list(templates)
        return class_weights(lambda texts: self.encode_ids(self.need_tokenizer()(texts)), sentences)

    def need_tokenizer(self) -> Any:
        """The tokenizer.

        Raises:
            ValueError: the CLIP came without one.
        """
        if self.tokenizer is None:
            raise ValueError("this CLIP has no tokenizer: set `clip.tokenizer`, or give `prompt_ids` to the head")
        return self.tokenizer

    def logits(self, image: Tensor, text: Tensor) -> Tensor:
        """Scaled cosines (B, K) of features (B, D) and (K, D), or of (B, D) and (B, K, D)."""
        image, text = unit(image), unit(text)
        if text.ndim == 3:
            return self.scale * (image[:, None] @ text.mT)[:, 0] + self.bias
        return self.scale * image @ text.t() + self.bias


@dataclass(frozen=True)
class PromptIds:
    """Token ids of the classes' prompts.

    Args:
        ids: (K, L): start, n context tokens (placeholders or words), the class name, `.`, end, zeros.
        n_ctx: n.
        name_lens: tokens of each bare class name.
    """

    ids: Tensor
    n_ctx: int
    name_lens: list[int]


def make_prompt_ids(
    tokenizer: Any, class_names: Sequence[str], n_ctx: int, words: str | None = None, official: bool = False
) -> PromptIds:
    """Tokenize the classes' prompts.

    Args:
        tokenizer: of the text tower.
        class_names: K names; `_` counts as a space.
        n_ctx: context tokens, where no words are given.
        words: words that stand in the context's place; their number of tokens becomes n.
        official: n is the number of space-separated words, as in the released code, even where they make more tokens.

    Raises:
        ValueError: a class name that does not fit behind the context, or no context at all.
    """
    words = None if words is None else words.replace("_", " ")
    middle = tokenizer.encode(words) if words is not None else tokenizer.encode(PLACEHOLDER) * n_ctx
    n = len(middle)
    if words is not None and n != len(words.split()):
        n = len(words.split()) if official else n
        warnings.warn(
            f"{words!r} has {len(words.split())} words and makes {len(middle)} tokens; the context has {n} vectors",
            stacklevel=2,
        )
    if n < 1:
        raise ValueError(f"a context needs at least 1 vector, got n_ctx={n_ctx}, init_words={words!r}")
    names = [name.replace("_", " ") for name in class_names]
    ids = torch.zeros(len(names), tokenizer.context_length, dtype=torch.long)
    for row, name in zip(ids, names, strict=True):
        line = [tokenizer.sot, *middle, *tokenizer.encode(f"{name}."), tokenizer.eot]
        if len(line) > len(row):
            raise ValueError(
                f"the prompt of class {name!r} makes {len(line)} tokens, at most {len(row)} fit: shorten the name or "
                "n_ctx"
            )
        row[: len(line)] = torch.tensor(line)
    return PromptIds(ids, n, [len(tokenizer.encode(name)) for name in names])


class PromptTokens(nn.Module):
    """Token embeddings of K class prompts with a gap for n context vectors.

    Args:
        tower: the text tower whose table is looked up.
        prompt: ids of the prompts.
        position: where the class name stands: `end` (behind the context), `middle` (behind its first n // 2 vectors) or
            `front`.

    Raises:
        ValueError: an unknown position.
    """

    prefix: Tensor
    suffix: Tensor
    end: Tensor
    order: Tensor | None

    def __init__(self, tower: Any, prompt: PromptIds, position: str = "end"):
        super().__init__()
        if position not in POSITIONS:
            raise ValueError(f"position {position!r}: choose one of {', '.join(POSITIONS)}")
        n = prompt.n_ctx
        with torch.no_grad():
            x = tower.embed(prompt.ids.to(tower.token_embedding.weight.device))  # (K, L, W)
        self.words = x[0, 1 : 1 + n].clone()
        self.shared = {"end": 1 + n, "middle": 1 + n // 2, "front": 1}[position]  # tokens that all prompts begin with
        self.register_buffer("prefix", x[:, :1].clone(), persistent=False)
        self.register_buffer("suffix", x[:, 1 + n :].clone(), persistent=False)
        end = tower.end(prompt.ids)
        self.longest = int(end.max())  # on the host
        self.register_buffer("end", end.to(x.device), persistent=False)
        order = None if position == "end" else reorder(n, prompt.name_lens, x.shape[1], position).to(x.device)
        self.register_buffer("order", order, persistent=False)

    @property
    def every_class(self) -> Tensor:
        """Indices (K,) of all classes."""
        return torch.arange(len(self.end), device=self.end.device)

    def splice(self, ctx: Tensor, classes: Tensor, stop: int | None = None) -> Tensor:
        """Token embeddings (R, L, W) of the prompts of `classes` (R,) with contexts (n, W) or (R, n, W).

        Args:
            ctx: contexts.
            classes: (R,).
            stop: make the first so many tokens only; more than any end token's index.
        """
        ctx = ctx.expand(len(classes), -1, -1).to(self.prefix.dtype)
        suffix = self.suffix[:, : None if stop is None else stop - 1 - ctx.shape[1]]
        x = torch.cat([self.prefix[classes], ctx, suffix[classes]], dim=1)
        if self.order is None:
            return x
        return x.gather(1, self.order[classes, :stop, None].expand_as(x))


def reorder(n: int, name_lens: Sequence[int], length: int, position: str) -> Tensor:
    """For each place of a prompt (K, L) the place it is read from when the name stands behind the context."""
    first = 1 + (n // 2 if position == "middle" else 0)
    rows = []
    for name in name_lens:
        ahead, behind = list(range(first)), list(range(first, 1 + n))
        rows.append([*ahead, *range(1 + n, 1 + n + name), *behind, *range(1 + n + name, length)])
    return torch.tensor(rows)


class PromptLearner(ScoringHead):
    """Base class of heads that learn a context in front of the class names."""

    text: TextSide
    prompts: PromptTokens

    def make_prompts(
        self,
        clip: Any,
        n_ctx: int,
        tower: dict[str, Any],
        words: str | None = None,
        official: bool = False,
        position: str = "end",
        prompt_ids: PromptIds | None = None,
    ) -> None:
        """Make `text` and `prompts`.

        Args:
            clip: a `CLIP` or its config.
            n_ctx: context vectors, where no words are given.
            tower: further arguments of `TextSide`.
            words: see `make_prompt_ids`.
            official: see `make_prompt_ids`.
            position: of the class name, see `PromptTokens`.
            prompt_ids: finished token ids in place of tokenized class names.
        """
        self.text = TextSide(clip, **tower)
        if prompt_ids is None:
            prompt_ids = make_prompt_ids(self.text.need_tokenizer(), self.class_names, n_ctx, words, official)
        self.prompts = PromptTokens(self.text.tower, prompt_ids, position)

    def new_context(self, words: str | None = None, class_specific: bool = False) -> nn.Parameter:
        """Return a context (n, W) or (K, n, W), normal with std 0.02, or that of the words in its place."""
        ctx = nn.Parameter(torch.empty((self.num_classes,) * class_specific + self.prompts.words.shape))
        nn.init.normal_(ctx, std=0.02)
        if words is not None:
            ctx.data.copy_(self.prompts.words)
        return ctx


class PromptHead(PromptLearner):
    """A head that makes its classifier weights out of prompts.

    Without gradients the features of the text tower are kept until a weight of the head changes.
    """

    ctx: Any

    def text_features(self) -> Tensor:
        """Features (K, D) of the classes, not normalized."""
        return self.text.encode(self.prompts, self.ctx)

    def kept_text_features(self) -> Tensor:
        """`text_features`, computed again only when gradients are wanted or a weight has changed."""
        if torch.is_grad_enabled():
            self._kept = None
            return self.text_features()
        state = [(p._version, p.device, p.dtype) for p in self.parameters()]
        kept = getattr(self, "_kept", None)
        if kept is None or kept[0] != state:
            self._kept = kept = (state, self.text_features())
        return kept[1]

    def forward(self, feature: Tensor) -> Tensor:
        """Map image features (B, D), normalized or not, to logits (B, K)."""
        return self.text.logits(feature, self.kept_text_features())
