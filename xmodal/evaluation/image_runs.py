"""Run the methods that cannot use cached features: prompts in the image tower, several tasks at once, several domains.

Papers: DPT (arXiv 2208.08340), MVLPT (2211.11720), DPLCLIP (2111.12853) under DomainBed (2007.01434).
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from xmodal.data.collate import collate
from xmodal.evaluation.bench import Bench, accuracy, labels_of
from xmodal.evaluation.fit import BestSoFar, dassl_optimizer, epochs_for, fit, minibatches
from xmodal.evaluation.plans import Outcome, Part, Plan, join_parts
from xmodal.evaluation.runs import PromptRun, new_head
from xmodal.heads.mvlpt import average_states
from xmodal.official.prompts import load_dassl
from xmodal.prompted import PromptedModel


@dataclass
class ImageRun(PromptRun):
    """Train a head that runs the image tower (MVLPT, DPT) on images; further arguments as in `PromptRun`.

    Several training parts are tasks: their classes stand one behind the other; each test set is scored among its own.

    Args:
        text_lr: another rate for the text context, as DPT has (its warm-up is 1 epoch then); None for the same.
        start: Dassl folders whose average is where training starts (MVLPT's multi-task initialization).
        mask_tasks: each image competes among the classes of its own task alone (MVLPT).
    """

    text_lr: float | None = None
    start: Sequence[str] = ()
    mask_tasks: bool = False

    def __call__(self, bench: Bench, plan: Plan) -> Outcome:
        """Train, then test on every set with the class names it has."""
        train = join_parts(plan.train)
        torch.manual_seed(plan.seed)
        model = self.build(bench, train.classes, plan.train)
        details: dict[str, Any] = {}
        if self.start:
            states = [self.state_of(bench, train.classes, folder) for folder in self.start]
            model.head.load_state_dict(average_states(states), strict=False)
        if self.load is not None:
            details["left_out"] = load_dassl(model.head, self.load)
        else:
            details["losses"] = self.fit(bench, plan, train, model)
        scores = {n: self.percent(bench, model.eval(), columns_of(plan.train, p), p) for n, p in plan.tests.items()}
        trained = sum(p.numel() for p in model.head.parameters())
        return Outcome(scores, trained=trained, details=details, head=model.head)

    def build(self, bench: Bench, classes: Sequence[str], tasks: Sequence[Part] = ()) -> PromptedModel:
        """A fresh model around the bench's image tower."""
        sizes = {"task_sizes": {part.source: len(part.classes) for part in tasks}} if self.mask_tasks else {}
        head = new_head(bench, self.head, classes, **sizes)
        return PromptedModel(bench.clip.visual, head).to(bench.device)

    def state_of(self, bench: Bench, classes: Sequence[str], folder: str) -> dict[str, Tensor]:
        """Weights of a Dassl run."""
        head = replace(self, mask_tasks=False).build(bench, classes).head
        load_dassl(head, folder)
        return {k: v.clone() for k, v in head.state_dict().items()}

    def fit(self, bench: Bench, plan: Plan, train: Part, head: Any) -> list[float]:
        """Train a model; the mean loss of every epoch."""
        epochs, label = epochs_for(plan.shots, self.epochs), train.labels
        owners = [(part.source, i) for part in plan.train for i in part.indices]
        task = torch.tensor([n for n, part in enumerate(plan.train) for _ in part.indices])
        groups = self.optimizers(head, epochs)

        def batches(epoch: int) -> Iterator[tuple[Mapping[str, Any], Tensor]]:
            getattr(head.head, "set_epoch", lambda e: None)(epoch)
            for rows in minibatches(len(owners), self.batch_size, (plan.seed, plan.shots, epoch)):
                items = [bench.source(owners[r][0]).train[epoch, owners[r][1]] for r in rows.tolist()]
                batch = collate([{**item, "label": label[r]} for item, r in zip(items, rows.tolist(), strict=True)])
                yield head.data_preprocessor(batch), task[rows]

        head.train()
        loss = lambda batch: self.loss(head, *batch)  # noqa: E731
        return fit(epochs, batches, loss, [o for o, _ in groups], [rates for _, rates in groups])

    def loss(self, model: PromptedModel, batch: Mapping[str, Any], task: Tensor) -> Tensor:
        """Loss of a batch whose samples belong to `task` (B,)."""
        if not self.mask_tasks:
            return model(**batch, mode="loss")["loss"]
        head: Any = model.head
        feature = model.features(**{k: v for k, v in batch.items() if k in ("image", "clips")})
        return head.loss(feature, batch["label"], task)["loss"]

    def optimizers(self, model: PromptedModel, epochs: int) -> list[tuple[torch.optim.Optimizer, list[float]]]:
        """One optimizer with the rate of every epoch, or a second one for the text context."""
        text = [p for n, p in model.head.named_parameters() if n == "ctx"]
        other = [p for n, p in model.head.named_parameters() if n != "ctx"]
        if self.text_lr is None or not text:
            return [dassl_optimizer(text + other, self.lr, epochs, warmup_epochs=self.warmup_epochs)]
        return [
            dassl_optimizer(other, self.lr, epochs, warmup_epochs=self.warmup_epochs),
            dassl_optimizer(text, self.text_lr, epochs),
        ]

    @torch.no_grad()
    def percent(self, bench: Bench, model: PromptedModel, columns: list[int], part: Part) -> float:
        """Top-1 in percent among the part's own classes, which are `columns` of the logits."""
        data, hits = bench.source(part.source).view(part.split, augment=False), 0
        rows = list(zip(part.indices, part.labels, strict=True))
        for start in range(0, len(rows), bench.batch_size):
            chunk = rows[start : start + bench.batch_size]
            batch = model.data_preprocessor(collate([data[i] for i, _ in chunk]))
            inputs = {k: v for k, v in batch.items() if k in ("image", "clips")}
            best = model(mode="tensor", **inputs)[:, columns].argmax(1)
            hits += int((best.cpu() == torch.tensor([y for _, y in chunk])).sum())
        return 100 * hits / max(len(rows), 1)


def columns_of(tasks: Sequence[Part], part: Part) -> list[int]:
    """Return the logit column of each test class, preferring the training task of the same name.

    Raises:
        ValueError: a class that was not trained.
    """
    classes = join_parts(tasks).classes
    first = 0
    for task in tasks:
        if task.source == part.source and task.classes == part.classes:
            return list(range(first, first + len(task.classes)))
        first += len(task.classes)
    unknown = sorted(set(part.classes) - set(classes))
    if unknown:
        raise ValueError(f"class {unknown[0]!r} was not trained: this run tests the classes it has trained")
    return [classes.index(name) for name in part.classes]


@dataclass
class DomainRun:
    """Train DPLCLIP on batches of several domains; the step that the training domains' held-out parts choose is tested.

    Predictions use the test batch's own domain prompt, so that batch size and order matter; both are fixed.

    Args:
        head: config of a `DPLCLIPHead`, without `in_dim`, `class_names` and `clip`.
        lr: of SGD.
        momentum: of SGD.
        weight_decay: of SGD.
        batch_size: of each domain.
        test_batch: of predictions.
        steps: of training.
        interval: steps between two evaluations.
        select_on: `val` takes the step with the best mean accuracy on the training domains' held-out parts
            (DomainBed's training-domain validation), `last` the last step (as its oracle selection does).

    Raises:
        ValueError: another word for `select_on`.
    """

    head: Mapping[str, Any]
    lr: float = 1e-3
    momentum: float = 0.1
    weight_decay: float = 0.0
    batch_size: int = 32
    test_batch: int = 64
    steps: int = 5001
    interval: int = 300
    select_on: str = "val"
    needs_shots: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.select_on not in ("val", "last"):
            raise ValueError(f"select_on={self.select_on!r}: choose val or last")

    def __call__(self, bench: Bench, plan: Plan) -> Outcome:
        """Train, select on the training domains, test on the one left out."""
        classes = plan.train[0].classes
        torch.manual_seed(plan.seed)
        head = new_head(bench, self.head, classes).to(bench.device)
        data = [(bench.features(p), labels_of(p, bench)) for p in plan.train]
        best = BestSoFar()

        def batches(step: int) -> list[list[Tensor]]:
            rng = np.random.default_rng([plan.seed % 2**32, step])
            picks = [torch.from_numpy(rng.choice(len(y), min(self.batch_size, len(y)), replace=False)) for _, y in data]
            head.train()
            return [[f[rows], y[rows]] for (f, y), rows in zip(data, picks, strict=True)]

        def check(step: int) -> None:
            if step % self.interval == 0 or step == self.steps - 1:
                checks = [self.percent(bench, head, part) for part in plan.val]
                state = {k: v.clone() for k, v in head.state_dict().items()}
                best.offer(sum(checks) / len(checks), state)

        sgd: dict[str, Any] = dict(lr=self.lr, momentum=self.momentum, weight_decay=self.weight_decay)
        optimizer = torch.optim.SGD(head.parameters(), **sgd)
        loss = lambda pairs: head.loss_over_domains(*map(list, zip(*pairs, strict=True)))["loss"]  # noqa: E731
        fit(self.steps, lambda step: [batches(step)], loss, [optimizer], each_epoch=check)
        if self.select_on == "val":
            head.load_state_dict(best.kept)
        scores = {name: self.percent(bench, head, part) for name, part in plan.tests.items()}
        chosen = min(best.at * self.interval, self.steps - 1) if self.select_on == "val" else self.steps - 1
        details = {"selected": chosen, "val": best.seen}
        on = "val" if self.select_on == "val" else "none (last step)"
        return Outcome(scores, on, sum(p.numel() for p in head.parameters()), details, head)

    def percent(self, bench: Bench, head: nn.Module, part: Part) -> float:
        """Top-1 in percent, batch after batch in a fixed shuffled order."""
        order = np.random.default_rng(0).permutation(len(part.labels))
        label = [part.labels[i] for i in order]
        score: Callable[[Tensor], Tensor] = head.eval()
        return accuracy(score, bench.features(part)[torch.from_numpy(order)], label, self.test_batch)
