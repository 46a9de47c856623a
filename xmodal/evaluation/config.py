"""Configs of evaluations: `encoder`, `sources`, `protocol`, `methods`, `shots`, `seeds`."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from mmengine.config import Config

from xmodal.evaluation.bench import Bench, Source
from xmodal.evaluation.run_grid import RunGrid
from xmodal.registry import Registry, build, check_arguments, did_you_mean

KEYS = {"about", "encoder", "sources", "protocol", "methods", "shots", "seeds", "bench", "title"}
RENAMED = {"clip": "encoder", "datasets": "sources", "settings": "protocol"}  # since version 0.1
RECIPES = Registry("recipe")  # which configs name by their classes
NEEDED = ("encoder", "sources", "protocol", "methods")


def read_config(path: str | Path, needed: Sequence[str] = NEEDED) -> Config:
    """Read the config of an evaluation.

    Args:
        path: a Python file that sets some of `KEYS`.
        needed: those that it must set.

    Raises:
        ValueError: no such file, a key that nothing reads, or one that is missing.
    """
    if not Path(path).is_file():
        here = sorted(str(p) for p in Path("configs").glob("*/*.py"))
        raise ValueError(f"no config at {path}; {did_you_mean(str(path), here)}")
    cfg = Config.fromfile(str(path))
    imported = object.__getattribute__(cfg, "_imported_names")
    for key in [k for k in cfg if not k.startswith("_") and k not in imported]:
        if key not in KEYS:
            hint = f"{key!r} is now {RENAMED[key]!r}" if key in RENAMED else did_you_mean(key, KEYS)
            raise ValueError(f"{path}: config key {key!r} is read by nothing; {hint}")
    missing = [k for k in needed if k not in cfg]
    if missing:
        raise ValueError(f"{path} does not say {missing[0]!r}; such a config needs {', '.join(needed)}")
    return cfg


def validated(source: Source) -> Source:
    """The same source, whose validation split stands in the place of the test split.

    Raises:
        ValueError: a source without one.
    """
    if source.val is None:
        raise ValueError(f"source {source.name!r} has no `val` split to report on")
    return replace(source, test=source.val)


def grid_from_file(path: str | Path, out: str | Path, **more: Any) -> RunGrid:
    """`build_grid` of a config file."""
    return build_grid(read_config(path), out, **more)


def build_grid(
    cfg: Config,
    out: str | Path,
    methods: Sequence[str] | None = None,
    allow_test_selection: bool = False,
    load: Mapping[str, str] | None = None,
    on: str = "test",
    **bench: Any,
) -> RunGrid:
    """Build everything a grid config names.

    Args:
        cfg: from `read_config`.
        out: folder of results.
        methods: names of the methods to run; None for all.
        allow_test_selection: see `RunGrid`.
        load: released weights by method: a Dassl folder, or Tip-Adapter-F's file; these are tested instead of trained.
        on: `test`, or `val` to report on the whole validation split instead, for choosing recipes.
        **bench: further arguments of `Bench` (`device`, `cache`).

    Raises:
        ValueError: a method that the config does not have, or a source without a validation split for `on="val"`.
    """
    for name in (*(methods or ()), *(load or ())):
        if name not in cfg.methods:
            raise ValueError(f"the config has no method {name!r}; {did_you_mean(name, cfg.methods)}")
    chosen = {name: build(recipe, RECIPES) for name, recipe in cfg.methods.items() if not methods or name in methods}
    for name, path in (load or {}).items():
        if not hasattr(chosen.get(name), "load"):
            raise ValueError(f"{name!r} is not run, or has nothing to load")
        chosen[name] = replace(chosen[name], load=path)
    more = {**cfg.get("bench", {}), **bench}
    check_arguments(Bench, more)
    sources = [build({"type": Source, **s}, RECIPES) for s in cfg.sources]
    if on == "val":
        sources = [validated(s) for s in sources]
    table = Bench(cfg.encoder, sources, **more)
    return RunGrid(table, build(cfg.protocol, RECIPES), chosen, out, allow_test_selection)
