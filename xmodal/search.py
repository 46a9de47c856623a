"""NOAH's evolutionary search for the sizes of a subnet, with a limit on its weights; it can be interrupted.

Paper: Neural Prompt Search (arXiv 2206.04673). A candidate is, for each kind of part, a size per block: sizes of the
choices up to a depth, zeros behind it. The steps are those of the released search; its random numbers are not.
"""

import copy
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from xmodal.adapters.noah import KINDS, searched_params
from xmodal.atomic import write_text

Sizes = dict[str, list[int]]
TRIES = 10
PROGRESS = ("epoch", "scores", "candidates", "kept")


@dataclass
class SearchSpace:
    """Sizes and limits of candidates.

    Args:
        depth: blocks of the tower.
        dim: width D of the tower.
        dims: sizes to choose from; {5, 10, 50, 100} or, for VTAB, {1, 5, 10}.
        depths: how many leading blocks have a part at all.
        largest_prompt: prompts of the supernet (counted as the released search counts them).
        positions: whether the released model's position embeddings of prompts are counted.

    Raises:
        ValueError: a depth beyond the tower's, or no choice.
    """

    depth: int
    dim: int
    dims: Sequence[int] = (1, 5, 10)
    depths: Sequence[int] = (3, 6, 9, 12)
    largest_prompt: int = 100
    positions: bool = True

    def __post_init__(self) -> None:
        self.dims, self.depths = list(self.dims), list(self.depths)
        if not self.dims or not self.depths or max(self.depths) > self.depth or min(self.dims) < 1:
            raise ValueError(f"dims {self.dims} must be positive and depths {self.depths} at most {self.depth}")

    def draw(self, rng: np.random.Generator) -> Sizes:
        """A random candidate: a depth for each kind, then a size for each of its blocks."""
        return {kind: self.vector(rng, int(rng.choice(self.depths))) for kind in KINDS}

    def vector(self, rng: np.random.Generator, depth: int) -> list[int]:
        """Random sizes of `depth` blocks, then zeros."""
        return [int(d) for d in rng.choice(self.dims, depth)] + [0] * (self.depth - depth)

    def params(self, sizes: Sizes) -> int:
        """Weights of a candidate as the limit counts them."""
        return searched_params(sizes, self.dim, self.largest_prompt, self.positions)


