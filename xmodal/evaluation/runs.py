"""Run methods on cached features: zero-shot, linear probe, learned prompts, caches.

Each run is an object with its recipe as fields; calling it with a bench and a plan trains, selects and tests.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from xmodal.evaluation.bench import Bench, accuracy, labels_of
from xmodal.evaluation.fit import COOP_EPOCHS, dassl_optimizer, epochs_for, fit, fit_keys, minibatches
from xmodal.evaluation.logistic import search_probe
from xmodal.evaluation.plans import Outcome, Part, Plan, only_part
from xmodal.evaluation.sampling import draw_tip
from xmodal.heads.cache import build_cache
from xmodal.heads.cafo import CaFoHead, read_sentences
from xmodal.heads.text_side import TextSide
from xmodal.heads.tip_adapter import TipAdapterHead
from xmodal.heads.zero_shot import ZeroShotHead
from xmodal.official.prompts import load_dassl, load_tip_keys
from xmodal.registry import HEADS, build

SELECT = ("val", "test")


def text_weights(bench: Bench, part: Part, sentences: str | None = None) -> Tensor:
    """Classifier weights (K, D) from a source's templates, or from a JSON file of sentences."""
    templates: Any = bench.source(part.source).templates
    if sentences is not None:
        templates = read_sentences(sentences, part.classes)
    return TextSide(bench.clip).encode_templates(part.classes, templates)


