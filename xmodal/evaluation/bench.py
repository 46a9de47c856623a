"""Hold what few-shot runs share: the frozen encoders, the data sets, and features that are computed once."""

import hashlib
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from xmodal.data.collate import collate
from xmodal.encoders.clip import CLIP
from xmodal.encoders.frozen import fingerprint
from xmodal.evaluation.bank import FeatureBank
from xmodal.evaluation.plans import Labeled, Part
from xmodal.evaluation.splits import split_hash
from xmodal.model import TransferModel
from xmodal.registry import DATASETS, ENCODERS, build, did_you_mean

log = logging.getLogger("xmodal.fewshot")
TEMPLATES = ("a photo of a {}.",)
INPUTS = ("clips", "image", "coord", "feat", "lengths")  # what encoders embed


@dataclass
class Source:
    """The data sets of one task.

    Args:
        name: in result files.
        train: training views, other ones in every epoch; has `labels`, `classes` and items by (epoch, index).
        plain: the same samples as test views; default `train`.
        val: test views; None where there is no validation split.
        test: test views; default `val`.
        templates: sentences of the zero-shot classifier.
    """

    name: str
    train: Any
    plain: Any = None
    val: Any = None
    test: Any = None
    templates: Sequence[str] = TEMPLATES

    def __post_init__(self) -> None:
        for part in ("train", "plain", "val", "test"):
            setattr(self, part, build(getattr(self, part), DATASETS))
        self.plain = self.plain if self.plain is not None else self.train
        self.test = self.test if self.test is not None else self.val
        if isinstance(self.templates, str):
            self.templates = (self.templates,)

    def labeled(self) -> Labeled:
        """Labels and class names."""
        empty: list[int] = []
        val, test = (empty if d is None else d.labels for d in (self.val, self.test))
        return Labeled(self.name, list(self.train.classes), self.train.labels, val, test, names_of(self.train))

    def view(self, split: str, augment: bool) -> Any:
        """The data set behind a split."""
        if split == "train":
            return self.train if augment else self.plain
        return getattr(self, split)

    @cached_property
    def digest(self) -> str:
        """sha256 (16 digits) over the samples of all splits in order; computed once."""
        parts = {}
        for split in ("train", "val", "test"):
            data = getattr(self, split)
            if data is not None:
                parts[split] = list(zip(names_of(data), data.labels, strict=True))
        return split_hash(parts)


def names_of(data: Any) -> list[str]:
    """Names of a data set's samples, without reading any."""
    if hasattr(data, "ids"):
        return list(data.ids)
    return [str(s.sample_id) for s in data.samples]


