"""Run TaskRes, LP++ and ProLIP on cached features."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from xmodal.evaluation.bench import Bench, accuracy, labels_of
from xmodal.evaluation.feature_fits import LAMBDA_GRID, LR_GRID, fit_lp, fit_prolip, search_prolip
from xmodal.evaluation.fit import learning_rates
from xmodal.evaluation.plans import Outcome, Part, Plan, only_part
from xmodal.evaluation.runs import PromptRun, new_head, text_weights
from xmodal.heads.lp_plus_plus import LPPlusPlusHead
from xmodal.heads.prolip import ProLIPHead
from xmodal.heads.taskres import TaskResHead
from xmodal.model import TransferModel

UNPROJECTED = "unprojected"
TASKRES_EPOCHS = {1: 100, 2: 100, 4: 100, 8: 200, 16: 200}


@dataclass
class TaskResRun(PromptRun):
    """TaskRes: Adam with coupled decay, a warm-up epoch, a cosine per epoch; the last step is reported.

    Args:
        head: further arguments of `TaskResHead`; the templates are the source's unless given.
        lr: 2e-4 on ImageNet.
        weight_decay: added to the gradient.
    """

    head: Mapping[str, Any] = field(default_factory=lambda: dict(type=TaskResHead))
    lr: float = 2e-3
    epochs: int | dict[int, int] = field(default_factory=lambda: dict(TASKRES_EPOCHS))
    batch_size: int = 256
    weight_decay: float = 5e-4

    def __call__(self, bench: Bench, plan: Plan) -> Outcome:
        """Train on the classes of the training part, and test on sets of the same classes."""
        source = only_part(plan, plan.train, "training").source
        given = dict(type=TaskResHead, templates=tuple(bench.source(source).templates)) | dict(self.head)
        return super(TaskResRun, replace(self, head=given)).__call__(bench, plan)

    def build(self, bench: Bench, classes: Sequence[str]) -> nn.Module:
        """A fresh head."""
        return new_head(bench, self.head, classes).to(bench.device)

    def optimizer(self, parameters: list[nn.Parameter], epochs: int) -> tuple[torch.optim.Optimizer, list[float]]:
        """Adam, and the rate of every epoch."""
        adam = torch.optim.Adam(parameters, self.lr, weight_decay=self.weight_decay)
        rates = learning_rates(self.lr, epochs, self.warmup_epochs, self.warmup_type)
        return adam, rates


@dataclass
class LPPlusPlusRun:
    """LP++ on one augmented view; the last epoch with the best validation accuracy is reported.

    Args:
        epochs: steps on all shots at once.
        factor: of the initial alpha.
        clear_alpha: see `fit_lp`.
    """

    epochs: int = 300
    factor: float = 250.0
    clear_alpha: bool = False
    needs_shots: ClassVar[bool] = True

    def __call__(self, bench: Bench, plan: Plan) -> Outcome:
        """Train, select on the validation shots, test."""
        train, val = only_part(plan, plan.train, "training"), only_part(plan, plan.val, "validation")
        torch.manual_seed(plan.seed)
        feature, label, text = bench.features(train, 0), labels_of(train, bench), text_weights(bench, train)
        head = LPPlusPlusHead.from_shots(feature, label, text, train.classes, self.factor).to(bench.device)
        seen = bench.features(val)
        score = lambda: accuracy(head, seen, val.labels)  # noqa: E731
        done = fit_lp(head, feature, label, score, self.epochs, clear_alpha=self.clear_alpha)
        scores = {n: accuracy(head, bench.features(p), p.labels) for n, p in plan.tests.items()}
        details = {"epoch": done.best, "alpha": float(head.alpha.detach().mean())}
        return Outcome(scores, "val", sum(p.numel() for p in head.parameters()), details, head)


@dataclass
class ProLIPRun:
    """ProLIP: without validation, or with the paper's search on the validation shots.

    Args:
        search: choose rate and lambda on the validation set.
        lr: without a search.
        weight: lambda without a search; None for 1 / shots.
        epochs: steps on all shots at once, each with another of the bench's stored views.
        logit_scale: of the cosines.
    """

    search: bool = False
    lr: float = 1e-5
    weight: float | None = None
    epochs: int = 300
    logit_scale: float = 100.0
    needs_shots: ClassVar[bool] = True

    def __call__(self, bench: Bench, plan: Plan) -> Outcome:
        """Train the projection, test."""
        train = only_part(plan, plan.train, "training")
        projection = unprojected(bench)
        look = lambda part, epoch=None: bench.features(part, epoch, UNPROJECTED)  # noqa: E731
        views = torch.stack([look(train, e) for e in range(min(bench.views, self.epochs))])
        text, label = text_weights(bench, train), labels_of(train, bench)
        head = ProLIPHead(views.shape[-1], train.classes, text, projection, None, self.logit_scale).to(bench.device)
        details: dict[str, Any] = {"lr": self.lr, "lambda": self.weight or 1 / plan.shots}
        if self.search:
            val = only_part(plan, plan.val, "validation")
            judged = look(val), labels_of(val, bench)
            grid, lr, weight, _ = search_prolip(head, views, label, judged, LR_GRID, LAMBDA_GRID, self.epochs)
            details = {"lr": lr, "lambda": weight, "grid": grid}
        else:
            fit_prolip(head, views, label, self.lr, details["lambda"], self.epochs)
        scores = {n: self.percent(bench, head, p, train, look(p)) for n, p in plan.tests.items()}
        return Outcome(scores, "val" if self.search else "none (last step)", head.weight.numel(), details, head)

    def percent(self, bench: Bench, head: ProLIPHead, part: Part, train: Part, feature: Tensor) -> float:
        """Top-1 in percent, with the texts of the part's own classes."""
        own = head
        if part.classes != train.classes:
            own = ProLIPHead(
                feature.shape[1], part.classes, text_weights(bench, part), head.weight, None, self.logit_scale
            )
        return accuracy(own.to(bench.device), feature, part.labels)


def unprojected(bench: Bench) -> Tensor:
    """Let the bench give features in front of the image tower's projection; returns the projection (D, V).

    Raises:
        ValueError: a tower whose last layer is no plain projection.
    """
    visual = bench.models["clip"].encoder
    if not isinstance(visual.proj, nn.Linear) or visual.proj.bias is not None:
        raise ValueError(f"prolip trains the projection at the end of the image tower, and {visual.name} has none")
    if UNPROJECTED not in bench.models:
        bare = copy.copy(visual)
        bare._modules = {**visual._modules, "proj": nn.Identity()}
        bare.out_dim = visual.dim
        bench.models[UNPROJECTED] = TransferModel(bare, nn.Identity()).to(bench.device).eval()
    return visual.proj.weight.detach()
