"""Keep the config of a run in its folder and checkpoints, and read it back without running any code."""

import ast
import copy
import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.runner import BaseLoop
from torch.optim import Optimizer

from xmodal.atomic import write_text
from xmodal.encoders.tokenizer import Tokenizer
from xmodal.registry import Registry, load_catalog

CONFIG = "config.py"
PLACES = ("work_dir", "launcher", "experiment_name", "resume", "log_level")  # where a run was, not what it was
KEPT = ("about", "model", "cache", "randomness", "optim_wrapper", "param_scheduler", "default_hooks")
STAGES = tuple(f"{stage}_{part}" for stage in ("train", "val", "test") for part in ("dataloader", "cfg", "evaluator"))
PACKAGES = ("xmodal", "video", "pointcloud")
EXACT = ("mmengine.hooks.ParamSchedulerHook", "xmodal.toys.shape_captions.shape_tokenizer")
KINDS = (Optimizer, BaseLoop, Tokenizer)  # whose subclasses are parts without being registered


def text_of(cfg: Config) -> str:
    """Return a config as text that every tool can load, without the place of the run."""
    kept = copy.deepcopy(cfg)
    for key in PLACES:
        kept.pop(key, None)
    return kept.pretty_text


def write_config(folder: str | Path, text: str) -> None:
    """Write the config of a run into its work directory."""
    write_text(Path(folder) / CONFIG, text)


def config_of(meta: dict[str, Any], source: str | Path) -> Config:
    """Read the config that a checkpoint holds.

    The text is parsed, not run, and its types must be parts of xmodal: a checkpoint may come from anywhere.

    Args:
        meta: of the checkpoint.
        source: the checkpoint, for messages.

    Raises:
        ValueError: no config in it, a damaged one, or one that names parts outside xmodal; give the config file then.
    """
    text = meta.get("config_text")
    fix = "give the config file in front of the checkpoint"
    if not isinstance(text, str):
        raise ValueError(f"{source} holds no config (an earlier version wrote it, or a conversion): {fix}")
    try:
        content = parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise ValueError(f"{source} holds a config that cannot be read ({error}): {fix}") from error
    content = {key: value for key, value in content.items() if key in KEPT + STAGES}
    for key, kind in named(content):
        if not is_part(kind):
            raise ValueError(f"{source}: its config names {key}={kind!r}, which is no part of xmodal: {fix}")
    cfg = Config(content)
    object.__setattr__(cfg, "_filename", f"{meta.get('config') or Path(source).stem}.py")
    return cfg


def parse(text: str) -> dict[str, Any]:
    """Read `name = value` lines whose values are numbers, strings, lists, tuples and dicts (`dict(...)` too).

    Raises:
        SyntaxError: not Python.
        ValueError: anything else than such values.
    """
    found = {}
    for node in ast.parse(text).body:
        if not (isinstance(node, ast.Assign) and len(node.targets) == 1 and isinstance(node.targets[0], ast.Name)):
            raise ValueError(f"line {node.lineno} is no plain `name = value`")
        found[node.targets[0].id] = value_of(node.value)
    return found


def value_of(node: Any) -> Any:
    """Return the value that an expression of constants stands for."""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "dict":
        positional = {key: value for given in node.args for key, value in dict(value_of(given)).items()}
        return positional | {str(word.arg): value_of(word.value) for word in node.keywords if word.arg or refuse(node)}
    if isinstance(node, ast.Dict):
        return {value_of(k): value_of(v) for k, v in zip(node.keys, node.values, strict=True) if k or refuse(node)}
    if isinstance(node, ast.List | ast.Tuple | ast.Set):
        return {ast.List: list, ast.Tuple: tuple, ast.Set: set}[type(node)](value_of(item) for item in node.elts)
    if isinstance(node, ast.Name) and node.id in ("inf", "nan"):
        return float(node.id)
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return -value_of(node.operand)
    return ast.literal_eval(node)


def refuse(node: ast.AST) -> bool:
    """Refuse an expression that is no plain value.

    Raises:
        ValueError: always.
    """
    raise ValueError(f"not a plain value: {ast.unparse(node)[:80]}")


def named(node: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """Yield every `type` and `format` of a config: what is looked up by name and called."""
    if isinstance(node, dict):
        for word, value in node.items():
            place = f"{key}.{word}".lstrip(".")
            if word in ("type", "format", "constructor") and value is not None:
                yield place, value
            else:
                yield from named(value, place)
    elif isinstance(node, list | tuple | set):
        for number, value in enumerate(node):
            yield from named(value, f"{key}.{number}")


def is_part(kind: Any) -> bool:
    """Return whether a name stands for a part of xmodal: a registered one, a loop, a tokenizer, an optimizer of torch.

    A short name without dots does: it can only be looked up in a registry.
    """
    if not isinstance(kind, str):
        return False
    if "." not in kind.removeprefix("xmodal.") or kind in EXACT:
        return True
    module, _, name = kind.rpartition(".")
    if module != "torch.optim" and module.split(".")[0] not in PACKAGES:
        return False
    try:
        part = getattr(importlib.import_module(module), name, None)
    except ImportError:
        return False
    if isinstance(part, type) and issubclass(part, KINDS):
        return True
    if part is not None and not in_registry(part):
        load_catalog()
    return part is not None and in_registry(part)


def in_registry(part: Any) -> bool:
    """Return whether an object is registered anywhere."""
    return any(part is known for registry in Registry.known for known in registry.module_dict.values())
