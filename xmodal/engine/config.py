"""Read configs of either mmengine style, apply command-line options and refuse misspelt keys."""

import ast
import copy
import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Union, get_args, get_origin

from mmengine.config import Config
from mmengine.config.utils import ConfigParsingError
from mmengine.runner import Runner as StockRunner

from xmodal.command import config_file, config_files
from xmodal.engine.probes import by_name, spread_probes
from xmodal.registry import check_arguments, did_you_mean, load_catalog, takes

READ = {key: read.annotation for key, read in inspect.signature(StockRunner.__init__).parameters.items()}
KEYS = set(READ) - {"self", "cfg", "data_preprocessor", "log_processor"}
WORDS = {str: "text", bool: "true or false", dict: "a dict", list: "a list"}
CHECKPOINTS = (".pth", ".pt")  # endings; such a file holds the config of its run
KEYS |= {"model_wrapper_cfg", "sync_bn", "shard_trunk", "custom_imports"}
KEYS |= {"about", "cache", "benchmarks", "variants", "probes"}


def load_config(path: str | Path, options: Sequence[str] = ()) -> Config:
    """Read a config, apply `key.path=value` options, fill in defaults and check the top-level keys.

    Args:
        path: a pure-Python or a text-style mmengine config, the name of a config that comes along, or a checkpoint,
            which holds the config of its run.
        options: such as `optim_wrapper.optimizer.lr=1e-3`, `model.adapters.0.bottleneck=64`; `benchmark=fgvc` and
            `variant=NAME` first apply what the config's `benchmarks` and `variants` say about that one.

    Returns:
        The config. `about` in a config is free text (what it reproduces); names that begin with an underscore are the
        config's own variables.

    Raises:
        ValueError: no such file, a key nobody reads, or an option for something that is not there.
    """
    if not Path(path).is_file():
        path = config_file(str(path)) or path
    if not Path(path).is_file():
        here = sorted(str(p) for p in Path(path).parent.glob("*.py")) if Path(path).parent.is_dir() else []
        here += [name for name, _ in config_files()]
        raise ValueError(f"no config at {path}; {did_you_mean(str(path), here)}" if here else f"no config at {path}")
    if Path(path).suffix not in (".py", ".json", ".yaml", ".yml", *CHECKPOINTS):
        raise ValueError(f"{path} is neither a config (.py) nor a checkpoint ({', '.join(CHECKPOINTS)})")
    try:
        cfg = Config.fromfile(str(path)) if Path(path).suffix not in CHECKPOINTS else stored(path)
    except (SyntaxError, ImportError, ConfigParsingError) as error:
        raise ValueError(f"{path}: {type(error).__name__}: {error}") from error
    check_keys(cfg)
    check_kinds(cfg)
    for key in [key for key in cfg if key.startswith("_")]:
        cfg.pop(key)
    if has_names(cfg.to_dict()):
        load_catalog()
    options = apply_choices(cfg, options)
    set_defaults(cfg)
    apply_options(cfg, options)
    check_kinds(cfg)
    spread_probes(cfg)
    return cfg


def stored(path: str | Path) -> Config:
    """Read the config that a checkpoint holds."""
    from xmodal.engine.stored_config import config_of
    from xmodal.torch_files import read_torch

    checkpoint = read_torch(path, "a checkpoint written by tools/train.py")
    meta = checkpoint.get("meta") if isinstance(checkpoint, dict) else None
    return config_of(meta if isinstance(meta, dict) else {}, path)


def apply_choices(cfg: Config, options: Sequence[str]) -> list[str]:
    """Merge what `benchmark=NAME` and `variant=NAME` name into a config; returns the other options.

    Raises:
        ValueError: the config has no such benchmark or variant.
    """
    for kind in ("benchmark", "variant"):
        known = cfg.pop(f"{kind}s", {})
        for name in [option.partition("=")[2] for option in options if option.startswith(f"{kind}=")]:
            if name not in known:
                raise ValueError(f"the config has no {kind} {name!r}; {did_you_mean(name, known)}")
            merge(cfg._cfg_dict, known[name])
            cfg.about = {**cfg.get("about", {}), kind: name}
        options = [option for option in options if not option.startswith(f"{kind}=")]
    return list(options)


