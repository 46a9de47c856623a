"""Reading the config of a few-shot grid."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from mmengine.config import Config

from xmodal.evaluation.bench import Bench, Source
from xmodal.evaluation.grid import Grid
from xmodal.registry import check_arguments, did_you_mean

KEYS = {"about", "clip", "sources", "protocol", "methods", "shots", "seeds", "bench", "title"}
NEEDED = ("clip", "sources", "protocol", "methods")


def read_grid_config(path: str | Path) -> Config:
    """Read a config with `clip`, `sources`, `protocol`, `methods`, and perhaps others of `KEYS`.

    Raises:
        ValueError: no such file, a key that nothing reads, or one that is missing.
    """
    if not Path(path).is_file():
        here = sorted(str(p) for p in Path("configs/fewshot").glob("*.py"))
        raise ValueError(f"no config at {path}; {did_you_mean(str(path), here)}")
    cfg = Config.fromfile(str(path))
    imported = object.__getattribute__(cfg, "_imported_names")
    for key in [k for k in cfg if not k.startswith("_") and k not in imported]:
        if key not in KEYS:
            raise ValueError(f"config key {key!r} is read by nothing; {did_you_mean(key, KEYS)}")
    missing = [k for k in NEEDED if k not in cfg]
    if missing:
        raise ValueError(f"{path} does not say {missing[0]!r}; a few-shot config needs {', '.join(NEEDED)}")
    return cfg


def make(cfg: Any) -> Any:
    """Build `dict(type=..., ...)` of a recipe or protocol.

    Raises:
        ValueError: no `type`, or an argument that it does not take.
    """
    cfg = dict(cfg)
    kind = cfg.pop("type", None)
    if kind is None:
        raise ValueError(f"a recipe needs `type`, got keys {sorted(cfg)}")
    check_arguments(kind, cfg)
    return kind(**cfg)


def make_source(cfg: Mapping[str, Any]) -> Source:
    """Build a source; misspelt fields are refused."""
    check_arguments(Source, dict(cfg))
    return Source(**cfg)


def validated(source: Source) -> Source:
    """The same source, whose validation split stands in the place of the test split.

    Raises:
        ValueError: a source without one.
    """
    if source.val is None:
        raise ValueError(f"source {source.name!r} has no `val` split to report on")
    return replace(source, test=source.val)


def grid_from_file(path: str | Path, out: str | Path, **more: Any) -> Grid:
    """`build_grid` of a config file."""
    return build_grid(read_grid_config(path), out, **more)


def build_grid(
    cfg: Config,
    out: str | Path,
    methods: Sequence[str] | None = None,
    allow_test_selection: bool = False,
    load: Mapping[str, str] | None = None,
    on: str = "test",
    **bench: Any,
) -> Grid:
    """Build everything a grid config names.

    Args:
        cfg: from `read_grid_config`.
        out: folder of results.
        methods: names of the methods to run; None for all.
        allow_test_selection: see `Grid`.
        load: released weights by method: a Dassl folder, or Tip-Adapter-F's file; these are tested instead of trained.
        on: `test`, or `val` to report on the whole validation split instead, for choosing recipes.
        **bench: further arguments of `Bench` (`device`, `cache`).

    Raises:
        ValueError: a method that the config does not have, or a source without a validation split for `on="val"`.
    """
    for name in (*(methods or ()), *(load or ())):
        if name not in cfg.methods:
            raise ValueError(f"the config has no method {name!r}; {did_you_mean(name, cfg.methods)}")
    chosen = {name: make(recipe) for name, recipe in cfg.methods.items() if not methods or name in methods}
    for name, path in (load or {}).items():
        if not hasattr(chosen.get(name), "load"):
            raise ValueError(f"{name!r} is not run, or has nothing to load")
        chosen[name] = replace(chosen[name], load=path)
    more = {**cfg.get("bench", {}), **bench}
    check_arguments(Bench, more)
    sources = [make_source(s) for s in cfg.sources]
    if on == "val":
        sources = [validated(s) for s in sources]
    table = Bench(cfg.clip, sources, **more)
    return Grid(table, make(cfg.protocol), chosen, out, allow_test_selection)
