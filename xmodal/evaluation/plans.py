"""Protocols choose, from labels, the samples that train, validate and test.

Papers: CoOp (arXiv 2109.01134), CoCoOp (2203.05557), Tip-Adapter (2207.09519), DomainBed (2007.01434).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from xmodal.evaluation.sampling import base_and_new, draw_coop, draw_tip, harmonic_mean, holdout_split, relabel


@dataclass(frozen=True)
class Labeled:
    """Labels of a data set's splits.

    Args:
        name: of the data set.
        classes: names by label.
        train: labels in the order of the split.
        val: likewise; may be empty.
        test: likewise.
        names: of the training samples, for split files that name images.
    """

    name: str
    classes: Sequence[str]
    train: Sequence[int]
    val: Sequence[int]
    test: Sequence[int]
    names: Sequence[str] = ()


@dataclass(frozen=True)
class Part:
    """Some samples of one split.

    Args:
        source: name of the data set.
        split: `train`, `val` or `test`.
        indices: of the samples.
        labels: of the samples, counted in `classes`; lists where an image has several (ELEVATER).
        classes: names by label.
    """

    source: str
    split: str
    indices: list[int]
    labels: list
    classes: list[str]


@dataclass(frozen=True)
class Plan:
    """One run of a protocol.

    Args:
        protocol: its name.
        shots: K, 0 for zero-shot.
        seed: of the sample.
        train: what trains; of several domains under DomainBed.
        val: what validates.
        tests: what is reported, by name.
    """

    protocol: str
    shots: int
    seed: int
    train: list[Part]
    val: list[Part]
    tests: dict[str, Part]


def whole(data: Labeled, split: str, rows: Sequence[int] | None = None) -> Part:
    """All samples of a split, or those in `rows`."""
    labels = getattr(data, split)
    rows = list(range(len(labels))) if rows is None else list(rows)
    return Part(data.name, split, rows, [labels[i] for i in rows], list(data.classes))


def only(part: Part, keep: Sequence[int]) -> Part:
    """The samples whose label is in `keep`, counted from 0."""
    rows, labels = relabel(part.labels, keep)
    return Part(part.source, part.split, [part.indices[i] for i in rows], labels, [part.classes[k] for k in keep])


@dataclass(frozen=True)
class Protocol:
    """Base class of protocols.

    Attributes:
        name: in result files.
        seeds: of the papers.
        shots: of the papers.
    """

    name: ClassVar[str] = ""
    seeds: ClassVar[tuple[int, ...]] = (1, 2, 3)
    shots: ClassVar[tuple[int, ...]] = (1, 2, 4, 8, 16)

    def plan(self, data: Labeled, shots: int, seed: int, targets: Sequence[Labeled] = ()) -> Plan:
        """Choose the parts that train, validate and test for K shots and a seed."""
        raise NotImplementedError

    def draws(self, shots: int) -> bool:
        """Whether the samples depend on the seed."""
        return True

    def summary(self, scores: Mapping[str, float]) -> dict[str, float]:
        """Figures that follow from the accuracies of the test parts."""
        return {}


@dataclass(frozen=True)
class Coop11(Protocol):
    """K shots and min(K, 4) validation shots from Dassl's sampler, all classes; the last step is reported."""

    name: ClassVar[str] = "coop11"

    def plan(self, data: Labeled, shots: int, seed: int, targets: Sequence[Labeled] = ()) -> Plan:
        """Choose the parts that train, validate and test."""
        train, val = draw_coop(data.train, data.val, shots, seed)
        parts = [whole(data, "train", train)], [whole(data, "val", val)]
        return Plan(self.name, shots, seed, *parts, {data.name: whole(data, "test")})