@dataclass
class Bench:
    """Encoders, sources, and features that were computed already.

    Args:
        clip: a `CLIP` or its config; for methods that read no text an image tower will do.
        sources: the first one trains, the others are targets or domains.
        second: a further encoder or its config (CaFo).
        adapters: what edits the image tower, trained already; see `weights`.
        weights: checkpoint of the adapters.
        views: training views that epochs share in turn: with 10, epoch 10 sees epoch 0's again.
        batch_size: of the encoder.
        device: where everything runs.
        cache: folder that keeps features between runs; None keeps them in memory.

    Raises:
        ValueError: no source, or two of one name.
    """

    clip: Any
    sources: Sequence[Any]
    second: Any = None
    adapters: Sequence[Any] = ()
    weights: str | None = None
    views: int = 10
    batch_size: int = 128
    device: str = "cpu"
    cache: str | Path | None = None
    models: dict[str, TransferModel] = field(init=False, default_factory=dict)
    names: dict[tuple[str, ...], str] = field(init=False, default_factory=dict)
    prints: dict[str, str] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        self.bank = FeatureBank(self.cache)
        self.clip = build(self.clip, ENCODERS).to(self.device).eval()
        visual = self.clip.visual if isinstance(self.clip, CLIP) else self.clip
        self.sources = [s if isinstance(s, Source) else Source(**s) for s in self.sources]
        names = [s.name for s in self.sources]
        if not names or len(set(names)) < len(names):
            raise ValueError(f"a bench needs sources of different names, got {names}")
        self.models["clip"] = TransferModel(visual, nn.Identity(), self.adapters).to(self.device).eval()
        if self.weights:
            load_adapters(self.models["clip"], self.weights)
        if self.second is not None:
            self.models["second"] = TransferModel(self.second, nn.Identity()).to(self.device).eval()

    @property
    def width(self) -> int:
        """Width of CLIP's feature."""
        return self.models["clip"].encoder.out_dim

    def source(self, name: str) -> Source:
        """The source called `name`.

        Raises:
            ValueError: an unknown name.
        """
        for source in self.sources:
            if source.name == name:
                return source
        raise ValueError(f"no source is called {name!r}; {did_you_mean(name, [s.name for s in self.sources])}")

    def about(self) -> dict[str, Any]:
        """Encoder and data for the result file."""
        prints = {k: {"name": m.encoder.name, "sha256": self.fingerprint(k)} for k, m in self.models.items()}
        if isinstance(self.clip, CLIP):
            prints["text"] = {"name": self.clip.text.name, "sha256": fingerprint(self.clip.text)}
        return {
            "encoders": prints,
            "splits": {s.name: s.digest for s in self.sources},
            "templates": {s.name: list(s.templates) for s in self.sources},
            "views": self.views,
        }

    def features(self, part: Part, epoch: int | None = None, encoder: str = "clip") -> Tensor:
        """Features (N, D), not normalized, of a part's samples.

        Args:
            part: which samples.
            epoch: of the training view; None for the test view.
            encoder: `clip`, `second`, or another name of `models`.
        """
        turn = self.turn(epoch)
        data = self.source(part.source).view(part.split, turn is not None)
        compute = lambda rows: self.run(self.models[encoder], data, rows, turn)  # noqa: E731
        name = self.name((encoder, part.source, part.split, "plain" if turn is None else f"view{turn}"))
        whole = lambda: not getattr(data, "broken", None)  # noqa: E731
        return self.bank.get(name, part.indices, compute, self.batch_size, whole).to(self.device)

    def images(self, part: Part, epoch: int | None, rows: list[int]) -> Tensor:
        """Normalized images (B, 3, H, W) of some of a part's samples, for methods that train inside the towers.

        Args:
            part: which samples.
            epoch: of the training view; None for the test view.
            rows: places in the part.

        Raises:
            ValueError: a source of videos.
        """
        turn = self.turn(epoch)
        data = self.source(part.source).view(part.split, turn is not None)
        inputs = self.inputs(self.models["clip"], data, [part.indices[i] for i in rows], turn)
        if "image" not in inputs:
            what = "clips" if "clips" in inputs else "clouds"
            raise ValueError(f"{part.source}: this method trains on images, and these are {what}")
        return inputs["image"].to(self.device)

    def inputs(self, model: TransferModel, data: Any, rows: list[int], turn: int | None) -> dict[str, Tensor]:
        """Normalized pixels, or points, of some samples."""
        batch = collate(read_items(data, rows if turn is None else [(turn, i) for i in rows]))
        if "skipped" in batch:
            raise ValueError(f"cannot read {batch['skipped'][0]}: leave it out of the split file, or restore it")
        return {k: v for k, v in model.data_preprocessor(batch).items() if k in INPUTS}

    @torch.no_grad()
    def run(self, model: TransferModel, data: Any, rows: list[int], turn: int | None) -> Tensor:
        """Features of some samples."""
        inputs = self.inputs(model, data, rows, turn)
        views = inputs["clips"].shape[1] if "clips" in inputs else 1
        return model.features(**inputs).unflatten(0, (-1, views)).mean(1).cpu()

    def turn(self, epoch: int | None) -> int | None:
        """Number of the training view of an epoch; None for the test view."""
        return None if epoch is None else epoch % self.views

    def fingerprint(self, encoder: str) -> str:
        """Hash of an encoder's weights, adapters included; computed once."""
        if encoder not in self.prints:
            self.prints[encoder] = fingerprint(self.models[encoder].encoder)
        return self.prints[encoder]

    def name(self, key: tuple[str, ...]) -> str:
        """Name of features in the bank; it holds what they depend on."""
        if key not in self.names:
            source = self.source(key[1])
            view = hashlib.sha256(repr(options_of(source.view(key[2], key[3] != "plain"))).encode()).hexdigest()
            stamp = self.fingerprint(key[0])[:12] + source.digest[:8] + view[:8]
            self.names[key] = f"{'_'.join(key)}_{stamp}"
        return self.names[key]


def read_items(data: Any, keys: Sequence[Any]) -> list[Any]:
    """Read items, at once where the data set can."""
    return data.__getitems__(keys) if hasattr(data, "__getitems__") else [data[key] for key in keys]


def options_of(data: Any) -> list[str]:
    """List the options of a data set that change its views: sizes, crops, seeds, styles."""
    own = getattr(data, "__dict__", {}).items()
    return sorted(f"{key}={value}" for key, value in own if isinstance(value, int | float | str | tuple))


def load_adapters(model: TransferModel, path: str) -> None:
    """Load the adapters of a checkpoint of `tools/train.py`; its head and reader are left out, which is logged."""
    from xmodal.engine.checkpoint import load_own_state, read

    state = read(path)["state_dict"]
    left_out = sorted(k for k in state if k.startswith(("head.", "reader.")))
    load_own_state(model, {k: v for k, v in state.items() if k not in left_out}, path)
    if left_out:
        log.info("%s: left out %s", path, ", ".join(left_out))


@torch.no_grad()
def accuracy(scores: Callable[[Any], Tensor], feature: Any, label: Sequence[int], batch: int = 256) -> float:
    """Top-1 in percent of `scores` on features (N, D)."""
    target = torch.tensor(label, device=feature.device)
    hits = sum(
        int((scores(f).argmax(1) == y).sum()) for f, y in zip(feature.split(batch), target.split(batch), strict=True)
    )
    return 100 * hits / max(len(target), 1)


def labels_of(part: Part, bench: Bench) -> Tensor:
    """Labels (N,) on the bench's device."""
    return torch.tensor(part.labels).to(bench.device, non_blocking=True)
