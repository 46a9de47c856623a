"""One job of the benchmark: a data set, a method, a number of shots and a seed, from the index files to the scores.

Paper: ELEVATER (arXiv 2204.08790).
"""

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from xmodal.evaluation.elevater_data import DataSet, ImageSet, read_dataset
from xmodal.evaluation.metrics import find_measure
from xmodal.evaluation.probe import Fit, LinearProbe, Samples, fit_probe
from xmodal.evaluation.prompts import of_dataset, read_knowledge, sentences
from xmodal.evaluation.results import once
from xmodal.evaluation.sampling import few_shot_subset, validation_split
from xmodal.evaluation.search import RateSpace, SearchResult, hyperparameter_search
from xmodal.evaluation.subject import ImageClassifier, Subject, features, without_projection


@dataclass(frozen=True)
class Elevater:
    """ELEVATER's protocol: how jobs are run. The defaults are the benchmark's.

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

    def digest(self) -> str:
        """A short hash: traces of other settings are other files."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True, default=str).encode()).hexdigest()[:8]


@dataclass(frozen=True)
class Job:
    """Name a job.

    Args:
        dataset: name.
        method: `zero-shot`, `linear-probe`, `fine-tune`, or the name of an adapter.
        shots: images a class, None for all.
        seed: of the few-shot draw.
    """

    dataset: str
    method: str
    shots: int | None = None
    seed: int = 0

    @property
    def name(self) -> str:
        """Stem of its files."""
        if self.method == "zero-shot":
            return f"{self.dataset}.zero-shot"
        return f"{self.dataset}.{self.method}." + (
            "full" if self.shots is None else f"{self.shots}shot-seed{self.seed}"
        )


def jobs_of(
    names: Sequence[str], methods: Sequence[str], shots: Sequence[int | None], seeds: Sequence[int]
) -> list[Job]:
    """Every job of a grid; without shots there is nothing to draw and one seed is enough."""
    jobs = [
        Job(name, method, *((None, 0) if method == "zero-shot" else (shot, seed if shot is not None else 0)))
        for name in names
        for method in methods
        for shot in shots
        for seed in seeds
    ]
    return list(dict.fromkeys(jobs))


@dataclass
class Pools:
    """The samples of a job: images or features, and labels."""

    train: Samples
    val: Samples
    test: Samples
    search_train: Samples
    search_val: Samples


