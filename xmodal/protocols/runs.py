"""How each method runs on cached features: zero-shot, linear probe, learned prompts, caches.

Each run is an object with its recipe as fields; calling it with a bench and a plan trains, selects and tests.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from xmodal.heads.cache import SearchResult, build_cache
from xmodal.heads.cafo import CaFoHead, read_sentences
from xmodal.heads.key_training import fit_keys
from xmodal.heads.linear_probe import search_probe
from xmodal.heads.text_side import TextSide
from xmodal.heads.tip_adapter import TipAdapterHead
from xmodal.heads.zero_shot import ZeroShotHead
from xmodal.official.prompts import load_dassl, load_tip_keys
from xmodal.protocols.bench import Bench
from xmodal.protocols.outcome import (
    COOP_EPOCHS,
    Outcome,
    accuracy,
    dassl_optimizer,
    epochs_for,
    labels_of,
    minibatches,
    only_part,
    set_rate,
)
from xmodal.protocols.plans import Part, Plan
from xmodal.protocols.sampling import draw_tip
from xmodal.registry import HEADS, build

SELECT = ("val", "test")


def text_weights(bench: Bench, part: Part, sentences: str | None = None) -> Tensor:
    """Classifier weights (K, D) from a source's templates, or from a JSON file of sentences."""
    templates: Any = bench.source(part.source).templates
    if sentences is not None:
        templates = read_sentences(sentences, part.classes)
    return TextSide(bench.clip).encode_templates(part.classes, templates)


@dataclass
class ZeroShotRun:
    """Zero-shot CLIP with the templates of each source.

    Args:
        templates: other sentences than the sources'.
    """

    templates: Sequence[str] | None = None
    needs_shots: ClassVar[bool] = False

    def __call__(self, bench: Bench, plan: Plan) -> Outcome:
        """Test."""
        scores = {}
        for name, part in plan.tests.items():
            templates = self.templates or bench.source(part.source).templates
            head = ZeroShotHead(bench.width, part.classes, bench.clip, templates).to(bench.device)
            scores[name] = accuracy(head, bench.features(part), part.labels)
        return Outcome(scores, "none (nothing trains)")


@dataclass
class LinearProbeRun:
    """Logistic regression on the test views of the training images, its C chosen on the validation set."""

    steps: int = 8
    needs_shots: ClassVar[bool] = True

    def __call__(self, bench: Bench, plan: Plan) -> Outcome:
        """Fit and test."""
        train, val = only_part(plan, plan.train, "training"), only_part(plan, plan.val, "validation")
        fit, check = ((bench.features(p).cpu(), torch.tensor(p.labels)) for p in (train, val))
        probe = search_probe(fit, check, len(train.classes), self.steps)
        scores = {n: probe.accuracy(bench.features(p).cpu(), torch.tensor(p.labels)) for n, p in plan.tests.items()}
        details = {"C": probe.strength, "trace": list(probe.trace)}
        return Outcome(scores, "val", probe.weight.numel() + probe.bias.numel(), details)


@dataclass
class PromptRun:
    """Train a prompt head on cached features of training views, as Dassl trains CoOp and CoCoOp; report the last step.

    Args:
        head: its config, without `in_dim`, `class_names` and `clip`.
        lr: of SGD.
        epochs: a number, or a table by shots.
        batch_size: of features.
        warmup_epochs: with a constant small rate.
        warmup_type: see `learning_rates`.
        load: a Dassl run to test instead of training.
    """

    head: Mapping[str, Any]
    lr: float = 0.002
    epochs: int | dict[int, int] = field(default_factory=lambda: dict(COOP_EPOCHS))
    batch_size: int = 32
    warmup_epochs: int = 1
    warmup_type: str = "constant"
    load: str | None = None
    needs_shots: ClassVar[bool] = True

    def __call__(self, bench: Bench, plan: Plan) -> Outcome:
        """Train, then test on every set with the class names it has."""
        train = only_part(plan, plan.train, "training")
        torch.manual_seed(plan.seed)
        head = self.build(bench, train.classes)
        losses = self.fit(bench, plan, train, head) if self.load is None else []
        details: dict[str, Any] = {"losses": losses}
        if self.load is not None:
            details["left_out"] = load_dassl(head, self.load)
        scores = {}
        for name, part in plan.tests.items():
            own = head if part.classes == train.classes else self.moved(bench, head, part.classes)
            scores[name] = accuracy(own.eval(), bench.features(part), part.labels, self.batch_size * 3)
        trained = sum(p.numel() for p in head.parameters())
        return Outcome(scores, trained=trained, details=details, head=head)

    def build(self, bench: Bench, classes: Sequence[str]) -> nn.Module:
        """A fresh head."""
        given = dict(in_dim=bench.width, class_names=list(classes), clip=bench.clip)
        return build(dict(self.head), HEADS, **given).to(bench.device)

    def moved(self, bench: Bench, head: nn.Module, classes: Sequence[str]) -> nn.Module:
        """The same prompts for other classes.

        Raises:
            ValueError: a class-specific context, which cannot move.
        """
        if getattr(head, "class_specific", False):
            raise ValueError(
                f"a class-specific context belongs to the training classes, not to {list(classes)[:3]} ..."
            )
        other = self.build(bench, classes)
        other.load_state_dict(head.state_dict())
        return other

    def fit(self, bench: Bench, plan: Plan, train: Part, head: Any) -> list[float]:
        """Train; the mean loss of every epoch."""
        epochs, label = epochs_for(plan.shots, self.epochs), labels_of(train, bench)
        warmup: dict[str, Any] = dict(warmup_epochs=self.warmup_epochs, warmup_type=self.warmup_type)
        optimizer, rates = dassl_optimizer(list(head.parameters()), self.lr, epochs, **warmup)
        losses = []
        head.train()
        for epoch, rate in enumerate(rates):
            set_rate(optimizer, rate)
            feature, total, steps = bench.features(train, epoch), 0.0, 0
            for rows in minibatches(len(label), self.batch_size, (plan.seed, plan.shots, epoch)):
                loss = head.loss(feature[rows], label[rows])["loss"]
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                total, steps = total + loss.item(), steps + 1
            losses.append(round(total / steps, 5))
        return losses


