"""Run few-shot methods that train inside CLIP's towers, on the images themselves."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from xmodal.clip_tuning.promptsrc import gaussian_weights
from xmodal.clip_tuning.tuned import TunedCLIP, WeightAverage
from xmodal.clip_tuning.two_stage import TwoStage
from xmodal.evaluation.bench import Bench, labels_of
from xmodal.evaluation.fit import cosine_rates, dassl_optimizer, epochs_for, fit, minibatches
from xmodal.evaluation.plans import Outcome, Part, Plan, only_part
from xmodal.official.clip_tuning import load_tuned
from xmodal.registry import MODELS, build

Batches = Iterator[tuple[Tensor, Tensor]]


@dataclass
class TowerRun:
    """Base class of runs inside the towers; the last step is reported.

    Args:
        model: config of a `TunedCLIP`, without `class_names` and `clip`.
        batch_size: images a step.
        drop_last: leave out an incomplete last batch of a pass.
        load: a released file of the method (`official.clip_tuning.load_tuned`), tested instead of training.
    """

    model: Mapping[str, Any]
    batch_size: int = 32
    drop_last: bool = False
    load: str | None = None
    needs_shots: ClassVar[bool] = True

    def __call__(self, bench: Bench, plan: Plan) -> Outcome:
        """Train, then test on every set with the class names it has."""
        train = only_part(plan, plan.train, "training")
        torch.manual_seed(plan.seed)
        given = dict(class_names=list(train.classes), clip=bench.clip)
        model: TunedCLIP = build(dict(self.model), MODELS, **given).to(bench.device)
        trained = sum(p.numel() for p in model.trained().values())
        if self.load:
            load_tuned(model, self.load)
        losses = [] if self.load else self.fit(bench, plan, train, model.train())
        scores = {n: self.percent(bench, model.eval(), p) for n, p in plan.tests.items()}
        return Outcome(scores, trained=trained, details={"losses": thin(losses)}, head=model)

    def fit(self, bench: Bench, plan: Plan, train: Part, model: Any) -> list[float]:
        """Train; losses in order."""
        raise NotImplementedError

    def batches(self, bench: Bench, plan: Plan, train: Part, epoch: int) -> Batches:
        """Images and labels of one pass over the shots."""
        label = labels_of(train, bench)
        for rows in minibatches(len(label), self.batch_size, (plan.seed, plan.shots, epoch), self.drop_last):
            yield bench.images(train, epoch, rows.tolist()), label[rows]

    @torch.no_grad()
    def percent(self, bench: Bench, model: TunedCLIP, part: Part) -> float:
        """Top-1 in percent."""
        model.set_classes(part.classes)
        target, hits = torch.tensor(part.labels), 0
        for rows in torch.arange(len(target)).split(bench.batch_size):
            hits += int((model(bench.images(part, None, rows.tolist())).argmax(1).cpu() == target[rows]).sum())
        return 100 * hits / max(len(target), 1)


@dataclass
class StepRun(TowerRun):
    """CLIP-LoRA's and 2SFS's recipe: AdamW, a number of steps a shot, a cosine per step.

    Args:
        lr: base rate.
        weight_decay: of AdamW.
        steps: a shot; 500 in CLIP-LoRA, 300 in 2SFS.
        first: share of the steps that the first of two stages has; methods of one stage have all.
        final: rate at the end of each stage.
    """

    lr: float = 2e-4
    weight_decay: float = 1e-2
    steps: int = 500
    first: float = 0.6
    final: float = 1e-6

    def fit(self, bench: Bench, plan: Plan, train: Part, model: Any) -> list[float]:
        """Train in one stage or in two."""
        total = self.steps * plan.shots
        if not isinstance(model, TwoStage):
            return self.stage(bench, plan, train, model, total)
        steps = int(total * self.first)
        losses = self.stage(bench, plan, train, model, steps)
        model.second_stage()
        return losses + self.stage(bench, plan, train, model, total - steps)

    def stage(self, bench: Bench, plan: Plan, train: Part, model: Any, steps: int) -> list[float]:
        """Train what trains now for a number of steps, in passes over the shots."""
        optimizer = torch.optim.AdamW(list(model.trained().values()), self.lr, weight_decay=self.weight_decay)
        source = self.endless(bench, plan, train)
        one = lambda step: [next(source)]  # noqa: E731
        return fit(
            steps, one, lambda b: model.loss(*b)["loss"], [optimizer], [cosine_rates(self.lr, steps, self.final)]
        )

    def endless(self, bench: Bench, plan: Plan, train: Part) -> Batches:
        """Pass over the shots again and again."""
        epoch = 0
        while True:
            yield from self.batches(bench, plan, train, epoch)
            epoch += 1


@dataclass
class EpochRun(TowerRun):
    """MaPLe's and PromptSRC's recipe: Dassl's SGD, a warm-up epoch, a cosine per epoch.

    Args:
        lr: base rate; 0.0035 in MaPLe, 0.0025 in PromptSRC.
        epochs: a number, or a table by shots.
        average: (mean, std) of the weights with which the prompts of all epochs are averaged; None keeps the last.
    """

    batch_size: int = 4
    drop_last: bool = True
    lr: float = 0.0035
    epochs: int | dict[int, int] = 5
    average: Sequence[float] | None = None

    def fit(self, bench: Bench, plan: Plan, train: Part, model: Any) -> list[float]:
        """Train, and average the prompts where asked."""
        epochs = epochs_for(plan.shots, self.epochs)
        optimizer, rates = dassl_optimizer(list(model.trained().values()), self.lr, epochs)
        weights = gaussian_weights(epochs, *self.average) if self.average else []
        kept = WeightAverage(model)

        def each_epoch(epoch: int) -> None:
            if weights:
                kept.add(weights[epoch])

        batches = lambda epoch: self.batches(bench, plan, train, epoch)  # noqa: E731
        losses = fit(epochs, batches, lambda b: model.loss(*b)["loss"], [optimizer], [rates], each_epoch=each_epoch)
        if weights:
            kept.install()
        return losses


def thin(losses: Sequence[float], count: int = 50) -> list[float]:
    """Means of about `count` equal parts of a list of losses."""
    size = -(-len(losses) // count) or 1
    parts = [losses[i : i + size] for i in range(0, len(losses), size)]
    return [round(sum(part) / len(part), 5) for part in parts]