@dataclass(frozen=True)
class BaseToNew(Protocol):
    """Train on the first half of the classes, report that half, the other half, and their harmonic mean.

    The sample is drawn from all classes first, so that it is part of `coop11`'s.
    """

    name: ClassVar[str] = "base2new"
    shots: ClassVar[tuple[int, ...]] = (16,)

    def plan(self, data: Labeled, shots: int, seed: int, targets: Sequence[Labeled] = ()) -> Plan:
        """Choose the parts that train, validate and test."""
        train, val = draw_coop(data.train, data.val, shots, seed)
        base, new = base_and_new(data.train)
        parts = [only(whole(data, "train", train), base)], [only(whole(data, "val", val), base)]
        test = whole(data, "test")
        return Plan(self.name, shots, seed, *parts, {"base": only(test, base), "new": only(test, new)})

    def summary(self, scores: Mapping[str, float]) -> dict[str, float]:
        """The harmonic mean of base and new."""
        return {"harmonic_mean": harmonic_mean(scores["base"], scores["new"])}


@dataclass(frozen=True)
class CrossDataset(Protocol):
    """Train on one data set, test on it and on others with their own classes."""

    name: ClassVar[str] = "cross-dataset"
    shots: ClassVar[tuple[int, ...]] = (16,)

    def plan(self, data: Labeled, shots: int, seed: int, targets: Sequence[Labeled] = ()) -> Plan:
        """Choose the parts that train, validate and test."""
        plan = Coop11().plan(data, shots, seed)
        tests = {**plan.tests, **{t.name: whole(t, "test") for t in targets}}
        return Plan(self.name, shots, seed, plan.train, plan.val, tests)

    def summary(self, scores: Mapping[str, float]) -> dict[str, float]:
        """The mean over the targets, the source left out."""
        targets = list(scores.values())[1:]
        return {"target_mean": sum(targets) / len(targets)} if targets else {}


@dataclass(frozen=True)
class DomainShift(CrossDataset):
    """Train on one data set, test on others that show the same classes, or some of them, in another way."""

    name: ClassVar[str] = "domain-shift"

    def plan(self, data: Labeled, shots: int, seed: int, targets: Sequence[Labeled] = ()) -> Plan:
        """Choose the parts that train, validate and test.

        Raises:
            ValueError: a target with a class that the source does not have.
        """
        for target in targets:
            strange = sorted(set(target.classes) - set(data.classes))
            if strange:
                raise ValueError(f"{target.name}: class {strange[0]!r} is not among those of {data.name}")
        return super().plan(data, shots, seed, targets)


@dataclass(frozen=True)
class Tip(Protocol):
    """Tip-Adapter's and CaFo's own sampler (short classes repeat items), one seed, the full validation split.

    Args:
        search_on: `val`, or `test` as the release does for ImageNet, which is optimistic.
    """

    search_on: str = "val"
    name: ClassVar[str] = "tip"
    seeds: ClassVar[tuple[int, ...]] = (1,)

    def plan(self, data: Labeled, shots: int, seed: int, targets: Sequence[Labeled] = ()) -> Plan:
        """Choose the parts that train, validate and test.

        Raises:
            ValueError: an unknown `search_on`.
        """
        if self.search_on not in ("val", "test"):
            raise ValueError(f"search_on={self.search_on!r}: choose val, or test (optimistic)")
        train = whole(data, "train", draw_tip(data.train, shots, seed))
        return Plan(self.name, shots, seed, [train], [whole(data, self.search_on)], {data.name: whole(data, "test")})


@dataclass(frozen=True)
class ZeroShot(Protocol):
    """Nothing trains."""

    name: ClassVar[str] = "zero-shot"
    seeds: ClassVar[tuple[int, ...]] = (1,)
    shots: ClassVar[tuple[int, ...]] = (0,)

    def plan(self, data: Labeled, shots: int = 0, seed: int = 1, targets: Sequence[Labeled] = ()) -> Plan:
        """Choose the parts that test."""
        return Plan(self.name, 0, seed, [], [], {t.name: whole(t, "test") for t in (data, *targets)})