def searched(found: SearchResult, samples: int, keys: int) -> dict[str, Any]:
    """How large a search was, and how long it took."""
    return {"points": found.grid.numel(), "samples": samples, "keys": keys, "seconds": round(found.seconds, 4)}


@dataclass
class CacheRun:
    """Tip-Adapter, or Tip-Adapter-F with `finetune`.

    Args:
        finetune: train the keys first.
        scale: (largest beta, largest alpha) of the search, exclusive.
        steps: numbers of betas and alphas.
        beta: initial.
        alpha: initial; both stay so while keys train.
        passes: augmented passes over the training images.
        epochs: of fine-tuning.
        lr: of fine-tuning.
        batch_size: of fine-tuning.
        select_on: the set whose accuracy chooses the epoch; `test` is what the release does, and optimistic.
        load: a `best_F_<K>shots.pt` of Tip-Adapter-F to use instead of fine-tuning.

    Raises:
        ValueError: an unknown `select_on`.
    """

    finetune: bool = False
    scale: Sequence[float] = (7.0, 3.0)
    steps: Sequence[int] = (200, 20)
    beta: float = 1.0
    alpha: float = 1.17
    passes: int = 10
    epochs: int = 20
    lr: float = 1e-3
    batch_size: int = 256
    logit_scale: float = 100.0
    select_on: str = "val"
    load: str | None = None
    needs_shots: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.select_on not in SELECT:
            raise ValueError(f"select_on={self.select_on!r}: choose val, or test (optimistic)")

    def __call__(self, bench: Bench, plan: Plan) -> Outcome:
        """Build the cache, fine-tune where asked, search, test."""
        train, val = only_part(plan, plan.train, "training"), only_part(plan, plan.val, "validation")
        raw = torch.stack([bench.features(train, a) for a in range(self.passes)])  # (A, N, D)
        numbers = dict(alpha=self.alpha, beta=self.beta, logit_scale=self.logit_scale)
        text = text_weights(bench, train)
        head = TipAdapterHead.from_shots(raw, labels_of(train, bench), text, train.classes, **numbers).to(bench.device)
        details: dict[str, Any] = {}
        if self.load is not None:
            load_tip_keys(head, self.load)
        elif self.finetune:
            details["best_epoch"] = self.fit(bench, plan, train, val, head)
        found = head.search(bench.features(val), labels_of(val, bench), self.scale, self.steps)
        details |= found.to_json() | {"search": searched(found, len(val.labels), len(head.keys))}
        scores = {n: accuracy(head, bench.features(p), p.labels) for n, p in plan.tests.items()}
        on = "test" if "test" in (val.split, self.select_on if self.finetune else "val") else "val"
        return Outcome(scores, on, head.keys.numel() if self.finetune else 0, details, head)

    def fit(self, bench: Bench, plan: Plan, train: Part, val: Part, head: TipAdapterHead) -> int:
        """Train the keys; the epoch that was kept."""
        label = labels_of(train, bench)
        judge = val if self.select_on == "val" else next(iter(plan.tests.values()))
        seen = bench.features(judge)

        def batches(epoch: int) -> list[tuple[Tensor, Tensor]]:
            feature = bench.features(train, epoch)
            seed = (plan.seed, plan.shots, epoch)
            return [(feature[r], label[r]) for r in minibatches(len(label), self.batch_size, seed, drop_last=False)]

        score = lambda: accuracy(head, seen, judge.labels)  # noqa: E731
        return fit_keys(head, [head.keys], batches, self.epochs, self.lr, score=score).best_epoch