@dataclass
class Search:
    """The search, as far as it has come.

    Args:
        space: what candidates may look like.
        evaluate: validation accuracy of a candidate with the supernet's weights.
        limit: weights at most (0.64 M in the paper).
        least: weights at least.
        population: candidates kept and drawn.
        parents: the best of them, from which new ones are made.
        mutations: new candidates by mutation in each epoch.
        crossovers: new candidates by crossover in each epoch.
        mutation_prob: of changing a kind of part.
        depth_prob: of drawing a new depth when a kind changes.
        epochs: of the search.
        seed: of all draws.
        state_file: where progress is kept; a search with the same file goes on from there.
    """

    space: SearchSpace
    evaluate: Callable[[Sizes], float]
    limit: float = 640_000
    least: float = 0
    population: int = 50
    parents: int = 10
    mutations: int = 25
    crossovers: int = 25
    mutation_prob: float = 0.2
    depth_prob: float = 0.4
    epochs: int = 15
    seed: int = 0
    state_file: str | Path | None = None
    scores: dict[str, float] = field(default_factory=dict)
    epoch: int = 0
    candidates: list[str] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)
    judged: dict[str, float] = field(default_factory=dict)  # every evaluation, those of an unfinished epoch included
    done: dict[str, Any] = field(default_factory=dict)  # the progress at the end of the last epoch

    def run(self, log: Callable[[str], None] = print) -> tuple[Sizes, float]:
        """Search, or go on searching; returns the best candidate and its accuracy.

        Raises:
            ValueError: hardly any candidate respects the limit, or the state file is of another search.
        """
        self.restore()
        while self.epoch < self.epochs:
            rng = np.random.default_rng([self.seed, self.epoch])
            if not self.candidates:
                self.fill(rng)
            self.kept = self.best(self.kept + self.candidates, self.population)
            top = self.kept[: self.parents]
            log(f"epoch {self.epoch + 1}/{self.epochs}: best {self.scores[top[0]]:.4f} of {len(self.scores)} evaluated")
            new = self.make(self.mutations, partial(self.mutate, rng, top))
            new += self.make(self.crossovers, partial(self.cross, rng, top))
            self.candidates = new
            self.fill(rng)
            self.epoch += 1
            self.done = {name: copy.copy(getattr(self, name)) for name in PROGRESS}
            self.keep()
        best = self.best(self.kept, 1)[0]
        return json.loads(best), self.scores[best]

    def best(self, keys: Sequence[str], count: int) -> list[str]:
        """The best of some candidates, without repetitions."""
        return sorted(dict.fromkeys(keys), key=lambda k: -self.scores[k])[:count]

    def legal(self, sizes: Sizes) -> bool:
        """Evaluate a candidate if it is new and within the limits; return whether it was."""
        key = json.dumps(sizes)
        if key in self.scores or not self.least <= self.space.params(sizes) <= self.limit:
            return False
        if key not in self.judged:
            self.judged[key] = float(self.evaluate(sizes))
            self.keep()
        self.scores[key] = self.judged[key]
        return True

    def fill(self, rng: np.random.Generator) -> None:
        """Random legal candidates until there are enough."""
        tries = 0
        while len(self.candidates) < self.population:
            sizes = self.space.draw(rng)
            if self.legal(sizes):
                self.candidates.append(json.dumps(sizes))
            tries += 1
            if tries > 1000 * self.population:
                raise ValueError(
                    f"in {tries} draws only {len(self.candidates)} new candidates have {self.least:.0f} to "
                    f"{self.limit:.0f} weights: raise the limit or choose smaller dims"
                )

    def make(self, count: int, draw: Callable[[], Sizes]) -> list[str]:
        """Up to `count` legal candidates, in at most ten times as many tries."""
        made: list[str] = []
        for _ in range(TRIES * count):
            if len(made) == count:
                break
            sizes = draw()
            if self.legal(sizes):
                made.append(json.dumps(sizes))
        return made

    def mutate(self, rng: np.random.Generator, parents: Sequence[str]) -> Sizes:
        """A parent, each kind of part made deeper or shallower with some probability; old sizes stay."""
        sizes = json.loads(parents[int(rng.integers(len(parents)))])
        for kind in KINDS:
            if rng.random() >= self.mutation_prob:
                continue
            old = sum(1 for size in sizes[kind] if size)
            depth = int(rng.choice(self.space.depths)) if rng.random() < self.depth_prob else old
            fresh = self.space.vector(rng, depth)
            sizes[kind] = sizes[kind][: min(old, depth)] + fresh[min(old, depth) :]
        return sizes

    def cross(self, rng: np.random.Generator, parents: Sequence[str]) -> Sizes:
        """Cross two parents: take the sizes of each kind of part from one of them."""
        pair = [json.loads(parents[i]) for i in rng.integers(len(parents), size=2)]
        return {kind: pair[rng.integers(2)][kind] for kind in KINDS}

    def keep(self) -> None:
        """Write the progress: what the last epoch left, and all evaluations."""
        if self.state_file is None:
            return
        state = {"space": asdict(self.space), "seed": self.seed, "limit": self.limit}
        state |= {"judged": self.judged, **self.done}
        write_text(self.state_file, json.dumps(state))

    def restore(self) -> None:
        """Read the progress of an earlier run, if there is one."""
        if self.state_file is None or not Path(self.state_file).exists():
            return
        state = json.loads(Path(self.state_file).read_text())
        if (state["space"], state["seed"], state["limit"]) != (asdict(self.space), self.seed, self.limit):
            raise ValueError(f"{self.state_file} belongs to a search in another space, with another seed or limit")
        self.judged = state["judged"]
        self.done = {name: state[name] for name in PROGRESS if name in state}
        for name, value in self.done.items():
            setattr(self, name, copy.copy(value))


def sample_subnet(space: SearchSpace, seed: int, epoch: int, step: int) -> Sizes:
    """The subnet that a step of supernet training uses; a function of (seed, epoch, step)."""
    return space.draw(np.random.default_rng([seed, epoch, step]))
