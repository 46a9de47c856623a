"""Define the registries of parts by short name, with a description of each method."""

import difflib
import importlib
import inspect
import pkgutil
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar, TypeVar, get_args


class Registry:
    """Registry of one kind of part by short name; works without mmengine.

    Args:
        name: of the kind, for messages.
        scope: prefix that a name may carry (`xmodal.lora`).
    """

    known: ClassVar[list["Registry"]] = []  # all that there are

    def __init__(self, name: str, scope: str = "xmodal"):
        self.name, self.scope = name, scope
        self.module_dict: dict[str, Any] = {}
        Registry.known.append(self)

    def __contains__(self, name: str) -> bool:
        return self.get(name) is not None

    def get(self, name: str) -> Any:
        """Return the part of a name, None when there is none."""
        return self.module_dict.get(name.removeprefix(f"{self.scope}."))

    def register_module(self, name: str | None = None, force: bool = False, module: Any = None) -> Any:
        """Register `module`, or decorate what follows.

        Args:
            name: short name; default: the module's own.
            force: replace what has this name.
            module: a class or a function.

        Raises:
            ValueError: the name belongs to something else.
        """
        if module is None:
            return lambda obj: self.register_module(name, force, obj)
        name = name or module.__name__
        if name in self.module_dict and not force:
            raise ValueError(f"a {self.name} called {name!r} is registered already: {self.module_dict[name]}")
        self.module_dict[name] = module
        return module


MODELS = Registry("model", scope="xmodal")
ENCODERS = Registry("encoder", scope="xmodal")
ADAPTERS = Registry("adapter", scope="xmodal")
READERS = Registry("reader", scope="xmodal")
HEADS = Registry("head", scope="xmodal")
DATASETS = Registry("dataset", scope="xmodal")
TRANSFORMS = Registry("transform", scope="xmodal")
METRICS = Registry("metric", scope="xmodal")
HOOKS = Registry("hook", scope="xmodal")

T = TypeVar("T")


@dataclass(frozen=True)
class Method:
    """Description of a method, as shown in `docs/methods.md`.

    Args:
        name: the registered name.
        slot: `adapter`, `reader`, `head`, `encoder`, or several joined by `+`.
        paper: title and arXiv number.
        params: the formula of its trained parameters, in words a reader can compute.
        parity: stems of the parity cases that pin it.
        families: encoder families it claims (`vit`, `convnet`, `swin`).
    """

    name: str
    slot: str
    paper: str
    params: str = ""
    parity: tuple[str, ...] = ()
    families: tuple[str, ...] = ("vit",)
    obj: Any = field(default=None, compare=False)


METHODS: dict[str, Method] = {}


def method(registry: Registry, name: str, **about: Any) -> Callable[[T], T]:
    """Register an object under `name` with its description (fields of `Method`)."""

    def decorate(obj: T) -> T:
        registry.register_module(name=name, module=obj)
        METHODS[name] = Method(name=name, obj=obj, **about)
        return obj

    return decorate


def build(cfg: Any, registry: Registry, **given: Any) -> Any:
    """Build `cfg` (a dict with `type`, or something already built) with further keyword arguments.

    Raises:
        ValueError: text in the place of a config; an argument the type does not take, with the nearest name it does.
    """
    if isinstance(cfg, str):
        raise ValueError(f"a {registry.name} config is a dict with `type`, and {cfg!r} is text: set it in a config")
    if not isinstance(cfg, dict):
        return cfg
    cfg = dict(cfg)
    kind = cfg.pop("type", None)
    if kind is None:
        raise ValueError(f"a {registry.name} config needs `type`, got keys {sorted(cfg)}")
    obj = resolve(kind, registry)
    check_arguments(obj, cfg)
    try:
        return obj(**{**cfg, **{k: v for k, v in given.items() if k not in cfg}})
    except TypeError as error:  # an object that hands its further arguments on
        key = str(error).rpartition("unexpected keyword argument ")[2].strip("'")
        if key not in cfg:
            raise
        known = (
            {k for c in inspect.getmro(obj) for k in inspect.signature(c).parameters} if inspect.isclass(obj) else ()
        )
        raise ValueError(f"{obj.__qualname__} has no argument {key!r}; {did_you_mean(key, known)}") from error


