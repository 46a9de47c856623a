"""ELEVATER's protocol, and the run of a method under it: search of rates, training, scores.

Paper: ELEVATER (arXiv 2204.08790).
"""

import copy
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from xmodal.encoders.clip import CLIP, class_weights
from xmodal.evaluation.bench import Bench
from xmodal.evaluation.elevater_catalog import CARDS
from xmodal.evaluation.elevater_data import DataSet, Pictures, elevater_source
from xmodal.evaluation.metrics import find_measure
from xmodal.evaluation.plans import Labeled, Outcome, Part, Plan, Protocol, whole
from xmodal.evaluation.probe import Fit, LabeledInputs, LinearProbe, fit_probe
from xmodal.evaluation.prompts import of_dataset, read_knowledge, sentences
from xmodal.evaluation.results import stamp
from xmodal.evaluation.run_grid import RunGrid
from xmodal.evaluation.sampling import few_shot_subset, validation_split
from xmodal.evaluation.search import RateSpace, SearchResult, hyperparameter_search
from xmodal.model import TransferModel
from xmodal.registry import ENCODERS, build
from xmodal.structures import Encoder

ALL = -1  # shots of a run on all images


@dataclass(frozen=True)
class Elevater(Protocol):
    """ELEVATER's protocol: which images train, and how. The defaults are the benchmark's.

    Args:
        epochs: of every run of the search.
        extra_epochs: more of them in the final run.
        batch_size: samples a step.
        channel_bn: BatchNorm without weights in front of the head.
        normalize: L2-normalize features.
        logit_scale_init: see `probe.initial_log_scale`.
        text_init: start the head from class features of the text tower.
        merge_projection: fold the encoder's projection into the head, which then reads the wider feature.
        merge_val: the final run trains on training and validation samples.
        rate: (learning rate, weight decay) instead of a search.
        space: what is searched.
        prompts: maps of `prompts.read_prompts`.
        knowledge: (folder, source) of knowledge files.
        adapter_options: arguments of the adapter.
    """

    epochs: int = 10
    extra_epochs: int = 40
    batch_size: int = 64
    channel_bn: bool = True
    normalize: bool = False
    logit_scale_init: str = "none"
    text_init: bool = True
    merge_projection: bool = False
    merge_val: bool = True
    rate: tuple[float, float] | None = None
    space: RateSpace = field(default_factory=RateSpace)
    prompts: dict | None = None
    knowledge: tuple[str, str] | None = None
    adapter_options: dict[str, Any] = field(default_factory=dict)
    name: ClassVar[str] = "elevater"
    seeds: ClassVar[tuple[int, ...]] = (0, 1, 2)
    shots: ClassVar[tuple[int, ...]] = (5,)

    def draws(self, shots: int) -> bool:
        """Whether the samples depend on the seed: all images are not drawn."""
        return shots != ALL

    def plan(self, data: Labeled, shots: int, seed: int, targets: Sequence[Labeled] = ()) -> Plan:
        """Choose the parts that train, validate and test; the last of each is what the search is held on."""
        labels, rows, classes = list(data.train), list(range(len(data.train))), len(data.classes)
        if shots != ALL:  # a single shot would leave nothing to validate on: two, one of them for validation
            rows = few_shot_subset(labels, max(shots, 2), seed, classes)
        chosen = [part_rows(labels, rows, share=0.2)]
        limit = CARDS[data.name].search_shots if shots == ALL and data.name in CARDS else None
        if limit:
            chosen.append(part_rows(labels, few_shot_subset(labels, limit, 0, classes)))
        train, val = ([whole(data, "train", pair[i]) for pair in chosen] for i in (0, 1))
        return Plan(self.name, shots, seed, train, val, {data.name: whole(data, "test")})


def part_rows(labels: Sequence[Any], rows: Sequence[int], **share: float) -> tuple[list[int], list[int]]:
    """Split samples into training and validation."""
    train, val = validation_split([labels[i] for i in rows], **share)
    return [rows[i] for i in train], [rows[i] for i in val]


@dataclass(frozen=True)
class ElevaterRun:
    """Run a method under ELEVATER's protocol.

    Args:
        method: `zero-shot`, `linear-probe`, `fine-tune`, or the name of an adapter.
        settings: how.
    """

    method: str
    settings: Elevater = field(default_factory=Elevater)

    @property
    def needs_shots(self) -> bool:
        """Whether anything trains."""
        return self.method != "zero-shot"

    def __call__(self, bench: Bench, plan: Plan) -> Outcome:
        """Train, where the method does, and test."""
        run = JobRun(bench, plan, self.method, self.settings)
        found = run.train() if self.needs_shots else run.zero_shot()
        found |= run.about()
        arrays = {str(k): found.pop(k) for k in ("probabilities", "best_probabilities") if k in found}
        scores = {run.data.card.name: found["score"]}
        return Outcome(scores, "val", found.pop("trained_parameters"), found, arrays=arrays)