def new_head(bench: Bench, head: Mapping[str, Any], classes: Sequence[str], **more: Any) -> Any:
    """Build a head of class names on the bench's CLIP."""
    return build(dict(head), HEADS, in_dim=bench.width, class_names=list(classes), clip=bench.clip, **more)


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
        return new_head(bench, self.head, classes).to(bench.device)

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

    def optimizer(self, parameters: list[nn.Parameter], epochs: int) -> tuple[torch.optim.Optimizer, list[float]]:
        """The optimizer, and the rate of every epoch."""
        warmup: dict[str, Any] = dict(warmup_epochs=self.warmup_epochs, warmup_type=self.warmup_type)
        return dassl_optimizer(parameters, self.lr, epochs, **warmup)

    def fit(self, bench: Bench, plan: Plan, train: Part, head: Any) -> list[float]:
        """Train; the mean loss of every epoch."""
        epochs, label = epochs_for(plan.shots, self.epochs), labels_of(train, bench)
        optimizer, rates = self.optimizer(list(head.parameters()), epochs)

        def batches(epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
            feature = bench.features(train, epoch)
            seed = (plan.seed, plan.shots, epoch)
            for rows in minibatches(len(label), self.batch_size, seed, device=label.device):
                yield feature[rows], label[rows]

        head.train()
        return fit(epochs, batches, lambda batch: head.loss(*batch)["loss"], [optimizer], [rates])


@dataclass
class KeyRun:
    """The recipe of methods with a cache of few-shot features: build it, train its keys where asked, search, test.

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
        logit_scale: of the zero-shot logits.
    """

    finetune: bool = False
    scale: Sequence[float] = (7.0, 3.0)
    steps: Sequence[int] = (200, 20)
    beta: float = 1.0
    alpha: float = 1.0
    passes: int = 10
    epochs: int = 20
    lr: float = 1e-3
    batch_size: int = 256
    logit_scale: float = 100.0
    select_on: ClassVar[str] = "val"
    needs_shots: ClassVar[bool] = True

    def __call__(self, bench: Bench, plan: Plan) -> Outcome:
        """Build the cache, train its keys where asked, search, test."""
        train, val = only_part(plan, plan.train, "training"), only_part(plan, plan.val, "validation")
        parts = self.parts(bench, train)
        head = self.build(bench, parts).to(bench.device)
        details = self.train(bench, plan, parts, val, head)
        found = head.search(self.look(bench, val), labels_of(val, bench), self.scale, self.steps)
        size = {"points": found.grid.numel(), "samples": len(val.labels), "keys": len(head.keys)}
        details |= found.to_json() | {"search": {**size, "seconds": round(found.seconds, 4)}}
        scores = {n: self.percent(head, self.look(bench, p), p) for n, p in plan.tests.items()}
        on = "test" if "test" in (val.split, self.select_on if self.finetune else "val") else "val"
        return Outcome(scores, on, self.finetune * sum(k.numel() for k in self.keys(head)), details, head)

    def parts(self, bench: Bench, train: Part) -> list[Part]:
        """Choose the samples that go into the cache."""
        return [train]

    def build(self, bench: Bench, parts: Sequence[Part]) -> Any:
        """The head at its start."""
        raise NotImplementedError

    def look(self, bench: Bench, part: Part, epoch: int | None = None) -> Any:
        """The head's input of a part."""
        return bench.features(part, epoch)

    def pick(self, feature: Any, rows: Tensor) -> Any:
        """Some samples of the head's input."""
        return feature[rows]

    def percent(self, head: Any, feature: Any, part: Part) -> float:
        """Top-1 in percent."""
        return accuracy(head, feature, part.labels)

    def keys(self, head: Any) -> list[nn.Parameter]:
        """Return the parameters that train."""
        return [head.keys]

    def period(self, parts: Sequence[Part]) -> int | None:
        """Steps of the rate's cosine; None for all."""
        return None

    def train(self, bench: Bench, plan: Plan, parts: Sequence[Part], val: Part, head: Any) -> dict[str, Any]:
        """Train the keys where asked; returns details for the result file."""
        return {"best_epoch": self.fit(bench, plan, parts, val, head)} if self.finetune else {}

    def fit(self, bench: Bench, plan: Plan, parts: Sequence[Part], val: Part, head: Any) -> int:
        """Train the keys on one part after the other; the epoch that was kept."""
        judge = val if self.select_on == "val" else next(iter(plan.tests.values()))
        seen = self.look(bench, judge)

        def batches(epoch: int) -> Iterator[tuple[Any, Tensor]]:
            for part in parts:
                feature, label = self.look(bench, part, epoch), labels_of(part, bench)
                seed = (plan.seed, plan.shots, epoch)
                for rows in minibatches(len(label), self.batch_size, seed, drop_last=False, device=label.device):
                    yield self.pick(feature, rows), label[rows]

        score = lambda: self.percent(head, seen, judge)  # noqa: E731
        more: dict[str, Any] = dict(period=self.period(parts), score=score)
        return fit_keys(head, self.keys(head), batches, self.epochs, self.lr, **more).at


@dataclass
class CacheRun(KeyRun):
    """Tip-Adapter, or Tip-Adapter-F with `finetune`; further arguments as in `KeyRun`.

    Args:
        select_on: the set whose accuracy chooses the epoch; `test` is what the release does, and optimistic.
        load: a `best_F_<K>shots.pt` of Tip-Adapter-F to use instead of fine-tuning.

    Raises:
        ValueError: an unknown `select_on`.
    """

    alpha: float = 1.17
    select_on: str = "val"  # type: ignore[misc]
    load: str | None = None

    def __post_init__(self) -> None:
        if self.select_on not in SELECT:
            raise ValueError(f"select_on={self.select_on!r}: choose val, or test (optimistic)")

    def build(self, bench: Bench, parts: Sequence[Part]) -> TipAdapterHead:
        """Zero-shot CLIP and a cache of mean features."""
        (train,) = parts
        raw = torch.stack([bench.features(train, a) for a in range(self.passes)])  # (A, N, D)
        numbers = dict(alpha=self.alpha, beta=self.beta, logit_scale=self.logit_scale)
        text = text_weights(bench, train)
        return TipAdapterHead.from_shots(raw, labels_of(train, bench), text, train.classes, **numbers)

    def train(self, bench: Bench, plan: Plan, parts: Sequence[Part], val: Part, head: Any) -> dict[str, Any]:
        """Load keys, or train them where asked."""
        if self.load is None:
            return super().train(bench, plan, parts, val, head)
        load_tip_keys(head, self.load)
        return {}


@dataclass
class CaFoRun(KeyRun):
    """CaFo: two caches of real and synthetic shots, sentences from a JSON file; further arguments as in `KeyRun`.

    Args:
        synthetic: name of the source whose training split holds synthetic images, None for none.
        synthetic_shots: of each class.
        sentences: JSON file {class: [sentence, ...]}; None uses the source's templates.
        fusion: see `CaFoHead`.
        official: the rate's cosine counts real batches only, as in the release, so that it rises again.
    """

    finetune: bool = True
    synthetic: str | None = None
    synthetic_shots: int = 1
    sentences: str | None = None
    fusion: str = "mean"
    official: bool = False

    def parts(self, bench: Bench, train: Part) -> list[Part]:
        """Real shots, then synthetic ones."""
        return [train, *self.synthetic_part(bench, train)]

    def build(self, bench: Bench, parts: Sequence[Part]) -> CaFoHead:
        """Zero-shot CLIP and the caches of both encoders."""
        label, keys = torch.cat([labels_of(p, bench) for p in parts]), []
        for encoder in ("clip", "second"):
            raw = [torch.stack([bench.features(p, a, encoder) for a in range(self.passes)]) for p in parts]
            cached, values = build_cache(torch.cat(raw, 1), label, len(parts[0].classes))
            keys.append(cached)
        text = text_weights(bench, parts[0], self.sentences)
        numbers: dict[str, Any] = dict(alpha=self.alpha, beta=self.beta, fusion=self.fusion)
        numbers |= dict(keys=keys[0], second_keys=keys[1], values=values, logit_scale=self.logit_scale)
        return CaFoHead(bench.width, parts[0].classes, text, **numbers)

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

    def look(self, bench: Bench, part: Part, epoch: int | None = None) -> tuple[Tensor, Tensor]:
        """Features of both encoders."""
        return bench.features(part, epoch), bench.features(part, epoch, "second")

    def pick(self, feature: Any, rows: Tensor) -> Any:
        """Some samples' features of both encoders."""
        return feature[0][rows], feature[1][rows]

    @torch.no_grad()
    def percent(self, head: Any, feature: Any, part: Part) -> float:
        """Top-1 in percent."""
        target = torch.tensor(part.labels, device=feature[0].device)
        return float((head(feature).argmax(1) == target).float().mean() * 100)

    def keys(self, head: Any) -> list[nn.Parameter]:
        """Both caches' keys."""
        return [head.keys, head.second_keys]

    def period(self, parts: Sequence[Part]) -> int | None:
        """Steps of the rate's cosine."""
        real = -(-len(parts[0].labels) // self.batch_size)
        return self.epochs * real if self.official else None
