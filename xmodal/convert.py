"""Official checkpoints in and out: one table of names a method, and the rules to read and write such a file."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from xmodal.registry import did_you_mean

Names = Sequence[tuple[str, str]]
CONVERTERS: dict[str, "Converter"] = {}


@dataclass(frozen=True)
class Converter:
    """How the official checkpoint of a method maps onto ours.

    Args:
        name: of the method.
        reads: (pattern of an official key, our key), tried in order, matched whole.
        writes: (pattern of our key, official key): the inverse of `reads`.
        prefix: what stands before every official key in released files.
        holder: the entry of the released file that holds the state dict, "" when the file is the state dict.
        values: further change of a tensor on reading (name, tensor) -> tensor; its inverse on writing comes second.
    """

    name: str
    reads: Names
    writes: Names
    prefix: str = ""
    holder: str = "model"
    values: tuple[Callable[[str, Tensor], Tensor], Callable[[str, Tensor], Tensor]] | None = None

    def knows(self, state: Mapping[str, Any]) -> bool:
        """Whether every key of an official state dict has a rule."""
        keys = [k.removeprefix(self.prefix) for k in state]
        return bool(keys) and all(any(re.fullmatch(p, k) for p, _ in self.reads) for k in keys)

    def to_ours(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Official state dict to ours."""
        ours = rename({k.removeprefix(self.prefix): v for k, v in state.items()}, self.reads)
        return {k: self.values[0](k, v) for k, v in ours.items()} if self.values else ours

    def to_official(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Our state dict to the official one."""
        if self.values:
            state = {k: self.values[1](k, v) for k, v in state.items()}
        return {self.prefix + k: v for k, v in rename(state, self.writes).items()}


def register_converter(converter: Converter) -> Converter:
    """Make a converter known to `tools/convert.py`."""
    CONVERTERS[converter.name] = converter
    return converter


def rename(state: Mapping[str, Tensor], names: Names) -> dict[str, Tensor]:
    """Rename every key by the first pattern that matches it whole.

    Raises:
        ValueError: a key that no pattern knows.
    """
    return {rename_key(key, names): value for key, value in state.items()}


def rename_key(key: str, names: Names) -> str:
    """The new name of one key."""
    for pattern, replacement in names:
        if re.fullmatch(pattern, key):
            return re.sub(pattern, replacement, key)
    raise ValueError(f"no rule renames the key {key!r}: is this a checkpoint of another method?")


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


def read_official(path: str | Path) -> dict[str, Tensor]:
    """The state dict of a released checkpoint, without running anything that is pickled in it.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the file holds more than tensors and plain numbers, or no state dict.
    """
    if not Path(path).exists():
        raise FileNotFoundError(f"no checkpoint at {path}")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise ValueError(f"{path}: not a checkpoint that opens without running pickled code ({error})") from error
    for holder in ("model", "state_dict", "model_state"):
        if isinstance(content, dict) and isinstance(content.get(holder), dict):
            content = content[holder]
    if not isinstance(content, dict) or not all(isinstance(v, Tensor) for v in content.values()):
        raise ValueError(f"{path}: found no state dict (expected tensors under `model` or `state_dict`)")
    return content