@dataclass
class Pools:
    """The samples of a run: images or features, and labels."""

    train: LabeledInputs
    val: LabeledInputs
    test: LabeledInputs
    search_train: LabeledInputs
    search_val: LabeledInputs


class JobRun:
    """Everything that the steps of one run share.

    Args:
        bench: the encoder, and one source that `elevater_source` built.
        plan: of `Elevater`.
        method: see `ElevaterRun`.
        settings: how.
    """

    def __init__(self, bench: Bench, plan: Plan, method: str, settings: Elevater):
        self.bench, self.plan, self.method, self.settings = bench, plan, method, settings
        self.source = bench.sources[0]
        self.data: DataSet = self.source.train.data
        self.measure = find_measure(self.data.card.metric)
        self.visual: Encoder = bench.models["clip"].encoder
        self.projection = self.visual.proj if settings.merge_projection else None
        if isinstance(self.projection, nn.Linear) and "raw" not in bench.models:
            bench.models["raw"] = TransferModel(without_projection(self.visual), nn.Identity()).to(bench.device).eval()

    def sentences(self) -> list[list[str]]:
        """Prompt sentences, one list a class."""
        names, templates = of_dataset(self.settings.prompts, self.data)
        about = None
        if self.settings.knowledge:
            about = read_knowledge(self.settings.knowledge[0], self.data.card.name, self.settings.knowledge[1])
        return sentences(names, templates, about)

    def text_weights(self) -> Tensor:
        """Unit vectors (K, D): the mean feature of each class's sentences.

        Raises:
            ValueError: this encoder has no text tower.
        """
        if not isinstance(self.bench.clip, CLIP):
            name = self.visual.name
            raise ValueError(f"{name} has no text tower: no zero-shot classifier and no text-initialized head")
        return class_weights(self.bench.clip.encode_sentences, self.sentences()).cpu()

    def samples(self, part: Part) -> LabeledInputs:
        """Features where the encoder does not train, else images; with targets."""
        inputs: Any = Pictures(self.source.view(part.split, False), part.indices)
        if self.method in ("zero-shot", "linear-probe"):
            raw = isinstance(self.projection, nn.Linear) and self.method != "zero-shot"
            inputs = self.bench.features(part, encoder="raw" if raw else "clip").float().cpu()
        entries = getattr(self.data, part.split)
        return LabeledInputs(inputs, self.data.targets([entries[i] for i in part.indices]))

    def pools(self) -> Pools:
        """Features or images of the plan's parts."""
        plan, (test,) = self.plan, self.plan.tests.values()
        train, val = self.samples(plan.train[0]), self.samples(plan.val[0])
        if len(plan.train) == 1:
            return Pools(train, val, self.samples(test), train, val)
        return Pools(train, val, self.samples(test), self.samples(plan.train[1]), self.samples(plan.val[1]))

    def classifier(self) -> nn.Module:
        """The classifier at its start: a head on features, or an encoder with adapters and a head on images."""
        s, weights, width = self.settings, None, int(self.visual.out_dim)
        clip = self.bench.clip if isinstance(self.bench.clip, CLIP) else None
        if s.text_init and clip is not None:
            weights = self.text_weights()
        if isinstance(self.projection, nn.Linear):
            projection = self.projection.weight.detach().cpu()  # (D, D_in)
            width = projection.shape[1]
            weights = None if weights is None else weights @ projection  # (K, D_in)
        scale = None if clip is None else clip.logit_scale.item()
        norms = (s.channel_bn, s.normalize, s.logit_scale_init)
        head = LinearProbe(width, self.data.num_classes, *norms, weights, scale)
        if self.method == "linear-probe":
            return head
        adapters = [] if self.method == "fine-tune" else [{"type": self.method, **s.adapter_options}]
        classifier = ImageClassifier(self.visual, adapters, head, self.method != "fine-tune", s.merge_projection)
        return classifier.to(self.bench.device)

    def search(self, fit: Callable[..., Fit], pools: Pools, trace: Path | None = None) -> SearchResult:
        """Search learning rate and weight decay on the pools for it."""
        s = self.settings
        return hyperparameter_search(
            lambda lr, wd: fit(pools.search_train, pools.search_val, lr, wd, s.epochs).best, s.space, trace
        )

    def trace(self) -> Path | None:
        """The file of finished trials, beside the kept features; other settings have another one."""
        if self.bench.bank.folder is None:
            return None
        name = f"{self.data.card.name}.{self.method}.{self.plan.shots}shots-seed{self.plan.seed}"
        mark = f"{self.bench.fingerprint('clip')[:8]}-{stamp(self.settings)[:8]}"
        return self.bench.bank.folder.parent / "traces" / f"{name}-{mark}.jsonl"

    def train(self) -> dict[str, Any]:
        """Search, then the final run."""
        torch.manual_seed(self.plan.seed)  # of the first weights
        s, pools, model = self.settings, self.pools(), self.classifier()
        fit = self.fitter(model)
        found: dict[str, Any] = {"val_score": None, "trials": 0}
        start = time.perf_counter()
        if s.rate:
            rate, decay = s.rate
        else:
            result = self.search(fit, pools, self.trace())
            rate, decay = result.learning_rate, result.weight_decay
            found = {"val_score": result.score, "trials": len(result.trials)}
        found |= {"learning_rate": rate, "weight_decay": decay, "search_seconds": time.perf_counter() - start}
        merged = s.merge_val and self.plan.shots != 1
        last = fit(
            pools.train.merged(pools.val) if merged else pools.train, pools.test, rate, decay, s.epochs + s.extra_epochs
        )
        return {
            **found,
            "score": last.last,
            "best_epoch_on_test": last.best,
            "trained_parameters": sum(p.numel() for p in model.parameters() if p.requires_grad),
            "probabilities": last.last_probabilities,
            "best_probabilities": last.best_probabilities,
        }

    def fitter(self, model: nn.Module) -> Callable[..., Fit]:
        """`fit_probe` with everything that does not change from run to run."""
        fixed: dict[str, Any] = dict(batch_size=self.settings.batch_size, measure=self.measure, seed=self.plan.seed)
        return partial(fit_probe, model, **fixed)

    def zero_shot(self) -> dict[str, Any]:
        """Cosines to class features times 100, softmax over classes."""
        test = self.samples(next(iter(self.plan.tests.values())))
        logits = 100 * torch.nn.functional.normalize(test.feature, dim=-1) @ self.text_weights().t()  # (N, K)
        probabilities = logits.softmax(-1).numpy()
        score = self.measure(probabilities, test.label.numpy())
        return {"score": score, "trained_parameters": 0, "probabilities": probabilities}

    def about(self) -> dict[str, Any]:
        """The data set and the encoder, for the result file."""
        count = lambda module: sum(p.numel() for p in module.parameters())  # noqa: E731
        return {
            "metric": self.data.card.metric,
            "classes": self.data.num_classes,
            "train_images": len(self.data.train),
            "test_images": len(self.data.test),
            "visual_parameters": count(self.visual),
            "total_parameters": count(self.bench.clip),
            "unreadable": self.source.train.broken | self.source.test.broken,
        }