def experiment_name(cfg: Config, path: str | Path) -> str:
    """Return the name of an experiment: the config's, with the variant where one was chosen."""
    path = Path(path)
    stem = path.absolute().parent.name if path.name == "config.py" or path.suffix in CHECKPOINTS else path.stem
    return "_".join(filter(None, (stem, (cfg.get("about") or {}).get("variant"))))


def merge(config: dict, changes: Mapping[str, Any]) -> None:
    """Set what `changes` holds in a nested config; lists are replaced."""
    for key, value in changes.items():
        if isinstance(value, Mapping) and isinstance(config.get(key), Mapping):
            merge(config[key], value)
        else:
            config[key] = by_name(value)


def check_keys(cfg: Config) -> None:
    """Refuse top-level keys that nothing reads.

    Raises:
        ValueError: such a key, with the nearest one that is read.
    """
    imported = object.__getattribute__(cfg, "_imported_names")  # of a pure-Python config: not keys
    for key in cfg.keys() - imported:
        if key not in KEYS and not key.startswith("_"):
            hint = did_you_mean(key, KEYS)
            raise ValueError(f"config key {key!r} is read by nothing; {hint}. A config's own variables begin with _")
    if "model" not in cfg:
        raise ValueError("the config defines no model")


def check_kinds(cfg: Config) -> None:
    """Refuse a plain value where the runner reads something else, such as a number for a list of hooks.

    Raises:
        ValueError: such a value, with its key.
    """
    plain = str | int | float
    for key, hint in READ.items():
        if isinstance(value := cfg.get(key), plain) and not takes(hint, value):
            kinds = {get_origin(kind) or kind for kind in (get_args(hint) if get_origin(hint) is Union else [hint])}
            expected = " or ".join(word for kind, word in WORDS.items() if kind in kinds)
            raise ValueError(f"{key}={value!r}, expected {expected}")
    for name, hook in (cfg.get("default_hooks") or {}).items():
        if isinstance(hook, plain):
            raise ValueError(f"default_hooks.{name}={hook!r}, expected a dict, or none to leave the hook out")


def set_defaults(cfg: Config) -> None:
    """Set the defaults of keys that most configs leave out."""
    cfg.setdefault("default_scope", "mmengine")
    cfg.setdefault("randomness", {})
    cfg.randomness.setdefault("seed", 0)
    cfg.setdefault("cache", {})  # empty: none; so that cache.views=4 may be given as an option
    hooks = {
        "schedule": {"type": "mmengine.hooks.ParamSchedulerHook"},
        "progress": {"type": "xmodal.engine.progress.ProgressHook"},
        "checkpoint": {"type": "xmodal.engine.checkpoint.CheckpointHook"},
        "report": {"type": "xmodal.engine.report.ReportHook"},
    }
    cfg.setdefault("default_hooks", {})
    for name, hook in hooks.items():
        cfg.default_hooks.setdefault(name, hook)
    if "train_dataloader" in cfg:
        cfg.setdefault("train_cfg", {})
        cfg.train_cfg.setdefault("type", "xmodal.engine.loops.TrainLoop")
    if "val_dataloader" in cfg:
        cfg.setdefault("test_dataloader", copy.deepcopy(cfg.val_dataloader))
    for stage, loop in (("val", "ValLoop"), ("test", "TestLoop")):
        if f"{stage}_dataloader" in cfg:
            cfg.setdefault(f"{stage}_cfg", {})
            cfg[f"{stage}_cfg"].setdefault("type", f"xmodal.engine.loops.{loop}")
            cfg.setdefault(f"{stage}_evaluator", cfg.get("val_evaluator") or {"type": "xmodal.metrics.Accuracy"})