def resolve(kind: Any, registry: Registry) -> Any:
    """Turn a registered name or an import path into the object; objects pass through.

    Raises:
        ValueError: nothing of that name, with the nearest names there are.
    """
    if not isinstance(kind, str):
        return kind
    found = registry.module_dict.get(kind.removeprefix("xmodal."))
    if found is None and "." not in kind:
        load_catalog()
        found = registry.module_dict.get(kind)
    if found is None and "." in kind:
        module, _, name = kind.rpartition(".")
        source = importlib.import_module(module)
        found = getattr(source, name, None)
        if found is None:
            raise ValueError(f"{module} has no {name!r}; {did_you_mean(name, vars(source))}")
    if found is None:
        raise ValueError(f"no {registry.name} is called {kind!r}; {did_you_mean(kind, registry.module_dict)}")
    return found


def load_catalog() -> None:
    """Import every module, so that everything is registered under its short name.

    A module whose optional dependency is missing is passed over: its parts cannot be named here.
    """
    for name in ("xmodal", "video", "pointcloud"):
        package = importlib.import_module(name)
        for info in pkgutil.walk_packages(package.__path__, f"{name}."):
            try:
                importlib.import_module(info.name)
            except ModuleNotFoundError as error:
                if (error.name or "").split(".")[0] in ("xmodal", "video", "pointcloud"):
                    raise


def check_arguments(obj: Any, kwargs: dict) -> None:
    """Refuse keyword arguments that `obj` does not take, and text where it takes numbers only."""
    parameters = inspect.signature(obj).parameters
    name = getattr(obj, "__qualname__", str(obj))
    open_ended = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    for key, value in kwargs.items():
        if key not in parameters:
            if open_ended:
                continue
            raise ValueError(f"{name} has no argument {key!r}; {did_you_mean(key, parameters)}")
        if misfit(value, parameters[key].annotation):
            takes = re.sub(r"<class '(\w+)'>", r"\1", str(parameters[key].annotation))
            raise ValueError(f"{name}: {key}={value!r}, expected {takes}")


def misfit(value: Any, hint: Any) -> bool:
    """Return whether a value is text or a fraction where a parameter with this annotation takes other scalars alone."""
    members = set(get_args(hint) or (hint,))
    if not members <= {int, float, bool, type(None)}:
        return False
    fraction = isinstance(value, float) and not value.is_integer() and float not in members
    return fraction or isinstance(value, str)


def takes(hint: Any, value: Any) -> bool:
    """Return whether an annotation such as `float | str` names the kind of a value."""
    members = get_args(hint) or (hint,)
    return hint is Any or type(value) in members or (isinstance(value, int) and float in members)


# Public names were spelled the British way up to version 0.1; they are refused by their new names.
AMERICAN = {"colour": "color", "centre": "center", "normalis": "normaliz", "grey": "gray", "neighbour": "neighbor",
            "labelled": "labeled"}  # fmt: skip


def american(word: str) -> str:
    """Return a name in American spelling."""
    for old, new in AMERICAN.items():
        word = word.replace(old, new).replace(old.capitalize(), new.capitalize())
    return word


def did_you_mean(word: str, known: Any) -> str:
    """Suggest a name for a misspelt one: its new spelling, the nearest known name, or all names."""
    known = sorted(str(k) for k in known)
    if (renamed := american(str(word))) != word and renamed in known:
        return f"{word!r} is now {renamed!r}"
    near = difflib.get_close_matches(str(word), known, n=1)
    return f"did you mean {near[0]!r}?" if near else f"known are {', '.join(known)}"