def without_projection(encoder: Encoder) -> Encoder:
    """A copy of an encoder whose feature is not projected."""
    encoder = copy.deepcopy(encoder)
    if isinstance(encoder.proj, nn.Linear):
        encoder.proj = nn.Identity()
    return encoder


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
        encoder = (without_projection if raw else copy.deepcopy)(encoder).requires_grad_()
        super().__init__(encoder, head, adapters, freeze_encoder=freeze_encoder)

    def forward(self, images: Tensor) -> Tensor:  # type: ignore[override]
        """Map u8 images (B, 3, S, S) to logits (B, K)."""
        return super().forward(**self.data_preprocessor({"image": images}))


def elevater_grid(
    clip: Any,
    root: str | Path,
    dataset: str,
    methods: Sequence[str],
    out: str | Path,
    settings: Elevater | None = None,
    device: str = "cpu",
) -> RunGrid:
    """Build the runs of one data set: results go to OUT/<data set>, features of all to OUT/features.

    Args:
        clip: a `CLIP` or an image tower, or its config.
        root: folder of the data sets.
        dataset: name.
        methods: see `ElevaterRun`.
        out: folder of results.
        settings: how.
        device: where the encoder computes.
    """
    settings = settings or Elevater()
    encoder = build(clip, ENCODERS)
    visual = encoder.visual if isinstance(encoder, CLIP) else encoder
    source = elevater_source(root, dataset, visual.image_size)
    bench = Bench(encoder, [source], batch_size=64, device=device, cache=Path(out) / "features")
    recipes = {name: ElevaterRun(name, settings) for name in methods}
    return RunGrid(bench, settings, recipes, Path(out) / source.name)