@dataclass(frozen=True)
class DomainBed(Protocol):
    """Leave one domain out: train on 80 % of each other one, select on their remaining 20 %, test on the left-out one.

    Each domain's samples stand in its `train` labels. `shots` is not used: all of the in-splits train.

    Args:
        held_out: name of the domain that is tested.
        steps: of training.
        interval: steps between two evaluations; the best mean out-split accuracy selects.
        holdout: share of the out-splits.
    """

    held_out: str = ""
    steps: int = 5001
    interval: int = 300
    holdout: float = 0.2
    name: ClassVar[str] = "domainbed"
    seeds: ClassVar[tuple[int, ...]] = (0, 1, 2)
    shots: ClassVar[tuple[int, ...]] = (-1,)

    def plan(self, data: Labeled, shots: int, seed: int, targets: Sequence[Labeled] = ()) -> Plan:
        """Choose the parts that train, validate and test; domains are `data` and `targets`, in this order.

        Raises:
            ValueError: no domain is called `held_out`.
        """
        domains = [data, *targets]
        if self.held_out not in [d.name for d in domains]:
            raise ValueError(f"held_out={self.held_out!r}: the domains are {[d.name for d in domains]}")
        train, val, tests = [], [], {}
        for number, domain in enumerate(domains):
            inside, outside = holdout_split(len(domain.train), seed, number, self.holdout)
            if domain.name == self.held_out:
                tests[domain.name] = whole(domain, "train", inside.tolist())
            else:
                train.append(whole(domain, "train", inside.tolist()))
                val.append(whole(domain, "train", outside.tolist()))
        return Plan(self.name, -1, seed, train, val, tests)


def join_parts(parts: Sequence[Part]) -> Part:
    """Several tasks as one: their classes one behind the other, labels shifted; indices belong to each part's source.

    Raises:
        ValueError: no part.
    """
    if not parts:
        raise ValueError("there is nothing to train on: give at least 1 shot")
    indices: list[int] = []
    labels: list[int] = []
    classes: list[str] = []
    for part in parts:
        labels += [y + len(classes) for y in part.labels]
        classes += part.classes
        indices += part.indices
    return Part("+".join(p.source for p in parts), parts[0].split, indices, labels, classes)


@dataclass(frozen=True)
class MultiTask(Protocol):
    """Train on several data sets at once, their classes one behind the other; each is tested among its own classes.

    Paper: MVLPT (arXiv 2211.11720).
    """

    name: ClassVar[str] = "multi-task"

    def plan(self, data: Labeled, shots: int, seed: int, targets: Sequence[Labeled] = ()) -> Plan:
        """Choose the parts that train, validate and test: a part of every data set."""
        plans = [Coop11().plan(d, shots, seed) for d in (data, *targets)]
        tests = {name: part for plan in plans for name, part in plan.tests.items()}
        return Plan(self.name, shots, seed, [p.train[0] for p in plans], [p.val[0] for p in plans], tests)

    def summary(self, scores: Mapping[str, float]) -> dict[str, float]:
        """The mean over the tasks."""
        return {"mean": sum(scores.values()) / len(scores)}


@dataclass
class Outcome:
    """The result of one run.

    Args:
        scores: top-1 in percent by test set.
        selected_on: the set that chose among results: `none (last step)`, `val`, or `test`, which is optimistic.
        trained: weights that trained.
        details: what the method found (alpha, beta, C, traces).
        head: the trained head, where there is one.
        arrays: what is kept beside the result, such as probabilities.
    """

    scores: dict[str, float]
    selected_on: str = "none (last step)"
    trained: int = 0
    details: dict[str, Any] = field(default_factory=dict)
    head: Any = None
    arrays: dict[str, Any] = field(default_factory=dict)


def only_part(plan: Plan, parts: Sequence[Part], what: str) -> Part:
    """The only part of a plan.

    Raises:
        ValueError: none, or several (domains, tasks).
    """
    if len(parts) != 1 or not parts[0].indices:
        raise ValueError(
            f"{plan.protocol} with {plan.shots} shots gives {len(parts)} {what} sets; this method needs one"
        )
    return parts[0]