def parse_value(text: str) -> Any:
    """Read `3`, `1e-3`, `[1,2]`, `true`, `none`, `{"a": 1}`; anything else is a string."""
    plain = {"true": True, "false": False, "none": None}
    if text.lower() in plain:
        return plain[text.lower()]
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def apply_options(cfg: Config, options: Sequence[str]) -> None:
    """Set `key.path=value` options in a config.

    Raises:
        ValueError: not of that form, or a path that is not there (a new last key is fine where the `type` takes it).
    """
    for option in options:
        path, equals, text = option.partition("=")
        if not equals:
            raise ValueError(f"--cfg-options takes key.path=value, got {option!r}")
        *parents, last = path.split(".")
        node: Any = cfg._cfg_dict
        for depth, name in enumerate(parents):
            node = _child(node, name, ".".join(parents[:depth]))
        _set(node, last, parse_value(text), ".".join(parents))


def _child(node: Any, name: str, where: str) -> Any:
    if isinstance(node, list | tuple):
        if not name.isdigit() or int(name) >= len(node):
            raise ValueError(f"{where} is a list of {len(node)}: {name!r} is not one of its positions")
        return node[int(name)]
    if not isinstance(node, dict) or name not in node:
        known = node if isinstance(node, dict) else []
        raise ValueError(f"the config has no {'.'.join(filter(None, (where, name)))}; {did_you_mean(name, known)}")
    return node[name]


def _set(node: Any, name: str, value: Any, where: str) -> None:
    if isinstance(node, list):
        _child(node, name, where)
        node[int(name)] = value
        return
    if not isinstance(node, dict):
        raise ValueError(f"{where or 'the config'} holds {node!r}, which has no {name}")
    if not where and name not in KEYS:
        raise ValueError(f"config key {name!r} is read by nothing; {did_you_mean(name, KEYS)}")
    if name in node and name != "type":
        check_value(node, name, value, where)
    if where and name not in node and name != "type":
        kind = node.get("type")
        if kind is None or isinstance(kind, str):
            if kind is None and where != "optim_wrapper.paramwise_cfg" and where not in KEYS:
                raise ValueError(f"the config has no {where}.{name}; {did_you_mean(name, node)}")
        else:
            check_arguments(kind, {name: value})
    node[name] = value


def check_value(node: Mapping[str, Any], name: str, value: Any, where: str) -> None:
    """Refuse a value of another kind than the one it replaces, unless the argument takes both; `none` stands for any.

    Raises:
        ValueError: text for a number, or a number for a dict or a list, naming the key.
    """
    kind, old, scalar = node.get("type"), node[name], isinstance(value, int | float)
    if callable(kind) and name in (parameters := inspect.signature(kind).parameters):
        check_arguments(kind, {name: value})
        if takes(parameters[name].annotation, value):
            return
    expected = {
        "a number": isinstance(value, str) and isinstance(old, int | float) and not isinstance(old, bool),
        "a dict": scalar and isinstance(old, Mapping),
        "a list": scalar and isinstance(old, list | tuple),
    }
    if word := next((word for word, wrong in expected.items() if wrong), None):
        path = ".".join(filter(None, (where, name)))
        raise ValueError(f"{path}={value!r}, expected {word}; the config has {str(old)[:80]}")


def has_names(node: Any) -> bool:
    """Return whether some `type` in a config is a registered name and not an object."""
    if isinstance(node, dict):
        kind = node.get("type")
        return (isinstance(kind, str) and "." not in kind) or any(has_names(value) for value in node.values())
    return isinstance(node, list | tuple) and any(has_names(value) for value in node)


def settings_of(cfg: Config) -> dict[str, str]:
    """Return the whole resolved config as `key.path` -> value in text."""
    return flatten(cfg.to_dict())


def flatten(node: Any, path: str = "") -> dict[str, str]:
    """Return a config as `key.path` -> value in text; types and functions by their full names."""
    if isinstance(node, Mapping):
        inner: Any = [(str(key), node[key]) for key in sorted(node, key=str) if not str(key).startswith("_")]
    elif isinstance(node, list | tuple):
        inner = [(str(i), value) for i, value in enumerate(node)]
    else:
        name = f"{node.__module__}.{node.__qualname__}" if hasattr(node, "__qualname__") else None
        plain = node is None or isinstance(node, str | int | float | Path)
        return {path: name or (repr(node) if plain else f"{type(node).__module__}.{type(node).__qualname__}")}
    return {k: v for key, value in inner for k, v in flatten(value, f"{path}.{key}".lstrip(".")).items()}