@dataclass
class CaFoRun:
    """CaFo: two caches of real and synthetic shots, sentences from a JSON file; keys train where `finetune`.

    Args:
        synthetic: name of the source whose training split holds synthetic images, None for none.
        synthetic_shots: of each class.
        sentences: JSON file {class: [sentence, ...]}; None uses the source's templates.
        fusion: see `CaFoHead`.
        official: the rate's cosine counts real batches only, as in the release, so that it rises again.
        finetune: train both caches' keys.
        scale: (largest beta, largest alpha) of the search, exclusive.
        steps: numbers of betas and alphas.
        beta: initial.
        alpha: initial.
        passes: augmented passes over the training images.
        epochs: of fine-tuning.
        lr: of fine-tuning.
        batch_size: of fine-tuning.
    """

    synthetic: str | None = None
    synthetic_shots: int = 1
    sentences: str | None = None
    fusion: str = "mean"
    official: bool = False
    finetune: bool = True
    scale: Sequence[float] = (7.0, 3.0)
    steps: Sequence[int] = (200, 20)
    beta: float = 1.0
    alpha: float = 1.0
    passes: int = 10
    epochs: int = 20
    lr: float = 1e-3
    batch_size: int = 256
    logit_scale: float = 100.0
    needs_shots: ClassVar[bool] = True

    def __call__(self, bench: Bench, plan: Plan) -> Outcome:
        """Build both caches, fine-tune where asked, search, test."""
        train, val = only_part(plan, plan.train, "training"), only_part(plan, plan.val, "validation")
        parts = [train, *self.synthetic_part(bench, train)]
        label = torch.cat([labels_of(p, bench) for p in parts])
        keys = []
        for encoder in ("clip", "second"):
            raw = [torch.stack([bench.features(p, a, encoder) for a in range(self.passes)]) for p in parts]
            cached, values = build_cache(torch.cat(raw, 1), label, len(train.classes))
            keys.append(cached)
        text = text_weights(bench, train, self.sentences)
        numbers: dict[str, Any] = dict(alpha=self.alpha, beta=self.beta, fusion=self.fusion)
        numbers |= dict(keys=keys[0], second_keys=keys[1], values=values, logit_scale=self.logit_scale)
        head = CaFoHead(bench.width, train.classes, text, **numbers).to(bench.device)
        details: dict[str, Any] = {}
        if self.finetune:
            details["best_epoch"] = self.fit(bench, plan, parts, val, head)
        found = head.search(self.pair(bench, val), labels_of(val, bench), self.scale, self.steps)
        details |= found.to_json() | {"search": searched(found, len(val.labels), len(head.keys))}
        scores = {n: self.percent(head, self.pair(bench, p), p) for n, p in plan.tests.items()}
        trained = (head.keys.numel() + head.second_keys.numel()) * self.finetune
        return Outcome(scores, val.split, trained, details, head)

    def synthetic_part(self, bench: Bench, train: Part) -> list[Part]:
        """Synthetic shots of the training classes."""
        if self.synthetic is None:
            return []
        data = bench.source(self.synthetic).train
        label = {name: i for i, name in enumerate(train.classes)}
        rows = draw_tip(data.labels, self.synthetic_shots)
        names = [data.classes[data.labels[i]] for i in rows]
        missing = sorted(set(train.classes) - set(names))
        if missing:
            raise ValueError(f"{self.synthetic}: no synthetic images of class {missing[0]!r}")
        kept = [(i, label[n]) for i, n in zip(rows, names, strict=True) if n in label]
        return [Part(self.synthetic, "train", [i for i, _ in kept], [y for _, y in kept], list(train.classes))]

    @staticmethod
    def pair(bench: Bench, part: Part, epoch: int | None = None) -> tuple[Tensor, Tensor]:
        """Features of both encoders."""
        return bench.features(part, epoch), bench.features(part, epoch, "second")

    @staticmethod
    @torch.no_grad()
    def percent(head: CaFoHead, pair: tuple[Tensor, Tensor], part: Part) -> float:
        """Top-1 in percent."""
        target = torch.tensor(part.labels, device=pair[0].device)
        return float((head(pair).argmax(1) == target).float().mean() * 100)

    def fit(self, bench: Bench, plan: Plan, parts: Sequence[Part], val: Part, head: CaFoHead) -> int:
        """Train both caches' keys on real, then synthetic images; the epoch that was kept."""
        seen = self.pair(bench, val)

        def batches(epoch: int) -> list[tuple[tuple[Tensor, Tensor], Tensor]]:
            out = []
            for part in parts:
                pair, label = self.pair(bench, part, epoch), labels_of(part, bench)
                for rows in minibatches(len(label), self.batch_size, (plan.seed, plan.shots, epoch), drop_last=False):
                    out.append(((pair[0][rows], pair[1][rows]), label[rows]))
            return out

        real = -(-len(parts[0].labels) // self.batch_size)
        period = self.epochs * real if self.official else None
        keys, score = [head.keys, head.second_keys], lambda: self.percent(head, seen, val)
        return fit_keys(head, keys, batches, self.epochs, self.lr, period=period, score=score).best_epoch


def outcome_folder(root: Path, method: str, plan: Plan) -> Path:
    """Where a run's weights go."""
    return root / method / f"shots{plan.shots}_seed{plan.seed}"