class JobRun:
    """Everything that the steps of one job share.

    Args:
        subject: the encoder.
        job: what to run.
        root: folder of the data sets.
        out: folder of results, traces and kept features.
        settings: how.
    """

    def __init__(self, subject: Subject, job: Job, root: str | Path, out: str | Path, settings: Elevater):
        self.subject, self.job, self.settings, self.out = subject, job, settings, Path(out)
        self.data: DataSet = read_dataset(root, job.dataset)
        self.measure = find_measure(self.data.card.metric)
        self.broken: dict[str, str] = {}

    def sentences(self) -> list[list[str]]:
        """Prompt sentences, one list a class."""
        names, templates = of_dataset(self.settings.prompts, self.data)
        about = None
        if self.settings.knowledge:
            about = read_knowledge(self.settings.knowledge[0], self.data.card.name, self.settings.knowledge[1])
        return sentences(names, templates, about)

    def images(self, entries: Sequence) -> ImageSet:
        """Images of entries at the encoder's size."""
        return ImageSet(self.data.folder, entries, self.subject.image_size, self.data.card.center_crop)

    def samples(self, entries: Sequence) -> Samples:
        """Features where the encoder does not train, else images; with targets."""
        images = self.images(entries)
        inputs: Any = images
        if self.job.method in ("zero-shot", "linear-probe"):
            inputs = features(self.subject, images, self.out / "features", raw=self.settings.merge_projection)
            self.broken |= images.broken
        return Samples(inputs, self.data.targets(entries))

    def pools(self) -> Pools:
        """Draw and split as the protocol says."""
        job, labels = self.job, self.data.labels(self.data.train)
        chosen = list(range(len(labels)))
        if job.shots is not None:  # a single shot would leave nothing to validate on: two, one of them for validation
            chosen = few_shot_subset(labels, max(job.shots, 2), job.seed, self.data.num_classes)
        train, val = ([chosen[i] for i in part] for part in validation_split([labels[i] for i in chosen], share=0.2))
        limit = self.data.card.search_shots if job.shots is None else None
        searched = (train, val)
        if limit:
            drawn = few_shot_subset(labels, limit, 0, self.data.num_classes)
            searched = tuple([drawn[i] for i in p] for p in validation_split([labels[i] for i in drawn]))  # type: ignore[assignment]
        pick = lambda part: self.samples([self.data.train[i] for i in part])  # noqa: E731
        first, second = pick(train), pick(val)
        third, fourth = (first, second) if not limit else (pick(searched[0]), pick(searched[1]))
        return Pools(first, second, self.samples(self.data.test), third, fourth)

    def classifier(self) -> torch.nn.Module:
        """The classifier at its start: a head on features, or an encoder with adapters and a head on images."""
        s, visual, weights = self.settings, self.subject.visual, None
        if s.text_init and self.subject.clip is not None:
            weights = self.subject.text_weights(self.sentences())
        width = int(visual.out_dim)
        if s.merge_projection:
            with without_projection(visual) as projection:
                if projection is not None:
                    width = projection.shape[1]
                    weights = None if weights is None else weights @ projection  # (K, D)
        head = LinearProbe(
            width, self.data.num_classes, s.channel_bn, s.normalize, s.logit_scale_init, weights, self.subject.scale
        )
        if self.job.method == "linear-probe":
            return head
        adapters = [] if self.job.method == "fine-tune" else [{"type": self.job.method, **s.adapter_options}]
        return ImageClassifier(visual, adapters, head, self.job.method != "fine-tune", s.merge_projection).to(
            self.subject.device
        )

    def search(self, fit: Callable[..., Fit], pools: Pools, trace: Path | None = None) -> SearchResult:
        """Search learning rate and weight decay on the pools for it."""
        s = self.settings
        return hyperparameter_search(
            lambda lr, wd: fit(pools.search_train, pools.search_val, lr, wd, s.epochs).best, s.space, trace
        )

    def train(self) -> dict[str, Any]:
        """Search, then the final run."""
        s, pools, model = self.settings, self.pools(), self.classifier()
        fit = self.fitter(model)
        found: dict[str, Any] = {"val_score": None, "trials": 0}
        start = time.perf_counter()
        if s.rate:
            rate, decay = s.rate
        else:
            trace = self.out / "traces" / f"{self.job.name}-{self.subject.sha[:8]}-{s.digest()}.jsonl"
            result = self.search(fit, pools, trace)
            rate, decay = result.learning_rate, result.weight_decay
            found = {"val_score": result.score, "trials": len(result.trials)}
        found |= {"learning_rate": rate, "weight_decay": decay, "search_seconds": time.perf_counter() - start}
        merged = s.merge_val and self.job.shots != 1
        last = fit(
            pools.train.merged(pools.val) if merged else pools.train, pools.test, rate, decay, s.epochs + s.extra_epochs
        )
        for images in (pools.train.feature, pools.val.feature, pools.test.feature):
            self.broken |= getattr(images, "broken", {})
        return {
            **found,
            "score": last.last,
            "best_epoch_on_test": last.best,
            "trained_parameters": sum(p.numel() for p in model.parameters() if p.requires_grad),
            "probabilities": last.last_probabilities,
            "best_probabilities": last.best_probabilities,
        }

    def fitter(self, model: torch.nn.Module) -> Callable[..., Fit]:
        """`fit_probe` with everything that does not change from run to run."""
        fixed: dict[str, Any] = dict(batch_size=self.settings.batch_size, measure=self.measure, seed=self.job.seed)
        return partial(fit_probe, model, **fixed)

    def zero_shot(self) -> dict[str, Any]:
        """Cosines to class features times 100, softmax over classes."""
        test = self.samples(self.data.test)
        weights = self.subject.text_weights(self.sentences())
        logits = 100 * torch.nn.functional.normalize(test.feature, dim=-1) @ weights.t()  # (N, K)
        probabilities = logits.softmax(-1).numpy()
        return {
            "score": self.measure(probabilities, test.label.numpy()),
            "trained_parameters": 0,
            "probabilities": probabilities,
        }

    def run(self) -> dict[str, Any]:
        """Run the job; see `run_job`."""
        found = self.zero_shot() if self.job.method == "zero-shot" else self.train()
        visual = sum(p.numel() for p in self.subject.visual.parameters())
        return {
            **asdict(self.job),
            "model": self.subject.name,
            "encoder_sha256": self.subject.sha,
            "metric": self.data.card.metric,
            "classes": self.data.num_classes,
            "train_images": len(self.data.train),
            "test_images": len(self.data.test),
            "visual_parameters": visual,
            "total_parameters": sum(p.numel() for p in (self.subject.clip or self.subject.visual).parameters()),
            "unreadable": self.broken,
            **found,
        }


def run_job(
    subject: Subject, job: Job, root: str | Path, out: str | Path, settings: Elevater | None = None
) -> dict[str, Any]:
    """Run a job, or read its result when it is there.

    Args:
        subject: the encoder.
        job: what to run.
        root: folder of the data sets.
        out: folder of results (`<job>.json`, `<job>.npz`), traces and kept features.
        settings: how.

    Returns:
        The result: `score` after the last epoch, `best_epoch_on_test` (the number the toolkit reports), the pair
        chosen, trials, counts, and what could not be read. Probabilities are in the `.npz`.
    """
    settings = settings or Elevater()
    path = Path(out) / f"{job.name}.json"

    def make() -> dict[str, Any]:
        found = JobRun(subject, job, root, out, settings).run()
        arrays = {k: found.pop(k) for k in ("probabilities", "best_probabilities") if k in found}
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez_compressed(path.with_suffix(".npz"), **arrays)
        return found

    return once(path, make, tag=f"{subject.sha[:16]}-{settings.digest()}")
