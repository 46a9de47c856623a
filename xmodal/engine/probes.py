"""Turn `probes=dict(lr=[...], weight_decay=[...])` of a config into one model of many probes and a held-out choice."""

import copy
import itertools
from typing import Any

from mmengine.config import Config

GRID, METRIC, HOOK = ("xmodal.probe_grid.ProbeGrid", "xmodal.probe_grid.ProbeAccuracy", "xmodal.probe_grid.ProbeChoice")


def spread_probes(cfg: Config) -> None:
    """Apply the key `probes` of a config, where there is one, and remove it.

    `probes` holds lists: every combination is a probe, the first key innermost, as in `dict(lr=[1e-3, 1e-4],
    weight_decay=[0.1, 0.8], **{"reader.depth": [1, 4]})`. `holdout=0.1` takes that share of every class out of the
    training data to choose on; without it the choice is made on the config's validation data, which must not be its
    test data.

    Raises:
        ValueError: no list, gradient clipping (it would couple the probes), or no data to choose on.
    """
    probes = cfg.pop("probes", None)
    if not probes:
        return
    probes, share = dict(probes), float(probes.get("holdout", 0.0))
    probes.pop("holdout", None)
    empty = [k for k, v in probes.items() if not isinstance(v, list | tuple) or not v]
    if not probes or empty:
        raise ValueError(f"probes: give lists of values, such as lr=[1e-3, 1e-4]; {empty or 'there is none'}")
    if cfg.optim_wrapper.get("clip_grad"):
        raise ValueError("probes: clip_grad would tie the probes to each other; leave it out")
    keys = list(reversed(probes))  # the first key innermost
    settings = [dict(zip(keys, values, strict=True)) for values in itertools.product(*(probes[k] for k in keys))]
    cfg.model.update(type=GRID, settings=settings)
    source = hold_out(cfg, share) if share else name_of(cfg.val_dataloader.dataset)
    if not share and name_of(cfg.test_dataloader.dataset) == source:
        raise ValueError(
            f"probes: validation and test data are both {source!r}; give holdout=0.1 to choose on training data"
        )
    cfg.val_evaluator = dict(type=METRIC, settings=settings, choose=True, source=source)
    cfg.test_evaluator = dict(type=METRIC, settings=settings, choose=False, source=name_of(cfg.test_dataloader.dataset))
    cfg.default_hooks["probes"] = dict(type=HOOK)


def hold_out(cfg: Config, share: float) -> str:
    """Train on all but a share of the training data, and validate on that share; returns its name."""
    train, val = cfg.train_dataloader.dataset, cfg.val_dataloader.dataset
    views = {k: v for k, v in val.items() if k not in ("annotation", "root", "classes", "format")}
    held = {k: v for k, v in train.items() if k != "transforms"} | views
    train["hold_out"] = share
    cfg.val_dataloader.dataset = by_name({**held, "hold_out": share, "held": True, "test_mode": True})
    return f"{share:g} of {name_of(train)}"


def by_name(node: Any) -> Any:
    """Copy a config; classes and functions become their import paths, so that it can be printed."""
    if isinstance(node, dict):
        return {key: by_name(value) for key, value in node.items()}
    if isinstance(node, list | tuple):
        return [by_name(value) for value in node]
    return f"{node.__module__}.{node.__qualname__}" if hasattr(node, "__qualname__") else copy.deepcopy(node)


def name_of(dataset: Any) -> str:
    """Name a data set in a report: its annotation, or its kind and split."""
    kind = dataset.get("type")
    return str(dataset.get("annotation") or f"{getattr(kind, '__name__', kind)} {dataset.get('split', '')}".strip())
