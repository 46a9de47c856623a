"""Train many probes on one pass through the frozen encoder, and choose among them on held-out training data.

V-JEPA 2's evaluation trains 20 probes (5 rates times 4 weight decays) on shared features and reports the best of them
on the validation set. Here the choice is made on data that is named and is not the test set; what the best on the test
set would have claimed is reported beside it. Each probe has its own reader and head and its own group in the optimizer.
"""

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from mmengine.hooks import Hook
from torch import Tensor, nn

from xmodal.metrics import CountingMetric, gather
from xmodal.model import TransferModel
from xmodal.readers import PooledReader
from xmodal.registry import HEADS, HOOKS, METRICS, MODELS, READERS, build


@MODELS.register_module(name="probe_grid")
class ProbeGrid(TransferModel):
    """Several readers and heads on one frozen encoder.

    Args:
        settings: of every probe, `lr` and `weight_decay` of its group; other keys such as `reader.depth` or
            `head.dropout` are arguments of its reader or head.
        **kwargs: see `TransferModel`; `reader` and `head` are built anew for every probe.

    Raises:
        ValueError: no probe, or something in the encoder that trains.
    """

    chosen: Tensor

    def __init__(self, settings: Sequence[Mapping[str, Any]], **kwargs: Any):
        if not settings:
            raise ValueError("probes: there is no setting to train")
        parts = [changed(kwargs.get("reader"), kwargs["head"], setting) for setting in settings]
        super().__init__(**{**kwargs, "reader": parts[0][0], "head": parts[0][1]})
        if any(p.requires_grad for p in self.encoder.parameters()):
            raise ValueError("probes share the features of a frozen encoder: leave out adapters and what else trains")
        first: dict[str, Any] = {name: self._modules.pop(name) for name in ("reader", "head")}
        self.__dict__.update(first)  # known, not registered: they are those of the first probe
        self.probes: Any = nn.ModuleList([nn.ModuleDict(first)])  # of pairs, which nn.ModuleList cannot say
        for reader_cfg, head_cfg in parts[1:]:
            reader = build(reader_cfg, READERS, encoder=self.encoder) if reader_cfg else PooledReader(self.encoder)
            head = build(head_cfg, HEADS, in_dim=reader.out_dim)
            self.probes.append(nn.ModuleDict({"reader": reader, "head": head}))
        rates = ("lr", "weight_decay")
        self.own_rates = {f"probes.{i}": {k: s[k] for k in rates if k in s} for i, s in enumerate(settings)}
        self.register_buffer("chosen", torch.tensor(-1))

    def forward(self, mode: str = "tensor", label: Any = None, sample_id: Any = None, **inputs: Any) -> Any:
        """Run a batch: `tensor` for logits (P, B*V, K), `loss` for the sum over probes, `predict` for dicts.

        Raises:
            ValueError: an unknown mode.
        """
        views = self.views_of(inputs)
        if mode == "predict" and not any(len(v) for v in inputs.values() if isinstance(v, Tensor)):
            return []
        features = self.all_features(**inputs)
        pairs = [(probe["head"], feature) for probe, feature in zip(self.probes, features, strict=True)]
        if mode == "tensor":
            return torch.stack([head(feature) for head, feature in pairs])
        if mode == "loss":
            label = label.repeat_interleave(views, 0) if views > 1 else label
            losses = [head.loss(feature, label) for head, feature in pairs]
            sums = {k: torch.stack([x[k] for x in losses]) for k in losses[0]}
            return {k: v.sum() if "loss" in k else v.mean() for k, v in sums.items()}
        if mode == "predict":
            scores = [head.predict(f).unflatten(0, (-1, views)).mean(1) for head, f in pairs]
            found = self.to_predictions(torch.stack(scores, 1), label, sample_id)  # scores (P, K) a sample
            chosen = int(self.chosen)
            return [{**one, "chosen": chosen} for one in found]
        raise ValueError(f"mode {mode!r}: choose tensor, loss or predict")

    def all_features(self, **inputs: Any) -> list[Tensor]:
        """Features (B*V, D) of every probe; the encoder runs once."""
        kept, grid = self.cached(inputs)
        if not kept:
            kept, grid = self.frozen_part(**inputs)
        return [probe["reader"].from_frozen(kept, grid, self.encoder) for probe in self.probes]


def changed(reader: Any, head: Any, setting: Mapping[str, Any]) -> tuple[Any, Any]:
    """The configs of a probe's reader and head."""
    configs = {"reader": copy.deepcopy(reader), "head": copy.deepcopy(head)}
    for key, value in setting.items():
        part, dot, name = key.partition(".")
        if dot and part in configs and isinstance(configs[part], dict):
            configs[part][name] = value
        elif key not in ("lr", "weight_decay"):
            raise ValueError(f"probes: {key!r} is neither lr, weight_decay nor an argument such as reader.depth")
    return configs["reader"], configs["head"]


@METRICS.register_module(name="probe_accuracy")
class ProbeAccuracy(CountingMetric):
    """Top-1 of every probe; `top1` is that of the chosen one, or the best where this metric chooses.

    Args:
        settings: of every probe, for the report.
        choose: whether these data choose among the probes.
        source: name of these data, for the report.
    """

    def __init__(self, settings: Sequence[Mapping[str, Any]], choose: bool = False, source: str = ""):
        super().__init__()
        self.settings, self.choose, self.source = [dict(s) for s in settings], choose, source
        self.reset()

    def reset(self) -> None:
        """Reset the counts."""
        self.hits, self.total, self.chosen = torch.zeros(len(self.settings)), 0, -1
        self.skipped: list[dict] = []

    def process(self, data_batch: Any, data_samples: Sequence[dict[str, Any]]) -> None:
        """Count one batch; `scores` of a sample are (P, K)."""
        self.note_skipped(data_batch)
        for sample in data_samples:
            if sample.get("label") is not None and int(sample["label"]) >= 0:
                self.hits += (torch.as_tensor(sample["scores"]).argmax(-1) == int(sample["label"])).float()
                self.total += 1
            self.chosen = sample["chosen"]

    def evaluate(self, size: int) -> dict[str, Any]:
        """Add up the counts of all ranks."""
        everyone = gather((self.hits, self.total, self.skipped, self.chosen))
        total = sum(part[1] for part in everyone)
        each = [100 * float(h) / max(total, 1) for h in sum(part[0] for part in everyone)]
        best = max(range(len(each)), key=each.__getitem__)
        known = max(part[3] for part in everyone)
        chosen = best if self.choose or known < 0 else known
        self.reset()
        return {
            "top1": each[chosen],
            "probes": len(each),
            "chosen": chosen,
            "setting": self.settings[chosen],
            "selected_on": self.source if self.choose else ("held-out training data" if known >= 0 else "these data"),
            "best_on_these_data": each[best],
            "mean_of_probes": sum(each) / len(each),
            "top1_of_each": each,
            "evaluated": total,
            "of": size,
            "skipped": [entry for part in everyone for entry in part[2]],
        }


@HOOKS.register_module(name="probe_choice")
class ProbeChoice(Hook):
    """Write the probe that a validation chose into the model, before a checkpoint is saved."""

    priority = "ABOVE_NORMAL"

    def after_val_epoch(self, runner: Any, metrics: dict[str, Any] | None = None) -> None:
        """Note the choice."""
        if metrics and "chosen" in metrics:
            model = getattr(runner.model, "module", runner.model)
            model.chosen.fill_(metrics["chosen"])
