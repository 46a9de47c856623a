"""Translate the names of weights between official checkpoints and this suite by pairs of templates.

In a template `{i}` and `{j}` stand for a number, `{w}` for a word without dots, and `{x}` for any rest of a name.
`{i+1}` is a number that is one larger there than on the other side.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from torch import Tensor

from xmodal.registry import did_you_mean
from xmodal.torch_files import read_torch

Pairs = Sequence[tuple[str, str]]
State = dict[str, Tensor]
CONVERTERS: dict[str, "Converter"] = {}
MARK = re.compile(r"\{([ijwx])([+-]\d+)?\}")
MEANING = {"i": r"\d+", "j": r"\d+", "w": r"\w+", "x": ".+"}


@cache
def pattern_of(template: str) -> tuple[re.Pattern, dict[str, int]]:
    """Return a pattern that matches the names of a template, and what is added to each of its numbers."""
    parts, shifts, end = [], {}, 0
    for mark in MARK.finditer(template):
        parts += [re.escape(template[end : mark.start()]), f"(?P<{mark[1]}>{MEANING[mark[1]]})"]
        if mark[1] in "ij":
            shifts[mark[1]] = int(mark[2] or 0)
        end = mark.end()
    return re.compile("".join(parts) + re.escape(template[end:])), shifts


def rename_key(key: str, pairs: Pairs) -> str:
    """Return the new name of a key by the first (old, new) pair of templates that matches all of it.

    Raises:
        ValueError: a key that no pair matches.
    """
    for old, new in pairs:
        pattern, shifts = pattern_of(old)
        if not (found := pattern.fullmatch(key)):
            continue
        values = found.groupdict()
        numbers = {mark: int(values[mark]) - shift for mark, shift in shifts.items()}
        if all(number >= 0 for number in numbers.values()):
            return MARK.sub(lambda m: str(numbers[m[1]] + int(m[2] or 0)) if m[1] in numbers else values[m[1]], new)  # noqa: B023
    raise ValueError(f"no rule renames the key {key!r}: is this a checkpoint of another method?")


def rename(state: Mapping[str, Tensor], pairs: Pairs) -> State:
    """Rename every key of a state dict; see `rename_key`."""
    return {rename_key(key, pairs): value for key, value in state.items()}


@dataclass(frozen=True)
class Converter:
    """Translation between the official checkpoint of a method and ours.

    Args:
        name: of the method.
        pairs: templates (official name, our name); in both directions the first that matches is taken.
        prefix: what stands before every official key in released files (`module.` comes off in any case).
        holder: the entry of the released file that holds the state dict, "" when the file is the state dict.
        values: change of a tensor by our name on reading, (name, tensor) -> tensor, and its inverse for writing.
        older: further pairs, for names that are read and never written.
        ignored: pattern of official keys that are left out on reading.
        sign: pattern that an official key begins with in every such checkpoint.
        unofficial: pattern of our keys that official files have no place for; they are left out on writing.
    """

    name: str
    pairs: Pairs
    prefix: str = ""
    holder: str = "model"
    values: tuple[Callable[[str, Tensor], Tensor], Callable[[str, Tensor], Tensor]] | None = None
    older: Pairs = ()
    ignored: str = "(?!)"
    sign: str = ""
    unofficial: str = "(?!)"

    def plain(self, state: Mapping[str, Any]) -> dict[str, Any]:
        """Return the entries that count, without a prefix."""
        bare = {key.removeprefix(self.prefix or "module."): value for key, value in state.items()}
        return {key: value for key, value in bare.items() if not re.fullmatch(self.ignored, key)}

    def ours(self, key: str) -> str:
        """Return our name of an official key.

        Raises:
            ValueError: no weight of this method.
        """
        return rename_key(key, (*self.pairs, *self.older))

    def knows(self, state: Mapping[str, Any]) -> bool:
        """Return whether every key of an official state dict has a rule, and one of them the sign."""
        try:
            found = [self.ours(key) for key in self.plain(state)]
        except ValueError:
            return False
        return bool(found) and self.signed(self.plain(state))

    def signed(self, state: Mapping[str, Any]) -> bool:
        """Return whether a key begins with the sign."""
        return any(re.match(self.sign, key) for key in state)

    def to_ours(self, state: Mapping[str, Tensor]) -> State:
        """Translate an official state dict.

        Raises:
            ValueError: a key without a rule.
        """
        ours = {self.ours(key): value for key, value in self.plain(state).items()}
        return {k: self.values[0](k, v) for k, v in ours.items()} if self.values else ours

    def to_official(self, state: Mapping[str, Tensor]) -> State:
        """Translate our state dict.

        Raises:
            ValueError: a key without a rule, or weights of another method.
        """
        state = {key: value for key, value in state.items() if not re.fullmatch(self.unofficial, key)}
        if self.values:
            state = {k: self.values[1](k, v) for k, v in state.items()}
        official = rename(state, [(ours, theirs) for theirs, ours in self.pairs])
        if not self.signed(official):
            raise ValueError(f"these are no weights of {self.name}")
        return {self.prefix + key: value for key, value in official.items()}

    def file_of(self, state: Mapping[str, Tensor]) -> State | dict[str, State]:
        """Return the content of an official file for our state dict; errors are those of `to_official`."""
        official = self.to_official(state)
        return {self.holder: official} if self.holder else official


def register_converter(converter: Converter) -> Converter:
    """Make a converter known to `tools/convert.py`."""
    CONVERTERS[converter.name] = converter
    return converter


def find_converter(state: Mapping[str, Any], name: str | None = None) -> Converter:
    """The converter called `name`, or the one that knows every key.

    Raises:
        ValueError: an unknown name, or keys that none knows.
    """
    if name:
        if name not in CONVERTERS:
            raise ValueError(f"no converter is called {name!r}; {did_you_mean(name, CONVERTERS)}")
        return CONVERTERS[name]
    fitting = [c for c in CONVERTERS.values() if c.knows(state)]
    if len(fitting) != 1:
        some = ", ".join(list(state)[:3])
        raise ValueError(
            f"cannot tell the method from the keys ({some}, ...): say it with --method; known are {sorted(CONVERTERS)}"
        )
    return fitting[0]


def check_fit(source: str | Path, model: Any, state: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> None:
    """Compare names and shapes of a file's weights with those of a model.

    Raises:
        ValueError: weights that are missing, unknown or of another shape, named.
    """
    shapes = {k: tuple(tuple(s[k].shape) if k in s else None for s in (state, own)) for k in {**state, **own}}
    if wrong := {k: v for k, v in shapes.items() if v[0] != v[1]}:
        raise ValueError(f"{source} does not fit this {type(model).__name__} (name: file's shape, ours): {wrong}")


def read_official(path: str | Path) -> dict[str, Tensor]:
    """The state dict of a released checkpoint, without running anything that is pickled in it.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the file holds more than tensors and plain numbers, or no state dict.
    """
    content = read_torch(path)
    for holder in ("model", "state_dict", "model_state", "model_state_dict"):
        if isinstance(content, dict) and isinstance(content.get(holder), dict):
            content = content[holder]
    if isinstance(content, dict) and isinstance(content.get("classifiers"), list):  # V-JEPA 2's probes
        if len(content["classifiers"]) != 1:
            raise ValueError(f"{path}: it holds {len(content['classifiers'])} probes; keep the one that you mean")
        content = content["classifiers"][0]
    if not isinstance(content, dict) or not all(isinstance(v, Tensor) for v in content.values()):
        raise ValueError(f"{path}: found no state dict (expected tensors under `model` or `state_dict`)")
    return content
